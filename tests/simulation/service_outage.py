"""A long time in which the bucket, or the service that takes records, answers nothing, while leases are lost often."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

from tests.simulation.faults import BUCKET, STREAMS

if TYPE_CHECKING:
    from shared.lease import Lease
    from tests.simulation.actor import Actor
    from tests.simulation.world import World

_SHARE: Final = 0.08
_LOST_LEASES: Final = (10, 16, 20)  # more than attempts end a search for a record that kills, or halt a replay
_LATE_SECONDS_MAX: Final = 8.0  # before the chaos ends: processes that are killed in the outage did die
_SPARE_SECONDS: Final = 3.0
_STOPS: Final = 4  # of workers, while destinations can't be reached


class ServiceOutage:
    """Draws from a chance of its own, so that worlds whose services are up are as they were.

    One shard is moved from worker to worker: whoever holds it is frozen until its lease is another's. Nobody dies of
    what is in it, so that it has to be read on once the service is back.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(f"service outage {world.seed}")
        self.is_there = self._chance.random() < _SHARE and _is_plain(world)
        self._shard_id = ""
        self._end_at = 0.0

    def schedule(self) -> None:
        """Plan which service is away, from when, and for how long."""
        if not self.is_there:
            return
        chance, usage, settings = self._chance, self._world.usage, self._world.consumer_settings
        services = [BUCKET] * 3 * usage.has_bucket + [STREAMS] * bool(usage.dest_streams)
        begin = self._world.chaos_seconds - chance.uniform(0, _LATE_SECONDS_MAX)
        # Until others have seen that it is lost, and one of them has looked at the table.
        frozen_seconds = settings.lease_duration_seconds + 2 * settings.shard_sync_seconds + _SPARE_SECONDS
        rounds = chance.choice(_LOST_LEASES)
        service = chance.choice(services)
        self._world.at(begin, self._world.network.take_away, service)
        for number in range(rounds):
            self._world.at(begin + (number + 1) * (frozen_seconds + _SPARE_SECONDS), self._move_on, frozen_seconds)
        self._end_at = begin + (rounds + 2) * (frozen_seconds + _SPARE_SECONDS)
        self._world.at(self._end_at, self._world.network.bring_back)
        # Whoever ends in order takes its attempts back, so that a bucket's outage would show no more that they counted.
        for _ in range(_STOPS if service == STREAMS else 0):
            self._world.at(chance.uniform(begin, self._end_at), chance.choice(self._world.workers).stop)

    async def settle(self) -> None:
        """Wait until all services are back."""
        if self.is_there:
            await asyncio.sleep(max(0.0, self._end_at - self._world.loop.time()))

    def _move_on(self, seconds: float) -> None:
        """Freeze whoever holds the shard until its lease is lost."""
        holders = {
            name: holder for name, row in sorted(self._world.leases.rows.items()) if (holder := self._holder(row))
        }
        if self._shard_id not in holders:
            pending = (name for name in holders if self._world.leases.rows[name].pending is not None)
            self._shard_id = next(pending, min(holders, default=""))
        if self._shard_id and holders[self._shard_id].freeze(seconds):
            self._world.story.count("lease_lost_in_service_outage")

    def _holder(self, row: Lease) -> Actor | None:
        """Return whose running process holds a lease that is not at its end."""
        if row.checkpoint.is_shard_end:
            return None
        for each in self._world.workers:
            if each.process is not None and each.is_running and row.owner in {each.process.name, each.name}:
                return each
        return None


def _is_plain(world: World) -> bool:
    """Whether nobody dies of a record, and no command waits for what is away."""
    return not world.killers.is_there and not world.operator.is_there
