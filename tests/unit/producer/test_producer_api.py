"""The library: what its documents show works, ids rise per lane, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any
from uuid import UUID

import orjson
import pytest

from producer import Producer
from producer.spill import spill_folder
from producer.spill_lock import lock_spill
from shared.aggregation import deaggregate
from shared.disk import LocalFiles
from shared.errors import (
    AccessDeniedError,
    ConfigurationError,
    DeliveryFailedError,
    DrainTimeoutError,
    HeadraceError,
    MalformedEventError,
    PartitionKeyError,
    RecordRejectedError,
    RecordTooLargeError,
    ServiceUnavailableError,
    StreamNotFoundError,
)
from shared.event import EventId
from shared.limits import HASH_KEY_MAX, MIB
from shared.ports import Delivered
from shared.records import Wire
from shared.settings import ProducerSettings
from shared.telemetry import SilentTelemetry
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis
from tests.support.network import ScriptedNetwork
from tests.support.ways import way  # noqa: F401 - each test is run both ways

ROOT = Path(__file__).parents[3]


class Cloud:
    """A stream `orders`, and producers of it."""

    def __init__(self) -> None:
        self.network = ScriptedNetwork()
        self.kinesis = FakeKinesis(self.network)
        self.stream = self.kinesis.create_stream("orders", 2)

    def producer(self, **settings: Any) -> Producer:
        """Make a producer that waits for nobody."""
        quick = {"batch_linger_seconds": 0, "retry_backoff_seconds_min": 0.0001, "shard_rate_percent": 0}
        return Producer(
            "orders",
            kinesis=self.kinesis,
            files=FakeFiles(),
            telemetry=SilentTelemetry(),
            settings=ProducerSettings(**quick | settings),
        )

    def events(self) -> list[dict[str, Any]]:
        """Return what landed, in reading order."""
        return [
            orjson.loads(user.data)
            for shard in self.stream.shards.values()
            for record in shard.records
            for user in deaggregate(record, shard.shard.hash_key_range).records
        ]


async def test_put_and_wait_returns_the_place_of_the_event() -> None:
    """The event is in the stream where the answer says, with its id and its session as the key."""
    cloud = Cloud()
    async with cloud.producer() as producer:
        delivered = await producer.put_and_wait({"session_id": "a1", "country": "USA"})
        record = cloud.stream.shards[delivered.shard_id].records[0]
        assert (record.sequence_number, record.partition_key) == (delivered.sequence_number, "a1")
    event = cloud.events()[0]
    assert EventId.parse(event.pop("event_id")) is not None
    assert event == {"session_id": "a1", "country": "USA"}


async def test_ids_rise_per_lane_however_many_tasks_put() -> None:
    """In each lane, the order of arrival is the order of the ids: else readers would take an event for a duplicate."""
    cloud = Cloud()
    async with cloud.producer(buffer_bytes_max=2 * MIB) as producer, asyncio.TaskGroup() as group:

        async def put(task: int) -> None:
            for number in range(40):
                event = {"session_id": f"s{number % 3}", "task": task, "number": number, "filling": "x" * 9000}
                await producer.put(event)

        for task in range(12):
            group.create_task(put(task))
    marks: dict[tuple[str, int | None], int] = {}
    seen: dict[tuple[int, str], list[int]] = {}
    for event in cloud.events():
        event_id = EventId.parse(event["event_id"])
        assert event_id is not None
        lane = (event_id.source_id, event_id.lane)
        assert event_id.offset > marks.get(lane, 0)
        marks[lane] = event_id.offset
        seen.setdefault((event["task"], event["session_id"]), []).append(event["number"])
    assert sum(map(len, seen.values())) == 480
    assert all(numbers == sorted(numbers) for numbers in seen.values())


async def test_what_can_not_be_sent_is_refused_at_once() -> None:
    """Not an object, not JSON, no key: an error of ours with a hint, and nothing accepted. An own id is kept."""
    cloud = Cloud()
    async with cloud.producer() as producer:
        for event in (b"[1]", b"{", {"session_id": "a", "x": object()}, {"session_id": "a", "x": {1}}):
            with pytest.raises(MalformedEventError):
                await producer.put(event)
        for event in ({}, {"session_id": 5}, {"session_id": ""}, {"session_id": "x" * 257}):
            with pytest.raises(PartitionKeyError):
                await producer.put(event)
        with pytest.raises(PartitionKeyError, match="partition key is a int, not a text"):
            await producer.put({"session_id": "a"}, partition_key=5)  # type: ignore[arg-type]  # as of who checks no types
        assert producer.ledger.accepted == 0
        await producer.put(b' {"event_id": "mine"} ', partition_key="k")
    assert cloud.events() == [{"event_id": "mine"}]


@pytest.mark.parametrize(
    ("event", "key"),
    [
        ({"session_id": UUID(int=5)}, str(UUID(int=5))),
        ({"session_id": "a", "event_id": "own"}, "a"),
        ({"session_id": "a", "event_id": UUID(int=5)}, "a"),
        (MappingProxyType({"session_id": "a"}), "a"),
        ({"session_id": "a", "more": "x" * 10_000}, "a"),
        ({"session_id": "a", "many": [{}] * 100}, "a"),
    ],
)
async def test_an_event_is_taken_as_a_reader_will_decode_it(event: Mapping[str, Any], key: str) -> None:
    """Whatever way an event takes to its bytes, its key is what they say, and an id of its own stays."""
    cloud = Cloud()
    async with cloud.producer() as producer:
        delivered = await producer.put_and_wait(event)
        await producer.put(event)
        record = cloud.stream.shards[delivered.shard_id].records[0]
        assert record.partition_key == key
    ids = [each.pop("event_id") for each in cloud.events()]
    assert ids == [str(event["event_id"])] * 2 if "event_id" in event else len(set(ids)) == 2
    expected = orjson.loads(orjson.dumps(dict(event)))
    assert cloud.events()[0] | {"event_id": None} == expected | {"event_id": None}


async def test_what_is_nested_too_deep_is_refused() -> None:
    """An event that readers would refuse is not accepted, however short it is."""
    nested: Any = 1
    for _ in range(65):
        nested = [nested]
    async with Cloud().producer() as producer:
        with pytest.raises(MalformedEventError, match="64"):
            await producer.put({"session_id": "a", "nested": nested})


async def test_many_events_are_taken_as_one_by_one() -> None:
    """Plain ones and odd ones together arrive in order per key, each with an id that rises in its lane."""
    cloud = Cloud()
    odd: list[Any] = [b' {"session_id": "s1", "n": -1} ', {"session_id": "s2", "event_id": "own", "n": -1}]
    events: list[Any] = [{"session_id": f"s{number % 5}", "n": number} for number in range(300)]
    events[100:100] = odd
    async with cloud.producer() as producer:
        await producer.put_all(iter(events))
        assert producer.ledger.accepted == 302
    landed = cloud.events()
    assert sum(each["event_id"] == "own" for each in landed) == 1
    for session in range(5):
        own = [each for each in landed if each["session_id"] == f"s{session}" and each["n"] >= 0]
        assert [each["n"] for each in own] == list(range(session, 300, 5))
        offsets = [EventId.parse(each["event_id"]).offset for each in own]  # type: ignore[union-attr] # ours parse
        assert offsets == sorted(set(offsets))


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"n": 1}, PartitionKeyError),
        ({"session_id": ""}, PartitionKeyError),
        ({"session_id": 5}, PartitionKeyError),
        ({"session_id": "a", "x": object()}, MalformedEventError),
        (b"[1]", MalformedEventError),
        ({"session_id": "a", "x": [[[[0]]] * 16] * 2 + [orjson.Fragment(b"[" * 65 + b"]" * 65)]}, MalformedEventError),
    ],
)
async def test_the_first_event_that_can_not_be_sent_ends_many(bad: Any, error: type[Exception]) -> None:
    """Those before it are accepted, it and those after it are not."""
    cloud = Cloud()
    good = [{"session_id": "a", "n": number} for number in range(10)]
    async with cloud.producer() as producer:
        with pytest.raises(error):
            await producer.put_all([*good[:7], bad, *good[7:]])
        assert producer.ledger.accepted == 7
    assert [each["n"] for each in cloud.events()] == list(range(7))


ODD_BYTES = [
    b' {"session_id": "a"}',
    b'{"session_id": "a"} ',
    b'\xef\xbb\xbf{"session_id": "a"}',
    b'{"session_id": "a", "event_id": "own"}',
    b'{"session_id": "a", "event_id": ""}',
    b'{"session_id": "a", "n": %d}' % 2**64,
    b'{"session_id": "a", "n": NaN}',
    b'{"session_id": "a", "n": ' + b"[" * 65 + b"]" * 65 + b"}",
    b'{"session_id": "a", "text": "' + b"x" * 10_000 + b'"}',
    b'{"session_id": "", "n": 1}',
    b'{"session_id": 5}',
    b'{"session_id": "%b"}' % (b"x" * 257),
    b'{"session_id": "a", "session_id": "b"}',
    b'{"other": "a"}',
    b'"session_id"',
    b"{}",
    b"",
]


@pytest.mark.parametrize("odd", ODD_BYTES)
async def test_many_bytes_are_taken_as_one_by_one(odd: bytes) -> None:
    """What is odd among bytes is taken or refused by the same rules whether events are put together or not."""
    plain = [b'{"session_id":"s%d","n":%d}' % (number % 5, number) for number in range(40)]
    events = [*plain[:30], odd, *plain[30:]]
    seen = []
    for together in (True, False):
        cloud = Cloud()
        refused = None
        async with cloud.producer() as producer:
            try:
                if together:
                    await producer.put_all(events)
                else:
                    for event in events:
                        await producer.put(event)
            except HeadraceError as error:
                refused = type(error), str(error)
        landed: dict[Any, list[Any]] = {}  # by session: the order of others is nobody's promise
        for event in cloud.events():
            is_own = event.pop("event_id") == "own"
            landed.setdefault(event.get("session_id"), []).append((event, is_own))
        seen.append((refused, landed))
    assert seen[0] == seen[1]


async def test_many_bytes_keep_nothing_of_the_callers_alive() -> None:
    """A result of orjson that is kept holds on to 4 KiB: what is queued is a copy."""
    cloud = Cloud()
    async with cloud.producer(batch_linger_seconds=60) as producer:
        event = b'{"session_id":"a","n":1}'
        references = sys.getrefcount(event)
        await producer.put_all([event])
        assert sys.getrefcount(event) == references


@pytest.mark.parametrize("count", [0, 1, 256, 300])
async def test_what_came_before_an_error_of_the_iterable_is_accepted(count: int) -> None:
    """As if each had been put by itself: who makes events as they are put has none of them left to put again."""
    cloud = Cloud()

    def events() -> Iterator[dict[str, Any]]:
        for number in range(count):
            yield {"session_id": "a", "number": number}
        raise ZeroDivisionError

    async with cloud.producer() as producer:
        with pytest.raises(ZeroDivisionError):
            await producer.put_all(events())
    assert [event["number"] for event in cloud.events()] == list(range(count))


async def test_many_events_wait_for_room() -> None:
    """Events beyond the buffer are taken as it empties; all arrive, in order."""
    cloud = Cloud()
    async with cloud.producer(buffer_bytes_max=2 * MIB) as producer:
        await producer.put_all({"session_id": "a", "n": number, "fill": "x" * 3_000} for number in range(2_000))
    assert [each["n"] for each in cloud.events()] == list(range(2_000))


async def test_all_ways_of_putting_keep_one_order() -> None:
    """Events put one by one, together, as bytes and with a wait arrive in the order of their calls, booked at once."""
    cloud = Cloud()
    async with cloud.producer() as producer:
        for start in range(0, 200, 5):
            await producer.put({"session_id": "a", "n": start})
            await producer.put({"session_id": "a", "n": start + 1})
            assert producer.ledger.accepted == start + 2
            assert producer.ledger.balances
            await producer.put({"n": start + 2}, partition_key="a")
            await producer.put(b'{"session_id": "a", "n": %d}' % (start + 3))
            if start % 2:
                await producer.put_and_wait({"session_id": "a", "n": start + 4})
            else:
                await producer.put_all([{"session_id": "a", "n": start + 4}])
    landed = cloud.events()
    assert [each["n"] for each in landed] == list(range(200))
    offsets = [EventId.parse(each["event_id"]).offset for each in landed]  # type: ignore[union-attr] # ours parse
    assert offsets == sorted(set(offsets))


async def test_single_events_are_sent_without_a_flush() -> None:
    """An event that was put by itself is delivered although nothing else is ever put."""
    cloud = Cloud()
    async with cloud.producer() as producer:
        await producer.put({"session_id": "a", "n": 1})
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert [each["n"] for each in cloud.events()] == [1]


async def test_single_events_wait_for_room() -> None:
    """One by one, too, events beyond the buffer are taken as it empties; the buffer's bound holds, and order."""
    cloud = Cloud()
    async with cloud.producer(buffer_bytes_max=2 * MIB) as producer:
        for number in range(2_000):
            await producer.put({"session_id": "a", "n": number, "fill": "x" * 3_000})
            assert producer._producer.pending_bytes <= 2 * MIB
    assert [each["n"] for each in cloud.events()] == list(range(2_000))


