"""Workers whose clocks are an hour ahead, so that an hour is complete while records of it still come."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import orjson

from shared.hash_key import hash_key_of
from shared.records import PutEntry
from tests.simulation.draw import SOURCE

if TYPE_CHECKING:
    from tests.simulation.world import World

_SHARE: Final = 0.5  # of the worlds with manifests that nothing else makes special
_ROW_LOST_SHARE: Final = 0.9  # of these: what a renewal has promised is in no data write before the row is lost
_AHEAD_SECONDS: Final = 3_700.0  # an hour, and longer than an hour waits for late records
_PATIENCE_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.1


class EarlyHours:
    """Happens once all is read; draws from a chance of its own, so that worlds without it stay as they were."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(f"early hours {world.seed}")
        self.is_there = self._chance.random() < _SHARE and _is_plain(world)

    async def settle(self) -> None:
        """Put the clocks forward, wait until the present hour is complete, and put a record that belongs to it."""
        world, chance = self._world, self._chance
        if not self.is_there:
            return
        for worker in world.workers:
            worker.machine.wall_offset = _AHEAD_SECONDS
        deadline = world.loop.time() + _PATIENCE_SECONDS
        while not world.hours.is_complete(world.network.wall()):
            if world.loop.time() > deadline:
                return
            await asyncio.sleep(_LOOK_SECONDS)
        world.story.count("hour_complete_too_early")
        key = f"early-{chance.randint(0, 5)}"
        if chance.random() < _ROW_LOST_SHARE:
            world.damage.lose(world.kinesis.streams[SOURCE].shard_for(hash_key_of(key)).shard.shard_id)
        event = {"session_id": key, "country": "Peru", "early": world.seed}
        world.put_stranger(PutEntry(orjson.dumps(event), key))


def _is_plain(world: World) -> bool:
    """Whether manifests have to tell of all objects, and nobody comes who does not know the rows."""
    others = (world.operator, world.killers, world.fleet, world.damage, world.outage)
    is_whole = world.hours.is_there and world.usage.start_from == "TRIM_HORIZON"
    return is_whole and not any(each.is_there for each in others)
