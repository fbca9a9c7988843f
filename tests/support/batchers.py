"""A batcher over even shards, as tests of its decisions make it."""

from __future__ import annotations

from typing import Any

from producer.core.batcher import Batcher
from producer.core.lanes import LaneQueues
from producer.core.shard_map import ShardMap
from shared.hash_key import even_ranges
from shared.limits import KIB, MIB
from shared.records import Shard
from shared.retry import Backoff


def batcher_of(shards: int, *, buffer_bytes_max: int = 64 * MIB, **changes: Any) -> Batcher:
    """Make a batcher that knows a stream of so many shards, s0 and so on; none yet if that is 0.

    `changes` are to its other arguments.
    """
    given: dict[str, Any] = {
        "keeps_order": True,
        "aggregates": True,
        "aggregate_bytes_max": 50 * KIB,
        "batch_records_max": 500,
        "batch_bytes_max": 4 * MIB,
        "linger_seconds": 0.0,
        "backoff": Backoff(0.05, 5),
    }
    batcher = Batcher(LaneQueues(buffer_bytes_max=buffer_bytes_max, record_bytes_max=MIB), **given | changes)
    if shards:
        batcher.install(shards_of(shards))
    return batcher


def shards_of(count: int) -> ShardMap:
    """Return the map of a stream."""
    return ShardMap(Shard(f"s{index}", each) for index, each in enumerate(even_ranges(count)))
