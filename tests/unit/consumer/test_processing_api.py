"""The consumer as a library against the fakes, in virtual time: what becomes of records that a function handles."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from consumer import Consumer, DeadLetter, Outcome, Record, Reject, Retry
from consumer.core.chunk import CHUNK_RECORDS
from consumer.status import ShardState
from shared.errors import ConfigurationError, StreamNotFoundError
from shared.event import EventId
from shared.hash_key import FULL_RANGE
from shared.lease import Lease
from shared.records import PutEntry
from shared.settings import ConsumerSettings
from shared.telemetry import SilentTelemetry
from tests.support.aggregate import Aggregate
from tests.support.fake_fan_out import FakeFanOut
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud, VirtualClock

FIRST = "shardId-000000000000"
Handle = Callable[[Sequence[Record]], Awaitable[Sequence[Outcome] | None]]


class Errors(SilentTelemetry):
    """Keeps the names of errors."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []

    def error(self, event: str, **fields: Any) -> None:
        """Keep the name."""
        self.errors.append(event)


class Shop:
    """A stream and a consumer of it."""

    def __init__(self, shards: int = 1) -> None:
        self.cloud = SmallCloud.make(shards)
        self.letters: list[DeadLetter] = []
        self.telemetry = Errors()

    async def keep(self, letter: DeadLetter) -> None:
        """Keep a dead letter."""
        self.letters.append(letter)

    def consumer(self, *, keeps: bool = True, **given: Any) -> Consumer:
        """Return a consumer with quick settings."""
        settings = ConsumerSettings(checkpoint_interval_seconds=1, shard_sync_seconds=2, **given.pop("settings", {}))
        return Consumer(
            SOURCE,
            app="test",
            on_dead_letter=self.keep if keeps else None,
            settings=settings,
            kinesis=self.cloud.kinesis,
            leases=self.cloud.leases,
            clock=VirtualClock(self.cloud.loop),
            chance=random.Random(7),
            telemetry=self.telemetry,
            **given,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let virtual time pass."""
        await self.cloud.until(condition)

    def handle(
        self,
        handle: Handle,
        events: int,
        *,
        seconds: float = 20,
        put: Callable[[], Awaitable[None]] | None = None,
        **given: Any,
    ) -> Consumer:
        """Put numbered events of ten sessions, run a consumer over them for a while, and stop it."""

        async def story() -> Consumer:
            await (put() if put is not None else self.cloud.put_numbered(0, events))
            async with self.consumer(**given) as consumer, asyncio.TaskGroup() as group:
                group.create_task(consumer.run(handle))
                await asyncio.sleep(seconds)
                consumer.stop()
            return consumer

        return self.cloud.run(story)

    @property
    def position(self) -> int:
        """The number of the last record behind which a checkpoint was stored; -1 for none."""
        numbers = self.cloud.kinesis.streams[SOURCE].shards[FIRST].numbers
        checkpoint = self.cloud.leases.rows[FIRST].checkpoint.position.sequence_number
        return numbers.index(checkpoint) if checkpoint in numbers else -1


def numbers_of(batch: Sequence[Record]) -> list[int]:
    """Return the numbers of numbered events."""
    return [record.event["n"] for record in batch if record.event is not None]


def test_each_record_is_handed_over_once_in_the_order_of_its_key() -> None:
    """Without trouble a function sees each record once, those of a session in order, and the position moves behind."""
    shop = Shop()
    seen: list[Record] = []

    async def handle(batch: Sequence[Record]) -> None:
        seen.extend(batch)
        await asyncio.sleep(0.01)

    shop.handle(handle, 700)
    assert sorted(numbers_of(seen)) == list(range(700))
    for key in {record.partition_key for record in seen}:
        own = numbers_of([record for record in seen if record.partition_key == key])
        assert own == sorted(own)
    assert (seen[0].shard_id, seen[0].sub_sequence_number, seen[0].event_id) == (FIRST, 0, None)
    assert shop.position == 699
    assert shop.cloud.leases.rows[FIRST].owner is None


@pytest.mark.parametrize(("concurrency_max", "most"), [(1, 1), (4, 4), (50, 10)])
def test_calls_run_side_by_side_for_different_keys_only(concurrency_max: int, most: int) -> None:
    """At most `concurrency_max` calls run at a time per shard, and never two that hold one key."""
    shop = Shop()
    running: list[set[str]] = []
    peaks: list[int] = []

    async def handle(batch: Sequence[Record]) -> None:
        keys = {record.partition_key for record in batch}
        assert all(keys.isdisjoint(other) for other in running)
        running.append(keys)
        peaks.append(len(running))
        await asyncio.sleep(0.05)
        running.remove(keys)

    shop.handle(handle, 300, concurrency_max=concurrency_max)
    assert max(peaks) == most
    assert shop.position == 299


def test_a_record_that_fails_is_found_and_kept_with_its_attempts() -> None:
    """A batch that raises is halved down to the record to blame; it alone becomes a dead letter, after its attempts."""
    shop = Shop()
    done: list[int] = []
    alone: list[int] = []

    async def handle(batch: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        if 57 in numbers_of(batch):
            alone.append(len(batch))
            raise KeyError("price")
        done.extend(numbers_of(batch))

    shop.handle(handle, 200, concurrency_max=1, attempts_max=4)
    (letter,) = shop.letters
    assert (letter.error_code, letter.error_message, letter.attempts) == ("KeyError", "'price'", 4)
    assert b'"n":57' in letter.data
    line = json.loads(letter.encode(letter.shard_id, 0))
    assert (line["attemptsMade"], line["shardId"], line["sequenceNumber"]) == (4, FIRST, str(letter.position[0]))
    assert alone.count(1) == 4
    assert done == sorted(done) == [number for number in range(200) if number != 57]
    assert shop.position == 199


def test_outcomes_decide_for_each_record() -> None:
    """Rejected records become dead letters at once; one to be retried comes again with what follows it of its key."""
    shop = Shop()
    done: list[int] = []
    tried: set[int] = set()

    async def handle(batch: Sequence[Record]) -> Sequence[Outcome]:
        await asyncio.sleep(0)
        outcomes: list[Outcome] = []
        held_back: set[str] = set()
        for record in batch:
            (number,) = numbers_of([record])
            if number % 50 == 7:
                outcomes.append(Reject("no such product"))
            elif number % 50 == 11 and number not in tried:
                tried.add(number)
                held_back.add(record.partition_key)
                outcomes.append(Retry("the shop is closed"))
            else:
                if record.partition_key not in held_back:
                    done.append(number)
                outcomes.append(None)
        return outcomes

    shop.handle(handle, 200, concurrency_max=3)
    assert sorted(numbers_of_letters(shop.letters)) == [7, 57, 107, 157]
    assert {(each.error_code, each.error_message, each.attempts) for each in shop.letters} == {
        ("rejected", "no such product", 1)
    }
    assert sorted(done) == [number for number in range(200) if number % 50 != 7]
    for key in range(10):
        own = [number for number in done if number % 10 == key]
        assert own == sorted(own)


def test_a_list_may_end_at_a_retry() -> None:
    """What lies behind the `Retry` that ends a list comes again; what lies before it does not."""
    shop = Shop()
    done: list[int] = []
    closed = [True]

    async def handle(batch: Sequence[Record]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        for number in numbers_of(batch):
            if number == 40 and closed:
                closed.clear()
                return [*outcomes, Retry("closed")]
            done.append(number)
            outcomes.append(None)
        return outcomes

    shop.handle(handle, 100, concurrency_max=1)
    assert done == list(range(100))


def numbers_of_letters(letters: Sequence[DeadLetter]) -> list[int]:
    """Return the numbers of the events in dead letters."""
    return [int(letter.data.partition(b'"n":')[2].partition(b",")[0]) for letter in letters]


def test_an_outage_is_waited_out_without_a_checkpoint() -> None:
    """While a function raises `Retry` nothing becomes a dead letter and the position stays; then all goes on."""
    shop = Shop()
    seen: list[int] = []
    positions: set[int] = set()

    async def handle(batch: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        if shop.cloud.loop.time() < 60:
            positions.add(shop.position)
            raise Retry("the database is down")
        seen.extend(numbers_of(batch))

    shop.handle(handle, 50, seconds=90)
    assert shop.letters == []
    assert positions == {-1}
    assert sorted(seen) == list(range(50))


def test_a_position_is_not_stored_before_everything_up_to_it_was_handled() -> None:
    """A call that takes long holds the checkpoint back, also behind later records that are done."""
    shop = Shop()
    gate: list[int] = []

    async def handle(batch: Sequence[Record]) -> None:
        if 0 in numbers_of(batch):
            await asyncio.sleep(10)
            gate.append(shop.position)

    shop.handle(handle, 600, concurrency_max=10, seconds=15)
    assert gate == [-1]
    assert shop.position == 599


def test_without_a_keeper_a_record_that_fails_halts_its_shard_in_front_of_it() -> None:
    """What can't be processed and can't be kept is never checkpointed."""
    shop = Shop()

    async def handle(batch: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        if 300 in numbers_of(batch):
            raise KeyError("price")

    consumer = shop.handle(handle, 600, keeps=False, concurrency_max=1)
    assert shop.position < 300
    assert "shard_halted" in shop.telemetry.errors
    assert consumer.status() is not None


def test_a_stream_made_anew_is_told_of_once_in_ten_minutes() -> None:
    """Its rows stay as they are until an operator does something, and each look finds them."""
    shop = Shop(shards=2)

    async def handle(batch: Sequence[Record]) -> None:
        """Take them."""

    async def put() -> None:
        shop.cloud.leases.rows[FIRST] = Lease(FIRST, hash_key_range=FULL_RANGE)

    shop.handle(handle, 0, put=put, seconds=900)
    assert shop.telemetry.errors.count("stream_made_anew") == 2


def test_a_bad_deployment_halts_the_shard() -> None:
    """When more than 5 % fail, the shard stops instead of draining into the dead letters."""
    shop = Shop()

    async def handle(batch: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        raise KeyError("price")

    shop.handle(handle, 3_000, seconds=60)
    assert 50 <= len(shop.letters) <= 512
    assert "shard_halted" in shop.telemetry.errors


@pytest.mark.parametrize("answer", [[None], [None] * 9 + ["done"]])
def test_outcomes_that_make_no_sense_halt_the_shard(answer: Any) -> None:
    """Too few outcomes, or something else: nothing is taken for done."""
    shop = Shop()

    async def handle(batch: Sequence[Record]) -> Any:
        return answer

    shop.handle(handle, 10, concurrency_max=1)
    assert shop.position == -1
    assert shop.letters == []
    assert "shard_halted" in shop.telemetry.errors


def test_a_function_cancelled_from_within_is_no_success() -> None:
    """CancelledError out of the function's own affairs fails the batch; records are never taken for handled."""
    shop = Shop()
    seen: list[int] = []
    cancelled: list[int] = []

    async def handle(batch: Sequence[Record]) -> None:
        await asyncio.sleep(0)
        if 3 in numbers_of(batch) and len(cancelled) < 6:
            cancelled.append(1)
            raise asyncio.CancelledError
        seen.extend(numbers_of(batch))

    shop.handle(handle, 30, concurrency_max=1, attempts_max=9)
    assert sorted(seen) == list(range(30))
    assert shop.letters == []


def test_a_keeper_that_fails_is_called_again() -> None:
    """A dead letter counts as kept when its keeper has returned."""
    shop = Shop()
    refusals = [OSError("disk full"), OSError("disk full")]

    async def keep(letter: DeadLetter) -> None:
        if refusals:
            raise refusals.pop()
        shop.letters.append(letter)

    async def handle(batch: Sequence[Record]) -> None:
        if 5 in numbers_of(batch):
            raise Reject("bad")

    shop.keep = keep  # type: ignore[method-assign] # the test's own
    shop.handle(handle, 10)
    assert [letter.error_code for letter in shop.letters] == ["rejected"]
    assert shop.position == 9


def test_what_was_delivered_twice_is_handed_over_once() -> None:
    """An event whose mark was passed is dropped; data that is no event comes as it is."""
    shop = Shop()
    seen: list[Record] = []

    async def put() -> None:
        for number in (1, 2, 2, 1, 3):
            event = {"session_id": "a", "n": number, "event_id": str(EventId("ab" * 10, 3, number))}
            await shop.cloud.put(event)
        await shop.cloud.put(b"\xff not an event")

    async def handle(batch: Sequence[Record]) -> None:
        seen.extend(batch)

    shop.handle(handle, 0, put=put)
    assert numbers_of(seen) == [1, 2, 3]
    assert [record.data for record in seen if record.event is None] == [b"\xff not an event"]


def test_members_of_an_aggregate_are_records_of_their_own() -> None:
    """Members have sub-sequence numbers; what a broken aggregate holds becomes a dead letter."""
    shop = Shop(shards=2)
    seen: list[Record] = []

    async def put() -> None:
        for keys in ((1, 1, 1), (1, (1 << 128) - 1)):
            aggregate = Aggregate()
            for key in keys:
                aggregate.append(b"{}", "k", explicit_hash_key=key)
            entry = aggregate.encode()
            await shop.cloud.kinesis.put_record(SOURCE, PutEntry(entry.data, entry.partition_key, 1))

    async def handle(batch: Sequence[Record]) -> None:
        seen.extend(batch)

    shop.handle(handle, 0, put=put)
    assert [record.sub_sequence_number for record in seen] == [0, 1, 2]
    assert [letter.error_code for letter in shop.letters] == ["member-outside-shard"]


def test_a_killed_worker_hands_over_what_was_not_checkpointed() -> None:
    """After a crash another member handles everything that the first one may not have finished."""
    shop = Shop()
    seen: list[int] = []

    async def handle(batch: Sequence[Record]) -> None:
        await asyncio.sleep(0.2)
        seen.extend(numbers_of(batch))

    async def story() -> None:
        await shop.cloud.put_numbered(0, 900)
        async with shop.consumer() as first:
            task = asyncio.ensure_future(first.run(handle))
            await shop.until(lambda: len(seen) > 300)
            task.cancel()
            await asyncio.wait([task])
        async with shop.consumer() as second, asyncio.TaskGroup() as group:
            group.create_task(second.run(handle))
            await shop.until(lambda: shop.position == 899)
            second.stop()

    shop.cloud.run(story)
    assert set(seen) == set(range(900))
    assert len(seen) < 900 + 3 * CHUNK_RECORDS


def test_the_library_reads_by_fan_out_too() -> None:
    """With the port of fan-out the same records come by subscription."""
    shop = Shop()
    seen: list[int] = []

    async def handle(batch: Sequence[Record]) -> None:
        seen.extend(numbers_of(batch))

    shop.handle(handle, 100, fan_out=FakeFanOut(shop.cloud.kinesis))
    assert sorted(seen) == list(range(100))
    assert "kinesis.get_records" not in shop.cloud.network.calls


def test_what_can_not_be_is_said_at_once() -> None:
    """Bounds, a consumer that is not open or was run, and a stream that is not there are errors with a name."""
    shop = Shop()

    async def handle(batch: Sequence[Record]) -> None:
        """Do nothing."""

    async def story() -> None:
        for wrong in ({"concurrency_max": 0}, {"concurrency_max": 257}, {"attempts_max": 0}):
            with pytest.raises(ConfigurationError):
                shop.consumer(**wrong)
        bare = Consumer(SOURCE, app="test", settings=ConsumerSettings())
        assert bare.status() is None
        with pytest.raises(ConfigurationError, match="is not open"):
            await bare.run(handle)
        async with shop.consumer() as consumer:
            consumer.stop()
            await consumer.run(handle)
            with pytest.raises(ConfigurationError, match="was run already"):
                await consumer.run(handle)
        del shop.cloud.kinesis.streams[SOURCE]
        async with shop.consumer() as consumer:
            with pytest.raises(StreamNotFoundError):
                await consumer.run(handle)

    shop.cloud.run(story)


def test_a_halted_shard_is_in_the_status() -> None:
    """Whoever looks at `status` sees that a shard stands still."""
    shop = Shop()
    states: list[ShardState] = []

    async def handle(batch: Sequence[Record]) -> None:
        raise Reject("no")

    async def story() -> None:
        await shop.cloud.put_numbered(0, 5)
        async with shop.consumer(keeps=False) as consumer, asyncio.TaskGroup() as group:
            group.create_task(consumer.run(handle))
            await asyncio.sleep(5)
            status = consumer.status()
            assert status is not None
            assert not status.is_ready
            states.extend(shard.state for shard in status.shards)
            consumer.stop()

    shop.cloud.run(story)
    assert states == [ShardState.HALTED]


@pytest.mark.parametrize("answer", [True, 7, "yes", {}, iter(())])
def test_an_answer_without_sense_halts_the_shard_and_blames_no_record(answer: Any) -> None:
    """What is neither None nor a list is a defect of the function: no record becomes a dead letter for it."""
    shop = Shop()

    async def handle(batch: Sequence[Record]) -> Any:
        return answer

    shop.handle(handle, 5)
    assert "shard_halted" in shop.telemetry.errors
    assert shop.letters == []


def test_a_function_that_is_not_async_halts_the_shard_and_blames_no_record() -> None:
    """A `def` where an `async def` belongs sees no record twice, instead of each until it is a dead letter."""
    shop = Shop()
    calls: list[int] = []

    def handle(batch: Sequence[Record]) -> Any:
        calls.append(len(batch))

    shop.handle(handle, 5)
    assert 1 <= sum(calls) <= 5
    assert "shard_halted" in shop.telemetry.errors
    assert shop.letters == []