async def test_who_waits_at_the_end_is_told() -> None:
    """A delivery that does not come before the close ends with an error; so does a put after it or before it."""
    cloud = Cloud()
    producer = cloud.producer(drain_timeout_seconds=0.01)
    with pytest.raises(DeliveryFailedError, match="not open"):
        await producer.put({"session_id": "a"})
    cloud.network.scripts["kinesis.put_records"] = [ServiceUnavailableError("no") for _ in range(100_000)]
    with pytest.raises(DrainTimeoutError, match="1 of 1 events"):  # noqa: PT012 - it is the end of the block that raises
        async with producer:
            waiting = asyncio.ensure_future(producer.put_and_wait({"session_id": "a"}))
            await asyncio.sleep(0)
    with pytest.raises(DeliveryFailedError, match="before the delivery"):
        await waiting
    with pytest.raises(DeliveryFailedError):
        await producer.put({"session_id": "a"})


async def test_who_closes_is_told_of_what_was_not_delivered() -> None:
    """A block that ends in order, but not its delivery, raises how many events are lost; an error of its own passes."""
    for error in (None, KeyError("own")):
        cloud = Cloud()
        cloud.network.scripts["kinesis.put_records"] = [ServiceUnavailableError("no") for _ in range(100_000)]
        with pytest.raises(DrainTimeoutError if error is None else KeyError) as failure:  # noqa: PT012 - it is the end of the block that raises
            async with cloud.producer(drain_timeout_seconds=0.01) as producer:
                await producer.put({"session_id": "a"})
                if error is not None:
                    raise error
        if error is None:
            assert "1 of 1 events" in str(failure.value)


