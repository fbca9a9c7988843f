"""A call that is refused for one bad record: that one is found and given up, the others go on; in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from producer.core.batch import Batch
from producer.core.batcher import Batcher
from producer.core.lanes import LaneQueues
from producer.core.shard_map import ShardMap
from producer.producer import Producer
from shared.aggregation import deaggregate
from shared.errors import AccessDeniedError, AmbiguousCallError, HeadraceError, InvalidRequestError, StreamNotFoundError
from shared.limits import MIB
from shared.ports import Delivered, Outcome, Undeliverable
from shared.records import PutEntry, PutResult, Shard
from shared.retry import Backoff
from shared.settings import Ordering, ProducerSettings
from shared.telemetry import StructlogTelemetry
from tests.simulation.loop import SimulationLoop
from tests.support.fake_kinesis import FakeKinesis
from tests.support.network import PerfectNetwork

STREAM = "orders"
BAD = b"poison"


class World(PerfectNetwork):
    """A stream behind 10 ms of network that refuses a request whole if an entry holds what it does not like."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(wall=0.0)
        self.loop = SimulationLoop()
        self.kinesis = FakeKinesis(self)
        self.stream = self.kinesis.create_stream(STREAM, 2)
        self.bad = BAD
        self.error: HeadraceError = InvalidRequestError("1 validation error", code="ValidationException")
        self.calls_at: list[float] = []
        self.outcomes: dict[int, Outcome] = {}
        self.settings = ProducerSettings(**settings)
        inner = self.kinesis.put_records

        async def put_records(stream: str, entries: list[PutEntry]) -> Any:
            await asyncio.sleep(0.01)
            self.calls_at.append(self.loop.time())
            if any(self.bad in entry.data for entry in entries):
                raise self.error
            return await inner(stream, entries)

        self.kinesis.put_records = put_records  # type: ignore[method-assign,assignment]  # stands before it

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
            telemetry=StructlogTelemetry(),
            settings=self.settings,
        )

    def receipt(self, token: int, outcome: Outcome, _: int = 1, /) -> None:
        """Keep an outcome; a second one is a defect."""
        assert token not in self.outcomes
        self.outcomes[token] = outcome

    async def put(self, producer: Producer, count: int, bad: set[int]) -> None:
        """Put numbered records under 40 keys."""
        for number in range(count):
            data = b"%d:%b" % (number, BAD if number in bad else b"good")
            await producer.put(data, f"key-{number % 40}", self.receipt, number)

    def landed(self) -> list[tuple[str, int]]:
        """Return key and number of every user record, shard by shard."""
        return [
            (user.partition_key, int(user.data.split(b":")[0]))
            for shard in self.stream.shards.values()
            for record in shard.records
            for user in deaggregate(record, shard.shard.hash_key_range).records
        ]

    def undeliverable(self) -> set[int]:
        """Return the numbers of the records that were given up."""
        return {token for token, outcome in self.outcomes.items() if isinstance(outcome, Undeliverable)}


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    """Close the loop of each world in the list."""
    made: list[World] = []
    yield made
    for world in made:
        world.loop.close()


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("ordering", list(Ordering))
@pytest.mark.parametrize("bad", [{0}, {17}, {799}, {3, 43, 44, 500}])
def test_bad_records_are_found_and_the_others_delivered(
    worlds: list[World], aggregate: bool, ordering: Ordering, bad: set[int]
) -> None:
    """Exactly the bad ones are given up, with the service's code and their data; the rest lands once, in order."""
    world = World(aggregate=aggregate, ordering=ordering)
    worlds.append(world)

    async def run() -> None:
        async with world.open() as producer:
            await world.put(producer, 800, bad)
            # Something that follows, as a record is condemned only if others get through.
            for number in range(800, 1000):
                await producer.put(b"%d:good" % number, f"key-{number % 40}", world.receipt, number)
                await asyncio.sleep(0.1)
            assert await producer.flush(60) == 0
            assert producer.failure is None
            ledger = producer.ledger
            assert (ledger.accepted, ledger.undeliverable, ledger.pending) == (1000, len(bad), 0)
            assert ledger.balances
            assert producer.pending_bytes == 0

    world.loop.run(run())
    assert world.undeliverable() == bad
    for number in bad:
        outcome = world.outcomes[number]
        assert isinstance(outcome, Undeliverable)
        assert (outcome.error_code, outcome.data) == ("ValidationException", b"%d:poison" % number)
    landed = world.landed()
    assert Counter(number for _, number in landed) == Counter(set(range(1000)) - bad)
    if ordering is Ordering.LANE:
        for key in {key for key, _ in landed}:
            numbers = [number for each, number in landed if each == key]
            assert numbers == sorted(numbers)


