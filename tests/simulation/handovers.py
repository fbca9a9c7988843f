"""Planned hand-overs once the chaos is over, at the product's default settings: how long a shard goes unread."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import orjson

from shared.records import Distribution, PutEntry, RecordPage
from shared.settings import ConsumerSettings, ProducerSettings
from tests.simulation.draw import SOURCE
from tests.simulation.loop import Process, process_name

if TYPE_CHECKING:
    from tests.simulation.actor import Actor
    from tests.simulation.world import World

_SHARE: Final = 0.06  # each of these costs as much as two others
_SIGTERM_SHARE: Final = 0.6  # where somebody stays
_NEWCOMER_SHARE: Final = 0.4
_NEWCOMER_SECONDS: Final = (0.0, 20.0)  # longer than a lease lasts
_GAP_SECONDS_MAX: Final = 1.0
_EVENTS_PER_SECOND: Final = 10  # of each shard, so that each of its pages has some
_CALM_SECONDS_MAX: Final = 120.0  # frozen workers wake by then, and who has come has its part
_SCALE_OUT_SECONDS: Final = (8.0, 40.0)  # at least, and until the newcomer has its part at most
_AFTER_SECONDS: Final = 3.0
# What the other worlds make small, short or near.
_AT_DEFAULT: Final = (
    "checkpoint_interval_seconds",
    "drain_timeout_seconds",
    "flush_bytes_max",
    "flush_records_max",
    "flush_seconds",
    "lease_duration_seconds",
    "object_bytes_target",
    "read_idle_seconds",
    "read_pause_seconds",
    "read_records_max",
    "shard_sync_seconds",
)


class Handovers:
    """Draws from a chance of its own, so that worlds without it stay as they were.

    Under a steady load, a worker gets SIGTERM or one more comes. What excuses a longer gap does not happen meanwhile:
    the chaos is over, and so no call fails or is slow and no clock jumps; for longer than a lease lasts, nobody has
    died or stood still, as the presence of a dead one takes a part of the shards for so long; somebody may have come.
    Workers that read by fan-out are not watched: they are pushed to; nor those whose objects go up in parts of a
    kilobyte, one by one; nor those with a stream that distributes records itself, which takes no aggregates, so one
    event of a session at a time.
    Settings are the product's own: with batches of one record, or sinks of one record a second, it takes longer to
    store what was read.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(f"handovers {world.seed}")
        self._is_drawn = self._chance.random() < _SHARE
        self._news: dict[str, list[tuple[float, str]]] = {}  # shard -> when a page had new records, and whose it was
        self._last: dict[str, int] = {}
        self._is_watching = False

    def consumer_settings(self, drawn: ConsumerSettings) -> ConsumerSettings:
        """Return the settings that these worlds have instead."""
        if not self._is_drawn:
            return drawn
        return drawn.model_copy(update={name: ConsumerSettings.model_fields[name].default for name in _AT_DEFAULT})

    def sink_settings(self, drawn: ProducerSettings) -> ProducerSettings:
        """Return the settings that the destinations' producers have instead."""
        if not self._is_drawn:
            return drawn
        return ProducerSettings(state_dir=drawn.state_dir, ordering=drawn.ordering)

    @property
    def is_there(self) -> bool:
        """Whether hand-overs are watched."""
        world = self._world
        keys_decide = Distribution.AUTO not in world.usage.distributions.values()
        return self._is_drawn and world.fan_out is None and world.write_options is None and keys_decide

    async def settle(self) -> None:
        """Let one happen, and judge."""
        if not self.is_there or not await self._is_calm():
            return
        world, chance = self._world, self._chance
        self._watch_reads()
        async with asyncio.TaskGroup() as tasks:
            load = tasks.create_task(self._put())
            await asyncio.sleep(chance.uniform(3, 12))
            self._is_watching = True
            running = self._running()
            if len(running) > 1 and chance.random() < _SIGTERM_SHARE:
                world.story.count("sigterm_in_the_calm")
                if chance.random() < _NEWCOMER_SHARE:
                    world.story.count("sigterm_after_a_newcomer")
                    world.add_worker(chance).start()
                    await asyncio.sleep(chance.uniform(*_NEWCOMER_SECONDS))
                await self._until_gone(chance.choice(running))
            else:
                world.story.count("scale_out_in_the_calm")
                await self._until_shared()
            await asyncio.sleep(_AFTER_SECONDS)
            load.cancel()
        self._is_watching = False
        self._judge()

    def _running(self) -> list[Actor]:
        return [each for each in self._world.workers if each.is_running and not each.is_stopping]

    async def _is_calm(self) -> bool:
        """Wait until nobody has come, died or stood still, and no shard moved, for longer than a lease lasts."""
        world = self._world
        deadline = world.loop.time() + _CALM_SECONDS_MAX
        quiet_seconds = world.consumer_settings.lease_duration_seconds + _AFTER_SECONDS
        state, since = self._state(), world.loop.time()
        while (now := world.loop.time()) < since + quiet_seconds:
            if now > deadline:
                return False
            await asyncio.sleep(1.0)
            if self._state() != state or not self._is_at_rest():
                state, since = self._state(), world.loop.time()
        return True

    def _state(self) -> tuple[list[Process | None], list[tuple[str, int, str | None]]]:
        """Return who runs, and who has which lease."""
        world = self._world
        rows = [(row.shard_id, row.epoch, row.owner) for _, row in sorted(world.leases.rows.items())]
        return [each.process for each in world.workers if each.is_running], rows

    def _is_at_rest(self) -> bool:
        world, now = self._world, self._world.loop.time()
        wanted = [each for each in world.workers if not each.is_away]
        awake = all(each.process is not None and each.process.frozen_until <= now for each in wanted)
        return awake and len(self._running()) == len(wanted) and not world.fleet.uneven()

    async def _until_gone(self, leaver: Actor) -> None:
        leaver.leave()
        while leaver.is_running:  # noqa: ASYNC110 - virtual time; how long it may take is a promise of its own
            await asyncio.sleep(0.1)

    async def _until_shared(self) -> None:
        world = self._world
        world.add_worker(self._chance).start()
        least, most = (world.loop.time() + seconds for seconds in _SCALE_OUT_SECONDS)
        while (now := world.loop.time()) < least or (now < most and world.fleet.uneven()):  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.5)

    async def _put(self) -> None:
        """Put an event into each open shard, again and again."""
        world = self._world
        stream = world.kinesis.streams[SOURCE]
        number = 0
        while True:
            for shard in stream.open_shards():
                event = {"session_id": f"handover-{shard.shard.shard_id}", "country": "Peru", "handover": number}
                world.kinesis.append(stream, shard, PutEntry(orjson.dumps(event), event["session_id"]))
                number += 1
            await asyncio.sleep(1 / _EVENTS_PER_SECOND)

    def _watch_reads(self) -> None:
        kinesis = self._world.kinesis
        get_records = kinesis.get_records

        async def noted(stream: str, iterator: str, limit: int) -> RecordPage:
            page = await get_records(stream, iterator, limit)
            if stream == SOURCE and self._is_watching:  # else an audit reads
                self._note(iterator.rsplit(":", 2)[0], page)
            return page

        kinesis.get_records = noted  # type: ignore[method-assign]  # the same, noted

    def _note(self, shard_id: str, page: RecordPage) -> None:
        last = page.records[-1].sequence_number if page.records else -1
        if last > self._last.get(shard_id, -1):
            self._last[shard_id] = last
            self._news.setdefault(shard_id, []).append((self._world.loop.time(), process_name()))

    def _judge(self) -> None:
        world = self._world
        for shard_id, news in sorted(self._news.items()):
            for (ended_at, before), (began_at, after) in pairwise(news):
                if before == after:
                    continue
                world.story.count("shard_handed_over_in_the_calm")
                gap = began_at - ended_at
                world.story.tell("world", f"{shard_id} was unread for {gap:.2f} s from {before} to {after}")
                if gap > _GAP_SECONDS_MAX:
                    world.violations.append(
                        f"{shard_id} was unread for {gap:.2f} s, more than {_GAP_SECONDS_MAX:g} s, in a planned "
                        f"hand-over from {before} to {after}"
                    )
