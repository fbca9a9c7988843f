"""Rows of a query as lines of text: an aligned table, JSON objects or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final

import orjson

TABLE_ROWS_MAX: Final = 1_000  # a table is for eyes, and all its rows have to be known before the first is aligned
_CELL_CHARACTERS_MAX: Final = 80

Rows = Iterator[tuple[Any, ...]]


def table_lines(names: Sequence[str], rows: Rows) -> Iterator[str]:
    """Yield an aligned table of at most TABLE_ROWS_MAX rows, numbers to the right, without control characters."""
    shown = list(islice(rows, TABLE_ROWS_MAX))
    cells = [[_cell(value) for value in row] for row in shown]
    heads = [_cell(name) for name in names]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    is_number = [
        bool(shown) and all(isinstance(row[at], int | float) or row[at] is None for row in shown)
        for at in range(len(heads))
    ]
    for line in (heads, ["-" * width for width in widths], *cells):
        aligned = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, is_number, strict=True)
        )
        yield "  ".join(aligned).rstrip()
    if next(rows, None) is not None:
        yield f"... more than {TABLE_ROWS_MAX:,} rows; --output json or csv prints all"


def json_lines(names: Sequence[str], rows: Rows) -> Iterator[str]:
    """Yield one JSON object per row; instants are ISO 8601, what JSON has no type for is text."""
    for row in rows:
        record = dict(zip(names, row, strict=True))
        try:
            yield orjson.dumps(record, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # sums can have more than 64 bits, which orjson refuses
            yield json.dumps(record, default=str, ensure_ascii=False, separators=(",", ":"))


def csv_lines(names: Sequence[str], rows: Rows) -> Iterator[str]:
    """Yield a header and one line per row (RFC 4180); nested values are JSON."""
    yield _csv_line(names)
    for row in rows:
        yield _csv_line([_flat(value) for value in row])


def _csv_line(values: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _flat(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, default=str, ensure_ascii=False)
    return value


def _cell(value: Any) -> str:
    text = "NULL" if value is None else str(_flat(value))
    text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    return text if len(text) <= _CELL_CHARACTERS_MAX else text[: _CELL_CHARACTERS_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"