def test_a_stream_that_refuses_everything_condemns_nothing(worlds: list[World]) -> None:
    """Ten minutes of it are few calls, no record given up, and told as a failure; then all land within the back-off."""
    world = World(aggregate=False, refused_backoff_seconds_max=5)
    worlds.append(world)
    world.bad = b""  # is in everything

    async def run() -> None:
        async with world.open() as producer:
            await world.put(producer, 800, set())
            await asyncio.sleep(600)
            assert producer.failure is not None
            assert producer.ledger.pending == 800
            assert len(world.calls_at) < 1_200  # two a second
            # Four to a pause, which may be short by chance.
            assert max(Counter(int(at) for at in world.calls_at[40:]).values()) <= 16
            world.bad = BAD
            healed_at = world.loop.time()
            assert await producer.flush(10) == 0
            assert world.loop.time() - healed_at <= 6
            assert producer.failure is None

    world.loop.run(run())
    assert not world.undeliverable()
    assert len(world.landed()) == 800


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize("bad", [{0}, {0, 1, 2, 3, 4, 5, 6}, {0, 2, 3, 49}])
def test_bad_records_before_all_others_of_the_only_key_are_given_up(
    worlds: list[World], aggregate: bool, bad: set[int]
) -> None:
    """What follows them in their lane is tried, as nothing else can speak for the stream; all of it lands, in order.

    The last one stays, if it is bad: what it waits for is the next record.
    """
    world = World(aggregate=aggregate)
    worlds.append(world)

    async def run() -> None:
        async with world.open() as producer:
            for number in range(50):
                data = b"%d:%b" % (number, BAD if number in bad else b"good")
                await producer.put(data, "key", world.receipt, number)
            assert await producer.flush(30) == len(bad & {49})
            await producer.put(b"50:good", "key", world.receipt, 50)
            assert await producer.flush(30) == 0
            assert producer.failure is None

    world.loop.run(run())
    assert world.undeliverable() == bad
    assert [number for _, number in world.landed()] == sorted(set(range(51)) - bad)


def test_more_bad_records_in_a_row_than_speak_against_themselves_are_told(worlds: list[World]) -> None:
    """So many of the only key are refused, and nothing else comes: that is told as a failure, and none is given up."""
    world = World()
    worlds.append(world)

    async def run() -> None:
        async with world.open() as producer:
            for number in range(100):
                await producer.put(b"%d:%b" % (number, b"good" if number > 59 else BAD), "key", world.receipt, number)
            await asyncio.sleep(60)
            assert producer.failure is not None
            assert producer.ledger.pending == 100
            # Another key is proof enough, though each time for the first one only.
            for number in range(100, 200):
                await producer.put(b"%d:good" % number, "another key", world.receipt, number)
                await asyncio.sleep(1)
            assert await producer.flush(60) == 0

    world.loop.run(run())
    assert world.undeliverable() == set(range(60))
    assert [number for key, number in world.landed() if key == "key"] == list(range(60, 100))


def test_a_full_buffer_behind_bad_records_does_not_stand_still(worlds: list[World]) -> None:
    """All that is in memory waits behind bad records, so that nothing else can come: it goes on within seconds."""
    world = World(buffer_bytes_max=2_100_000, batch_bytes_max=1_000_000)
    worlds.append(world)
    keys = [f"key-{number}" for number in range(12)]
    bad = set(range(len(keys)))
    size = 20_000

    async def run() -> None:
        async with world.open() as producer:
            async with asyncio.timeout(60):
                for number in range(300):
                    data = b"%d:%b" % (number, BAD if number in bad else b"good")
                    await producer.put(data.ljust(size), keys[number % len(keys)], world.receipt, number)
            assert await producer.flush(30) == 0

    world.loop.run(run())
    assert world.undeliverable() == bad
    assert len(world.landed()) == 300 - len(bad)


def test_a_stream_of_one_key_that_refuses_everything_condemns_nothing(worlds: list[World]) -> None:
    """Ten minutes of it are few calls and no record given up, though each probe tries what follows, too."""
    world = World(refused_backoff_seconds_max=5)
    worlds.append(world)
    world.bad = b""  # is in everything

    async def run() -> None:
        async with world.open() as producer:
            for number in range(50):
                await producer.put(b"%d:good" % number, "key", world.receipt, number)
            await asyncio.sleep(600)
            assert producer.failure is not None
            assert producer.ledger.pending == 50
            assert len(world.calls_at) < 4_000
            assert max(Counter(int(at) for at in world.calls_at[40:]).values()) <= 40
            # It is well again between two probes, whose calls follow each other at once.
            while world.loop.time() - world.calls_at[-1] < 0.05:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.05)
            world.bad = BAD
            assert await producer.flush(10) == 0
            assert producer.failure is None

    world.loop.run(run())
    assert not world.undeliverable()
    assert [number for _, number in world.landed()] == list(range(50))


