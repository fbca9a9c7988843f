"""Bugs that break: shards change hands, killers are found, and rows come back, without loss and without doubles."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from consumer import attempts, shard_sync
from consumer.attempts import Attempts
from consumer.core.attempt_policy import AttemptPolicy
from consumer.core.chunk import Chunk
from consumer.core.lease_planner import HandOver, LeasePlan, LeasePlanner
from consumer.core.retention_watch import RetentionWatch
from consumer.core.roster import Roster
from consumer.core.row_memory import RowMemory
from consumer.holding import Holdings
from consumer.lease_table import HeldLease
from consumer.retention import Retention, ShardRetention
from consumer.shard_sync import ShardSync
from consumer.status import ShardState
from consumer.succession import Succession
from shared.lease import Checkpoint, Lease, LeaseChange, TableRows
from tests.simulation import lives
from tests.simulation.planted.registry import Patch, bug


@bug(
    "a shard is handed over once what was read is stored",
    harmless="what was read is behind the checkpoint, and the fence keeps the old owner from storing it, too",
)
def handed_over_before_the_flush(patch: Patch) -> None:
    """Give the lease to the successor at once, and go on storing."""
    original = Holdings.hand_over

    def hand_over(self: Any, holding: Any, successor: str, group: Any) -> None:
        if holding.successor is None and not holding.is_lost and not holding.consumer.is_finishing:
            group.create_task(holding.held.release(successor))
        original(self, holding, successor, group)

    patch.setattr(Holdings, "hand_over", hand_over)


@bug(
    "a row is adopted at the epoch at which its owner gave it",
    harmless="the version is in the fence, too: of two who write as one owner, one is refused at its next data write",
)
def adopted_before_it_was_given(patch: Patch) -> None:
    """Hold a row as soon as it was asked for, whatever its owner and epoch."""

    async def inherit(self: Any, seen: Any) -> None:
        if await self._table.ask(seen):
            await asyncio.sleep(1)
            row = await self._table.read(seen.shard_id)
            if row is not None:
                self._on_adopted(self._table.adopt(row))

    patch.setattr(Succession, "_inherit", inherit)


@bug("workers without a lease are there if they say so")
def presences_ignored(patch: Patch) -> None:
    """Count owners only."""
    patch.setattr(Roster, "present", lambda self, now: frozenset())


@bug(
    "a shard is handed to a successor that is there",
    harmless="the shard stands still until the lease of the one that is gone expires",
)
def handed_to_the_absent(patch: Patch) -> None:
    """Hand over to whoever asked."""
    original = LeasePlanner.plan

    def plan(self: Any, *arguments: Any) -> LeasePlan:
        found = original(self, *arguments)
        absent = tuple(HandOver(row.shard_id, str(row.successor)) for row in found.decline)
        return replace(found, hand_over=found.hand_over + absent, decline=())

    patch.setattr(LeasePlanner, "plan", plan)


@bug(
    "a holding ends with its task, wherever that was cancelled",
    harmless="in nearly all worlds (seed 1,607 finds it): a lease has to be lost while its end is written, or a shard "
    "to halt while it is handed over; tests/unit/consumer/test_holding_ends.py finds it",
)
def lost_holding_kept(patch: Patch) -> None:
    """Keep what was lost while it was released."""
    patch.setattr(Holdings, "_forget", lambda self, holding: None)


@bug("an heir looks often for the shard that it has asked for")
def heir_waits_for_its_ordinary_look(patch: Patch) -> None:
    """Look as seldom as at the rest of the table."""
    patch.setattr("consumer.succession._LOOK_SECONDS", 5.0)
    patch.setattr("consumer.succession._CLOSE_LOOK_SECONDS", 5.0)


@bug("attempts are counted in the row before records are looked at")
def attempts_not_counted(patch: Patch) -> None:
    """Look at once."""

    async def begin(self: Any) -> None:
        """Count nothing."""

    patch.setattr(Attempts, "begin", begin)


@bug("a commit resets the attempts")
def attempts_never_reset(patch: Patch) -> None:
    """Leave them in the row."""
    patch.setattr(AttemptPolicy, "after_commit", property(lambda self: self.attempts + 1))


@bug("an attempt names its process, not the worker, whose name comes back with a restart")
def attempts_named_after_workers(patch: Patch) -> None:
    """Take the attempt of a worker's last life for one of this life."""
    patch.setattr(HeldLease, "process", property(lambda self: self._owner))


@bug("an attempt counts where its process died, not where it lost its lease")
def attempts_of_the_living_counted(patch: Patch) -> None:
    """Count every time that a shard is taken and looked at."""

    def with_attempt(row: Lease, process: str) -> LeaseChange:
        return LeaseChange(attempts=row.attempts + 1)

    patch.setattr(attempts, "with_attempt", with_attempt)
    patch.setattr(attempts, "attempts_before", lambda row, process: row.attempts)