async def test_a_refused_stream_is_told_where_it_shows() -> None:
    """A missing stream is an error of entering; with no back-off for refusals, put raises what AWS says."""
    cloud = Cloud()
    with pytest.raises(StreamNotFoundError):
        await Producer("nowhere", kinesis=cloud.kinesis, telemetry=SilentTelemetry()).__aenter__()
    cloud.network.scripts["kinesis.put_records"] = [AccessDeniedError("no")]
    with pytest.raises(DrainTimeoutError) as closing:  # noqa: PT012 - it is the end of the block that raises
        async with cloud.producer(refused_backoff_seconds_max=0) as producer:
            await producer.put({"session_id": "a"})
            await producer.flush(5)
            assert isinstance(producer.failure, AccessDeniedError)
            with pytest.raises(AccessDeniedError):
                await producer.put({"session_id": "a"})
    assert isinstance(closing.value.__cause__, AccessDeniedError)


class FastAPI:
    """As much of an ASGI application as the recipe needs: a lifespan, a state, routes and handlers of exceptions."""

    def __init__(self, *, lifespan: Any) -> None:
        self.lifespan = lifespan
        self.state = SimpleNamespace()
        self.routes: dict[str, Any] = {}
        self.handlers: dict[type[Exception], Any] = {}

    def exception_handler(self, error: type[Exception]) -> Any:
        """Keep what answers an error."""
        return partial(self.handlers.__setitem__, error)

    def post(self, path: str, **_: Any) -> Any:
        """Keep a route."""

        def keep(function: Any) -> Any:
            self.routes[path] = function
            return function

        return keep

    get = post


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> tuple[FastAPI, Cloud]:
    """Run the code of the recipe against a cloud in memory."""
    cloud = Cloud()

    @asynccontextmanager
    async def open_aws(**_: Any) -> AsyncIterator[Any]:
        async def kinesis(_: Wire) -> FakeKinesis:
            return cloud.kinesis

        yield SimpleNamespace(kinesis=kinesis)

    module = ModuleType("fastapi")
    module.FastAPI = FastAPI  # type: ignore[attr-defined]  # a module made for the test
    module.Request = SimpleNamespace  # type: ignore[attr-defined]  # as above
    monkeypatch.setitem(sys.modules, "fastapi", module)
    responses = ModuleType("fastapi.responses")
    responses.JSONResponse = lambda content, status_code: (status_code, content)  # type: ignore[attr-defined]  # as above
    monkeypatch.setitem(sys.modules, "fastapi.responses", responses)
    monkeypatch.setattr("producer.api.open_aws", open_aws)
    text = (ROOT / "docs" / "how-to" / "fastapi.md").read_text()
    names: dict[str, Any] = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)  # noqa: S102 - our own document
    return names["app"], cloud


