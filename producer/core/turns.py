"""When shards that one request can't serve together have their turn."""

from __future__ import annotations

from typing import Final

from producer.core.batch import Batch, FlushReason

_SECONDS_MAX: Final = 0.1


class Turns:
    """Puts off the next request that nothing fills, where the last one could not serve all shards.

    Else, while events come fast, each would hold a few of them for a part of the shards, again and again. Records that
    are full gain nothing by waiting.
    """

    def __init__(self, *, linger_seconds: float, batch_records_max: int, aggregate_bytes_max: int) -> None:
        self.next_at = float("-inf")
        self._linger_seconds = linger_seconds
        self._batch_records_max = batch_records_max
        self._aggregate_bytes_max = aggregate_bytes_max

    def take(self, batch: Batch, shards: int) -> None:
        """Take note of a request of aggregates, on a stream of so many open shards."""
        count = batch.count
        is_cut = batch.reason is FlushReason.LINGER and self._batch_records_max <= count < shards
        if is_cut and batch.bytes < count * self._aggregate_bytes_max // 2:
            self.next_at = batch.taken_at + min(self._linger_seconds * count / shards, _SECONDS_MAX)
