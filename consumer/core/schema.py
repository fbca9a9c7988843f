"""The columns of CSV and Parquet objects: declared, or inferred from the first events and then held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from shared.errors import ConfigurationError
from shared.limits import EVENT_KEYS_MAX, KIB

SCHEMA_BYTES_MAX: Final = 32 * KIB  # it is pinned with every flush, beside keys and marks
_DEPTH_MAX: Final = 16
_INT64_MAX: Final = 2**63 - 1
_WIDENED: Final = (("int64", "double"), ("double", "int64"))
_SCALARS: Final = ("string", "int64", "double", "boolean")
_HINT: Final = (
    f'Write {{"column": "type"}} with {", ".join(_SCALARS)}, [type] for a list, {{"name": type}} for an object'
)

# A type is the name of a scalar, a list of one type, or a mapping of names to types; as in the setting's JSON.
ColumnType = str | list[Any] | dict[str, Any]
# What enrichment adds: its type is known, also where the first events have no value to infer it from.
_KNOWN: Final[Mapping[str, ColumnType]] = {"recommendations": [{"product_code": "string", "score": "double"}]}


@dataclass(frozen=True, slots=True)
class Schema:
    """Columns in their order. Inferred ones refuse events with fields they don't know; declared ones omit those."""

    columns: Mapping[str, ColumnType]
    is_declared: bool

    @property
    def text(self) -> str:
        """The JSON text, which `parse` reads."""
        return orjson.dumps({"columns": dict(self.columns), "declared": self.is_declared}).decode()

    @classmethod
    def parse(cls, text: str) -> Schema:
        """Read `text`; ValueError if it is not one."""
        try:
            loaded = orjson.loads(text)
            columns = {str(name): _checked(each, 1) for name, each in loaded["columns"].items()}
            return cls(columns, is_declared=bool(loaded["declared"]))
        except (KeyError, TypeError, AttributeError) as error:
            msg = f"the schema is not readable: {type(error).__name__}"
            raise ValueError(msg) from error

    @classmethod
    def declare(cls, text: str) -> Schema:
        """Read the setting: a JSON object of columns and types, or a list of names; ConfigurationError if unusable."""
        try:
            loaded = orjson.loads(text)
            if isinstance(loaded, list):
                loaded = dict.fromkeys(loaded, "string")
            if not isinstance(loaded, dict) or not loaded:
                msg = "it names no columns"
                raise ValueError(msg)  # noqa: TRY301 - one place words the error
            schema = cls({str(name): _checked(each, 1) for name, each in loaded.items()}, is_declared=True)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"archive_schema is not usable: {str(error)[:200]}", hint=_HINT) from error
        return schema.checked()

    @classmethod
    def infer(cls, lines: Iterable[bytes]) -> Schema:
        """Return a schema that the given events fit; ConfigurationError if it has no sensible size."""
        merged: Any = {}
        for line in lines:
            merged = _merge(merged, _type_of(orjson.loads(line)))
        columns = {
            name: _settled(_KNOWN.get(name, found) if _is_open(found) else found) for name, found in merged.items()
        }
        return cls(columns, is_declared=False).checked()

    def checked(self) -> Schema:
        """Return it; ConfigurationError if it is too large to be pinned with every flush."""
        size = len(self.text)
        if size > SCHEMA_BYTES_MAX or len(self.columns) > EVENT_KEYS_MAX:
            raise ConfigurationError(
                f"The schema of the archive has {len(self.columns):,} columns and {size:,} bytes; "
                f"{EVENT_KEYS_MAX:,} and {SCHEMA_BYTES_MAX:,} are allowed",
                hint="Declare the columns that are wanted with archive_schema",
            )
        return self


def _checked(found: Any, depth: int) -> ColumnType:
    if depth > _DEPTH_MAX:
        msg = f"types are nested deeper than {_DEPTH_MAX}"
        raise ValueError(msg)
    if found in _SCALARS:
        return str(found)
    if isinstance(found, list) and len(found) == 1:
        return [_checked(found[0], depth + 1)]
    if isinstance(found, dict) and found:
        return {str(name): _checked(each, depth + 1) for name, each in found.items()}
    msg = f"`{str(found)[:40]}` is no type"
    raise ValueError(msg)


def _type_of(value: Any, depth: int = 1) -> Any:
    """Return the type of a value; None stands for "unknown" until a later value tells."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "int64" if -_INT64_MAX - 1 <= value <= _INT64_MAX else "double"
    if isinstance(value, float):
        return "double"
    if depth < _DEPTH_MAX and isinstance(value, list):
        merged: Any = None
        for each in value:
            merged = _merge(merged, _type_of(each, depth + 1))
        return [merged]
    if depth < _DEPTH_MAX and isinstance(value, dict):
        return {name: _type_of(each, depth + 1) for name, each in value.items()}
    return None if value is None else "string"


def _merge(first: Any, second: Any) -> Any:
    """Return the type that takes both; where none does, the first: values of the second will not fit.

    Both are used up. What came of many values is never copied or written out, as a hostile event has a million.
    """
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, dict) and isinstance(second, dict):
        for name, each in second.items():
            first[name] = _merge(first.get(name), each)
        return first
    if isinstance(first, list) and isinstance(second, list):
        return [_merge(first[0], second[0])]
    return "double" if (first, second) in _WIDENED else first


def _is_open(found: Any) -> bool:
    return found in (None, {}, [None])


def _settled(found: Any) -> ColumnType:
    if isinstance(found, list):
        return [_settled(found[0])]
    if isinstance(found, dict) and found:
        return {name: _settled(each) for name, each in found.items()}
    return "string" if _is_open(found) else found
