"""How much time is left before unread data is trimmed, and whether some was: judged page by page, for one shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.records import Position, StreamRecord

_CLOCK_SECONDS: Final = 300.0  # by which the clocks of two workers and of the service may differ
_LOW_SHARE: Final = 0.5  # of the retention period: the age at which somebody should hear of it


def is_in_retention(moment: float | None, now: float, retention_seconds: float) -> bool:
    """Return whether what arrived after `moment` can't have been trimmed by `now`, whichever clocks told them."""
    return moment is not None and moment >= now - retention_seconds + _CLOCK_SECONDS


@dataclass(frozen=True, slots=True)
class RetentionGap:
    """What lies between two places of a shard may have been trimmed before it was read; times in seconds of the epoch.

    `read_through`: everything that had arrived by then was read; None if that is not known.
    """

    shard_id: str
    last_read: Position
    read_through: float | None
    first_available: Position | None  # None: nothing of the shard is left
    first_arrival: float | None


class RetentionWatch:
    """Watches one shard under one lease.

    Reading begins AT the record that was stored last. While the stream still has it, it is the first that comes: then
    nothing behind it can be gone. When another one comes first, the stored one was trimmed. Whether something unread
    was trimmed with it can't be seen, since sequence numbers have holes; but it can be excluded if the shard was known
    to be read to its tip at a moment that is not past retention yet.
    """

    def __init__(self, shard_id: str) -> None:
        self._shard_id = shard_id
        self._expected: Position | None = None
        self._read_through: float | None = None
        self._is_low = False

    def expect(self, stored: Position, read_through: float | None) -> None:
        """Say AT which record reading begins now."""
        self._expected = stored
        self._read_through = read_through

    def find_gap(
        self, records: Sequence[StreamRecord], now: float, retention_seconds: float, *, is_tip: bool = False
    ) -> RetentionGap | None:
        """Take the records of a page; the first that has some, or beyond which nothing is left, tells of a gap."""
        stored = self._expected
        if stored is None or not (records or is_tip):
            return None
        self._expected = None
        first = records[0] if records else None
        is_there = first is not None and first.sequence_number <= stored.sequence_number
        if is_there or self._is_excluded(now, retention_seconds):
            return None
        return RetentionGap(
            shard_id=self._shard_id,
            last_read=stored,
            read_through=self._read_through,
            first_available=None if first is None else Position(first.sequence_number),
            first_arrival=None if first is None else first.arrival_timestamp,
        )

    def _is_excluded(self, now: float, retention_seconds: float) -> bool:
        return is_in_retention(self._read_through, now, retention_seconds)

    def cross(self, age_seconds: float, retention_seconds: float) -> bool:
        """Take the age of the oldest unread record; True when it has just come to half of the retention period."""
        was_low, self._is_low = self._is_low, age_seconds >= _LOW_SHARE * retention_seconds
        return self._is_low and not was_low