async def test_the_recipe_for_fastapi_works(recipe: tuple[FastAPI, Cloud]) -> None:
    """The code of the document puts events, refuses a bad one, is healthy, and delivers everything when it ends."""
    app, cloud = recipe
    request = SimpleNamespace(app=app)
    async with app.lifespan(app):
        await app.routes["/visits"](request, {"session_id": "a", "n": 1})
        place = await app.routes["/orders"](request, {"session_id": "a", "n": 2})
        assert (await app.routes["/healthz"](request))["ok"] is True
        await app.routes["/visits"](request, {"session_id": "a", "n": 3})
        with pytest.raises(RecordRejectedError) as refused:
            await app.routes["/visits"](request, {"n": 4})
        status, said = await app.handlers[RecordRejectedError](request, refused.value)
        assert (status, said["detail"]) == (422, "the event has no session_id that is a text")
    assert Delivered(place["shard_id"], int(place["sequence_number"])).shard_id in cloud.stream.shards
    assert [event["n"] for event in cloud.events()] == [1, 2, 3]


def test_the_package_is_light_until_the_producer_is_asked_for() -> None:
    """Importing the command loads no AWS SDK; `producer.Producer` is there when it is wanted."""
    code = "import sys, producer.cli; assert 'aiobotocore' not in sys.modules; from producer import Producer"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("event", ["text", '{"session_id":"a"}', None, 5, [1], bytearray(b"{}")])
