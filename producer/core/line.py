"""What a line of input becomes: an event, a line left out on purpose, or a rejected one; never an exception."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from shared.errors import ConfigurationError

BLANK: Final = "blank"
HEADER: Final = "header"
ROW_GOES_ON: Final = "row goes on"
MALFORMED_LINE: Final = "malformed-line"
MALFORMED_EVENT: Final = "malformed-event"
MISSING_SESSION_ID: Final = "missing-session-id"
BAD_PARTITION_KEY: Final = "bad-partition-key"
UNKNOWN_FORMAT: Final = "unknown-format"

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class ParsedEvent(NamedTuple):
    """A session event: its JSON bytes and the partition key (its session id, 1 to 256 characters).

    `has_event_id` says that the source gave the event an id of its own, so none must be added.
    """

    data: bytes
    partition_key: str
    has_event_id: bool = False


@dataclass(frozen=True, slots=True)
class FilteredLine:
    """A line that is fine and no event, with the reason it is counted under."""

    reason: str


@dataclass(frozen=True, slots=True)
class RejectedLine:
    """A line that can't be read: it goes to the dead letters; the message holds no part of the line.

    `data` is what goes there if that is more than the line: those before it, which were taken for a part of it, too.
    """

    error_code: str
    message: str
    data: bytes = b""


class EventColumns(NamedTuple):
    """Session events without an id of their own: JSON bytes that lack the last brace, and the partition keys."""

    bodies: list[bytes]
    partition_keys: list[str]


LineResult = ParsedEvent | FilteredLine | RejectedLine

FILTERED_BLANK: Final = FilteredLine(BLANK)
FILTERED_HEADER: Final = FilteredLine(HEADER)
FILTERED_ROW_GOES_ON: Final = FilteredLine(ROW_GOES_ON)


class LineParser(Protocol):
    """Turns lines into results, one each, so that lines = events + filtered + rejected.

    Deterministic: the results depend on the lines parsed so far (or the restored state) and the arguments it was
    made with, on nothing else. A restart that restores the snapshot of a line gets the same bytes again from there.
    """

    def parse(self, line: bytes) -> LineResult:
        """Judge one line, without its newline; any bytes are allowed and none raise."""
        ...

    def parse_events(self, lines: Sequence[bytes]) -> EventColumns | None:
        """Return the events of lines that are nothing else; None, and nothing has happened, if that is not so.

        Optional work: a parser may always return None.
        """
        ...

    def skip(self, quotes: int) -> RejectedLine | None:
        """Take note of a line too long to be read, with so many double quotes; return what it ends, like `finish`."""
        ...

    def finish(self) -> RejectedLine | None:
        """Take note that the file ends; return what it ends in the middle of, if lines before were filtered for it."""
        ...

    def snapshot(self) -> bytes:
        """Return the state after the last parsed line."""
        ...

    def restore(self, state: bytes) -> None:
        """Take up a state that `snapshot` returned; ConfigurationError if it is something else."""
        ...


def unusable_state() -> ConfigurationError:
    """Return the error for a state that no snapshot of this parser returned."""
    return ConfigurationError(
        "the saved state of the line parser is not usable: damaged, or of another format or version",
        hint="Give the --format of before, or delete the bookmark: all is read again then, as new events",
    )
