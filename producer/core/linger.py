"""When what waits in the lanes is sent: as soon as it fills a request, or once it has lingered."""

from __future__ import annotations

from typing import Final

from producer.core.batch import Batch, BatchShape, FlushReason
from producer.core.lanes import LaneQueues

_TURN_SECONDS_MAX: Final = 0.1


class Linger:
    """Tells whether what is ready fills a request, and until when it may wait for more.

    The next request that nothing fills is put off where the last one could not serve all shards. Else, while events
    come fast, each would hold a few of them for a part of the shards, again and again. Records that are full gain
    nothing by waiting.
    """

    def __init__(
        self,
        queues: LaneQueues,
        shape: BatchShape,
        *,
        keeps_order: bool,
        linger_seconds: float,
    ) -> None:
        self.aggregates = shape.aggregates
        self._queues = queues
        self._keeps_order = keeps_order
        self._aggregate_bytes_max = shape.aggregate_bytes_max
        self._batch_records_max = shape.batch_records_max
        self._batch_bytes_max = shape.batch_bytes_max
        self._linger_seconds = linger_seconds
        self._turn_at = float("-inf")

    def keep_order(self) -> None:
        """Count one stream record of a lane at a time from now on."""
        self._keeps_order = True

    def is_full(self) -> FlushReason | None:
        """Return why what is ready fills a request; None if it does not."""
        if self._queues.ready_bytes >= self._batch_bytes_max:
            return FlushReason.BYTES
        if not self.aggregates and self._ready_records() >= self._batch_records_max:
            return FlushReason.COUNT
        return None

    def _ready_records(self) -> int:
        """Return how many stream records could be made of what is ready, if each holds one record."""
        return len(self._queues.ready) if self._keeps_order else self._queues.ready_count

    def missing_count(self) -> int:
        """Return how many more records are needed, at least, until `is_full` by their count."""
        return max(1, self._batch_records_max - self._ready_records())

    @property
    def ends_at(self) -> float:
        """Until when what is ready may wait for more."""
        return max(self._queues.ready_since + self._linger_seconds, self._turn_at)

    def take(self, batch: Batch, shards: int) -> None:
        """Take note of a request, on a stream of so many open shards."""
        count = batch.count
        is_cut = batch.reason is FlushReason.LINGER and self._batch_records_max <= count < shards
        if self.aggregates and is_cut and batch.bytes < count * self._aggregate_bytes_max // 2:
            self._turn_at = batch.taken_at + min(self._linger_seconds * count / shards, _TURN_SECONDS_MAX)