async def test_what_is_no_event_is_refused_as_one(event: Any) -> None:
    """Whatever is neither a mapping nor the bytes of an object raises the error that `put` promises."""
    async with Cloud().producer() as producer:
        with pytest.raises(MalformedEventError, match=type(event).__name__):
            await producer.put(event)
        with pytest.raises(MalformedEventError):
            await producer.put_all([event])
        assert producer.ledger.accepted == 0


async def test_a_producer_that_is_open_is_not_opened_again() -> None:
    """A second `async with` on it would leave what the first one holds undelivered; after the end it may be opened."""
    cloud = Cloud()
    async with cloud.producer() as producer:
        await producer.put({"session_id": "a"})
        with pytest.raises(DeliveryFailedError, match="is open already"):
            await producer.__aenter__()
    async with producer:
        await producer.put({"session_id": "b"})
    assert sorted(event["session_id"] for event in cloud.events()) == ["a", "b"]


async def test_an_explicit_hash_key_chooses_the_shard() -> None:
    """It stands in for the partition key's, also in aggregates; one that is none is refused as a bad key."""
    cloud = Cloud()
    async with cloud.producer() as producer:
        for number in range(20):
            await producer.put({"session_id": f"s{number}"}, explicit_hash_key=HASH_KEY_MAX)
        delivered = await producer.put_and_wait({"session_id": "a"}, explicit_hash_key=0)
        assert delivered.shard_id == "shardId-000000000000"
        for wrong in (-1, HASH_KEY_MAX + 1):
            with pytest.raises(PartitionKeyError):
                await producer.put({"session_id": "a"}, explicit_hash_key=wrong)
    assert len(cloud.events()) == 21
    first, second = (sum(1 for _ in shard.records) for shard in cloud.stream.shards.values())
    assert first == 1
    assert second >= 1