@pytest.mark.parametrize("lost", range(1, 12))
def test_an_answer_lost_behind_bad_records_breaks_no_order(worlds: list[World], lost: int) -> None:
    """What was tried behind them may have landed then: they are not sent after it, whatever the stream takes later."""
    world = World(aggregate=False, refused_backoff_seconds_max=2)
    worlds.append(world)
    inner = world.kinesis.put_records
    calls = 0

    async def put_records(stream: str, entries: list[PutEntry]) -> Any:
        nonlocal calls
        calls += 1
        if calls == lost:
            with suppress(InvalidRequestError):
                await inner(stream, entries)
            world.bad = b""  # is in everything
            world.loop.call_later(10, setattr, world, "bad", b"nothing of this")
            raise AmbiguousCallError("no answer")
        return await inner(stream, entries)

    world.kinesis.put_records = put_records  # type: ignore[method-assign,assignment]  # stands before it

    async def run() -> None:
        async with world.open() as producer:
            for number in range(30):
                data = b"%d:%b" % (number, BAD if number in {1, 2} else b"good")
                await producer.put(data, "key", world.receipt, number)
            assert await producer.flush(60) == 0

    world.loop.run(run())
    landed = list(dict.fromkeys(number for _, number in world.landed()))
    assert landed == sorted(landed)
    assert {*landed} | world.undeliverable() == set(range(30))
    assert world.undeliverable() <= {1, 2}
    assert len(world.outcomes) == 30


@pytest.mark.parametrize("denied", range(1, 12))
def test_a_try_that_surely_did_not_land_condemns_nothing(worlds: list[World], denied: int) -> None:
    """It goes back behind what was refused before it, which is sent first when the stream takes records again."""
    world = World(aggregate=False, refused_backoff_seconds_max=2)
    worlds.append(world)
    world.bad = b""  # is in everything
    inner = world.kinesis.put_records
    calls = 0

    async def put_records(stream: str, entries: list[PutEntry]) -> Any:
        nonlocal calls
        calls += 1
        if calls == denied:
            world.error = AccessDeniedError("not now", code="AccessDeniedException")
            world.loop.call_later(10, setattr, world, "bad", b"nothing of this")
        return await inner(stream, entries)

    world.kinesis.put_records = put_records  # type: ignore[method-assign,assignment]  # stands before it

    async def run() -> None:
        async with world.open() as producer:
            for number in range(30):
                await producer.put(b"%d:good" % number, "key", world.receipt, number)
            assert await producer.flush(60) == 0

    world.loop.run(run())
    assert not world.undeliverable()
    assert [number for _, number in world.landed()] == list(range(30))


@pytest.mark.parametrize("seconds", [0.15, 0.25, 0.35, 0.45, 3])
def test_a_close_names_what_waits_behind_bad_records(worlds: list[World], seconds: float) -> None:
    """At its deadline the books balance, and nothing has two outcomes or a wrong one."""
    world = World()
    worlds.append(world)

    async def run() -> None:
        async with world.open() as producer:
            for number in range(60):
                await producer.put(b"%d:%b" % (number, b"good" if number > 50 else BAD), "key", world.receipt, number)
            await asyncio.sleep(seconds)
            assert await producer.close(0.005) == 60
            assert producer.ledger.balances
            assert (producer.ledger.accepted, producer.ledger.pending) == (60, 60)

    world.loop.run(run())
    assert not world.outcomes


def test_a_run_that_somebody_waits_for_gets_past_a_bad_record_of_the_only_key(worlds: list[World]) -> None:
    """With a refused back-off of 0, too, what follows is tried before the error is final."""
    world = World(refused_backoff_seconds_max=0)
    worlds.append(world)

    async def run() -> None:
        async with world.open() as producer:
            for number in range(20):
                await producer.put(b"%d:%b" % (number, b"good" if number else BAD), "key", world.receipt, number)
            assert await producer.flush(60) == 0
            assert producer.failure is None

    world.loop.run(run())
    assert world.undeliverable() == {0}


