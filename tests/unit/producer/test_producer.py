"""The producer against an in-memory Kinesis: order, retries, resharding, limits, ends."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import Any

import pytest

from producer.producer import Producer
from shared.aggregation import deaggregate
from shared.errors import (
    AccessDeniedError,
    AmbiguousCallError,
    DeliveryFailedError,
    PartitionKeyError,
    RecordTooLargeError,
    ServiceUnavailableError,
    StreamNotFoundError,
    ThrottledError,
)
from shared.limits import HASH_KEY_MAX, KIB, MIB
from shared.ports import Delivered, Outcome
from shared.records import Distribution, PutEntry, PutResult, UserRecord
from shared.settings import Ordering, ProducerSettings
from shared.telemetry import SilentTelemetry
from tests.support.fake_kinesis import FakeKinesis
from tests.support.network import Lost, ScriptedNetwork

STREAM = "orders"
THROTTLED = "ProvisionedThroughputExceededException"


class LoopClock:
    """The clock that the running loop goes by."""

    def monotonic(self) -> float:
        """Return the loop's time."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Return the same: nobody here asks for the date."""
        return self.monotonic()


class World:
    """A stream, a producer's surroundings, and what came of each record."""

    def __init__(self, shards: int = 2, **settings: Any) -> None:
        self.network = ScriptedNetwork()
        self.kinesis = FakeKinesis(self.network)
        self.stream = self.kinesis.create_stream(STREAM, shards)
        self.telemetry = SilentTelemetry()
        self.outcomes: dict[Any, Outcome] = {}
        quick = {"batch_linger_seconds": 0.001, "retry_backoff_seconds_min": 0.0001, "retry_backoff_seconds_max": 0.001}
        quick["shard_rate_percent"] = 0  # these tests run in real time
        self.settings = ProducerSettings(**quick | settings)

    def producer(self) -> Producer:
        """Make a producer of the stream."""
        return Producer(
            STREAM,
            kinesis=self.kinesis,
            clock=LoopClock(),
            random=random.Random(7),
            telemetry=self.telemetry,
            settings=self.settings,
        )

    def receipt(self, token: Any, outcome: Outcome, _: int = 1, /) -> None:
        """Keep an outcome; a second one for a token is a defect."""
        assert token not in self.outcomes
        self.outcomes[token] = outcome

    def landed(self) -> list[list[UserRecord]]:
        """Return the user records of each shard as KCL would see them."""
        return [
            [user for record in shard.records for user in deaggregate(record, shard.shard.hash_key_range).records]
            for shard in self.stream.shards.values()
        ]

    def stream_record_count(self) -> int:
        """Return how many stream records landed."""
        return sum(len(shard.records) for shard in self.stream.shards.values())


def order_of(records: list[UserRecord]) -> dict[str, list[bytes]]:
    """Return the data per partition key, in reading order."""
    seen: dict[str, list[bytes]] = {}
    for record in records:
        seen.setdefault(record.partition_key, []).append(record.data)
    return seen


async def test_records_arrive_once_in_order_and_in_their_shard() -> None:
    """Every record lands once, in the order of its key, inside aggregates; receipts and ledger agree."""
    world = World(shards=3)
    async with world.producer() as producer:
        for index in range(600):
            await producer.put(b"%d" % index, f"key-{index % 40}", world.receipt, index)
        assert await producer.flush(5) == 0
    expected = {f"key-{key}": [b"%d" % index for index in range(key, 600, 40)] for key in range(40)}
    assert {key: data for shard in world.landed() for key, data in order_of(shard).items()} == expected
    assert world.outcomes.keys() == set(range(600))
    assert world.stream_record_count() < 100
    assert producer.ledger.acknowledged == producer.ledger.accepted == 600


class Token:
    """Whatever somebody wants back with a receipt."""


async def test_a_token_is_let_go_once_all_is_told() -> None:
    """Puts with one token share a receipt; a producer with nothing to send keeps none, as it may hold much memory."""
    world = World(shards=1)
    told: list[int] = []

    def receipt(_: Token, outcome: Outcome, count: int = 1, /) -> None:
        told.append(count)

    async with world.producer() as producer:
        token = Token()
        for _ in range(2):
            await producer.put_all([b"1", b"2"], ["a", "b"], receipt, token)
        assert await producer.flush(5) == 0
        assert told == [4]
        watched = weakref.ref(token)
        del token
        gc.collect()
        assert watched() is None


