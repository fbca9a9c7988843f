"""What a group of consumers costs in DynamoDB, counted over an hour of virtual time at default settings."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from shared.hash_key import even_ranges
from shared.records import PutEntry
from shared.settings import ConsumerSettings
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud

_REQUESTS_PER_SHARD_HOUR_MAX = 1_500


async def _requests(cloud: SmallCloud, shards: int, seconds: float) -> Counter[str]:
    """Run one worker at default settings, with an event per shard and second; count its calls of the lease store."""
    defaults = ConsumerSettings(app="test", source_stream=SOURCE)
    worker = cloud.worker(flush_seconds=defaults.flush_seconds, shard_sync_seconds=defaults.shard_sync_seconds)
    stop, task, _ = cloud.start(worker)
    await asyncio.sleep(60)
    cloud.network.calls.clear()
    keys = [keys.start for keys in even_ranges(shards)]
    for number in range(int(seconds)):
        for key in keys:
            await cloud.kinesis.put_record(SOURCE, PutEntry(b'{"n":%d}' % number, "k", key))
        await asyncio.sleep(1)
    calls = Counter(call for call in cloud.network.calls if call.startswith("leases."))
    stop.set()
    await task
    return calls


@pytest.mark.parametrize(("shards", "seconds"), [(1, 1_200), (4, 300), (64, 60)])
def test_requests_per_shard_hour_are_bounded(shards: int, seconds: int) -> None:
    """Renewals, rounds and commits of a busy worker's shard stay within 1,500 requests an hour."""
    cloud = SmallCloud.make(shards)
    calls = cloud.run(lambda: _requests(cloud, shards, seconds))
    per_shard_hour = {call: round(count / shards * 3_600 / seconds) for call, count in sorted(calls.items())}
    assert sum(per_shard_hour.values()) <= _REQUESTS_PER_SHARD_HOUR_MAX, per_shard_hour
