"""A stream that is deleted and made again while a producer is open: the same shard ids, other hash keys."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from producer.core.batch import Batch
from producer.core.batcher import Batcher
from producer.core.shard_map import ShardMap
from producer.producer import Producer
from shared.aggregation import deaggregate
from shared.records import PutResult, Shard, StreamRecord
from shared.retry import Backoff
from shared.settings import ProducerSettings
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import SimulationLoop
from tests.support.batchers import batcher_of, shards_of
from tests.support.fake_kinesis import FakeKinesis
from tests.support.network import PerfectNetwork

STREAM = "orders"
KEYS = 40


class LoopClock:
    """The clock that the running loop goes by."""

    def monotonic(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    wall = monotonic


def _producer_of(kinesis: FakeKinesis) -> Producer:
    return Producer(
        STREAM,
        kinesis=kinesis,
        clock=LoopClock(),
        random=random.Random(3),
        telemetry=SilentTelemetry(),
        settings=ProducerSettings(refused_backoff_seconds_max=1, batch_linger_seconds=0.01),
    )


async def _put(producer: Producer, age: bytes, keys: int = KEYS) -> None:
    for index in range(keys):
        await producer.put(b"%s %d" % (age, index), f"key-{index}")


async def _put_over_a_new_stream(kinesis: FakeKinesis) -> int:
    """Put on a stream of two shards and on the one of three that takes its place; return what is pending then."""
    async with _producer_of(kinesis) as producer:
        await _put(producer, b"old")
        await producer.flush(5)
        del kinesis.streams[STREAM]
        await _put(producer, b"new")
        await producer.flush(2)
        kinesis.create_stream(STREAM, 3)
        await _put(producer, b"newer")
        return await producer.flush(30)


async def _rest_over_a_new_stream(kinesis: FakeKinesis) -> int:
    """Put, rest while another stream takes the place of the first, and put again."""
    async with _producer_of(kinesis) as producer:
        await _put(producer, b"old")
        await producer.flush(5)
        await asyncio.sleep(30)
        del kinesis.streams[STREAM]
        kinesis.create_stream(STREAM, 3)
        await _put(producer, b"new")
        await asyncio.sleep(0.05)
        await _put(producer, b"newer")
        return await producer.flush(30)


@pytest.mark.parametrize("story", [_put_over_a_new_stream, _rest_over_a_new_stream])
def test_records_for_a_stream_made_anew_land_where_readers_keep_them(
    story: Callable[[FakeKinesis], Coroutine[Any, Any, int]],
) -> None:
    """No aggregate that was made for the old shards counts as delivered on the new ones."""
    kinesis = FakeKinesis(PerfectNetwork(wall=0.0))
    kinesis.create_stream(STREAM, 2)
    loop = SimulationLoop()
    try:
        pending = loop.run(story(kinesis))
    finally:
        loop.close()
    assert pending == 0
    kept = [
        record.data
        for shard in kinesis.streams[STREAM].shards.values()
        for stream_record in shard.records
        for record in deaggregate(stream_record, shard.shard.hash_key_range).records
    ]
    expected = [b"%s %d" % (age, index) for age in (b"new", b"newer") for index in range(KEYS)]
    assert sorted(kept) == sorted(expected)


def test_a_stream_is_looked_at_again_for_aggregates_after_a_rest_only() -> None:
    """What is sent all the time, or one by one, costs no look of its own: those are shared by an account."""
    kinesis = FakeKinesis(PerfectNetwork(wall=0.0))
    kinesis.create_stream(STREAM, 2)
    looks: list[float] = []
    list_shards = kinesis.list_shards

    async def noted(stream: str) -> Sequence[Shard]:
        looks.append(asyncio.get_running_loop().time())
        return await list_shards(stream)

    kinesis.list_shards = noted  # type: ignore[method-assign]  # the same, noted

    async def story() -> list[int]:
        counts: list[int] = []
        async with _producer_of(kinesis) as producer:
            for seconds, keys in ((1, KEYS), (20, 1), (20, KEYS)):
                await asyncio.sleep(61)
                looks.clear()
                for _ in range(50 // seconds):
                    await asyncio.sleep(seconds)
                    await _put(producer, b"x", keys)
                    await producer.flush(5)
                counts.append(len(looks))
        return counts

    loop = SimulationLoop()
    try:
        counts = loop.run(story())
    finally:
        loop.close()
    assert counts[0] <= 1, "one a minute"
    assert counts[1] <= 1, "one a minute"
    assert counts[2] == 2


def _fail(batcher: Batcher, batch: Batch) -> None:
    batcher.fail(batch, 3.0, random.Random(1))


def _throttle(batcher: Batcher, batch: Batch) -> None:
    landed = [PutResult(batch.records[0].shard_id or "", 1), *[PutResult(error_code="InternalFailure")] * 3]
    batcher.settle(batch, landed[: batch.count], 3.0, random.Random(1))


def _refuse(batcher: Batcher, batch: Batch) -> None:
    batcher.refuse(batch, ("ValidationException", ""), 3.0, random.Random(1), Backoff(0.05, 5))


@pytest.mark.parametrize("is_seen_gone", [False, True])
@pytest.mark.parametrize("end", [_fail, _throttle, _refuse])
def test_what_is_under_way_while_a_stream_is_made_anew_is_not_sent_again_as_it_is(
    end: Callable[[Batcher, Batch], None], is_seen_gone: bool
) -> None:
    """An aggregate for one of the old shards would land in the one of that id, and lie outside of it in part."""
    batcher = batcher_of(2)
    batcher.install(shards_of(2), seen_at=0.5, now=0.5)
    for index in range(KEYS):
        assert batcher.queues.accept(b"%d" % index, f"key-{index}")
    batcher.queues.stamp(0.0)
    batch = batcher.take(1.0)
    assert batch is not None
    if is_seen_gone:
        batcher.install(ShardMap(), now=2.0)
    anew = shards_of(3)
    if not is_seen_gone:
        batcher.install(anew, seen_at=2.0, now=2.0)
    end(batcher, batch)
    batcher.install(anew, seen_at=3.5, now=3.5)
    kept: list[bytes] = []
    for step in range(100):
        if (again := batcher.take(4.0 + step)) is not None:
            kept += _settled(batcher, again, anew, 4.5 + step)
    assert batcher.ledger.acknowledged == KEYS
    # Of the request that was answered in part, the first aggregate has landed, perhaps where readers drop it.
    assert {*kept} >= {b"%d" % index for index in range(KEYS)}


def _settled(batcher: Batcher, batch: Batch, shard_map: ShardMap, now: float) -> list[bytes]:
    """Have all of a request land where it goes by its hash keys; return what readers make of it."""
    kept: list[bytes] = []
    results: list[PutResult] = []
    for entry in batch.entries:
        hash_key = entry.explicit_hash_key
        shard_id = shard_map.of_keys[entry.partition_key] if hash_key is None else shard_map.predict(hash_key)
        assert shard_id is not None
        results.append(PutResult(shard_id, int(now * 1000)))
        record = StreamRecord(entry.data, entry.partition_key, int(now * 1000), now)
        kept += (each.data for each in deaggregate(record, shard_map.range_of(shard_id)).records)
    batcher.settle(batch, results, now, random.Random(1))
    return kept