async def test_one_of_many_that_is_too_large_is_told_by_its_receipt() -> None:
    """What the stream would not take holds nobody up: it is undeliverable, with its bytes, and the others arrive."""
    world = World(shards=1)
    outcomes: list[Outcome] = []

    def receipt(_: None, outcome: Outcome, count: int = 1, /) -> None:
        outcomes.extend([outcome] * count)

    large = b"x" * MIB
    async with world.producer() as producer:
        await producer.put_all([b"1", large, b"2", b"3"], ["a", "b", "a", ""], receipt, None)
        assert await producer.flush(5) == 0
    refused = [each for each in outcomes if not isinstance(each, Delivered)]
    assert [(each.error_code, each.data) for each in refused] == [
        ("record-too-large", large),
        ("bad-partition-key", b"3"),
    ]
    assert len(outcomes) == 4
    assert [user.data for user in world.landed()[0]] == [b"1", b"2"]


async def test_a_lost_answer_is_repeated_with_the_same_bytes() -> None:
    """After an ambiguous failure the same stream records are sent again before anything newer."""
    world = World(shards=1)
    world.network.scripts["kinesis.put_records"] = [Lost(AmbiguousCallError("no answer"))]
    async with world.producer() as producer:
        for index in range(10):
            await producer.put(b"%d" % index, "a", world.receipt, index)
    shard = next(iter(world.stream.shards.values()))
    assert shard.records[0].data == shard.records[1].data
    assert [record.data for record in world.landed()[0]][10:20] == [b"%d" % index for index in range(10)]
    assert len(world.outcomes) == 10


@pytest.mark.parametrize("aggregate", [True, False])
async def test_throttled_records_keep_their_place(aggregate: bool) -> None:
    """Random per-record throttles and unknown codes delay a lane and never reorder it."""
    world = World(shards=2, aggregate=aggregate)
    chance = random.Random(3)
    codes = ["", "", "", THROTTLED, "InternalFailure", "SomethingNew"]
    world.network.entry_errors["kinesis.put_records"] = [chance.choice(codes) for _ in range(3000)]
    async with world.producer() as producer:
        for index in range(500):
            await producer.put(b"%d" % index, f"key-{index % 7}", world.receipt, index)
    expected = {f"key-{key}": [b"%d" % index for index in range(key, 500, 7)] for key in range(7)}
    assert {key: data for shard in world.landed() for key, data in order_of(shard).items()} == expected
    assert len(world.outcomes) == 500


async def test_an_aggregate_that_lands_in_a_child_is_sent_again_whole() -> None:
    """After a split nobody told us of, members outside the child shard make us send all of them again."""
    world = World(shards=1)
    async with world.producer() as producer:
        world.kinesis.split_shard(STREAM, next(iter(world.stream.shards)))
        for index in range(200):
            await producer.put(b"%d" % index, f"key-{index}", world.receipt, index)
        assert await producer.flush(5) == 0
    seen = sorted(int(record.data) for shard in world.landed() for record in shard)
    assert seen == list(range(200))
    assert world.telemetry.counters[("producer_aggregates_misplaced",)] >= 1
    assert producer.ledger.balances


async def test_order_survives_a_split_and_a_merge() -> None:
    """Order per key holds across parent and children, whatever the map said."""
    world = World(shards=2, batch_linger_seconds=0.0001)
    async with world.producer() as producer:
        for index in range(900):
            if index == 300:
                world.kinesis.split_shard(STREAM, "shardId-000000000000")
            if index == 600:
                world.kinesis.merge_shards(STREAM, "shardId-000000000002", "shardId-000000000003")
            await producer.put(b"%d" % index, f"key-{index % 23}", world.receipt, index)
            if index % 10 == 0:
                await asyncio.sleep(0)
    seen: dict[str, list[bytes]] = {}
    for shard in world.landed():  # parents come before their children
        for key, data in order_of(shard).items():
            seen.setdefault(key, []).extend(data)
    assert seen == {f"key-{key}": [b"%d" % index for index in range(key, 900, 23)] for key in range(23)}


