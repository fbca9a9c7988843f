"""Reading by enhanced fan-out against the fake, in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from consumer.budget import Account, Budget
from consumer.fan_out_reader import FanOutReader, open_reader
from consumer.registration import Registration
from consumer.retrier import Retrier
from consumer.shard_reader import ReadPorts, ReadSettings
from shared.errors import (
    AccessDeniedError,
    AmbiguousCallError,
    ConsumerRefusedError,
    ServiceUnavailableError,
    StreamNotFoundError,
    ThrottledError,
)
from shared.limits import CONSUMERS_PER_STREAM_MAX, MIB
from shared.records import LATEST, TRIM_HORIZON, PutEntry, RecordPage, Start
from shared.retry import Backoff
from tests.support.fake_fan_out import FakeFanOut
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud, VirtualClock

FIRST = "shardId-000000000000"
EVENT = "kinesis.event"
SUBSCRIBE = "kinesis.subscribe_to_shard"


class Stand:
    """One shard, one consumer, and readers over them."""

    def __init__(self, creating_seconds: float = 0.0) -> None:
        self.cloud = SmallCloud.make()
        self.fan_out = FakeFanOut(self.cloud.kinesis, creating_seconds=creating_seconds)
        self.errors = self.cloud.network.errors
        self.budget = Budget(12 * MIB)
        chance, backoff = random.Random(1), Backoff(0.05, 1)
        retrier = Retrier(backoff, chance, self.cloud.telemetry)
        self.registration = self.register("test")
        self.ports = ReadPorts(
            self.cloud.kinesis,
            retrier,
            VirtualClock(self.cloud.loop),
            chance,
            self.cloud.telemetry,
            backoff,
            self.registration,
        )

    def register(self, name: str) -> Registration:
        """Return a registration of another consumer."""
        retrier = Retrier(Backoff(0.05, 1), random.Random(2), self.cloud.telemetry)
        return Registration(self.fan_out, self.cloud.kinesis, retrier, stream=SOURCE, name=name)

    def reader(self, start: Start = TRIM_HORIZON, account: Account | None = None) -> FanOutReader:
        """Return a reader of the shard."""
        settings = ReadSettings(SOURCE, 10_000, pause_seconds=0.2, idle_seconds=1, start_timestamp=0)
        account = account or self.budget.open(lambda: None)
        reader = open_reader(FIRST, start, settings=settings, ports=self.ports, account=account)
        assert isinstance(reader, FanOutReader)
        return reader

    def put(self, *data: bytes) -> None:
        """Put records, at once."""
        stream = self.cloud.kinesis.streams[SOURCE]
        for each in data:
            self.cloud.kinesis.append(stream, stream.shards[FIRST], PutEntry(each, "k"))

    def run(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a story in virtual time."""
        self.cloud.run(story)

    def calls(self, operation: str) -> int:
        """Return how often an operation was called."""
        return self.cloud.network.calls.count(operation)


async def read_records(reader: FanOutReader, count: int) -> list[bytes]:
    """Read until so many records have come."""
    found: list[bytes] = []
    while len(found) < count:
        found += [each.data for each in (await reader.read()).records]
    return found


def test_an_idle_shard_is_told_of_and_a_record_comes_at_once() -> None:
    """Empty events move the position on; a record is pushed within the fake's latency, not after a pause."""
    stand = Stand()

    async def story() -> None:
        reader = stand.reader(LATEST)
        assert await reader.read() == RecordPage(next_iterator=(await reader.read()).next_iterator)
        stand.put(b"a")
        began = stand.cloud.loop.time()
        assert await read_records(reader, 1) == [b"a"]
        assert stand.cloud.loop.time() - began < 0.2

    stand.run(story)
    assert stand.calls(SUBSCRIBE) == 1