@pytest.mark.parametrize("aggregate", [True, False])
@pytest.mark.parametrize(("keys", "bad"), [(12, 1), (60, 1), (60, 2), (120, 1), (8, 3)])
def test_a_run_that_somebody_waits_for_gets_past_bad_records_before_all_others(
    worlds: list[World], aggregate: bool, keys: int, bad: int
) -> None:
    """With a refused back-off of 0, too, many of them at once are looked for with pauses before an error is final."""
    world = World(refused_backoff_seconds_max=0, aggregate=aggregate)
    worlds.append(world)

    async def run() -> None:
        async with world.open() as producer:
            for number in range(keys * 10):
                data = b"%d:%b" % (number, BAD if number < bad * keys else b"good")
                await producer.put(data, f"key-{number % keys}", world.receipt, number)
            assert await producer.flush(60) == 0
            assert producer.failure is None

    world.loop.run(run())
    assert world.undeliverable() == set(range(bad * keys))
    assert len(world.landed()) == (10 - bad) * keys


@pytest.mark.parametrize("keys", [1, 60])
def test_a_run_that_somebody_waits_for_fails_within_seconds_and_condemns_nothing(
    worlds: list[World], keys: int
) -> None:
    """A stream that refuses everything is tried for a while, with few calls, and then the error is final."""
    world = World(refused_backoff_seconds_max=0)
    worlds.append(world)
    world.bad = b""  # is in everything

    async def run() -> None:
        async with world.open() as producer:
            for number in range(keys * 10):
                await producer.put(b"%d:good" % number, f"key-{number % keys}", world.receipt, number)
            assert await producer.flush(60) == keys * 10
            assert isinstance(producer.failure, InvalidRequestError)

    world.loop.run(run())
    assert not world.outcomes
    assert world.loop.time() < 20
    assert len(world.calls_at) < 700


def test_a_run_that_somebody_waits_for_fails_if_everything_is_refused(worlds: list[World]) -> None:
    """With a refused back-off of 0 the error is final once nothing else is left to try; nothing is given up."""
    world = World(refused_backoff_seconds_max=0)
    worlds.append(world)

    async def run() -> None:
        async with world.open() as producer:
            await producer.put(b"0:poison", "key", world.receipt, 0)
            assert await producer.flush(60) == 1
            assert isinstance(producer.failure, InvalidRequestError)

    world.loop.run(run())
    assert not world.outcomes


@pytest.mark.parametrize(
    "error",
    [
        AccessDeniedError("no", code="AccessDeniedException"),
        AccessDeniedError("no key", code="KMSDisabledException"),
        StreamNotFoundError("gone", code="ResourceNotFoundException"),
        InvalidRequestError("what is that", code="UnknownOperationException"),
    ],
)
def test_a_refusal_about_the_stream_is_not_bisected(worlds: list[World], error: HeadraceError) -> None:
    """The same request is sent again, whole."""
    world = World(aggregate=False)
    worlds.append(world)
    world.error, world.bad = error, b""
    sizes: list[int] = []
    inner = world.kinesis.put_records

    async def put_records(stream: str, entries: list[PutEntry]) -> Any:
        sizes.append(len(entries))
        return await inner(stream, entries)

    world.kinesis.put_records = put_records  # type: ignore[method-assign,assignment]  # looks on

    async def run() -> None:
        async with world.open() as producer:
            await world.put(producer, 40, set())
            await asyncio.sleep(30)
            assert len(sizes) > 2
            assert len(set(sizes)) == 1
            world.bad = BAD
            await producer.flush(120)

    world.loop.run(run())
    assert all(isinstance(outcome, Delivered) for outcome in world.outcomes.values())
    assert len(world.outcomes) == 40


def test_a_refused_record_leaves_the_others_their_share_of_the_shard() -> None:
    """A large bad record is not tried again and again at the cost of those that wait for the shard's allowance."""
    world = World(shard_rate_percent=20)

    async def main() -> None:
        async with world.open() as producer:
            await producer.put(BAD + bytes(900_000), "key-0", world.receipt, 0)
            await asyncio.sleep(1)
            await producer.put(b"1:good", "key-0", world.receipt, 1)
            await producer.put(b"2:good" + bytes(1_000), "key-2", world.receipt, 2)
            assert await producer.flush(120) == 0

    world.loop.run(main())
    assert world.undeliverable() == {0}
    assert len(world.calls_at) < 20


def test_a_stream_that_begins_to_refuse_everything_in_a_search_condemns_few(worlds: list[World]) -> None:
    """What was accepted before speaks for it no longer after some refusals in a row; the rest lands once it is well."""
    world = World(aggregate=False, ordering=Ordering.NONE, refused_backoff_seconds_max=5)
    worlds.append(world)

    async def run() -> None:
        async with world.open() as producer:
            for number in range(500):
                await producer.put(
                    b"%d:%b" % (number, b"good" if number else BAD), f"key-{number}", world.receipt, number
                )
            while not world.outcomes:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(0.001)
            world.bad = b""  # is in everything
            await asyncio.sleep(600)
            assert producer.failure is not None
            world.bad = BAD
            assert await producer.flush(60) == 0

    world.loop.run(run())
    assert len(world.undeliverable()) <= 16
    assert len(world.landed()) + len(world.undeliverable()) == 500


