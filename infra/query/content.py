"""What a file of the archive is, seen from its first bytes: its name may have any extension."""

from __future__ import annotations

import zlib
from enum import Enum
from pathlib import Path
from typing import Final, NamedTuple

from consumer.encoding import import_extra
from shared.errors import SourceError

_HEAD_BYTES: Final = 4_096
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib's way of saying: gzip, largest window
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_PARQUET_MAGIC: Final = b"PAR1"


class Kind(Enum):
    """How the records of a file are written."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


class Content(NamedTuple):
    """What a file is; `compression` is DuckDB's name of what is around it: none, gzip or zstd."""

    kind: Kind
    compression: str


def content_of(path: Path) -> Content:
    """Look at a file's first bytes. SourceError if it can't be read, or is damaged at its beginning."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise SourceError(f"`{path}` can't be read: {error.strerror}") from error
    if head.startswith(_PARQUET_MAGIC):
        return Content(Kind.PARQUET, "none")
    compression = "none"
    if head.startswith(_GZIP_MAGIC):
        compression, head = "gzip", _from_gzip(path, head)
    elif head.startswith(_ZSTD_MAGIC):
        compression, head = "zstd", _from_zstd(path, head)
    return Content(Kind.JSON if head.startswith(b"{") or not head else Kind.CSV, compression)


def _from_gzip(path: Path, head: bytes) -> bytes:
    try:
        return zlib.decompressobj(_GZIP_WINDOW).decompress(head, 1)
    except zlib.error as error:
        raise SourceError(f"`{path}` is not readable as gzip: {error}") from error


def _from_zstd(path: Path, head: bytes) -> bytes:
    zstandard = import_extra("zstandard", "zstd", f"`{path}`")
    try:
        with zstandard.ZstdDecompressor().stream_reader(head) as reader:
            found: bytes = reader.read(1)
    except zstandard.ZstdError as error:
        raise SourceError(f"`{path}` is not readable as zstd: {error}") from error
    return found