def test_a_subscription_is_renewed_before_the_service_ends_it() -> None:
    """Over 20 minutes each subscription lasts nearly five minutes, and no record is missed or read twice."""
    stand = Stand()

    async def story() -> None:
        reader = stand.reader()
        for minute in range(20):
            stand.put(b"%d" % minute)
            assert await read_records(reader, 1) == [b"%d" % minute]
            left = 60 * (minute + 1)
            while stand.cloud.loop.time() < left:
                assert (await reader.read()).records == ()

    stand.run(story)
    assert stand.calls(SUBSCRIBE) == 5


@pytest.mark.parametrize(
    "error",
    [
        AmbiguousCallError("cut", code="ClientPayloadError"),
        ThrottledError("throttled", code="LimitExceededException"),
        AmbiguousCallError("error event", code="InternalFailureException"),
        ServiceUnavailableError("down"),
    ],
    ids=lambda error: error.code or type(error).__name__,
)
def test_a_broken_subscription_goes_on_where_it_stopped(error: Exception) -> None:
    """Whatever ends a subscription in the middle, the next one begins behind the last event that was returned."""
    stand = Stand()

    async def story() -> None:
        reader = stand.reader()
        stand.put(b"a", b"b")
        assert await read_records(reader, 2) == [b"a", b"b"]
        stand.put(b"c")
        stand.errors[EVENT] = [error]
        assert await read_records(reader, 1) == [b"c"]
        # The service takes the next subscription five seconds after the one before, not sooner.
        assert 5 <= stand.cloud.loop.time() < 6

    stand.run(story)
    assert stand.calls(SUBSCRIBE) == 2


def test_a_silent_subscription_is_given_up_after_a_minute() -> None:
    """A connection that was cut off without a word does not hold up the shard for good."""
    stand = Stand()
    silent = [False, True]
    stand.cloud.network.happens = (  # type: ignore[method-assign] # the first subscription falls silent
        lambda kind: kind == "subscription_silent" and bool(silent) and silent.pop(0)
    )

    async def story() -> None:
        reader = stand.reader()
        await reader.read()
        stand.put(b"a")
        assert await read_records(reader, 1) == [b"a"]
        assert 60 <= stand.cloud.loop.time() < 63

    stand.run(story)


def test_the_end_of_a_shard_is_the_last_page() -> None:
    """The last page has the last records or none, names the children, and nothing stays open."""
    stand = Stand()

    async def story() -> None:
        reader = stand.reader()
        await reader.read()
        stand.put(b"a")
        children = stand.cloud.kinesis.split_shard(SOURCE, FIRST)
        page = await reader.read()
        assert [each.data for each in page.records] == [b"a"]
        assert (page.next_iterator, tuple(each.shard_id for each in page.child_shards)) == (None, children)

    stand.run(story)


def test_the_subscription_of_another_worker_is_waited_for() -> None:
    """A new owner of a shard takes over within seconds, though the old one has just subscribed."""
    stand = Stand()

    async def story() -> None:
        stand.put(b"a")
        assert await read_records(stand.reader(), 1) == [b"a"]
        assert await read_records(stand.reader(), 1) == [b"a"]
        assert 5 <= stand.cloud.loop.time() < 7

    stand.run(story)
    assert stand.calls(SUBSCRIBE) <= 2 + 6


def test_an_old_owner_whose_subscription_was_taken_reads_nothing_more() -> None:
    """A consumer has one subscription to a shard: the one that was replaced ends."""
    stand = Stand()

    async def story() -> None:
        old = stand.reader()
        await old.read()
        await asyncio.sleep(6)
        new = stand.reader()
        await new.read()
        stand.put(b"a")
        assert old._subscription is not None
        assert await old._subscription.next_event() is None
        assert await read_records(new, 1) == [b"a"]

    stand.run(story)


def test_no_event_is_asked_for_while_the_budget_is_used_up() -> None:
    """A full budget leaves what comes next in the connection; an event that came already waits for room."""
    stand = Stand()

    async def story() -> None:
        account = stand.budget.open(lambda: None)
        account.hold(12 * MIB)
        reader = stand.reader()
        stand.put(b"x" * 1000)
        task = asyncio.ensure_future(reader.read())
        await asyncio.sleep(20)
        events = stand.calls(EVENT)
        stand.put(b"y" * 1000)
        await asyncio.sleep(400)
        assert not task.done()
        assert stand.calls(EVENT) == events
        account.free(12 * MIB)
        assert [each.data for each in (await task).records] == [b"x" * 1000]
        # The subscription is older than the service lets it be: another one brings the rest.
        assert await read_records(reader, 1) == [b"y" * 1000]
        await reader.aclose()
        assert stand.budget.used == 0

    stand.run(story)
    assert stand.calls(SUBSCRIBE) == 2


