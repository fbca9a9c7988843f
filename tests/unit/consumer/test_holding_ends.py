"""A holding is over when its task has ended, however it ended: what stays behind would bar the shard for ever."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any, cast

import pytest

from consumer.holding import Holdings
from consumer.lease_table import HeldLease, LeaseTable
from consumer.retrier import Retrier
from consumer.status import ShardState
from shared.errors import ShardHaltedError
from shared.lease import Lease, LeaseChange, LeaseExpectation
from shared.retry import Backoff
from shared.telemetry import SilentTelemetry
from tests.support.fake_leases import FakeLeases
from tests.unit.consumer.small_cloud import SmallCloud, VirtualClock

_SHARD = "shardId-000000000000"


class _Held:
    """A lease none of whose writes is answered."""

    def __init__(self) -> None:
        self.row = Lease(_SHARD, owner="w", epoch=1)
        self.shard_id = _SHARD
        self.epoch = 1
        self.is_writing = False

    async def look(self) -> None:
        """See nothing new."""

    async def release(self, successor: str | None) -> bool:
        """Wait for an answer that does not come."""
        self.is_writing = True
        await asyncio.sleep(1000)
        return successor is not None

    async def write(self, change: LeaseChange) -> None:
        """Wait for an answer that does not come."""
        await self.release(None)


class _Consumer:
    """A shard that ends at once: as after a hand-over, or because it has to be halted."""

    def __init__(self, *, is_halted: bool) -> None:
        self.has_ended = self.is_finishing = False
        self.state = ShardState.READING
        self._is_halted = is_halted

    def enter(self, state: ShardState) -> None:
        """Go to another state."""
        self.state = state

    async def run(self) -> None:
        """End."""
        if self._is_halted:
            raise ShardHaltedError("too many records failed", hint="none")


def _holdings_of(consumer: object, cloud: SmallCloud) -> Holdings:
    """Make the holdings of a worker whose only shard has this consumer."""
    return Holdings(
        lambda _: cast("Any", consumer),
        on_ended=lambda: None,
        ahead_seconds_max=1.0,
        clock=VirtualClock(cloud.loop),
        telemetry=SilentTelemetry(),
    )


@pytest.mark.parametrize("is_halted", [False, True])
def test_a_lease_that_is_lost_while_its_end_is_written_does_not_bar_its_shard(is_halted: bool) -> None:
    """Cancelled in its release, or in the note that it is halted, nothing of a lost holding is left."""
    cloud = SmallCloud.make()
    held = _Held()

    async def story() -> None:
        holdings = _holdings_of(_Consumer(is_halted=is_halted), cloud)
        async with asyncio.TaskGroup() as group:
            holdings.start(cast("HeldLease", held), 0.0, group)
            await cloud.until(lambda: held.is_writing)
            holdings.lose(holdings[_SHARD], "not_renewed")
        assert not holdings

    cloud.run(story)


class _CutOff:
    """A shard that is halted while a write of its own is under way, which lands."""

    def __init__(self, held: HeldLease, store: FakeLeases) -> None:
        self.has_ended = self.is_finishing = False
        self.state = ShardState.READING
        self._held = held
        self._store = store

    def enter(self, state: ShardState) -> None:
        """Go to another state."""
        self.state = state

    async def run(self) -> None:
        """Let the row move on without an answer, and be halted."""
        row = self._held.row
        change = LeaseChange(version=row.version + 1, write_id="cut off")
        await self._store.update_lease(row.shard_id, LeaseExpectation(row.owner, row.epoch), change)
        raise ShardHaltedError("too many records failed", hint="none")


@pytest.mark.parametrize("lands_late", [False, True])
def test_a_halt_that_cuts_off_a_write_is_noted_all_the_same(lands_late: bool) -> None:
    """Nobody could resume a halted shard whose row does not say so: the write that was cut off has moved the row."""
    cloud = SmallCloud.make()
    chance = random.Random(1)
    table = LeaseTable(
        cloud.leases, Retrier(Backoff(0.01, 0.01), chance, SilentTelemetry()), worker_id="w", random=chance
    )

    async def story() -> bool:
        await table.create(Lease(_SHARD))
        held = await table.take(cloud.leases.rows[_SHARD])
        assert held is not None
        consumer = _CutOff(held, cloud.leases)
        look = held.look

        async def look_too_early() -> None:
            await look()
            held.look = look  # type: ignore[method-assign] # the write lands behind the first look
            row = cloud.leases.rows[_SHARD]
            cloud.leases.rows[_SHARD] = replace(row, version=row.version + 1, write_id="late")

        if lands_late:
            held.look = look_too_early  # type: ignore[method-assign] # see above
        holdings = _holdings_of(consumer, cloud)
        async with asyncio.TaskGroup() as group:
            holdings.start(held, 0.0, group)
        return cloud.leases.rows[_SHARD].is_halted and holdings[_SHARD].is_halt_noted

    assert cloud.run(story)


class _SlowNote(_Held):
    """A lease that takes its time until it is noted that its shard is halted."""

    def __init__(self) -> None:
        super().__init__()
        self.released_to: list[str | None] = []

    async def release(self, successor: str | None) -> bool:
        """Keep to whom."""
        self.released_to.append(successor)
        return successor is not None

    async def write(self, change: LeaseChange) -> None:
        """Take a while."""
        assert change.halted_epoch == self.epoch
        self.is_writing = True
        await asyncio.sleep(10)


class _Stoppable(_Consumer):
    """A shard that is halted, with nothing to store."""

    async def store_ahead(self) -> None:
        """Store nothing."""

    def stop(self) -> None:
        """Do what a shard consumer does."""
        self.enter(ShardState.DRAINING)


@pytest.mark.parametrize("successor", [None, "w-2"])
def test_a_shard_that_is_stopped_while_its_halt_is_noted_is_given_away(successor: str | None) -> None:
    """Whoever asks for it at that moment gets it, and a worker that leaves gives it back: else it has to expire."""
    cloud, held = SmallCloud.make(), _SlowNote()

    async def story() -> None:
        holdings = _holdings_of(_Stoppable(is_halted=True), cloud)
        async with asyncio.TaskGroup() as group:
            holdings.start(cast("HeldLease", held), 0.0, group)
            await cloud.until(lambda: held.is_writing)
            if successor is None:
                holdings[_SHARD].consumer.stop()
            else:
                holdings.hand_over(holdings[_SHARD], successor, group)
        assert not holdings

    cloud.run(story)
    assert held.released_to == [successor]
