"""Bugs that break: a zombie cannot hurt; parents before children; no shard is left unread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

from consumer import shard_sync
from consumer.core import lease_planner, shard_graph
from consumer.core.lease_planner import LeasePlanner
from consumer.flusher import Flusher
from consumer.holding import Holdings
from consumer.lease_table import HeldLease, LeaseTable
from shared.lease import AT_LATEST, SHARD_END, Lease, LeaseChange, LeaseExpectation
from shared.ports import ConditionFailedError
from tests.simulation.planted.registry import Patch, bug


@bug("a data write is conditional on the row's version")
def no_version_in_the_fence(patch: Patch) -> None:
    """Check owner and epoch only."""
    _weaken_fence(patch, lambda expected: replace(expected, version=LeaseExpectation().version))


@bug("a data write is conditional on owner, epoch and version")
def no_fence(patch: Patch) -> None:
    """Check nothing."""
    _weaken_fence(patch, lambda expected: LeaseExpectation())


def _weaken_fence(patch: Patch, weaken: Callable[[LeaseExpectation], LeaseExpectation]) -> None:
    original = HeldLease.write

    async def write(self: Any, change: LeaseChange) -> None:
        store = self._store

        class Weak:
            async def update_lease(self, shard_id: str, expected: LeaseExpectation, made: LeaseChange) -> Lease:
                return await store.update_lease(shard_id, weaken(expected), made)

        self._store = Weak()
        try:
            await original(self, change)
        finally:
            self._store = store

    patch.setattr(HeldLease, "write", write)


@bug("a lease is taken only if it is as it was seen")
def take_without_condition(patch: Patch) -> None:
    """Write owner and epoch unconditionally."""
    _change_take(patch, lambda seen, expected, made: (LeaseExpectation(), made))


@bug(
    "each take raises the epoch",
    harmless="owner and version are in the condition, too, and no two takers write under one version",
)
def epoch_not_raised(patch: Patch) -> None:
    """Take with the epoch of the one before."""
    _change_take(patch, lambda seen, expected, made: (expected, replace(made, epoch=seen.epoch)))


_Written = tuple[LeaseExpectation, LeaseChange]


def _change_take(patch: Patch, weaken: Callable[[Lease, LeaseExpectation, LeaseChange], _Written]) -> None:
    original = LeaseTable.take

    async def take(self: Any, seen: Lease) -> Any:
        store = self._store

        class Weak:
            async def update_lease(self, shard_id: str, expected: LeaseExpectation, made: LeaseChange) -> Lease:
                return await store.update_lease(shard_id, *weaken(seen, expected, made))

        # A copy: other calls of the table are under way at the same time.
        table = copy(self)
        table._store = Weak()
        held = await original(table, seen)
        return None if held is None else self.adopt(held.row)

    patch.setattr(LeaseTable, "take", take)


@bug(
    "a worker that has lost its lease stops",
    harmless="its next data write is refused; until then it only puts into streams, at least once as promised",
)
def zombie_goes_on(patch: Patch) -> None:
    """Go on until a write is refused."""

    def lose(self: Any, holding: Any, reason: str) -> None:
        """Ignore it."""

    patch.setattr(Holdings, "lose", lose)


@bug(
    "a write that landed without a reply is recognised by its id",
    harmless="the shard is given up and taken again: slower, and the fence keeps it safe",
)
def own_write_not_recognised(patch: Patch) -> None:
    """Take it for a lost lease."""
    original = HeldLease.write

    async def write(self: Any, change: LeaseChange) -> None:
        store = self._store

        class Forgetful:
            async def update_lease(self, shard_id: str, expected: LeaseExpectation, made: LeaseChange) -> Lease:
                try:
                    return await store.update_lease(shard_id, expected, made)
                except ConditionFailedError as refused:
                    if refused.current is not None:
                        raise ConditionFailedError(replace(refused.current, write_id="")) from refused
                    raise

        self._store = Forgetful()
        try:
            await original(self, change)
        finally:
            self._store = store

    patch.setattr(HeldLease, "write", write)


@bug("children start when all parents are finished")
def child_started_early(patch: Patch) -> None:
    """Start children as soon as they are listed."""
    original = shard_sync.rows_to_create

    def rows_to_create(shards: Any, leases: Mapping[str, Lease], initial: Any) -> Any:
        finished = {name: replace(row, checkpoint=SHARD_END) for name, row in leases.items()}
        return original(shards, finished, initial)

    patch.setattr(shard_sync, "rows_to_create", rows_to_create)
    patch.setattr(lease_planner, "may_start", lambda lease, leases: not lease.checkpoint.is_shard_end)


@bug("the child of a merge waits for both parents")
def one_parent_of_a_merge(patch: Patch) -> None:
    """Start it when the first parent is finished."""
    original = shard_sync.rows_to_create

    def rows_to_create(shards: Any, leases: Mapping[str, Lease], initial: Any) -> Any:
        return original([replace(each, adjacent_parent_shard_id=None) for each in shards], leases, initial)

    patch.setattr(shard_sync, "rows_to_create", rows_to_create)


@bug("a shard whose parent is gone without a row inherits from the last ones of its hash keys")
def orphans_begin_bare(patch: Patch) -> None:
    """Look at parents only."""
    patch.setattr(shard_graph.Ancestry, "parents_of", lambda self, shard: shard.parents)


@bug("a child is read from TRIM_HORIZON")
def child_starts_at_latest(patch: Patch) -> None:
    """Start children at LATEST."""
    original = shard_graph._row

    def row(shard: Any, checkpoint: Any, parents: Any) -> Lease:
        return original(shard, AT_LATEST if shard.parents else checkpoint, parents)

    patch.setattr(shard_graph, "_row", row)


@bug("finished rows stay as tombstones")
def finished_rows_deleted(patch: Patch) -> None:
    """Delete the row of a finished shard."""
    original = Flusher.finish

    async def finish(self: Any, children: Any) -> None:
        await original(self, children)
        await self._held._store.delete_lease(self._held.shard_id, LeaseExpectation())

    patch.setattr(Flusher, "finish", finish)


@bug("a heartbeat that stands still for the lease's duration makes it free")
def leases_never_expire(patch: Patch) -> None:
    """Take unowned leases only."""
    patch.setattr(LeasePlanner, "_is_free", lambda self, row, now: row.owner is None)


@bug("owners whose every lease has expired do not count when balancing")
def dead_owners_counted(patch: Patch) -> None:
    """Count every owner that a row names, and nobody's rows as one more."""
    original = LeasePlanner.plan

    def plan(self: Any, rows: Any, running: Any, now: float, avoid: Any = ()) -> Any:
        found = original(self, rows, running, now, avoid)
        live = [row for row in rows.leases if not row.checkpoint.is_shard_end]
        owners = {row.owner for row in live} | {self._worker_id}
        share = -(-len(live) // len(owners))
        return replace(found, take=found.take[: max(0, share - len(running))])

    patch.setattr(LeasePlanner, "plan", plan)
