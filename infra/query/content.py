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
HINT: Final = (  # for an object that is damaged
    "Ask for other hours with --since and --until, or take a copy without it (--folder); the bucket's versions may have"
    " the object as it was"
)


class Kind(Enum):
    """How the records of a file are written."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


class Content(NamedTuple):
    """What a file is; `compression` is DuckDB's name of what is around it: none, gzip or zstd."""

    kind: Kind
    compression: str


def content_of(path: Path, key: str) -> Content:
    """Look at the first bytes of an object's copy. SourceError if it can't be read, or is damaged at its beginning."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise SourceError(f"object `{key}` can't be read from its copy: {error.strerror}") from error
    if head.startswith(_PARQUET_MAGIC):
        return Content(Kind.PARQUET, "none")
    compression = "none"
    if head.startswith(_GZIP_MAGIC):
        compression, head = "gzip", _from_gzip(key, head)
    elif head.startswith(_ZSTD_MAGIC):
        compression, head = "zstd", _from_zstd(key, head)
    return Content(Kind.JSON if head.startswith(b"{") or not head else Kind.CSV, compression)


def _from_gzip(key: str, head: bytes) -> bytes:
    try:
        return zlib.decompressobj(_GZIP_WINDOW).decompress(head, 1)
    except zlib.error as error:
        raise SourceError(f"object `{key}` is not readable as gzip: {error}", hint=HINT) from error


def _from_zstd(key: str, head: bytes) -> bytes:
    zstandard = import_extra("zstandard", "zstd", f"object `{key}`")
    try:
        with zstandard.ZstdDecompressor().stream_reader(head) as reader:
            found: bytes = reader.read(1)
    except zstandard.ZstdError as error:
        raise SourceError(f"object `{key}` is not readable as zstd: {error}", hint=HINT) from error
    return found