@bug("a worker that is ended waits for its destinations once, not for each in turn")
def destinations_waited_for_in_turn(patch: Patch) -> None:
    """Let each destination's producer drain by itself once the worker has ended."""
    patch.setattr(lives, "without_drain", lambda settings: settings)


@bug("a condemned record is not decoded")
def condemned_record_decoded(patch: Patch) -> None:
    """Decode all of a chunk."""
    patch.setattr(Chunk, "readable", property(lambda self: self.datas))


@bug("a row that can't be read is written anew")
def damaged_rows_skipped(patch: Patch) -> None:
    """Take it for none that is missing."""
    original = ShardSync.sync

    async def sync(self: Any, rows: TableRows, held: Any) -> bool:
        found = [self._memory._seen[name] for name in rows.damaged if name in self._memory._seen]
        return await original(self, TableRows((*rows.leases, *found), rows.presences), held)

    patch.setattr(ShardSync, "sync", sync)


@bug("a row that is gone is left to its holder, who knows it best")
def rows_restored_from_an_old_look(patch: Patch) -> None:
    """Write what was seen last, at once."""

    def to_restore(self: Any, held: Any, now: float) -> Any:
        seen = [self._seen[name] for name in sorted(self._missing_since)]
        return tuple(replace(each, owner=None, successor=None, epoch=each.epoch + 1) for each in seen)

    patch.setattr(RowMemory, "to_restore", to_restore)


@bug("a row that is restored keeps what renewals promised")
def renewals_forgotten_by_a_restored_row(patch: Patch) -> None:
    """Put back what the last data write left."""
    patch.setattr(HeldLease, "row_with_news", property(lambda self: self.row))


@bug("what was trimmed unread is recorded with both bounds")
def gaps_not_recorded(patch: Patch) -> None:
    """Go on without a word."""

    async def record(self: Any, gap: Any, generation: int) -> None:
        """Record nothing."""

    patch.setattr(Retention, "record", record)


@bug("an empty tip tells of a gap before it")
def empty_tip_hides_a_gap(patch: Patch) -> None:
    """Wait for the next record, while the row says that all is read."""
    original = RetentionWatch.find_gap

    def find_gap(self: Any, records: Any, now: float, retention_seconds: float, *, is_tip: bool = False) -> Any:
        return original(self, records, now, retention_seconds)

    patch.setattr(RetentionWatch, "find_gap", find_gap)


@bug("what of a prepared flush was trimmed is recorded as a gap")
def trimmed_flush_not_told(patch: Patch) -> None:
    """Begin the gap behind the flush."""

    async def take_rebuilt(self: Any, pending: Any, first: Any) -> None:
        """Record nothing."""

    patch.setattr(ShardRetention, "take_rebuilt", take_rebuilt)


@bug("a shard that was trimmed before it had a row is recorded as a gap")
def lost_parents_not_told(patch: Patch) -> None:
    """Begin its children without a word."""

    async def tell(self: Any, new: Any, shards: Any, leases: Any) -> None:
        """Record nothing."""

    patch.setattr(ShardSync, "_tell_lost_parents", tell)


@bug("a tombstone stays for as long as a listed child has no row")
def tombstone_deleted_before_its_children(patch: Patch) -> None:
    """Look at its age only."""

    def tombstones_to_delete(leases: Any, listed: Any, wall: float, retention_seconds: float) -> Any:
        return tuple(
            row
            for row in leases.values()
            if row.checkpoint.is_shard_end
            and row.finished_at is not None
            and wall - row.finished_at > retention_seconds
        )

    patch.setattr(shard_sync, "tombstones_to_delete", tombstones_to_delete)


@bug("a halted shard is resumed by its row")
def resume_not_heard(patch: Patch) -> None:
    """Look at the pause only."""

    def obey(self: Any, holding: Any, row: Lease, group: Any, *, is_paused: bool) -> None:
        holding.consumer.pause(is_paused=is_paused)

    patch.setattr(Holdings, "obey", obey)


@bug("a shard that was halted is read on from its checkpoint")
def halted_records_passed_over(patch: Patch) -> None:
    """Leave out what was read when a halted shard is given back."""
    original = Holdings.release

    async def release(self: Any, holding: Any) -> None:
        if holding.consumer.state is ShardState.DRAINING and holding.is_halt_noted and holding.consumer._through:
            await holding.held.write(LeaseChange(checkpoint=Checkpoint.at(holding.consumer._through)))
        await original(self, holding)

    patch.setattr(Holdings, "release", release)
