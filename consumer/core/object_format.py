"""How events are written into an object: the format, its compression, and the columns where it has some."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from consumer.core.schema import Schema


class FormatKind(Enum):
    """What an object is."""

    JSON = "json"  # newline-delimited
    CSV = "csv"  # RFC 4180 with a header
    PARQUET = "parquet"


class Codec(Enum):
    """How it is compressed; Parquet does so inside, and alone knows Snappy."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    SNAPPY = "snappy"


_SUFFIXES: Final = {Codec.NONE: "", Codec.GZIP: ".gz", Codec.ZSTD: ".zst"}
_CONTENT_TYPES: Final = {
    FormatKind.JSON: "application/x-ndjson",
    FormatKind.CSV: "text/csv; charset=utf-8; header=present",
    FormatKind.PARQUET: "application/vnd.apache.parquet",
}


@dataclass(frozen=True, slots=True)
class ObjectFormat:
    """`schema` is None for JSON, and for the others as long as nothing was declared or inferred."""

    kind: FormatKind = FormatKind.JSON
    codec: Codec = Codec.GZIP
    schema: Schema | None = None

    @property
    def needs_schema(self) -> bool:
        """Whether objects have columns."""
        return self.kind is not FormatKind.JSON

    @property
    def columns(self) -> Schema:
        """The schema, which is settled before objects are written."""
        assert self.schema is not None, "a schema is settled before objects with columns are written"
        return self.schema

    @property
    def of_dead_letters(self) -> ObjectFormat:
        """The format of dead letters beside: always JSON."""
        return ObjectFormat(FormatKind.JSON, Codec.GZIP if self.codec is Codec.SNAPPY else self.codec)

    @property
    def extension(self) -> str:
        """The end of keys."""
        suffix = "" if self.kind is FormatKind.PARQUET else _SUFFIXES[self.codec]
        return f".{self.kind.value}{suffix}"

    @property
    def content_type(self) -> str:
        """The media type."""
        return _CONTENT_TYPES[self.kind]

    @property
    def content_encoding(self) -> str:
        """HTTP's name of the compression around the object; empty if there is none."""
        is_inside = self.kind is FormatKind.PARQUET or self.codec is Codec.NONE
        return "" if is_inside else self.codec.value
