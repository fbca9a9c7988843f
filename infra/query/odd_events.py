"""Copies of objects without what SQL can't tell apart in an event: names that come twice, or differ in case alone."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import orjson

from consumer.encoding import import_extra
from infra.query.content import Content

_NAMELESS: Final = "_"  # an empty name can't be that of a column


class Unreadable(Exception):  # noqa: N818 - it says that a file is, not that something failed here
    """A file that is damaged, or no file of JSON lines: DuckDB says so better."""


class OddEvents:
    """Rewrites events that DuckDB refuses. Nested names that differ in case alone get the spelling that came first.

    Of a name that comes twice the last value counts, as everywhere. Where an object has names that differ in case
    alone, each but the first gets a number.
    """

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._spellings: dict[str, str] = {}

    def rewrite(self, source: Path, content: Content, target: Path) -> bool:
        """Write `source` anew as `target`, without compression; return whether they differ, else there is no target.

        OSError if the disk doesn't take it.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        differs = False
        try:
            with target.open("wb") as copy:
                for line in self._lines(source, content):
                    plain = self._plain_line(line)
                    differs = differs or plain != line
                    copy.write(plain + b"\n")
        except Unreadable:
            differs = False
        if not differs:
            target.unlink()
        return differs

    def _lines(self, source: Path, content: Content) -> Iterator[bytes]:
        """Yield the lines of a file; Unreadable if it is damaged, or a line is longer than any that was written."""
        with _opened(source, content) as file:
            while line := file.readline(self._line_bytes_max):
                if len(line) == self._line_bytes_max:
                    raise Unreadable
                yield line.rstrip(b"\r\n")

    def _plain_line(self, line: bytes) -> bytes:
        try:
            event = orjson.loads(line) if line else None
            if not isinstance(event, dict):
                return line
            named = {name or _NAMELESS: value for name, value in event.items()}
            # Columns that differ in case alone are told apart by DuckDB itself.
            return orjson.dumps({name: self._plain(value) for name, value in named.items()})
        except (ValueError, TypeError, RecursionError) as error:
            raise Unreadable from error

    def _plain(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._plain(each) for each in value]
        if not isinstance(value, dict):
            return value
        plain: dict[str, Any] = {}
        for name, each in value.items():
            spelled = self._spelled(name)
            count = 0
            while spelled in plain:
                count += 1
                spelled = self._spelled(f"{name}_{count}")
            plain[spelled] = self._plain(each)
        return plain

    def _spelled(self, name: str) -> str:
        return self._spellings.setdefault(name.lower(), name)


@contextmanager
def _opened(source: Path, content: Content) -> Iterator[IO[bytes]]:
    """Open a file for what is inside its compression; Unreadable for what it finds damaged while it is open."""
    damage: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    opened: Any
    if content.compression == "gzip":
        opened = gzip.open(source, "rb")  # noqa: SIM115 - closed below
    elif content.compression == "zstd":
        standard = import_extra("zstandard", "zstd", f"object `{source.name}`")
        damage = (*damage, standard.ZstdError)
        opened = io.BufferedReader(
            standard.ZstdDecompressor().stream_reader(source.open("rb"), read_across_frames=True)
        )
    else:
        opened = source.open("rb")
    with opened:
        try:
            yield opened
        except damage as error:
            raise Unreadable from error
