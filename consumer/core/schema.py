"""The columns of CSV and Parquet objects: declared, or inferred from the first events and then held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from shared.errors import ConfigurationError
from shared.limits import EVENT_KEYS_MAX, KIB

SCHEMA_BYTES_MAX: Final = 32 * KIB  # it is pinned with every flush, beside keys and marks
NAME_CHARACTERS_MAX: Final = 60  # of a field, in what is said about an event
_DEPTH_MAX: Final = 16
_MISSES_MAX: Final = 200  # each costs milliseconds, in which a worker stands still
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
    def infer(cls, lines: Iterable[bytes]) -> Schema | None:
        """Return a schema that the given events fit, or if that has no sensible size, as many of them as do.

        Of what events look like, the most frequent comes first then, and the smaller before the larger. None if no
        event of them is small enough.
        """
        shapes: Counter[bytes] = Counter()
        for line in lines:
            shape = orjson.dumps(_type_of(orjson.loads(line)))
            if len(shape) <= SCHEMA_BYTES_MAX:
                shapes[shape] += 1
        return cls._of_all(shapes) or cls._of_the_best(shapes)

    @classmethod
    def _of_all(cls, shapes: Iterable[bytes]) -> Schema | None:
        """Return the schema that all fit; None if it is too large, or there is none."""
        merged: Any = {}
        unseen = 0
        for shape in shapes:
            merged = _merge(merged, orjson.loads(shape))
            unseen += len(shape)
            if unseen > SCHEMA_BYTES_MAX:
                unseen = 0
                if not cls._settle(merged).is_small:
                    return None
        schema = cls._settle(merged)
        return schema if schema.columns and schema.is_small else None

    @classmethod
    def _of_the_best(cls, shapes: Counter[bytes]) -> Schema | None:
        merged: Any = {}
        kept: Schema | None = None
        misses = 0
        for shape in sorted(shapes, key=lambda shape: (-shapes[shape], len(shape))):
            tried = _merge(orjson.loads(orjson.dumps(merged)), orjson.loads(shape))
            if (schema := cls._settle(tried)).is_small:
                merged, kept = tried, schema
            elif (misses := misses + 1) == _MISSES_MAX:
                break
        return kept

    @classmethod
    def _settle(cls, merged: Any) -> Schema:
        columns = {
            name: _settled(_KNOWN.get(name, found) if _is_open(found) else found) for name, found in merged.items()
        }
        return cls(columns, is_declared=False)

    @property
    def is_small(self) -> bool:
        """Whether it can be pinned with every flush."""
        return len(self.columns) <= EVENT_KEYS_MAX and len(self.text) <= SCHEMA_BYTES_MAX

    def misfit(self, line: bytes) -> str:
        """Say why an event does not fit, without its values: the first field that is none, or of another type."""
        path = _misfit(orjson.loads(line), dict(self.columns), is_open=self.is_declared)
        if path is None:
            return "the event does not fit the columns; a name that comes twice does not"
        kind, names = path
        return f"the columns have {kind} `{'.'.join(names)[:NAME_CHARACTERS_MAX]}`"

    def checked(self) -> Schema:
        """Return it; ConfigurationError if it is too large to be pinned with every flush."""
        if not self.is_small:
            raise ConfigurationError(
                f"The schema of the archive has {len(self.columns):,} columns and {len(self.text):,} bytes; "
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


def _misfit(value: Any, column: Any, *, is_open: bool) -> tuple[str, tuple[str, ...]] | None:
    """Return what is wrong with a value and the names that lead to it; None if nothing is."""
    if value is None:
        return None
    if isinstance(column, list) and isinstance(value, list):
        inner = (_misfit(each, column[0], is_open=is_open) for each in value)
        return next((each for each in inner if each is not None), None)
    if isinstance(column, dict) and isinstance(value, dict):
        for name, each in value.items():
            if name not in column:
                if is_open:
                    continue
                return "no", (name,)
            if (found := _misfit(each, column[name], is_open=is_open)) is not None:
                return found[0], (name, *found[1])
        return None
    found = _type_of(value, _DEPTH_MAX)
    return None if found == column or (column, found) == ("double", "int64") else ("another type for", ())


def _is_open(found: Any) -> bool:
    return found in (None, {}, [None])


def _settled(found: Any) -> ColumnType:
    if isinstance(found, list):
        return [_settled(found[0])]
    if isinstance(found, dict) and found:
        return {name: _settled(each) for name, each in found.items()}
    return "string" if _is_open(found) else found