async def test_an_unknown_stream_is_found_at_the_start() -> None:
    """Nothing is accepted for a stream that does not exist."""
    world = World()
    del world.kinesis.streams[STREAM]
    with pytest.raises(StreamNotFoundError):
        async with world.producer():
            pytest.fail("the producer must not open")


async def test_a_start_without_network_is_tried_a_few_times() -> None:
    """A passing failure does not matter; a lasting one is raised instead of hanging."""
    world = World()
    world.network.scripts["kinesis.describe_stream"] = [ServiceUnavailableError("refused")]
    async with world.producer():
        pass
    world.network.scripts["kinesis.describe_stream"] = [ServiceUnavailableError("refused") for _ in range(10)]
    with pytest.raises(ServiceUnavailableError):
        async with world.producer():
            pytest.fail("the producer must not open")


async def test_what_no_stream_takes_is_refused_at_put() -> None:
    """Too large, empty or overlong keys, bad hash keys: an error at once, nothing accepted."""
    world = World()
    async with world.producer() as producer:
        with pytest.raises(RecordTooLargeError, match="1,048,577 bytes"):
            await producer.put(b"x" * MIB, "k")
        await producer.put(b"x" * (MIB - 1), "k", world.receipt, 0)
        for key in ("", "k" * 257, "\ud800"):
            with pytest.raises(PartitionKeyError):
                await producer.put(b"x", key)
        for hash_key in (-1, HASH_KEY_MAX + 1):
            with pytest.raises(PartitionKeyError):
                await producer.put(b"x", "k", explicit_hash_key=hash_key)
        await producer.put(b"x", "é" * 256, world.receipt, 1, explicit_hash_key=HASH_KEY_MAX)
    assert world.outcomes.keys() == {0, 1}
    assert producer.ledger.accepted == 2


async def test_put_waits_while_the_buffer_is_full() -> None:
    """`try_put` says no, `put` waits for an answer, and everything arrives."""
    world = World(buffer_bytes_max=2 * MIB)
    async with world.producer() as producer:
        count = 0
        while producer.intake.try_put(b"x" * 10_000, f"key-{count}", (world.receipt, count)):
            count += 1
        assert 150 < count <= 210
        await producer.put(b"x" * 10_000, "one more", world.receipt, count)
    assert len(world.outcomes) == count + 1


async def test_who_puts_without_waiting_lets_the_others_run() -> None:
    """A caller that never waits gives way after 256 records at the latest, whatever the size of a request."""
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with World(batch_linger_seconds=60).producer() as producer:
        other = asyncio.create_task(count_turns())
        for index in range(2_560):
            await producer.put(b"x", f"key-{index}")
        other.cancel()
    assert turns >= 10


async def test_flush_and_close_return_by_their_deadline_and_count_what_is_left() -> None:
    """A stream that answers nothing but throttles leaves everything pending, and nothing hangs."""
    world = World()
    world.network.scripts["kinesis.put_records"] = [ThrottledError("slow down") for _ in range(100_000)]
    async with world.producer() as producer:
        for index in range(5):
            await producer.put(b"x", f"key-{index}", world.receipt, index)
        assert await producer.flush(0.01) == 5
        assert await producer.close(0.01) == 5
        with pytest.raises(DeliveryFailedError):
            await producer.put(b"x", "late")
    assert not world.outcomes
    assert producer.ledger.pending == 5
    assert "slow down" in producer.last_error


async def test_a_failure_that_no_retry_mends_stops_the_producer() -> None:
    """With no back-off for it, access denied is final: put raises it, flush returns, pending records are counted."""
    world = World(refused_backoff_seconds_max=0)
    world.network.scripts["kinesis.put_records"] = [AccessDeniedError("no")]
    async with world.producer() as producer:
        await producer.put(b"x", "k", world.receipt, 0)
        assert await producer.flush(60) == 1
        with pytest.raises(AccessDeniedError):
            await producer.put(b"x", "k")
    assert isinstance(producer.failure, AccessDeniedError)
    assert producer.ledger.pending == 1


async def test_a_stream_that_distributes_records_itself_gets_no_aggregates() -> None:
    """With record distribution AUTO every record travels alone."""
    world = World(shards=1)
    world.stream.distribution = Distribution.AUTO
    async with world.producer() as producer:
        for index in range(50):
            await producer.put(b"x", f"key-{index}", world.receipt, index)
    assert world.stream_record_count() == 50


