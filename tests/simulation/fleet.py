"""Workers that come and go while others live, as a fleet is scaled out and in; and whether they share in the end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Final

from consumer.core.shard_graph import may_start

if TYPE_CHECKING:
    from tests.simulation.actor import Actor
    from tests.simulation.world import World

_SHARE: Final = 0.25  # of all worlds
_VISIT_SECONDS_MAX: Final = 40.0
_BALANCED_SECONDS_MAX: Final = 300.0  # of calm; a worker that died counts until its leases have expired
_LOOK_SECONDS: Final = 2.0


class Fleet:
    """Draws from a chance of its own, so that worlds whose workers stay are as they were."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(f"fleet {world.seed}")
        self.is_there = self._chance.random() < _SHARE
        self._chaos_seconds = world.chaos_seconds

    def schedule(self) -> None:
        """Plan who comes and who leaves; the first worker stays."""
        if not self.is_there:
            return
        chance, world = self._chance, self._world
        residents = world.workers[1:]
        for _ in range(chance.choice([1, 1, 2, 3])):
            visitor = world.add_worker(chance)
            visitor.is_away = True
            world.at(world.usage.consumers_start_seconds + chance.uniform(3, 40), self._come, visitor)
        for resident in residents:
            if chance.random() < 0.5:
                world.at(chance.uniform(10, self._chaos_seconds), self._leave, resident)

    def _come(self, actor: Actor) -> None:
        self._world.story.count("worker_came")
        actor.come()
        if self._chance.random() < 0.7:
            self._world.at(self._soon(), self._leave, actor)

    def _leave(self, actor: Actor) -> None:
        self._world.story.count("worker_left")
        actor.leave()
        if self._chance.random() < 0.6:
            self._world.at(self._soon(), self._come, actor)

    def _soon(self) -> float:
        return self._world.loop.time() + self._chance.uniform(2, _VISIT_SECONDS_MAX)

    async def settle(self) -> None:
        """Wait until no worker reads two shards more than another, as they do once nothing happens any more."""
        deadline = self._world.loop.time() + _BALANCED_SECONDS_MAX
        while self.is_there and (uneven := self.uneven()):
            if self._world.loop.time() > deadline:
                self._world.violations.append(f"the shards are not shared after {_BALANCED_SECONDS_MAX:g} s: {uneven}")
                return
            await asyncio.sleep(_LOOK_SECONDS)

    def uneven(self) -> str:
        """Say who reads how many shards; empty if they are shared."""
        leases = self._world.leases.rows
        counts = Counter[str](
            {each.process.name: 0 for each in self._world.workers if each.process and each.is_running}
        )
        for row in leases.values():
            if may_start(row, leases):
                owner = next((name for name in counts if row.owner in {name, name.partition(".")[0]}), None)
                if owner is None:
                    return f"{row.shard_id} belongs to {row.owner}"
                counts[owner] += 1
        return str(dict(counts)) if counts and max(counts.values()) - min(counts.values()) > 1 else ""
