"""Workers that die one after the other, each after it stored something of one shard; nothing of it kills anybody."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import orjson

from shared.hash_key import hash_key_of
from shared.records import PutEntry
from tests.simulation.draw import SOURCE

if TYPE_CHECKING:
    from shared.lease import Lease
    from tests.simulation.world import World

_SHARE: Final = 0.6  # of the worlds that nothing else makes special
_DEATHS: Final = 12  # more than attempts condemn a record
_PUT_SECONDS: Final = 1.0
_LATE_SECONDS_MAX: Final = 0.5
_SETTLE_SECONDS_MAX: Final = 400.0


class BadLuck:
    """Draws from a chance of its own, so that worlds without it stay as they were."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(f"bad luck {world.seed}")
        self.is_there = self._chance.random() < _SHARE and _is_plain(world)
        self._left = _DEATHS if self.is_there else 0
        self._key = f"unlucky-{self._chance.randint(0, 5)}"
        self._number = 0

    def schedule(self) -> None:
        """Plan when it begins."""
        if self.is_there:
            self._world.at(self._chance.uniform(5, 30), self._put)

    def _put(self) -> None:
        """Keep the shard busy, until enough have died of nothing."""
        if self._left:
            self._number += 1
            event = {"session_id": self._key, "country": "Peru", "unlucky": self._number}
            self._world.put_stranger(PutEntry(orjson.dumps(event), self._key))
            self._world.at(self._world.loop.time() + _PUT_SECONDS, self._put)

    def lease_written(self, before: Lease, after: Lease) -> None:
        """Let whoever has stored something die a moment later."""
        world = self._world
        if not self._left or not self._number or before.checkpoint == after.checkpoint:
            return
        if world.kinesis.streams[SOURCE].shard_for(hash_key_of(self._key)).shard.shard_id != after.shard_id:
            return
        for each in world.workers:
            if each.process is not None and each.is_running and after.owner in {each.process.name, each.name}:
                self._left -= 1
                world.at(world.loop.time() + self._chance.uniform(0, _LATE_SECONDS_MAX), each.end, "bad luck")
                world.story.count("died_of_nothing")

    async def settle(self) -> None:
        """Wait until it is over."""
        deadline = self._world.loop.time() + _SETTLE_SECONDS_MAX
        while self._left and self._world.loop.time() < deadline:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(_PUT_SECONDS)
        self._left = 0


def _is_plain(world: World) -> bool:
    special = (world.operator, world.killers, world.outage, world.damage, world.service_outage, world.halts)
    is_whole = world.usage.has_bucket and world.usage.start_from == "TRIM_HORIZON"
    return is_whole and not any(each.is_there for each in special)