def test_a_cancelled_read_loses_nothing() -> None:
    """Whatever a cancelled read had in hand comes again by the next subscription."""
    stand = Stand()

    async def story() -> None:
        reader = stand.reader()
        stand.put(b"a")
        task = asyncio.ensure_future(reader.read())
        await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await read_records(reader, 1) == [b"a"]
        await reader.aclose()
        assert stand.budget.used == 0

    stand.run(story)


def test_a_pause_is_looked_through_without_a_subscription() -> None:
    """A paused shard says how old its oldest unread record is, and reads it when the pause is over."""
    stand = Stand()

    async def story() -> None:
        reader = stand.reader()
        stand.put(b"a")
        assert await read_records(reader, 1) == [b"a"]
        stand.put(b"b")
        await asyncio.sleep(10)
        assert 10_000 <= await reader.look() < 11_000
        assert reader._subscription is None
        assert await read_records(reader, 1) == [b"b"]

    stand.run(story)


@pytest.mark.parametrize("operation", [EVENT, SUBSCRIBE])
def test_what_no_retry_heals_is_raised(operation: str) -> None:
    """A key that can't be used ends the reading with the service's own words."""
    stand = Stand()

    async def story() -> None:
        stand.errors[operation] = [AccessDeniedError("no key", code="KMSAccessDeniedException")]
        with pytest.raises(AccessDeniedError, match="no key"):
            await stand.reader().read()

    stand.run(story)


def test_a_deregistered_consumer_is_registered_anew() -> None:
    """The read that finds it gone fails, and the next one makes it again."""
    stand = Stand()

    async def story() -> None:
        reader = stand.reader()
        await reader.read()
        stand.fan_out.deregister(SOURCE, "test")
        with pytest.raises(StreamNotFoundError):
            await reader.read()
        stand.put(b"a")
        assert await read_records(reader, 1) == [b"a"]

    stand.run(story)


def test_a_consumer_is_registered_once_and_waited_for() -> None:
    """Registering survives lost answers and throttles, waits until the consumer is ACTIVE, and is done once."""
    stand = Stand(creating_seconds=3)

    async def story() -> None:
        stand.errors["kinesis.register_consumer"] = [ThrottledError("slow down"), AmbiguousCallError("lost")]
        both = await asyncio.gather(stand.registration.consumer_arn(), stand.register("test").consumer_arn())
        assert both[0] == both[1]
        assert await stand.registration.consumer_arn() == both[0]
        assert stand.cloud.loop.time() >= 3

    stand.run(story)
    assert list(stand.fan_out.consumers) == [
        f"arn:aws:kinesis:eu-central-1:123456789012:stream/{SOURCE}/consumer/test:1700000000"
    ]


def test_a_consumer_that_does_not_become_active_is_an_error() -> None:
    """After a minute the start gives up and says so."""
    stand = Stand(creating_seconds=1e6)

    async def story() -> None:
        with pytest.raises(ServiceUnavailableError, match="is not ACTIVE after 60 s"):
            await stand.registration.consumer_arn()

    stand.run(story)


def test_a_worker_whose_registration_is_refused_does_not_start() -> None:
    """With 20 consumers on the stream, `run` raises an error that names the limit."""
    stand = Stand()

    async def story() -> None:
        for number in range(CONSUMERS_PER_STREAM_MAX):
            await stand.register(f"other-{number}").consumer_arn()
        worker = stand.cloud.worker(fan_out=stand.fan_out)
        with pytest.raises(ConsumerRefusedError, match="the 20 it may have"):
            await worker.run(asyncio.Event())

    stand.run(story)
