"""What becomes of those who put, flush or close when the disk fails, the time is up or their task is cancelled."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from producer import Producer
from shared.errors import DeliveryFailedError, DrainTimeoutError, ServiceUnavailableError
from shared.limits import MIB
from shared.settings import ProducerSettings
from shared.telemetry import SilentTelemetry
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis
from tests.support.network import ScriptedNetwork

_LARGE = {"session_id": "a", "fill": "x" * 200_000}  # a few fill the buffer


class SlowFiles(FakeFiles):
    """A disk that takes until `may_end` is set to make a file, and then makes none."""

    def __init__(self) -> None:
        super().__init__()
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()

    async def write_atomically(self, path: str, data: bytes) -> None:
        """Fail."""
        self.began.set()
        await self.may_end.wait()
        raise OSError(errno.ENOSPC, "full", path)


class Cloud:
    """A stream `orders` that is off at first, and a disk."""

    def __init__(self) -> None:
        self.network = ScriptedNetwork()
        self.kinesis = FakeKinesis(self.network)
        self.kinesis.create_stream("orders", 2)
        self.files = SlowFiles()
        self.turn_off()

    def turn_off(self) -> None:
        """Let every call fail."""
        self.network.scripts["kinesis.put_records"] = [ServiceUnavailableError("off") for _ in range(100_000)]

    def turn_on(self) -> None:
        """Let calls go well."""
        self.network.scripts.clear()

    def producer(self, **settings: Any) -> Producer:
        """Make a producer that spills."""
        quick = {
            "batch_linger_seconds": 0,
            "retry_backoff_seconds_min": 0.0001,
            "retry_backoff_seconds_max": 0.001,
            "shard_rate_percent": 0,
            "buffer_bytes_max": 2 * MIB,
        }
        return Producer(
            "orders",
            kinesis=self.kinesis,
            files=self.files,
            telemetry=SilentTelemetry(),
            settings=ProducerSettings(**quick | settings),
        )

    async def fill(self, producer: Producer) -> asyncio.Task[None]:
        """Fill the buffer; return a put that is being written to the disk."""
        for _ in range(10):
            await producer.put(_LARGE)
        waiting = asyncio.ensure_future(producer.put(_LARGE))
        await self.files.began.wait()
        return waiting


async def test_a_put_whose_spill_ends_at_the_close_is_told() -> None:
    """An event that was on its way to the disk when the producer closed is refused, and nobody waits for ever."""
    cloud = Cloud()
    with pytest.raises(DrainTimeoutError):
        async with cloud.producer(spill_bytes_max=64 * MIB, drain_timeout_seconds=0.01) as producer:
            waiting = await cloud.fill(producer)
    with pytest.raises(DeliveryFailedError, match="closed"):
        async with asyncio.timeout(5):
            await waiting


async def test_a_put_whose_spill_failed_finds_the_room_that_came_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails after all the rest was delivered: the event is taken into memory, though nothing else happens."""
    monkeypatch.setattr("producer.spill._RETRY_SECONDS", 0.01)
    cloud = Cloud()
    async with cloud.producer(spill_bytes_max=64 * MIB) as producer:
        waiting = await cloud.fill(producer)
        cloud.turn_on()
        assert await producer.flush(5) == 0
        cloud.files.may_end.set()
        async with asyncio.timeout(5):
            await waiting


async def test_a_flush_that_was_cancelled_leaves_no_hurry() -> None:
    """After it, events wait for each other again as before; so they do once the last one of several flushes is over."""
    cloud = Cloud()
    async with cloud.producer(batch_linger_seconds=60, drain_timeout_seconds=0.01) as producer:
        await producer.put({"session_id": "a"})
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await producer.flush(60)
        assert producer._inner is not None
        assert not producer._inner._batcher.is_draining
        short, long = (asyncio.ensure_future(producer.flush(seconds)) for seconds in (0.01, 60))
        await short
        assert producer._inner._batcher.is_draining
        cloud.turn_on()
        assert await long == 0
        assert not producer._inner._batcher.is_draining


async def test_a_close_that_was_cancelled_leaves_nothing_running() -> None:
    """Whoever gives the end of the block a time-out of his own keeps no task of the producer."""
    cloud = Cloud()
    before = asyncio.all_tasks()
    producer = cloud.producer()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit, producer:
            await _put_and_end_soon(producer, limit)
    assert asyncio.all_tasks() == before
    with pytest.raises(DeliveryFailedError, match="closed"):
        await producer.put({"session_id": "a"})


async def _put_and_end_soon(producer: Producer, limit: asyncio.Timeout) -> None:
    await producer.put({"session_id": "a"})
    limit.reschedule(asyncio.get_running_loop().time() + 0.01)  # not while it is opened, however slowly
