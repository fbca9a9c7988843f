"""The limits of the service at their edges, and streams that take nothing for a while; in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

from producer.core.lanes import LaneQueues
from producer.producer import Producer
from shared.aggregation import deaggregate
from shared.errors import AccessDeniedError, HeadraceError, RecordTooLargeError, StreamNotFoundError, ThrottledError
from shared.limits import HASH_KEY_MAX, KIB, MIB
from shared.ports import Outcome
from shared.records import PutEntry, UserRecord
from shared.settings import Ordering, ProducerSettings
from tests.simulation.loop import SimulationLoop
from tests.support.fake_kinesis import FakeKinesis
from tests.support.network import PerfectNetwork

STREAM = "orders"
THROTTLED = "ProvisionedThroughputExceededException"


class Ears:
    """Telemetry that keeps the names of what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, event: str, **fields: Any) -> None:
        """Keep it."""
        self.said.append(event)

    warning = error = info

    def count(self, metric: str, amount: float = 1, **labels: str) -> None:
        """Count nothing."""

    gauge = count


class World(PerfectNetwork):
    """A stream behind 10 ms of network, which refuses calls or entries on request; measures the requests."""

    def __init__(self, shards: int = 2, **settings: Any) -> None:
        super().__init__(wall=0.0)
        self.loop = SimulationLoop()
        self.kinesis = FakeKinesis(self)
        self.stream = self.kinesis.create_stream(STREAM, shards)
        self.put_times: list[float] = []
        self.error: HeadraceError | None = None
        self.code = ""
        self.ears = Ears()
        self.outcomes: dict[int, Outcome] = {}
        self.settings = ProducerSettings(**settings)
        self.requests: list[list[PutEntry]] = []
        inner = self.kinesis.put_records

        async def put_records(stream: str, entries: list[PutEntry]) -> Any:
            self.requests.append(entries)
            return await inner(stream, entries)

        self.kinesis.put_records = put_records  # type: ignore[method-assign,assignment]  # looks on

    async def call(self, operation: str, land: Any) -> Any:
        """Carry a call."""
        await asyncio.sleep(0.01)
        if operation == "kinesis.put_records":
            self.put_times.append(self.loop.time())
            if self.error is not None:
                raise self.error
        return land()

    def entry_error(self, operation: str, shard_id: str) -> str:
        """Refuse each entry with the present code."""
        return self.code

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self.loop.time()

    def open(self) -> Producer:
        """Make the producer."""
        return Producer(
            STREAM,
            kinesis=self.kinesis,
            clock=self,
            random=random.Random(7),
            telemetry=self.ears,
            settings=self.settings,
        )

    def receipt(self, token: int, outcome: Outcome, _: int = 1, /) -> None:
        """Keep an outcome; a second one is a defect."""
        assert token not in self.outcomes
        self.outcomes[token] = outcome

    def landed(self) -> list[tuple[str, UserRecord]]:
        """Return every user record with its shard."""
        return [
            (shard.shard.shard_id, user)
            for shard in self.stream.shards.values()
            for record in shard.records
            for user in deaggregate(record, shard.shard.hash_key_range).records
        ]


@pytest.fixture(autouse=True)
def loops_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close each loop that a test has made."""
    made: list[SimulationLoop] = []
    original = SimulationLoop.__init__

    def init(self: SimulationLoop, **options: Any) -> None:
        original(self, **options)
        made.append(self)

    monkeypatch.setattr(SimulationLoop, "__init__", init)
    yield
    for loop in made:
        loop.close()


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("batch_bytes_max", [4 * MIB, 10 * MIB])
def test_records_of_10_mib_where_the_stream_takes_them(aggregate: bool, batch_bytes_max: int) -> None:
    """A record of exactly the stream's limit lands, alone in its request if it must; one byte more is refused."""
    world = World(aggregate=aggregate, batch_bytes_max=batch_bytes_max, buffer_bytes_max=64 * MIB)
    world.stream.record_bytes_max = 10 * MIB

    async def main() -> None:
        async with world.open() as producer:
            for number in range(2):
                await producer.put(bytes(10 * MIB - 256), "k" * 256, world.receipt, number)
            with pytest.raises(RecordTooLargeError, match="10,485,761 bytes"):
                await producer.put(bytes(10 * MIB - 255), "k" * 256)
            for number in range(2, 60):
                await producer.put(bytes(number * KIB), f"key-{number % 7}", world.receipt, number)
            assert await producer.flush(120) == 0

    world.loop.run(main())
    assert len(world.outcomes) == 60
    sizes = [sum(len(each.data) + len(each.partition_key.encode()) for each in request) for request in world.requests]
    assert max(sizes) == 10 * MIB


