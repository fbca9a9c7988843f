"""One life of each process of a simulated world: the product's own objects, put together as its commands do."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from producer.core.line_format import LineFormat
from producer.producer import Producer
from producer.run import SourceOptions, run_source
from shared.lifecycle import StopSignal
from shared.settings import Compression, ConsumerSettings, Ordering, ProducerSettings
from tests.simulation.actor import Machine
from tests.simulation.loop import PROCESS
from tests.simulation.story import StoryTelemetry
from tests.simulation.web_log import WebLog

if TYPE_CHECKING:
    from tests.simulation.world import World


def _process_name() -> str:
    process = PROCESS.get()
    assert process is not None
    return process.name


def draw_producer_settings(chance: random.Random) -> ProducerSettings:
    """Draw settings that make batches small, waits short and limits near."""
    return ProducerSettings(
        ordering=Ordering.LANE,
        aggregate=chance.random() < 0.75,
        aggregate_bytes_max=chance.choice([1_024, 4_096, 51_200]),
        batch_records_max=chance.choice([1, 3, 20, 500]),
        batch_linger_seconds=chance.choice([0, 0.05, 0.5]),
        buffer_bytes_max=2 * 1024 * 1024,
        inflight_requests_max=chance.choice([1, 2, 4, 16]),
        call_timeout_seconds=chance.uniform(2, 5),
        retry_backoff_seconds_max=2,
        drain_timeout_seconds=chance.choice([0.5, 5, 25]),
        shard_map_refresh_seconds=chance.choice([1, 10, 60]),
        bookmark_interval_seconds=chance.choice([0.05, 0.5, 2]),
        state_dir="/var/lib/headrace",
        rotate_wait_seconds=chance.choice([0.5, 5]),
    )


def draw_consumer_settings(chance: random.Random, dest_streams: dict[str, str]) -> ConsumerSettings:
    """Draw settings that make objects small, leases short and checkpoints frequent."""
    lease_seconds = chance.uniform(4, 12)
    return ConsumerSettings(
        app="simulated",
        source_stream="source",
        dest_streams=dest_streams,
        bucket="bucket",
        compression=chance.choice([Compression.GZIP, Compression.NONE]),
        flush_records_max=chance.choice([1, 5, 20, 1_000]),
        flush_bytes_max=chance.choice([1_024, 1_048_576]),
        flush_seconds=chance.uniform(1, 8),
        checkpoint_interval_seconds=chance.uniform(0.5, 4),
        lease_duration_seconds=lease_seconds,
        shard_sync_seconds=chance.uniform(1, 4),
        read_records_max=chance.choice([1, 7, 100, 10_000]),
        read_pause_seconds=chance.uniform(0.2, 0.6),
        read_idle_seconds=chance.uniform(0.3, 1.5),
        call_timeout_seconds=chance.uniform(2, 5),
        retry_backoff_seconds_max=2,
        drain_timeout_seconds=chance.choice([1, 5, 25]),
        http_port=-1,
    )


class ProducerLife:
    """A producer that follows one web log, as `producer_from_cli --follow` does."""

    def __init__(self, world: World, log: WebLog) -> None:
        self._world = world
        self._log = log
        self._settings = draw_producer_settings(world.chance)

    async def live(self, machine: Machine, stop: asyncio.Event) -> None:
        """Run until asked to stop."""
        world = self._world
        signal = StopSignal()
        async with asyncio.TaskGroup() as group:
            forward = group.create_task(_forward(stop, signal))
            summary = await run_source(
                SourceOptions(self._log.path, LineFormat.JSON, is_followed=True),
                stream="source",
                kinesis=world.kinesis,
                files=self._log.disk,
                clock=machine,
                random=random.Random(world.chance.getrandbits(64)),
                telemetry=StoryTelemetry(world.story, _process_name()),
                settings=self._settings,
                stop=signal,
            )
            forward.cancel()
        world.story.tell(_process_name(), f"summary {summary}")


async def _forward(stop: asyncio.Event, signal: StopSignal) -> None:
    await stop.wait()
    signal.notify()


class WorkerLife:
    """A worker with its destination producers."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._keeps_id = world.chance.random() < 0.5
        self._settings = world.consumer_settings
        self._producer_settings = draw_producer_settings(world.chance)

    async def live(self, machine: Machine, stop: asyncio.Event) -> None:
        """Run until asked to stop."""
        from consumer.worker import Worker  # noqa: PLC0415

        world = self._world
        name = _process_name()
        settings = self._settings.model_copy(update={"worker_id": self._name if self._keeps_id else name})
        chance = random.Random(world.chance.getrandbits(64))
        telemetry = StoryTelemetry(world.story, name)
        shared: dict[str, Any] = {"kinesis": world.kinesis, "clock": machine, "random": chance, "telemetry": telemetry}
        async with AsyncExitStack() as stack:
            sinks = {
                destination: await stack.enter_async_context(
                    Producer(stream, settings=self._producer_settings, **shared)
                )
                for destination, stream in settings.dest_streams.items()
            }
            worker = Worker(settings, leases=world.leases, objects=world.objects, sinks=sinks, **shared)
            await worker.run(stop)