async def test_ordering_none_fills_requests_with_one_key() -> None:
    """Without order, many records of one key travel in one request, unwrapped where aggregation is off."""
    world = World(shards=1, ordering=Ordering.NONE, aggregate=False, batch_linger_seconds=0.01)
    async with world.producer() as producer:
        for index in range(1200):
            await producer.put(b"%d" % index, "one key", world.receipt, index)
    assert len(world.outcomes) == 1200
    assert world.network.calls.count("kinesis.put_records") <= 5


class Counting:
    """A Kinesis that keeps the largest request it was sent."""

    def __init__(self, inner: FakeKinesis) -> None:
        self._inner = inner
        self.records_max = 0
        self.bytes_max = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def put_records(self, stream: str, entries: list[PutEntry]) -> Any:
        """Measure and pass on."""
        self.records_max = max(self.records_max, len(entries))
        size = sum(len(entry.data) + len(entry.partition_key.encode()) for entry in entries)
        self.bytes_max = max(self.bytes_max, size)
        return await self._inner.put_records(stream, entries)


@pytest.mark.parametrize("ordering", list(Ordering))
@pytest.mark.parametrize("aggregate", [True, False])
async def test_requests_stay_within_their_limits(ordering: Ordering, aggregate: bool) -> None:
    """No request has more than 500 entries or batch_bytes_max bytes, whatever the records' sizes."""
    world = World(shards=4, ordering=ordering, aggregate=aggregate, batch_bytes_max=256 * KIB)
    counting = Counting(world.kinesis)
    chance = random.Random(5)
    producer = Producer(
        STREAM,
        kinesis=counting,  # type: ignore[arg-type]  # passes everything on
        clock=LoopClock(),
        random=chance,
        telemetry=world.telemetry,
        settings=world.settings,
    )
    async with producer:
        for index in range(4000):
            size = chance.choice((0, 10, 300, 3000, 20_000 if index % 50 == 0 else 5))
            await producer.put(bytes(size), f"key-{chance.randrange(300)}-é", world.receipt, index)
    assert len(world.outcomes) == 4000
    assert counting.records_max <= 500
    assert counting.bytes_max <= 256 * KIB


async def test_a_short_answer_counts_as_no_answer() -> None:
    """An answer with too few results is not trusted; the records are sent again."""
    world = World(shards=1)
    real = world.kinesis.put_records
    answers = iter([True])

    async def shortened(stream: str, entries: list[PutEntry]) -> Any:
        results = await real(stream, entries)
        return [] if next(answers, False) else results

    world.kinesis.put_records = shortened  # type: ignore[method-assign,assignment]  # the fault of this test
    async with world.producer() as producer:
        await producer.put(b"x", "k", world.receipt, 0)
    assert len(world.landed()[0]) == 2
    assert isinstance(world.outcomes[0], Delivered)


async def test_an_error_inside_the_block_reaches_the_caller_as_it_is() -> None:
    """The caller's own error is not wrapped, and what was accepted is still delivered."""
    world = World()

    async def use() -> None:
        async with world.producer() as producer:
            await producer.put(b"x", "k", world.receipt, 0)
            msg = "mine"
            raise ValueError(msg)

    with pytest.raises(ValueError, match="mine"):
        await use()
    assert len(world.outcomes) == 1


async def test_the_hot_key_of_a_shard_is_named() -> None:
    """A producer tells which key loads its shards most, and which split would help."""
    world = World(shards=2)
    async with world.producer() as producer:
        for index in range(4000):
            await producer.put(b"x" * 100, "hot" if index % 2 else f"key-{index}")
        assert await producer.flush(5) == 0
        first = producer.hot_shards()[0]
    assert first.keys[0].partition_key == "hot"
    assert 0.5 < first.keys[0].share < 0.9
    assert {heat.shard_id for heat in producer.hot_shards()} == set(world.stream.shards)


async def test_the_result_of_put_records_names_the_place() -> None:
    """A receipt carries the shard and sequence number of the stream record."""
    world = World(shards=1)
    async with world.producer() as producer:
        await producer.put(b"x", "k", world.receipt, 0)
    record = next(iter(world.stream.shards.values())).records[0]
    assert world.outcomes == {0: Delivered("shardId-000000000000", record.sequence_number)}
    assert PutResult("a", 1) == PutResult(shard_id="a", sequence_number=1)
