"""When a batch is closed: by bytes, by records or by age."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RollPolicy:
    """The bounds of a batch; the first one that is reached closes it. Bytes are counted before compression."""

    bytes_max: int
    records_max: int
    seconds_max: float

    def is_due(self, *, size: int, records: int, opened_at: float, now: float) -> bool:
        """Whether a batch of `size` bytes and `records` records, opened at `opened_at`, is closed now."""
        if not records:
            return False
        return size >= self.bytes_max or records >= self.records_max or now >= self.next_deadline(opened_at)

    def next_deadline(self, opened_at: float) -> float:
        """When a batch that was opened at `opened_at` is too old."""
        return opened_at + self.seconds_max

    def room(self, records: int) -> int:
        """How many records still fit."""
        return max(0, self.records_max - records)
