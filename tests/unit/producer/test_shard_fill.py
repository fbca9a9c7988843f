"""Shards with the service's limits, filled by a producer that is fed faster than they take; in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from producer.producer import Producer
from shared.hash_key import hash_key_of
from shared.limits import MIB, SHARD_WRITE_BYTES_PER_SECOND, SHARD_WRITE_RECORDS_PER_SECOND
from shared.ports import Outcome
from shared.records import PutEntry, PutResult
from shared.settings import ProducerSettings
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import SimulationLoop
from tests.support.fake_kinesis import FakeKinesis, FakeStream
from tests.support.network import PerfectNetwork

STREAM = "orders"
SHARDS = 8
WARM_UP_SECONDS = 2.0
SECONDS = 4.0
THROTTLED = PutResult(error_code="ProvisionedThroughputExceededException", error_message="limit")


class Network(PerfectNetwork):
    """Ten milliseconds there, ten back; the clock is the loop's."""

    def __init__(self, loop: SimulationLoop) -> None:
        super().__init__(wall=0.0)
        self.monotonic = self.now = loop.time  # type: ignore[method-assign] # the loop's clock is everybody's

    async def call(self, operation: str, land: Any) -> Any:
        """Carry a call."""
        await asyncio.sleep(0.01)
        result = land()
        await asyncio.sleep(0.01)
        return result


class LimitedKinesis(FakeKinesis):
    """Each shard has a bucket of bytes and one of records, which hold a second's limit and fill up steadily."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self._left: dict[str, tuple[float, float, float]] = {}  # shard -> bytes, records, and when that was
        self.reset()

    def reset(self) -> None:
        """Count from now on."""
        self.bytes_taken: Counter[str] = Counter()
        self.taken = self.refused = 0

    def _put(self, stream: FakeStream, entry: PutEntry, operation: str) -> PutResult:
        explicit = entry.explicit_hash_key
        name = stream.shard_for(hash_key_of(entry.partition_key) if explicit is None else explicit).shard.shard_id
        now, size = self.network.now(), len(entry.data) + len(entry.partition_key)
        bytes_left, records_left, since = self._left.get(name, (0.0, 0.0, -1.0))
        bytes_left = min(1.0, now - since) * SHARD_WRITE_BYTES_PER_SECOND + bytes_left
        records_left = min(1.0, now - since) * SHARD_WRITE_RECORDS_PER_SECOND + records_left
        bytes_left = min(bytes_left, SHARD_WRITE_BYTES_PER_SECOND)
        records_left = min(records_left, SHARD_WRITE_RECORDS_PER_SECOND)
        if size > bytes_left or records_left < 1:
            self._left[name] = bytes_left, records_left, now
            self.refused += 1
            return THROTTLED
        self._left[name] = bytes_left - size, records_left - 1, now
        self.bytes_taken[name] += size
        self.taken += 1
        return PutResult(shard_id=name, sequence_number=stream.next_sequence_number())


def forget(token: object, outcome: Outcome, _: int = 1, /) -> None:
    """Receive an outcome."""


@pytest.mark.parametrize(("aggregate", "event_bytes"), [(True, 307), (False, 2_000)])
def test_eight_shards_are_filled_and_hardly_throttle(*, aggregate: bool, event_bytes: int) -> None:
    """Each shard takes at least 95 % of 1 MiB/s, and fewer than 1 % of the stream records are throttled."""
    loop = SimulationLoop()
    network = Network(loop)
    kinesis = LimitedKinesis(network)
    kinesis.create_stream(STREAM, SHARDS)
    chance = random.Random(5)

    async def feed(producer: Producer) -> None:
        while True:
            keys = [f"session-{chance.getrandbits(14)}" for _ in range(500)]
            await producer.put_all([bytes(event_bytes)] * 500, keys, forget, None)

    async def main() -> None:
        producer = Producer(
            STREAM,
            kinesis=kinesis,
            clock=network,
            random=random.Random(7),
            telemetry=SilentTelemetry(),
            settings=ProducerSettings(aggregate=aggregate, buffer_bytes_max=32 * MIB, drain_timeout_seconds=0.1),
        )
        async with producer, asyncio.TaskGroup() as group:
            feeder = group.create_task(feed(producer))
            await asyncio.sleep(WARM_UP_SECONDS)
            kinesis.reset()
            await asyncio.sleep(SECONDS)
            feeder.cancel()

    loop.run(main())
    loop.close()
    shares = [size / SECONDS / SHARD_WRITE_BYTES_PER_SECOND for size in kinesis.bytes_taken.values()]
    assert len(shares) == SHARDS
    assert min(shares) >= 0.95, shares
    assert kinesis.refused < 0.01 * (kinesis.refused + kinesis.taken)
