"""Makes the parts of a producer from its settings."""

from __future__ import annotations

from producer.core.batcher import Batcher
from producer.core.lanes import LaneQueues
from producer.core.rate import ShardRates
from shared.retry import Backoff
from shared.settings import Ordering, ProducerSettings


def batcher_of(settings: ProducerSettings, queues: LaneQueues, backoff: Backoff, batch_bytes_max: int) -> Batcher:
    """Return the batcher over the queues; `batch_bytes_max` is what a request may have, given the buffer."""
    return Batcher(
        queues,
        keeps_order=settings.ordering is Ordering.LANE,
        aggregates=settings.aggregate,
        aggregate_bytes_max=settings.aggregate_bytes_max,
        batch_records_max=settings.batch_records_max,
        batch_bytes_max=batch_bytes_max,
        linger_seconds=settings.batch_linger_seconds,
        backoff=backoff,
        rates=ShardRates(settings.shard_rate_percent),
    )
