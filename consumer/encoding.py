"""Turns the lines of one object-to-be into its bytes: JSON, CSV or Parquet, compressed, a block at a time."""

from __future__ import annotations

import asyncio
import csv
import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import orjson

from consumer.core.object_format import Codec, FormatKind, ObjectFormat
from consumer.core.schema import NAME_CHARACTERS_MAX, ColumnType, Schema
from shared.errors import ConfigurationError
from shared.limits import MIB

_BLOCK_BYTES: Final = 1 * MIB  # between two blocks, renewals and reads get their turn
_ROW_GROUP_BYTES: Final = 8 * MIB  # of lines; a row group of Parquet is one block
_GZIP_LEVEL: Final = 6
_GZIP_WINDOW: Final = 31  # zlib's way to ask for a gzip header, which then holds no time stamp
_ZSTD_LEVEL: Final = 3


class Rejected(NamedTuple):
    """An event that does not fit the columns: its line, and why."""

    line: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """The bytes of an object, of how many events, and those left out; without any event there is no object."""

    body: bytes = field(repr=False)  # asyncio shows results of tasks in its messages
    count: int
    rejected: tuple[Rejected, ...] = field(default=(), repr=False)


class _Compressor(Protocol):
    def compress(self, data: Any, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Plain:
    """No compression."""

    def compress(self, data: Any, /) -> bytes:
        """Return the data."""
        return bytes(data)

    def flush(self) -> bytes:
        """Return nothing: all was given back at once."""
        return b""


def import_extra(module: str, extra: str, purpose: str) -> Any:
    """Import a module of an optional dependency; ConfigurationError with the way to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{purpose} needs the package `{module.partition('.')[0]}`, which is not installed",
            hint=f"pip install 'headrace[{extra}]'",
        ) from error


def check_format(described: ObjectFormat) -> None:
    """Refuse at the start what could not be written at the first flush; ConfigurationError with the remedy."""
    if described.codec is Codec.SNAPPY and described.kind is not FormatKind.PARQUET:
        raise ConfigurationError(
            "compression `snappy` goes with archive_format `parquet` only", hint="Use gzip, zstd or none"
        )
    if described.kind is FormatKind.PARQUET:
        _pyarrow()
    if described.of_dead_letters.codec is Codec.ZSTD:
        _compressor(Codec.ZSTD)


async def encode(lines: bytearray, described: ObjectFormat) -> Encoded:
    """Write whole lines (each ends in a line feed) as one object."""
    match described.kind:
        case FormatKind.JSON:
            return await _encode_json(lines, described.codec)
        case FormatKind.CSV:
            return await _encode_csv(lines, described)
        case FormatKind.PARQUET:
            return await _encode_parquet(lines, described)


def _compressor(codec: Codec) -> _Compressor:
    match codec:
        case Codec.GZIP:
            return zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
        case Codec.ZSTD:
            return _zstd_compressor()
        case _:
            return _Plain()


def _zstd_compressor() -> _Compressor:
    try:
        standard: Any = importlib.import_module("compression.zstd")  # Python 3.14
    except ImportError:
        compressor: _Compressor = (
            import_extra("zstandard", "zstd", "compression `zstd`").ZstdCompressor(level=_ZSTD_LEVEL).compressobj()
        )
        return compressor
    found: _Compressor = standard.ZstdCompressor(level=_ZSTD_LEVEL)
    return found


async def _encode_json(lines: bytearray, codec: Codec) -> Encoded:
    compressor = _compressor(codec)
    parts: list[bytes] = []
    with memoryview(lines) as view:
        for start in range(0, len(view), _BLOCK_BYTES):
            parts.append(compressor.compress(view[start : start + _BLOCK_BYTES]))
            await asyncio.sleep(0)
    parts.append(compressor.flush())
    return Encoded(b"".join(parts), lines.count(b"\n"))


def _blocks(lines: bytearray, size: int) -> Iterator[bytes]:
    """Yield runs of whole lines of about `size` bytes."""
    start = 0
    while start < len(lines):
        end = lines.find(b"\n", min(start + size, len(lines)) - 1) + 1
        yield bytes(lines[start:end])
        start = end


# CSV.


async def _encode_csv(lines: bytearray, described: ObjectFormat) -> Encoded:
    schema = described.columns
    compressor = _compressor(described.codec)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(schema.columns)
    parts: list[bytes] = []
    rejected: list[Rejected] = []
    count = 0
    for block in _blocks(lines, _BLOCK_BYTES):
        for line in block.splitlines():
            if (row := _row(line, schema, rejected)) is not None:
                rows.writerow(row)
                count += 1
        parts.append(compressor.compress(text.getvalue().encode()))
        text.seek(0)
        text.truncate()
        await asyncio.sleep(0)
    parts.append(compressor.flush())
    return Encoded(b"".join(parts), count, tuple(rejected))


def _row(line: bytes, schema: Schema, rejected: list[Rejected]) -> list[object] | None:
    """Return the cells of an event, whose decoded form is gone by then; None if it is rejected."""
    event = orjson.loads(line)
    if not schema.is_declared and (unknown := event.keys() - schema.columns.keys()):
        rejected.append(Rejected(line, f"the columns have no `{min(unknown)[:NAME_CHARACTERS_MAX]}`"))
        return None
    return [_cell(event.get(name)) for name in schema.columns]


def _cell(value: object) -> object:
    """Return what CSV shows of a value: text as it is, nothing for null, all else as JSON."""
    return "" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()


# Parquet.


def _pyarrow() -> Any:
    for module in ("pyarrow.json", "pyarrow.parquet"):
        import_extra(module, "parquet", "archive_format `parquet`")
    return importlib.import_module("pyarrow")


async def _encode_parquet(lines: bytearray, described: ObjectFormat) -> Encoded:
    arrow = _pyarrow()
    schema = described.columns
    reader = _ArrowReader(arrow, schema)
    sink = arrow.BufferOutputStream()
    count = 0
    with arrow.parquet.ParquetWriter(sink, reader.schema, compression=described.codec.value) as writer:
        for block in _blocks(lines, _ROW_GROUP_BYTES):
            for table in reader.read(block):
                writer.write_table(table)
                count += table.num_rows
                del table  # before others have their turn
            await asyncio.sleep(0)
    return Encoded(sink.getvalue().to_pybytes(), count, tuple(reader.rejected))


class _ArrowReader:
    """Reads JSON lines into Arrow tables of one schema, leaving out the lines that do not fit."""

    def __init__(self, arrow: Any, schema: Schema) -> None:
        self._arrow = arrow
        self._columns = schema
        self.schema = arrow.schema([(name, _arrow_type(arrow, each)) for name, each in schema.columns.items()])
        self.rejected: list[Rejected] = []
        self._options = arrow.json.ParseOptions(
            explicit_schema=self.schema, unexpected_field_behavior="ignore" if schema.is_declared else "error"
        )

    def read(self, block: bytes) -> Iterator[Any]:
        """Yield tables of the lines that fit; a block with one that does not is halved until it stands alone."""
        try:
            table = self._arrow.json.read_json(
                self._arrow.BufferReader(block),
                read_options=self._arrow.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
                parse_options=self._options,
            )
        except self._arrow.ArrowException:  # whose text holds a piece of the event
            middle = block.find(b"\n", len(block) // 2 - 1) + 1
            if middle in {0, len(block)}:
                middle = block.find(b"\n") + 1
            if middle == len(block):
                line = block.rstrip(b"\n")
                self.rejected.append(Rejected(line, self._columns.misfit(line)))
                return
            yield from self.read(block[:middle])
            yield from self.read(block[middle:])
            return
        yield table


def _arrow_type(arrow: Any, found: ColumnType) -> Any:
    if isinstance(found, list):
        return arrow.list_(_arrow_type(arrow, found[0]))
    if isinstance(found, dict):
        return arrow.struct([(name, _arrow_type(arrow, each)) for name, each in found.items()])
    scalars: dict[str, Callable[[], Any]] = {
        "string": arrow.string,
        "int64": arrow.int64,
        "double": arrow.float64,
        "boolean": arrow.bool_,
    }
    return scalars[found]()
