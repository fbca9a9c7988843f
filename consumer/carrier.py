"""What becomes of a chunk: the user's function handles its records, or its events are enriched and delivered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from consumer.budget import Account
from consumer.core.batch import Batch
from consumer.core.chunk import Chunk
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.enrichment import Enricher, timestamp_text
from consumer.core.transform import Transform
from consumer.delivery import Delivery
from consumer.handover import Handover
from consumer.shard_parts import ShardParts

Carrier = Callable[[Chunk, Batch], Awaitable[int]]  # takes a chunk into a batch; how many records became dead letters


def carrier_of(
    shard_id: str,
    parts: ShardParts,
    *,
    delivery: Delivery,
    enricher: Enricher,
    marks: DuplicateMarks,
    account: Account,
) -> Carrier:
    """Return how the chunks of a shard are carried on; `marks` drop its duplicates."""
    if parts.handling is not None:
        kept = (marks, delivery.tracker, account)
        return Handover(shard_id, parts.handling, *kept, parts.counters, parts.ports, parts.care).take
    transform, take, now = Transform(enricher, parts.router, marks), delivery.take, parts.ports.clock.wall
    return lambda chunk, batch: take(chunk, batch, transform, timestamp=timestamp_text(now()).encode())
