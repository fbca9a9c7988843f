"""The events in an archived object, whatever its format and compression; both are seen from its bytes."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any, Final

import orjson

from consumer.encoding import import_extra
from shared.errors import SourceError
from shared.limits import MIB

# Of one object, uncompressed: the archive writes up to 128 MiB and a chunk. No ratio bounds it, for events may repeat.
_OBJECT_BYTES_MAX: Final = 512 * MIB
_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_PARQUET_MAGIC: Final = b"PAR1"
_HINT: Final = "Is something else written below this prefix? The bucket's versions may have the object as it was"


def events_of(key: str, body: bytes) -> Iterator[dict[str, Any]]:
    """Yield what an object holds, in its order; numbers in CSV are text.

    SourceError if it is damaged, or holds something else than events.
    """
    if body.startswith(_PARQUET_MAGIC):
        yield from _parquet_events(key, body)
        return
    body = _inflated(key, body)
    if body.startswith(b"{"):
        yield from _json_events(key, body)
    elif body:
        yield from _csv_events(key, body)


def lines_of(key: str, body: bytes) -> Iterator[bytes]:
    """Yield the lines of a JSON object, compressed or not. SourceError if it is damaged."""
    return (line for line in _inflated(key, body).split(b"\n") if line)


def _unreadable(key: str, kind: str, reason: object) -> SourceError:
    return SourceError(f"object `{key}` is not readable as {kind}: {reason}", hint=_HINT)


def _inflated(key: str, body: bytes) -> bytes:
    if body.startswith(_GZIP_MAGIC):
        inflated = _from_gzip(key, body)
    elif body.startswith(_ZSTD_MAGIC):
        inflated = _from_zstd(key, body)
    else:
        return body
    if len(inflated) > _OBJECT_BYTES_MAX:
        raise SourceError(f"object `{key}` inflates to more than {_OBJECT_BYTES_MAX:,} bytes", hint=_HINT)
    return inflated


def _json_events(key: str, body: bytes) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(body.split(b"\n"), 1):
        if line:
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise _unreadable(key, "JSON", f"{error.msg} (line {number:,})") from error
            if not isinstance(event, dict):
                raise _unreadable(key, "events", f"line {number:,} is no object")
            yield event


def _csv_events(key: str, body: bytes) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_OBJECT_BYTES_MAX)  # the module's own would refuse cells of 128 KiB
    try:
        rows = csv.reader(io.StringIO(body.decode(), newline=""), strict=True)
        names = next(rows, [])
        for cells in rows:
            yield {name: _value(text) for name, text in zip(names, cells, strict=True)}
    except (ValueError, csv.Error) as error:
        raise _unreadable(key, "CSV", error if isinstance(error, csv.Error) else type(error).__name__) from error


def _value(text: str) -> Any:
    """Return what a cell of ours shows; text that looks like a list or an object is taken for one."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _parquet_events(key: str, body: bytes) -> Iterator[dict[str, Any]]:
    parquet = import_extra("pyarrow.parquet", "parquet", f"object `{key}`")
    try:
        for group in parquet.ParquetFile(io.BytesIO(body)).iter_batches():
            yield from group.to_pylist()
    except (OSError, ValueError, NotImplementedError) as error:  # the last: a type that no file of ours has
        raise _unreadable(key, "Parquet", type(error).__name__) from error


def _from_gzip(key: str, body: bytes) -> bytes:
    """Inflate all members, as whoever joins objects makes several; at most one byte more than is allowed."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            return file.read(_OBJECT_BYTES_MAX + 1)
    except EOFError as error:
        raise SourceError(f"object `{key}` is cut off", hint=_HINT) from error
    except (OSError, zlib.error) as error:
        raise _unreadable(key, "gzip", error) from error


def _from_zstd(key: str, body: bytes) -> bytes:
    zstandard = import_extra("zstandard", "zstd", f"object `{key}`")
    try:
        with zstandard.ZstdDecompressor().stream_reader(body) as reader:
            inflated: bytes = reader.read(_OBJECT_BYTES_MAX + 1)
        if len(inflated) > _OBJECT_BYTES_MAX:
            return inflated
        inflater = zstandard.ZstdDecompressor().decompressobj()
        inflated = inflater.decompress(body)
    except zstandard.ZstdError as error:
        raise _unreadable(key, "zstd", error) from error
    if not inflater.eof:
        raise SourceError(f"object `{key}` is cut off", hint=_HINT)
    if inflater.unused_data:
        raise _unreadable(key, "zstd", f"{len(inflater.unused_data):,} bytes follow its end")
    return inflated
