"""Lease rows that are deleted or damaged under a running group, as by a careless hand in the console."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shared.lease import Lease
    from tests.simulation.actor import Actor
    from tests.simulation.loop import Process
    from tests.simulation.world import World

_SHARE: Final = 0.5  # of the worlds in which a shard that is read again from its beginning lets nothing go unread
_HELD_SHARE: Final = 0.7
_LOOK_SECONDS: Final = 0.1
_NEWCOMER_SECONDS: Final = 10.0  # until a worker that has started has read the table
_PATIENCE_LEASES: Final = 2  # how long others leave a missing row to its holder; the worker's own figure


@dataclass(frozen=True, slots=True)
class _Blow:
    """A row that is gone, and who may put it back as it was."""

    shard_id: str
    holder: Process
    at: float
    is_deleted: bool


class TableDamage:
    """Draws from a chance of its own, so that worlds whose table stays whole are as they were."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chaos_seconds = world.chaos_seconds
        self._chance = random.Random(f"rows {world.seed}")
        self.is_there = self._chance.random() < _SHARE and _is_plain(world)
        self._known: dict[str, int] = {}  # shard -> the epoch at which its owner wrote to the row, and so knows it
        self._newest_at = -math.inf  # when a worker was started last
        self.excuses_repetition = False  # a row came back older than it was: what was stored since is stored again

    def started(self, name: str) -> None:
        """Take the start of a process."""
        if name.startswith("worker"):
            self._newest_at = self._world.loop.time()
            # A process that goes by its predecessor's id knows nothing of the rows that carry it.
            rows, owner = self._world.leases.rows, name.partition(".")[0]
            inherited = {shard_id for shard_id, row in rows.items() if row.owner == owner}
            self._known = {shard_id: epoch for shard_id, epoch in self._known.items() if shard_id not in inherited}

    def lease_written(self, before: Lease, after: Lease) -> None:
        """Take a write to a row: whoever wrote under a lease has its row."""
        if after.epoch == before.epoch and after.owner is not None and after != before:
            self._known[after.shard_id] = after.epoch

    def schedule(self) -> None:
        """Plan the blows."""
        for _ in range(self._chance.choice([1, 1, 1, 2]) if self.is_there else 0):
            self._world.at(self._chance.uniform(5, self._chaos_seconds), self._strike)

    def _strike(self) -> None:
        world, chance = self._world, self._chance
        rows = world.leases.rows
        if not rows:
            return
        held = [name for name in sorted(rows) if self._holder(rows[name]) is not None]
        row = rows[chance.choice(held if held and chance.random() < _HELD_SHARE else sorted(rows))]
        self._hit(row, is_deleted=chance.random() < 0.5)

    def lose(self, shard_id: str) -> None:
        """Delete a row, if it is there."""
        row = self._world.leases.rows.get(shard_id)
        if row is not None:
            self._hit(row, is_deleted=True)

    def _hit(self, row: Lease, *, is_deleted: bool) -> None:
        world, holder = self._world, self._holder(row)
        if is_deleted:
            del world.leases.rows[row.shard_id]
        else:
            world.leases.damage(row.shard_id)
        kind = "row_deleted" if is_deleted else "row_damaged"
        world.story.count(kind if holder is None else f"{kind}_under_its_holder")
        world.story.tell("world", f"{kind}: {row}")
        if holder is not None:
            self._watch(_Blow(row.shard_id, holder, world.loop.time(), is_deleted))
        else:
            self.excuses_repetition = True

    def _holder(self, row: Lease) -> Process | None:
        """Return the process that runs, owns the row and has written to it at this epoch."""
        if self._known.get(row.shard_id) != row.epoch:
            return None
        owners = (actor for actor in self._world.workers if actor.process and _owns(actor, row))
        return next((actor.process for actor in owners if actor.process and self._is_awake(actor.process)), None)

    def _is_awake(self, process: Process) -> bool:
        return process.alive and process.frozen_until <= self._world.loop.time()

    def _watch(self, blow: _Blow) -> None:
        """See whether the holder lives until its row is there again, and whether that is before others do it."""
        world = self._world
        if blow.shard_id in world.leases.rows:
            return
        seconds = _PATIENCE_LEASES * world.consumer_settings.lease_duration_seconds
        # To a worker that comes just now, a row that is gone was never there.
        woken_at = max((each.process.frozen_until for each in world.workers if each.process), default=0.0)
        newest_at = max(self._newest_at, woken_at)  # it may have been frozen before it read the table
        is_secret = blow.is_deleted and world.loop.time() - newest_at < _NEWCOMER_SECONDS
        if not is_secret and self._is_awake(blow.holder) and world.loop.time() - blow.at < seconds:
            world.at(world.loop.time() + _LOOK_SECONDS, self._watch, blow)
        else:
            world.story.tell("world", f"nobody is left who knows the row of {blow.shard_id}")
            self.excuses_repetition = True


def _owns(actor: Actor, row: Lease) -> bool:
    return actor.process is not None and row.owner in {actor.name, actor.process.name}


def _is_plain(world: World) -> bool:
    """Whether all that a shard has is to be read, and its row says nothing but how far that has come."""
    return world.usage.start_from == "TRIM_HORIZON" and not world.operator.is_there and not world.killers.is_there
