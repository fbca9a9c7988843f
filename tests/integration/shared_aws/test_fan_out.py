"""Enhanced fan-out through real event streams of the local cloud: registering, reading across a split, taking over."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import orjson
import pytest

from consumer.budget import Budget
from consumer.fan_out_reader import FanOutReader, open_reader
from consumer.registration import Registration
from consumer.retrier import Retrier
from consumer.shard_reader import ReadPorts, ReadSettings
from consumer.worker import Worker
from infra.pipeline import open_worker
from infra.provision import Plan, deprovision, provision
from shared.aws.control import open_control
from shared.aws.session import Aws
from shared.clock import SystemClock
from shared.errors import ConsumerRefusedError, StreamNotFoundError, ThrottledError
from shared.limits import CONSUMERS_PER_STREAM_MAX
from shared.ports import FanOut
from shared.records import TRIM_HORIZON, PutEntry, RecordPage, Start
from shared.retry import Backoff
from shared.settings import ConsumerSettings
from shared.telemetry import SilentTelemetry

FIRST = "shardId-000000000000"


@pytest.fixture
async def stream(aws: Aws, unique: str) -> str:
    """Make a stream of one shard."""
    async with open_control() as control:
        await control.create_stream(unique, shards=1, tags={})
    await until(lambda: is_active(unique))
    return unique


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Look until a condition holds, for some 30 s."""
    for _ in range(1_000):
        if await condition():
            return
        await asyncio.sleep(0.03)
    pytest.fail("the condition did not come to hold")


async def is_active(stream: str) -> bool:
    """Whether a stream is ACTIVE."""
    async with open_control() as control:
        state = await control.describe_stream(stream)
    return state is not None and state.status == "ACTIVE"


async def split(stream: str) -> None:
    """Split the first shard in its middle."""
    async with open_control() as control:
        await control._kinesis.split_shard(StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(1 << 127))
    await until(lambda: is_active(stream))


async def is_registered(port: FanOut, stream_arn: str, name: str) -> bool:
    """Register a consumer; not while five others are CREATING."""
    try:
        await port.register_consumer(stream_arn, name)
    except ThrottledError:
        return False
    return True


async def has_read(worker: Worker, records: int) -> bool:
    """Whether a worker has read so many records."""
    return worker.status().totals.read >= records


async def read_on(reader: FanOutReader) -> None:
    """Read until something is wrong, or for a while."""
    for _ in range(10_000):
        await reader.read()


async def ports_of(aws: Aws, stream: str, name: str = "app") -> ReadPorts:
    """Return what a reader needs, with a registration of its own."""
    kinesis = await aws.kinesis()
    telemetry, chance, backoff = SilentTelemetry(), random.Random(1), Backoff(0.05, 1)
    retrier = Retrier(backoff, chance, telemetry)
    registration = Registration(await aws.fan_out(stream), kinesis, retrier, stream=stream, name=name)
    return ReadPorts(kinesis, retrier, SystemClock(), chance, telemetry, backoff, registration)


@asynccontextmanager
async def reading(ports: ReadPorts, start: Start = TRIM_HORIZON) -> AsyncIterator[FanOutReader]:
    """Read the first shard."""
    assert ports.registration is not None
    settings = ReadSettings("unused", 1, pause_seconds=0.2, idle_seconds=1, start_timestamp=0)
    account = Budget(64 << 20).open(lambda: None)
    reader = open_reader(FIRST, start, settings=settings, ports=ports, account=account)
    assert isinstance(reader, FanOutReader)
    try:
        async with asyncio.timeout(30):
            yield reader
    finally:
        await reader.aclose()


async def test_workers_that_start_together_register_one_consumer(aws: Aws, stream: str) -> None:
    """However many workers register at once, all get the ARN of the same consumer, and it is ACTIVE."""
    several = [(await ports_of(aws, stream)).registration for _ in range(6)]
    arns = await asyncio.gather(*(each.consumer_arn() for each in several if each is not None))
    assert len(set(arns)) == 1
    port = await aws.fan_out(stream)
    subscription = await port.subscribe_to_shard(arns[0], FIRST, TRIM_HORIZON)
    assert await subscription.next_event() is not None
    with pytest.raises(ThrottledError) as caught:
        await port.subscribe_to_shard(arns[0], FIRST, TRIM_HORIZON)
    assert caught.value.code == "ResourceInUseException"
    await subscription.close()
    await subscription.close()