@pytest.mark.parametrize("ordering", list(Ordering))
def test_keys_of_256_characters_of_four_bytes(ordering: Ordering) -> None:
    """Key bytes count against record, aggregate and request, however many there are to a character."""
    world = World(ordering=ordering, batch_bytes_max=16 * KIB, aggregate_bytes_max=2 * KIB)
    keys = [chr(0x1F600 + number) * 256 for number in range(40)]

    async def main() -> None:
        async with world.open() as producer:
            await producer.put(bytes(MIB - 1024), keys[0], world.receipt, -1)
            with pytest.raises(RecordTooLargeError):
                await producer.put(bytes(MIB - 1023), keys[0])
            for number in range(200):
                await producer.put(b"%d" % number, keys[number % 40], world.receipt, number)
            assert await producer.flush(60) == 0

    world.loop.run(main())
    assert len(world.outcomes) == 201
    assert len(world.landed()) == 201
    for request in world.requests:
        size = sum(len(each.data) + len(each.partition_key.encode()) for each in request)
        assert size <= 16 * KIB or len(request) == 1


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("ordering", list(Ordering))
def test_explicit_hash_keys_decide_on_the_shard(aggregate: bool, ordering: Ordering) -> None:
    """0, 2^128-1 and both sides of a boundary land in the shard of the hash key, whatever the partition key says."""
    world = World(shards=4, aggregate=aggregate, ordering=ordering)
    edge = (HASH_KEY_MAX + 1) // 4
    places = {0: 0, edge - 1: 0, edge: 1, 3 * edge - 1: 2, 3 * edge: 3, HASH_KEY_MAX: 3}

    async def main() -> None:
        async with world.open() as producer:
            for number in range(60):
                hash_key = list(places)[number % len(places)]
                await producer.put(
                    b"%d" % hash_key, f"key-{number % 5}", world.receipt, number, explicit_hash_key=hash_key
                )
            assert await producer.flush(60) == 0

    world.loop.run(main())
    assert len(world.outcomes) == 60
    for shard_id, user in world.landed():
        assert shard_id == f"shardId-{places[int(user.data)]:012d}"


@pytest.mark.parametrize("kind", ["entries", "calls", "unknown codes"])
def test_ten_minutes_of_refusal_cost_few_calls_and_end_within_five_seconds(kind: str) -> None:
    """While everything is refused there are at most 10 calls a second; memory is bounded; then all comes at once."""
    world = World(shards=4, buffer_bytes_max=2 * MIB)

    async def main() -> None:
        async with world.open() as producer:
            async with asyncio.TaskGroup() as group:
                feeder = group.create_task(feed(producer))
                await asyncio.sleep(5)
                if kind == "calls":
                    world.error = ThrottledError("no")
                else:
                    world.code = THROTTLED if kind == "entries" else "SomethingNew"
                began = world.loop.time()
                await asyncio.sleep(600)
                during = [at for at in world.put_times if began + 2 <= at <= began + 600]
                assert producer.pending_bytes <= 2 * MIB
                assert producer.ledger.balances
                assert len(during) / 598 < 2
                assert max(sum(at <= each < at + 1 for each in during) for at in during) <= 10
                assert len([at for at in world.put_times if began <= at < began + 2]) < 150
                world.error, world.code = None, ""
                acknowledged = producer.ledger.acknowledged
                await asyncio.sleep(5)
                assert producer.ledger.acknowledged - acknowledged > 1000
                feeder.cancel()
            assert await producer.flush(10) == 0

    async def feed(producer: Producer) -> None:
        for number in range(10_000_000):
            await producer.put(bytes(500), f"key-{number % 997}", world.receipt, number)
            if number % 10 == 0:
                await asyncio.sleep(0.01)

    world.loop.run(main())
    assert not world.loop.failures


@pytest.mark.parametrize("error", [AccessDeniedError("no"), StreamNotFoundError("gone")])
def test_a_refusal_heals_when_its_cause_goes_away(error: HeadraceError) -> None:
    """Access denied or a deleted stream is told and tried again at long intervals; put goes on, nothing is lost."""
    world = World()

    async def main() -> None:
        async with world.open() as producer:
            world.error = error
            for number in range(100):
                await producer.put(b"x", f"key-{number}", world.receipt, number)
            await asyncio.sleep(3600)
            assert producer.failure is error
            assert 60 < len(world.put_times) < 200
            await producer.put(b"x", "key", world.receipt, 100)
            world.error = None
            await asyncio.sleep(60.1)
            assert producer.failure is None
            assert producer.ledger.pending == 0

    world.loop.run(main())
    assert len(world.outcomes) == 101
    assert world.ears.said[-1] == "producer_healed"
    # Of what was packed for shards that are gone, no aggregate is made before the shards are known again: two calls.
    assert len(world.put_times) - world.ears.said.count("producer_failed") in {1, 2}


def test_what_is_remembered_of_keys_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of every length in every lane leave no more behind than the keys that are remembered."""
    monkeypatch.setattr("producer.core.lane_indexes.KEYS_KEPT_MAX", 100)
    queues = LaneQueues(buffer_bytes_max=MIB, record_bytes_max=MIB)
    for number in range(5_000):
        queues.lane_of(f"{number}{'.' * (number % 250)}")
        assert len(queues.indexes) <= 100
