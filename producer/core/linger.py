"""When what waits in the lanes is sent: as soon as it fills a request, or once it has lingered."""

from __future__ import annotations

from typing import Final

from producer.core.batch import Batch, BatchShape, FlushReason
from producer.core.lanes import LaneQueues
from producer.core.shard_map import ShardMap

_TURN_SECONDS_MAX: Final = 0.1
_PARTS_MAX: Final = 4.0  # of what is ready, of which a request with as many stream records as it may have takes one
# With more shards than that, and boundaries that cut lanes, each shard lingers by itself.
_SHARDS_TOGETHER_MAX: Final = 64
_ANY: Final = float("inf")
_TURN_SHARE: Final = 0.1  # of the time of lingering: so far apart are requests that nothing fills, then


class Linger:
    """Tells whether what is ready fills a request, and until when it may wait for more.

    The next request that nothing fills is put off where the last one could not serve all shards. Else, while events
    come fast, each would hold a few of them for a part of the shards, again and again. Records that are full gain
    nothing by waiting. Nor does a request take what has come just now, where there are many shards and lanes that a
    boundary cuts: what is left of those is overdue whenever an answer comes.
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
        self.full_bytes = float(shape.batch_bytes_max)  # so much that is ready fills a request

    def keep_order(self) -> None:
        """Count one stream record of a lane at a time from now on."""
        self._keeps_order = True

    def is_full(self) -> FlushReason | None:
        """Return why what is ready fills a request; None if it does not."""
        if self._queues.ready_bytes >= self.full_bytes:
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

    def take(self, batch: Batch, shard_map: ShardMap) -> None:
        """Take note of a request."""
        count, shards = batch.count, shard_map.open_count
        is_small = self.aggregates and batch.bytes < count * self._aggregate_bytes_max // 2
        is_cut = is_small and self._batch_records_max <= count < shards
        self.full_bytes = self._batch_bytes_max * (min(shards / count, _PARTS_MAX) if is_cut else 1)
        if is_small and batch.reason is FlushReason.LINGER and (is_cut or self._lingers_by_shard(shard_map)):
            share = count / shards if is_cut else _TURN_SHARE
            self._turn_at = batch.taken_at + min(self._linger_seconds * share, _TURN_SECONDS_MAX)

    def waiting_since(self, batch: Batch, shard_map: ShardMap) -> float:
        """Return since when a lane must wait to have an aggregate begun for it; others may join one."""
        if batch.reason is not FlushReason.LINGER or not self._lingers_by_shard(shard_map):
            return _ANY
        return batch.taken_at - self._linger_seconds * (1 - _TURN_SHARE)

    def _lingers_by_shard(self, shard_map: ShardMap) -> bool:
        return shard_map.open_count > _SHARDS_TOGETHER_MAX and shard_map.of_lanes(self._queues.division).is_cut
