"""CSV with a header row (RFC 4180): each row becomes a JSON object of strings."""

from __future__ import annotations

import base64
import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from producer.core.json_line import SESSION_ID_FIELD, keyed_event
from producer.core.line import (
    BYTE_ORDER_MARK,
    FILTERED_BLANK,
    FILTERED_HEADER,
    FILTERED_ROW_GOES_ON,
    MALFORMED_EVENT,
    MALFORMED_LINE,
    EventColumns,
    LineResult,
    RejectedLine,
    unusable_state,
)
from shared.limits import EVENT_BYTES_MAX, KIB

COLUMNS_MAX: Final = 200
COLUMN_NAME_CHARACTERS_MAX: Final = 128
ROW_LINES_MAX: Final = 100  # of a row with newlines between quotes: what a quote too many may take along
ROW_BYTES_MAX: Final = 64 * KIB
REST_LINES_MAX: Final = 1_000  # of a row beyond these bounds, up to its closing quote; more than that is rows again
REST_BYTES_MAX: Final = EVENT_BYTES_MAX

_CELL_BYTES_MAX: Final = 2**31 - 1  # what the csv module takes on every system
_OPEN_QUOTE: Final = "unexpected end of data"  # Python's word for it
_REJECTED_REST: Final = RejectedLine(MALFORMED_LINE, "the line belongs to the row before it, which was rejected")


@dataclass(frozen=True, slots=True)
class _Rest:
    """How much there was already of a row that was rejected, behind the place where it was."""

    lines: int = 0
    bytes: int = 0

    def after(self, length: int, *, is_inside: bool) -> _Rest | None:
        """Return what it is after one more line; None if the row ends with that."""
        rest = _Rest(self.lines + 1, self.bytes + length)
        return rest if is_inside and rest.lines < REST_LINES_MAX and rest.bytes <= REST_BYTES_MAX else None


