"""Bugs that break: an operator's seek brings everything from its place on, and loses nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from consumer.flusher import Flusher
from consumer.lease_table import HeldLease
from infra.control import seek
from infra.control.seek_plan import SeekTarget, change_for
from shared.lease import Lease, LeaseChange, LeaseExpectation
from tests.simulation.planted.registry import Patch, bug


@bug("a seek takes every row from its owner")
def seek_without_fence(patch: Patch) -> None:
    """Write the new place into the row and leave owner, epoch and version as they are."""

    class Bare(HeldLease):
        """A row that nobody was asked for."""

        async def write(self, change: LeaseChange) -> None:
            bare = LeaseChange(checkpoint=change.checkpoint, start_timestamp=change.start_timestamp, seek_to=None)
            self.row = await self._store.update_lease(self.shard_id, LeaseExpectation(), bare)

    async def seize(group: Any, ids: Any, shard_id: str, _owner: str) -> HeldLease:
        row = await group.leases.read_lease(shard_id)
        return Bare(group.leases, group.retrier, ids, row)

    patch.setattr(seek, "_seize", seize)


@bug("the marks of a shard end where it is sent back")
def marks_kept_by_a_seek(patch: Patch) -> None:
    """Keep them: what is read again is taken for duplicates."""

    async def go(self: Any) -> None:
        row = self._held.row
        await self._held.write(
            LeaseChange(checkpoint=row.seek_to, seek_to=None, marks=row.marks, generation=row.generation + 1)
        )

    patch.setattr(Flusher, "seek", go)


@bug("a prepared flush is finished before a shard moves")
def pending_dropped_by_a_seek(patch: Patch) -> None:
    """Move at once, and forget what was prepared."""

    def change(row: Lease, target: SeekTarget) -> LeaseChange:
        return replace(change_for(replace(row, pending=None), target), pending=None)

    patch.setattr(seek, "change_for", change)


@bug("objects of a second reading have keys of their own")
def generation_not_raised(patch: Patch) -> None:
    """Write them under the keys of the first reading, where they may pass for objects that exist."""

    async def go(self: Any) -> None:
        await original(self)
        if self._held.row.generation:
            await self._held.write(LeaseChange(generation=0))

    original = Flusher.seek
    patch.setattr(Flusher, "seek", go)


@bug("descendants go along with a shard that is sent back")
def children_left_behind(patch: Patch) -> None:
    """Move shards without parents only."""
    original = seek.chosen_shards
    patch.setattr(
        seek, "chosen_shards", lambda shards, names: tuple(each for each in original(shards, names) if not each.parents)
    )
    patch.setattr(seek, "descendants", lambda _, ancestors: frozenset(ancestors))
