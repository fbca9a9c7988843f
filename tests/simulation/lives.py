"""One life of each process of a simulated world: the product's own objects, put together as its commands do."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from infra.pipeline import without_drain
from producer.producer import Producer
from producer.run import SourceOptions, run_source
from shared.lifecycle import StopSignal
from shared.ports import ObjectStore
from tests.simulation.actor import Machine
from tests.simulation.draw import SOURCE, draw_producer_settings
from tests.simulation.loop import process_name
from tests.simulation.story import StoryTelemetry
from tests.simulation.web_log import WebLog
from tests.support.fake_uploads import UploadingObjects

if TYPE_CHECKING:
    from tests.simulation.world import World


_SPARE_SECONDS: Final = 10.0  # a call that is under way ends by itself, and a release is tried


class ProducerLife:
    """A producer that follows one web log, as `producer_from_cli --follow` does."""

    def __init__(self, world: World, log: WebLog) -> None:
        self._world = world
        self._log = log
        self._settings = draw_producer_settings(world.chance, world.usage, is_ordered=world.usage.is_ordered)
        self.stop_seconds_max = self._settings.drain_timeout_seconds + _SPARE_SECONDS

    async def live(self, machine: Machine, stop: StopSignal) -> None:
        """Run until asked to stop."""
        world = self._world
        summary = await run_source(
            SourceOptions(self._log.path, self._log.line_format, is_followed=True),
            stream=SOURCE,
            kinesis=world.kinesis,
            files=self._log.disk,
            clock=machine,
            random=random.Random(world.chance.getrandbits(64)),
            telemetry=StoryTelemetry(world.story, process_name()),
            settings=self._settings,
            stop=stop,
        )
        world.story.tell(process_name(), f"summary {summary}")


class WorkerLife:
    """A worker with its destination producers."""

    def __init__(self, world: World, name: str, chance: random.Random) -> None:
        self._world = world
        self._name = name
        self._keeps_id = chance.random() < 0.5
        usage = world.usage
        drawn = draw_producer_settings(chance, usage, is_ordered=usage.keeps_order_in_streams)
        self._producer_settings = without_drain(world.handovers.sink_settings(drawn))
        self.stop_seconds_max = world.consumer_settings.drain_timeout_seconds + _SPARE_SECONDS

    async def live(self, machine: Machine, stop: StopSignal) -> None:
        """Run until asked to stop."""
        from consumer.worker import Worker  # noqa: PLC0415

        world = self._world
        name = process_name()
        settings = world.consumer_settings.model_copy(update={"worker_id": self._name if self._keeps_id else name})
        chance = random.Random(world.chance.getrandbits(64))
        telemetry = StoryTelemetry(world.story, name)
        shared: dict[str, Any] = {"kinesis": world.kinesis, "clock": machine, "random": chance, "telemetry": telemetry}
        async with AsyncExitStack() as stack:
            by_stream = {
                stream: await stack.enter_async_context(Producer(stream, settings=self._producer_settings, **shared))
                for stream in dict.fromkeys(settings.dest_streams.values())
            }
            sinks = {destination: by_stream[stream] for destination, stream in settings.dest_streams.items()}
            objects: ObjectStore | None = world.objects if settings.bucket else None
            if objects is not None and world.write_options is not None:
                objects = UploadingObjects(world.uploads, world.write_options, settings.call_timeout_seconds)
            worker = Worker(
                settings, leases=world.leases, objects=objects, sinks=sinks, fan_out=world.fan_out, **shared
            )
            await worker.run(stop.requested, stop.hurried)
