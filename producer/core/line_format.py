"""Which parser reads a source: the one asked for, or the one that its first line calls for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final

from producer.core.access_log import AccessLogReader
from producer.core.csv_line import CsvLineParser, is_header, split_cells
from producer.core.json_line import JsonLineParser
from producer.core.line import (
    BYTE_ORDER_MARK,
    FILTERED_BLANK,
    UNKNOWN_FORMAT,
    EventColumns,
    LineParser,
    LineResult,
    RejectedLine,
    unusable_state,
)
from producer.core.visit_line import VisitLineParser
from shared.event import JSON_WHITESPACE


class LineFormat(Enum):
    """What a line is; `auto` is decided by the first line that is one of the others."""

    AUTO = "auto"
    JSON = "json"
    COMBINED = "combined"
    CSV = "csv"


_REJECTED_UNKNOWN: Final = RejectedLine(
    UNKNOWN_FORMAT, "neither a JSON object, nor an access-log line, nor a CSV header that names session_id"
)


def open_parser(line_format: LineFormat, open_visits: Callable[[], VisitLineParser]) -> LineParser:
    """Return a fresh parser; `open_visits` makes the one for access logs, which needs key, profile and tables."""
    makers: dict[LineFormat, Callable[[], LineParser]] = {
        LineFormat.JSON: JsonLineParser,
        LineFormat.COMBINED: open_visits,
        LineFormat.CSV: CsvLineParser,
    }
    return AutoLineParser(makers) if line_format is LineFormat.AUTO else makers[line_format]()


class AutoLineParser:
    """Rejects lines until one shows its format, and from then on is the parser of that format."""

    def __init__(self, makers: Mapping[LineFormat, Callable[[], LineParser]]) -> None:
        self._makers = makers
        self.decided: LineFormat | None = None
        self._parser: LineParser | None = None

    def parse(self, line: bytes) -> LineResult:
        """Judge one line, and let the first that is not blank and has a known format decide."""
        if self._parser is None:
            if not line.removeprefix(BYTE_ORDER_MARK).strip():
                return FILTERED_BLANK
            detected = detect_format(line)
            if detected is None:
                return _REJECTED_UNKNOWN
            self._parser = self._decide(detected)
        return self._parser.parse(line)

    def parse_events(self, lines: Sequence[bytes]) -> EventColumns | None:
        """Return what the parser decided on returns; None before that."""
        return None if self._parser is None else self._parser.parse_events(lines)

    def skip(self, quotes: int) -> RejectedLine | None:
        """Return what the parser decided on returns."""
        return None if self._parser is None else self._parser.skip(quotes)

    def finish(self) -> RejectedLine | None:
        """Return what the parser decided on returns."""
        return None if self._parser is None else self._parser.finish()

    def _decide(self, line_format: LineFormat) -> LineParser:
        self.decided = line_format
        return self._makers[line_format]()

    def snapshot(self) -> bytes:
        """Return the decision, a newline and the state of the parser decided on; nothing before the decision."""
        if self._parser is None or self.decided is None:
            return b""
        return self.decided.value.encode() + b"\n" + self._parser.snapshot()

    def restore(self, state: bytes) -> None:
        """Take up the decision and the state again."""
        self.decided, self._parser = None, None
        if not state:
            return
        name, _, inner = state.partition(b"\n")
        chosen = next((each for each in self._makers if each.value.encode() == name), None)
        if chosen is None:
            raise unusable_state()
        parser = self._makers[chosen]()
        parser.restore(inner)
        self.decided, self._parser = chosen, parser


def detect_format(line: bytes) -> LineFormat | None:
    """Return the format that a line shows, None if it shows none: `{`, an access-log line, or a CSV header."""
    data = line.removeprefix(BYTE_ORDER_MARK).strip(JSON_WHITESPACE)
    if data.startswith(b"{"):
        return LineFormat.JSON
    if AccessLogReader().read(data) is not None:
        return LineFormat.COMBINED
    cells = split_cells(data)
    if isinstance(cells, list) and is_header([cell.strip() for cell in cells]):
        return LineFormat.CSV
    return None