class CsvLineParser:
    """Takes the first usable line as the header; the state is that header, and the row whose quotes are open.

    A line inside of quotes is no row of its own: whoever writes into a field could make up events otherwise. Beyond
    the bounds of a row, or where a part of it can't be read, the rest of it is rejected, up to its closing quote, and
    that within bounds, too.
    """

    def __init__(self) -> None:
        self._header: list[str] | None = None
        self._open = b""  # lines of a row that goes on
        self._rest: _Rest | None = None  # of a row that was rejected, while its quote is open

    def parse(self, line: bytes) -> LineResult:
        """Judge one line: the header is filtered as `header`, each row after it is an event.

        Of a row that takes several lines, the last one is the event, and the others are filtered as `row goes on`.
        """
        if self._rest is not None:
            self._rest = self._rest.after(len(line), is_inside=_leaves_open(b'"' + line.rstrip(b"\r\n")))
            return _REJECTED_REST
        data = self._open + line if self._open else line.removeprefix(BYTE_ORDER_MARK)
        if not data.strip():
            return FILTERED_BLANK
        cells = split_cells(data.rstrip(b"\r\n"))
        if cells is None:
            return self._go_on(data)
        is_long, self._open = bool(self._open), b""
        if isinstance(cells, RejectedLine) and _leaves_open(data):
            self._rest = _Rest()
        result = cells if isinstance(cells, RejectedLine) else self._take_row(cells)
        return replace(result, data=data) if is_long and isinstance(result, RejectedLine) else result

    def _go_on(self, data: bytes) -> LineResult:
        if data.count(b"\n") + 1 < ROW_LINES_MAX and len(data) <= ROW_BYTES_MAX:
            self._open = data + b"\n"
            return FILTERED_ROW_GOES_ON
        self._open, self._rest = b"", _Rest()
        message = f"a quote of the row is not closed within {ROW_LINES_MAX} lines and {ROW_BYTES_MAX:,} bytes"
        return RejectedLine(MALFORMED_LINE, message, data)

    def skip(self, quotes: int) -> RejectedLine | None:
        """Return the row whose quotes are open, as it lacks that line; an odd number of quotes opens or closes one."""
        data, self._open = self._open, b""
        was_inside = bool(data) or self._rest is not None
        self._rest = (self._rest or _Rest()).after(0, is_inside=was_inside != bool(quotes % 2))
        return RejectedLine(MALFORMED_LINE, "a line of the row is too long to be read", data) if data else None

    def finish(self) -> RejectedLine | None:
        """Return the row whose quotes are open, if there is one."""
        data, self._open, self._rest = self._open, b"", None
        return RejectedLine(MALFORMED_LINE, "a quote of the last row is not closed", data) if data else None

    def _take_row(self, cells: list[str]) -> LineResult:
        if self._header is None:
            return self._take_header(cells)
        if len(cells) != len(self._header):
            return RejectedLine(
                MALFORMED_LINE, f"the row has {len(cells):,} columns, the header has {len(self._header):,}"
            )
        event = dict(zip(self._header, cells, strict=True))
        encoded = orjson.dumps(event)
        if len(encoded) > EVENT_BYTES_MAX:
            return RejectedLine(
                MALFORMED_EVENT, f"the row makes an event of {len(encoded):,} bytes, more than {EVENT_BYTES_MAX:,}"
            )
        return keyed_event(event, encoded)

    def _take_header(self, cells: list[str]) -> LineResult:
        names = [cell.strip() for cell in cells]
        if not is_header(names):
            return RejectedLine(
                MALFORMED_LINE,
                f"not a CSV header: it names {SESSION_ID_FIELD} and at most {COLUMNS_MAX} different columns "
                f"of 1 to {COLUMN_NAME_CHARACTERS_MAX} characters",
            )
        self._header = names
        return FILTERED_HEADER

    def parse_events(self, lines: Sequence[bytes]) -> EventColumns | None:  # noqa: ARG002 - as the protocol has it
        """Return None: lines are judged one by one."""
        return None

    def snapshot(self) -> bytes:
        """Return the header as JSON, `null` before it was read; with a row that goes on, or its rest, both of them."""
        if self._rest is not None:
            return orjson.dumps({"header": self._header, "rest": [self._rest.lines, self._rest.bytes]})
        if not self._open:
            return orjson.dumps(self._header)
        return orjson.dumps({"header": self._header, "open": base64.b64encode(self._open).decode()})

    def restore(self, state: bytes) -> None:
        """Take up the header again."""
        try:
            header, opened, rest = orjson.loads(state), b"", None
            if isinstance(header, dict) and "rest" in header:
                rest, header = _Rest(*map(int, header["rest"])), header["header"]
            elif isinstance(header, dict):
                header, opened = header["header"], base64.b64decode(header["open"], validate=True)
        except (ValueError, KeyError, TypeError):  # the first are both decoders'
            raise unusable_state() from None
        if header is not None and not (
            isinstance(header, list) and all(isinstance(name, str) for name in header) and is_header(header)
        ):
            raise unusable_state()
        self._header, self._open, self._rest = header, opened, rest


def is_header(names: list[str]) -> bool:
    """Whether these can be the columns of session events."""
    return (
        SESSION_ID_FIELD in names
        and len(names) == len(set(names)) <= COLUMNS_MAX
        and all(0 < len(name) <= COLUMN_NAME_CHARACTERS_MAX for name in names)
    )


def split_cells(data: bytes) -> list[str] | RejectedLine | None:
    """Split a CSV row into its cells, or say why it can't be; None if a quote is open at its end."""
    if len(data) > EVENT_BYTES_MAX:
        return RejectedLine(MALFORMED_LINE, f"the row has {len(data):,} bytes, more than {EVENT_BYTES_MAX:,}")
    csv.field_size_limit(EVENT_BYTES_MAX)  # of the process; Python's own would refuse cells of 128 KiB
    try:
        rows = list(csv.reader([data.decode("utf-8")], strict=True))
    except UnicodeDecodeError as error:
        return RejectedLine(MALFORMED_LINE, f"the row is not UTF-8 at byte {error.start:,}")
    except csv.Error as error:
        if str(error) == _OPEN_QUOTE:
            return None
        return RejectedLine(MALFORMED_LINE, f"the row is not CSV: {error}")
    if len(rows) != 1:
        return RejectedLine(MALFORMED_LINE, "the row is not CSV: it is not one record")
    return rows[0]


def _leaves_open(data: bytes) -> bool:
    """Whether a quote is open at the end of what begins a row, whatever its length and encoding are."""
    csv.field_size_limit(_CELL_BYTES_MAX)
    try:
        for _ in csv.reader([data.decode("latin-1")], strict=True):
            pass
    except csv.Error as error:
        return str(error) == _OPEN_QUOTE
    return False
