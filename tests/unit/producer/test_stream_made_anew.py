"""A stream that is deleted and made again while a producer is open: the same shard ids, other hash keys."""

from __future__ import annotations

import asyncio
import random

from producer.producer import Producer
from shared.aggregation import deaggregate
from shared.settings import ProducerSettings
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import SimulationLoop
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


async def _put_over_a_new_stream(kinesis: FakeKinesis) -> int:
    """Put on a stream of two shards and on the one of three that takes its place; return what is pending then."""
    settings = ProducerSettings(refused_backoff_seconds_max=1, batch_linger_seconds=0.01)
    producer = Producer(
        STREAM,
        kinesis=kinesis,
        clock=LoopClock(),
        random=random.Random(3),
        telemetry=SilentTelemetry(),
        settings=settings,
    )
    async with producer:
        for index in range(KEYS):
            await producer.put(b"old %d" % index, f"key-{index}")
        await producer.flush(5)
        del kinesis.streams[STREAM]
        for index in range(KEYS):
            await producer.put(b"new %d" % index, f"key-{index}")
        await producer.flush(2)
        kinesis.create_stream(STREAM, 3)
        for index in range(KEYS):
            await producer.put(b"newer %d" % index, f"key-{index}")
        return await producer.flush(30)


def test_records_for_a_stream_made_anew_land_where_readers_keep_them() -> None:
    """No aggregate that was made for the old shards counts as delivered on the new ones."""
    kinesis = FakeKinesis(PerfectNetwork(wall=0.0))
    kinesis.create_stream(STREAM, 2)
    loop = SimulationLoop()
    try:
        pending = loop.run(_put_over_a_new_stream(kinesis))
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