async def test_an_event_may_be_as_large_as_the_stream_takes_records() -> None:
    """A stream of 10 MiB records takes events of as much; one of 1 MiB says what it takes."""
    cloud = Cloud()
    event = {"session_id": "a", "fill": "x" * (9 * MIB)}
    async with cloud.producer() as producer:
        with pytest.raises(RecordTooLargeError, match="the stream takes 1,048,576"):
            await producer.put(event)
    cloud.stream.record_bytes_max = 10 * MIB
    async with cloud.producer(buffer_bytes_max=64 * MIB) as producer:
        await producer.put_and_wait(event)
    assert cloud.events()[0]["fill"] == event["fill"]


def test_a_spill_is_given_up_although_a_forked_process_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child has the lock's file open as well, which is as if it were open twice here."""
    inherited: list[int] = []
    opened = os.open

    def open_and_fork(*given: Any) -> int:
        descriptor = opened(*given)
        inherited.append(os.dup(descriptor))
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_and_fork)
        with lock_spill(str(tmp_path)):
            pass
    try:
        with lock_spill(str(tmp_path)), pytest.raises(ConfigurationError, match="in use"), lock_spill(str(tmp_path)):
            pass
    finally:
        os.close(inherited[0])


async def test_two_producers_never_share_a_spill(tmp_path: Path) -> None:
    """A second one on the same folder is refused with the remedy; once the first has ended, it is welcome."""
    cloud = Cloud()

    def on_disk(spill_bytes_max: int = MIB) -> Producer:
        settings = ProducerSettings(spill_bytes_max=spill_bytes_max, state_dir=str(tmp_path))
        return Producer("orders", kinesis=cloud.kinesis, telemetry=SilentTelemetry(), settings=settings)

    async with on_disk() as first:
        await first.put({"session_id": "a"})
        with pytest.raises(ConfigurationError, match="in use by another producer") as caught:
            await on_disk().__aenter__()
        assert "HEADRACE_PRODUCER_STATE_DIR" in caught.value.hint
        async with on_disk(spill_bytes_max=0):
            pass
    async with on_disk():
        pass
    (tmp_path / "spill").rename(tmp_path / "moved")
    (tmp_path / "spill").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="can't be locked"):
        await on_disk().__aenter__()


async def test_spilled_records_that_nobody_will_send_are_told_of(tmp_path: Path) -> None:
    """A start without a spill says that a former one has left records; a spill that was drained says nothing."""
    cloud = Cloud()
    warnings: list[str] = []

    class Ears(SilentTelemetry):
        """Keeps warnings."""

        def warning(self, event: str, **fields: Any) -> None:
            """Keep it."""
            warnings.append(event)

    settings = ProducerSettings(state_dir=str(tmp_path))
    for content, expected in ((b"", []), (b"frame", ["spill_left_behind"])):
        await LocalFiles().write_atomically(f"{spill_folder(str(tmp_path), 'orders')}/00.spill", content)
        async with Producer("orders", kinesis=cloud.kinesis, telemetry=Ears(), settings=settings):
            assert warnings == expected


async def test_another_event_loop_is_refused() -> None:
    """A put from a loop in another thread says so, instead of waiting for what nobody wakes."""
    async with Cloud().producer() as producer:

        async def put() -> None:
            for call in (producer.put, producer.put_and_wait):
                with pytest.raises(DeliveryFailedError, match="another event loop"):
                    await call({"session_id": "a"})
            with pytest.raises(DeliveryFailedError, match="another event loop"):
                await producer.put_all([{"session_id": "a"}])

        await asyncio.to_thread(asyncio.run, put())
        assert producer.ledger.accepted == 0
