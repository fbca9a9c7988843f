"""CSV with a header row (RFC 4180): each row becomes a JSON object of strings."""

from __future__ import annotations

import base64
import csv
from collections.abc import Sequence
from dataclasses import replace
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

_OPEN_QUOTE: Final = "unexpected end of data"  # Python's word for it


class CsvLineParser:
    """Takes the first usable line as the header; the state is that header, and the row whose quotes are open.

    A line inside of quotes is no row of its own, up to the bounds of a row: whoever writes into a field could make up
    events otherwise.
    """

    def __init__(self) -> None:
        self._header: list[str] | None = None
        self._open = b""  # lines of a row that goes on

    def parse(self, line: bytes) -> LineResult:
        """Judge one line: the header is filtered as `header`, each row after it is an event.

        Of a row that takes several lines, the last one is the event, and the others are filtered as `row goes on`.
        """
        data = self._open + line if self._open else line.removeprefix(BYTE_ORDER_MARK)
        if not data.strip():
            return FILTERED_BLANK
        cells = split_cells(data.rstrip(b"\r\n"))
        if cells is None:
            return self._go_on(data)
        is_long, self._open = bool(self._open), b""
        result = cells if isinstance(cells, RejectedLine) else self._take_row(cells)
        return replace(result, data=data) if is_long and isinstance(result, RejectedLine) else result

    def _go_on(self, data: bytes) -> LineResult:
        if data.count(b"\n") + 1 < ROW_LINES_MAX and len(data) <= ROW_BYTES_MAX:
            self._open = data + b"\n"
            return FILTERED_ROW_GOES_ON
        self._open = b""
        message = f"a quote of the row is not closed within {ROW_LINES_MAX} lines and {ROW_BYTES_MAX:,} bytes"
        return RejectedLine(MALFORMED_LINE, message, data)

    def finish(self) -> RejectedLine | None:
        """Return the row whose quotes are open, if there is one."""
        data, self._open = self._open, b""
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
        """Return the header as JSON, `null` before it was read; with a row that goes on, both of them."""
        if not self._open:
            return orjson.dumps(self._header)
        return orjson.dumps({"header": self._header, "open": base64.b64encode(self._open).decode()})

    def restore(self, state: bytes) -> None:
        """Take up the header again."""
        try:
            header, opened = orjson.loads(state), b""
            if isinstance(header, dict):
                header, opened = header["header"], base64.b64decode(header["open"], validate=True)
        except (ValueError, KeyError, TypeError):  # the first are both decoders'
            raise unusable_state() from None
        if header is not None and not (
            isinstance(header, list) and all(isinstance(name, str) for name in header) and is_header(header)
        ):
            raise unusable_state()
        self._header, self._open = header, opened


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
