"""When a batch is closed: by bytes, records, age, the size of its largest object, or the room for its names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consumer.core.batch import Batch
from shared.limits import KIB

# A lease row holds 400 KB, of which duplicate marks may take half. The last chunk of a batch may go beyond this bound:
# by 58 KiB at most, as chunks of partitioned events are short.
PINNED_BYTES_MAX: Final = 112 * KIB


@dataclass(frozen=True, slots=True)
class RollPolicy:
    """The bounds of a batch; the first one that is reached closes it. `bytes_max` counts before compression."""

    bytes_max: int
    records_max: int
    seconds_max: float
    object_bytes_target: int = 0  # of the largest object, after compression; 0: none

    def is_due(self, batch: Batch, *, now: float, ratio: float = 1.0) -> bool:
        """Whether `batch` is closed now; `ratio` is what compression makes of a byte of its largest object."""
        if not batch.records:
            return False
        target = self.object_bytes_target
        return (
            batch.size >= self.bytes_max
            or batch.records >= self.records_max
            or now >= self.next_deadline(batch.opened_at)
            or batch.pinned_bytes >= PINNED_BYTES_MAX
            or (target > 0 and batch.largest[1] * ratio >= target)
        )

    def next_deadline(self, opened_at: float) -> float:
        """When a batch that was opened at `opened_at` is too old."""
        return opened_at + self.seconds_max

    def room(self, records: int) -> int:
        """How many records still fit."""
        return max(0, self.records_max - records)
