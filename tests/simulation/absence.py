"""Workers that die at the end of a shard, once all is read, and stay away for days; then an event comes once more."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import orjson

from shared.aggregation import deaggregate
from shared.records import PutEntry
from tests.simulation.draw import SOURCE
from tests.simulation.web_log import number_of

if TYPE_CHECKING:
    from shared.lease import Lease
    from tests.simulation.world import World

_DAY: Final = 86_400.0
_DAYS: Final = (2.1, 4.0)  # longer than the stream's retention and a day, after which a tombstone may go
_MERGE_SHARE: Final = 0.75  # where there are two shards: the child then waits for a parent that nobody has finished
_HOUR: Final = 3600
_PATIENCE_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.02


class Absence:
    """Draws from a chance of its own, so that worlds in which somebody is there all the time are as they were.

    The children of the shard have no row before the absence; that of a merge has none after it either, until its other
    parent is finished. The hour at the beginning is not complete: who comes back dies once more, as soon as each shard
    has promised that the hour is closed, before anybody completes it.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(f"absence {world.seed}")
        self.is_there = _is_plain(world)
        self._ending: tuple[str, ...] = ()  # shards; at the end of the first everybody dies
        self._ended: asyncio.Future[str] = world.loop.create_future()

    def lease_written(self, before: Lease, after: Lease) -> None:
        """Let everybody die as soon as a shard is finished, before a child has a row."""
        if after.checkpoint.is_shard_end and after.shard_id in self._ending:
            self._ending = ()
            self._world.at(self._world.loop.time(), self._begin, after.shard_id)

    def _begin(self, ended: str) -> None:
        if self._ended.done():
            return  # nobody has waited for so long
        for worker in self._world.workers:
            worker.fail()
        self._ended.set_result(ended)

    async def settle(self) -> None:
        """Let all of it happen."""
        if not self.is_there:
            return
        world = self._world
        self._reshard()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                ended = await self._ended
        except TimeoutError:
            return  # the world waits for the end of the shard
        world.story.count("absence")
        repetition = self._event_of(ended)
        world.outage.pass_time(_DAY * self._chance.uniform(*_DAYS))
        if repetition is not None:
            world.put_stranger(repetition)
        if world.hours.is_there:
            await self._die_before_completion()

    def _reshard(self) -> None:
        kinesis, chance = self._world.kinesis, self._chance
        shards = [each.shard.shard_id for each in kinesis.streams[SOURCE].open_shards()]
        pairs = list(pairwise(shards))
        if pairs and chance.random() < _MERGE_SHARE:
            self._ending = chance.choice(pairs)
            kinesis.merge_shards(SOURCE, *self._ending)
        else:
            self._ending = (chance.choice(shards),)
            kinesis.split_shard(SOURCE, *self._ending)

    def _event_of(self, shard_id: str) -> PutEntry | None:
        """Return an event of a shard, if it has any, as its producer would put it once more."""
        shard = self._world.kinesis.streams[SOURCE].shards[shard_id]
        users = [user for record in shard.records for user in deaggregate(record, shard.shard.hash_key_range).records]
        known = [
            PutEntry(user.data, user.partition_key)
            for user in users
            if user.data.startswith(b"{") and number_of(orjson.loads(user.data)) is not None
        ]
        return self._chance.choice(known) if known else None

    async def _die_before_completion(self) -> None:
        world = self._world
        deadline = world.loop.time() + _PATIENCE_SECONDS
        while not self._is_promised():
            if world.loop.time() > deadline:
                return
            await asyncio.sleep(_LOOK_SECONDS)
        for worker in world.workers:
            worker.end("the return from an absence")

    def _is_promised(self) -> bool:
        """Whether every shard has told that it has closed what was before the last hour."""
        world = self._world
        rows = [world.leases.rows.get(each.shard.shard_id) for each in world.kinesis.streams[SOURCE].open_shards()]
        since = world.network.wall() - _HOUR
        return all(row is not None and (row.closed_until or 0.0) >= since for row in rows)


def _is_plain(world: World) -> bool:
    """Whether each copy of an event is known, nothing else takes records away, and nobody else starts workers."""
    others = (world.operator, world.killers, world.fleet, world.damage, world.outage, world.early_hours)
    is_whole = world.usage.has_bucket and world.usage.start_from == "TRIM_HORIZON" and world.usage.source_keeps_order
    return is_whole and not any(each.is_there for each in others)