async def test_a_stream_with_all_its_consumers_is_named_with_a_way_out(aws: Aws, stream: str) -> None:
    """The twenty-first consumer is refused with an error that says so and what to do."""
    port = await aws.fan_out(stream)
    arn = (await (await aws.kinesis()).describe_stream(stream)).stream_arn
    for number in range(CONSUMERS_PER_STREAM_MAX):
        await until(partial(is_registered, port, arn, f"other-{number}"))
    registration = (await ports_of(aws, stream)).registration
    assert registration is not None
    with pytest.raises(ConsumerRefusedError, match="no further consumer than the 20") as caught:
        await registration.consumer_arn()
    assert "Deregister" in caught.value.hint


async def test_records_are_pushed_until_the_shard_ends(aws: Aws, stream: str) -> None:
    """Records come in order as they are put, and the last page names the children of a split."""
    kinesis, ports = await aws.kinesis(), await ports_of(aws, stream)
    seen: list[bytes] = []
    async with reading(ports) as reader:
        page = RecordPage(next_iterator="")
        for number in range(5):
            await kinesis.put_record(stream, PutEntry(b"%d" % number, "k"))
            while len(seen) <= number:
                page = await reader.read()
                seen += [each.data for each in page.records]
        assert page.behind_milliseconds == 0
        await split(stream)
        while page.next_iterator is not None:
            page = await reader.read()
    assert seen == [b"%d" % number for number in range(5)]
    assert [each.shard_id for each in page.child_shards] == ["shardId-000000000001", "shardId-000000000002"]


async def test_a_reader_goes_on_when_its_consumer_was_deregistered(aws: Aws, stream: str) -> None:
    """Its subscription ends, the next one is refused as not found, and the attempt after that registers anew."""
    kinesis, ports = await aws.kinesis(), await ports_of(aws, stream)
    async with reading(ports) as reader:
        await reader.read()
        async with open_control() as control:
            assert await control.deregister_consumer(stream, "app")
        with pytest.raises(StreamNotFoundError):
            await read_on(reader)
        await kinesis.put_record(stream, PutEntry(b"later", "k"))
        seen: list[bytes] = []
        while not seen:
            seen += [each.data for each in (await reader.read()).records]
    assert seen == [b"later"]


async def test_a_worker_reads_by_fan_out_across_a_split(aws: Aws, unique: str) -> None:
    """Events put before and after a split arrive once each; deprovisioning removes the consumer with its stream."""
    plan = Plan(source_stream=f"{unique}-in", dest_streams={"International": f"{unique}-out"}, app=unique, shards=1)
    await provision(plan, report=lambda _: None, poll_seconds=0.05)
    settings = ConsumerSettings(
        app=unique,
        source_stream=plan.source_stream,
        dest_streams=dict(plan.dest_streams),
        fan_out=True,
        shard_sync_seconds=0.5,
        lease_duration_seconds=3,
        checkpoint_interval_seconds=0.2,
    )
    kinesis, stop = await aws.kinesis(), asyncio.Event()

    async def put(numbers: range) -> None:
        for number in numbers:
            event = {"session_id": f"s{number % 7}", "country": "Peru", "n": number}
            await kinesis.put_record(plan.source_stream, PutEntry(orjson.dumps(event), event["session_id"]))

    await put(range(40))
    async with asyncio.timeout(60), open_worker(aws, settings, SilentTelemetry()) as worker:
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run(stop))
            await until(lambda: has_read(worker, 40))
            await split(plan.source_stream)
            await put(range(40, 80))
            await until(lambda: has_read(worker, 80))
            stop.set()
        assert worker.status().totals.read == 80
    iterator = await kinesis.get_shard_iterator(f"{unique}-out", FIRST, TRIM_HORIZON)
    assert (await kinesis.get_records(f"{unique}-out", iterator, 100)).records
    await deprovision(plan, force=True, report=lambda _: None, poll_seconds=0.05)
