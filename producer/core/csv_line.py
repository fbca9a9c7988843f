"""CSV with a header row (RFC 4180, one record a line): each row becomes a JSON object of strings."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Final

import orjson

from producer.core.json_line import SESSION_ID_FIELD, keyed_event
from producer.core.line import (
    BYTE_ORDER_MARK,
    FILTERED_BLANK,
    FILTERED_HEADER,
    MALFORMED_EVENT,
    MALFORMED_LINE,
    EventColumns,
    LineResult,
    RejectedLine,
    unusable_state,
)
from shared.limits import EVENT_BYTES_MAX

COLUMNS_MAX: Final = 200
COLUMN_NAME_CHARACTERS_MAX: Final = 128


class CsvLineParser:
    """Takes the first usable line as the header; the state is that header."""

    def __init__(self) -> None:
        self._header: list[str] | None = None

    def parse(self, line: bytes) -> LineResult:
        """Judge one line: the header is filtered as `header`, each row after it is an event."""
        data = line.removeprefix(BYTE_ORDER_MARK).rstrip(b"\r\n")
        if not data.strip():
            return FILTERED_BLANK
        cells = split_cells(data)
        if isinstance(cells, RejectedLine):
            return cells
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
        """Return the header as JSON, `null` before it was read."""
        return orjson.dumps(self._header)

    def restore(self, state: bytes) -> None:
        """Take up the header again."""
        try:
            header = orjson.loads(state)
        except orjson.JSONDecodeError:
            raise unusable_state() from None
        if header is not None and not (
            isinstance(header, list) and all(isinstance(name, str) for name in header) and is_header(header)
        ):
            raise unusable_state()
        self._header = header


def is_header(names: list[str]) -> bool:
    """Whether these can be the columns of session events."""
    return (
        SESSION_ID_FIELD in names
        and len(names) == len(set(names)) <= COLUMNS_MAX
        and all(0 < len(name) <= COLUMN_NAME_CHARACTERS_MAX for name in names)
    )


def split_cells(data: bytes) -> list[str] | RejectedLine:
    """Split one CSV line into its cells, or say why it can't be."""
    if len(data) > EVENT_BYTES_MAX:
        return RejectedLine(MALFORMED_LINE, f"the row has {len(data):,} bytes, more than {EVENT_BYTES_MAX:,}")
    try:
        rows = list(csv.reader([data.decode("utf-8")], strict=True))
    except UnicodeDecodeError as error:
        return RejectedLine(MALFORMED_LINE, f"the row is not UTF-8 at byte {error.start:,}")
    except csv.Error as error:
        return RejectedLine(MALFORMED_LINE, f"the row is not CSV: {error}")
    if len(rows) != 1:
        return RejectedLine(MALFORMED_LINE, "the row is not CSV: it is not one record")
    return rows[0]