class _Core:
    """A batcher by itself, and what becomes of a few records."""

    def __init__(self, *, aggregates: bool = False) -> None:
        self.queues = LaneQueues(buffer_bytes_max=MIB, record_bytes_max=MIB)
        self.backoff = Backoff(0.05, 4)
        self.batcher = Batcher(
            self.queues,
            keeps_order=True,
            aggregates=aggregates,
            aggregate_bytes_max=MIB,
            batch_records_max=500,
            batch_bytes_max=MIB,
            linger_seconds=0,
            backoff=self.backoff,
        )

    def put(self, data: bytes, key: str, now: float) -> None:
        """Queue a record."""
        assert self.queues.accept(data, key)
        self.queues.stamp(now)

    def take(self, now: float) -> Batch:
        """Take a request that is due."""
        batch = self.batcher.take(now)
        assert batch is not None
        return batch

    def refuse(self, batch: Batch, now: float) -> int:
        """Have a request refused; return how many records are given up for it."""
        reason = ("ValidationException", "no")
        return len(self.batcher.refuse(batch, reason, now, random.Random(7), self.backoff).undeliverable)

    def accept(self, batch: Batch, now: float, shard_id: str = "shardId-0") -> int:
        """Have a request land; return how many records are given up for it."""
        results = [PutResult(shard_id=shard_id, sequence_number=1) for _ in batch.entries]
        return len(self.batcher.settle(batch, results, now, random.Random(7)).undeliverable)


def test_what_can_not_be_tried_at_once_condemns_nothing() -> None:
    """If a pause comes between a refusal and the next try, the stream may be well meanwhile: the first goes first."""
    core = _Core()
    for data in (b"first", b"second", b"third"):
        core.put(data, "key", 0.0)
    assert core.refuse(core.take(0.0), 0.01) == 0
    assert core.refuse(core.take(0.01), 0.02) == 0  # of the second one
    for data in (b"first", b"second", b"third"):
        batch = core.take(60.0)
        assert [entry.data for entry in batch.entries] == [data]
        assert core.accept(batch, 60.0) == 0
    assert core.batcher.ledger.pending == 0


def test_a_success_beside_a_refusal_condemns_nothing() -> None:
    """If both were under way together, the stream may be well only since: the record gets another try."""
    core = _Core()
    core.put(b"first", "key", 0.0)
    core.put(b"other", "other key", 0.0)
    both = core.take(0.0)
    assert both.count == 2
    assert core.refuse(both, 1.0) == 0
    first, other = core.take(1.0), core.take(1.0)
    assert core.accept(other, 1.2) == 0
    assert core.refuse(first, 1.3) == 0
    assert core.accept(core.take(1.3), 1.4) == 0
    assert core.batcher.ledger.pending == 0


def test_what_waits_for_a_shard_map_only_speaks_for_no_stream() -> None:
    """An aggregate that landed in an unknown shard has told what it can: what is behind a bad record is tried."""
    core = _Core(aggregates=True)
    core.batcher.install(ShardMap([Shard("shardId-0")]))
    for data in (b"one", b"two"):
        core.put(data, "other key", 0.0)
    core.accept(core.take(0.0), 0.1, "shardId-9")
    assert core.batcher.ledger.in_flight == 2
    for data in (BAD, b"second"):
        core.put(data, "key", 1.0)
    core.refuse(core.take(1.0), 1.1)
    second = core.take(1.1)
    assert [entry.data for entry in second.entries] == [b"second"]
    assert core.accept(second, 1.3) == 1


def test_refused_requests_take_nothing_of_their_shard(worlds: list[World]) -> None:
    """After ten minutes in which everything is refused, what waits goes at the rate of its shard, without a debt."""
    world = World(shard_rate_percent=20, refused_backoff_seconds_max=2)
    worlds.append(world)
    world.bad = b""  # is in everything

    async def run() -> None:
        async with world.open() as producer:
            for number in range(20):
                await producer.put(b"%d:good" % number + bytes(100_000), "key", world.receipt, number)
            await asyncio.sleep(600)
            assert producer.failure is not None
            world.bad = BAD
            assert await producer.flush(20) == 0

    world.loop.run(run())
    assert not world.undeliverable()
