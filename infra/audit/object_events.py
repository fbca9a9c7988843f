"""The events in an archived object, whatever its format and compression; both are seen from its bytes."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator
from typing import Any, Final

import orjson

from consumer.encoding import import_extra
from shared.errors import SourceError
from shared.limits import GZIP_RATIO_MAX, MIB

_OBJECT_BYTES_MAX: Final = 512 * MIB  # of one object, uncompressed
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 31  # zlib's way of saying: gzip, largest window
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_PARQUET_MAGIC: Final = b"PAR1"


def events_of(key: str, body: bytes) -> Iterator[dict[str, Any]]:
    """Yield what an object holds, in its order; numbers in CSV are text. SourceError if it is damaged."""
    if body.startswith(_PARQUET_MAGIC):
        yield from _parquet_events(key, body)
        return
    body = _inflated(key, body)
    if body.startswith(b"{"):
        yield from (orjson.loads(line) for line in body.split(b"\n") if line)
    elif body:
        for row in csv.DictReader(io.StringIO(body.decode(), newline="")):
            yield {name: _value(text) for name, text in row.items()}


def lines_of(key: str, body: bytes) -> Iterator[bytes]:
    """Yield the lines of a JSON object, compressed or not. SourceError if it is damaged."""
    return (line for line in _inflated(key, body).split(b"\n") if line)


def _inflated(key: str, body: bytes) -> bytes:
    bytes_max = min(_OBJECT_BYTES_MAX, max(MIB, GZIP_RATIO_MAX * len(body)))
    if body.startswith(_GZIP_MAGIC):
        return _from_gzip(key, body, bytes_max)
    return _from_zstd(key, body, bytes_max) if body.startswith(_ZSTD_MAGIC) else body


def _value(text: str) -> Any:
    """Return what a cell of ours shows; text that looks like a list or an object is taken for one."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _parquet_events(key: str, body: bytes) -> Iterator[dict[str, Any]]:
    parquet = import_extra("pyarrow.parquet", "parquet", f"object `{key[:200]}`")
    try:
        for group in parquet.ParquetFile(io.BytesIO(body)).iter_batches():
            yield from group.to_pylist()
    except (OSError, ValueError) as error:
        raise SourceError(f"object `{key[:200]}` is not readable as Parquet: {type(error).__name__}") from error


def _from_gzip(key: str, body: bytes, bytes_max: int) -> bytes:
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    try:
        inflated = inflater.decompress(body, bytes_max)
    except zlib.error as error:
        raise SourceError(f"object `{key[:200]}` is not readable as gzip: {error}") from error
    if inflater.unconsumed_tail:
        raise SourceError(f"object `{key[:200]}` inflates to more than {bytes_max:,} bytes")
    if not inflater.eof:
        raise SourceError(f"object `{key[:200]}` is cut off")
    return inflated


def _from_zstd(key: str, body: bytes, bytes_max: int) -> bytes:
    zstandard = import_extra("zstandard", "zstd", f"object `{key[:200]}`")
    try:
        with zstandard.ZstdDecompressor().stream_reader(body) as reader:
            is_too_large = len(reader.read(bytes_max + 1)) > bytes_max
        inflater = zstandard.ZstdDecompressor().decompressobj()
        inflated: bytes = b"" if is_too_large else inflater.decompress(body)
    except zstandard.ZstdError as error:
        raise SourceError(f"object `{key[:200]}` is not readable as zstd: {error}") from error
    if is_too_large:
        raise SourceError(f"object `{key[:200]}` inflates to more than {bytes_max:,} bytes")
    if not inflater.eof:
        raise SourceError(f"object `{key[:200]}` is cut off")
    return inflated
