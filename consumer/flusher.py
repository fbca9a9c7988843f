"""Writes what a shard must not lose, in the only safe order: PREPARE in the lease row, PUT to S3, COMMIT in the row."""

from __future__ import annotations

from dataclasses import replace

from consumer.archive import Archive, SealedFlush
from consumer.attempts import Attempts
from consumer.budget import Account
from consumer.core.batch import Batch
from consumer.core.circuit_breaker import FAILURES_MIN
from consumer.core.object_key import position_text
from consumer.core.shard_graph import merge_marks
from consumer.lease_table import HeldLease
from consumer.status import Counters
from shared.errors import ShardHaltedError
from shared.lease import SHARD_END, Checkpoint, CheckpointKind, LeaseChange, PendingFlush
from shared.ports import Clock, Telemetry
from shared.records import Position


class Flusher:
    """All data writes of one shard under one lease; none of them overlaps another."""

    def __init__(
        self,
        held: HeldLease,
        archive: Archive | None,
        *,
        account: Account,
        counters: Counters,
        clock: Clock,
        telemetry: Telemetry,
        failed_percent: float,
    ) -> None:
        self._held = held
        self._failed_percent = failed_percent
        self._archive = archive
        self._account = account
        self._counters = counters
        self._clock = clock
        self._telemetry = telemetry
        self.attempts = Attempts(held, telemetry)

    async def flush(self, batch: Batch) -> None:
        """Store a closed batch, all of whose receipts have come, and checkpoint behind it.

        The boundary is fenced before the first object is put, since S3 can't check a lease. A batch that makes no
        object (all duplicates, or no bucket) is only checkpointed.
        """
        if batch.last is None:
            return
        if self._archive is not None:
            row = self._held.row
            not_before = self._held.closed_until or 0.0
            sealed = await self._archive.seal(row.shard_id, batch, row.generation, not_before)
            if sealed is not None:
                self._check_rejected(batch, sealed)
                await self._held.write(LeaseChange(pending=sealed.pending))
                await self._put(self._archive, sealed)
        await self._commit(batch, batch.last)

    async def finish_pending(self, archive: Archive, pending: PendingFlush, batch: Batch) -> None:
        """Store the rebuilt batch of a flush that was prepared before, under the keys that were pinned then."""
        if batch.count != pending.count:
            self._telemetry.error(
                "pending_flush_differs",
                shard_id=self._held.shard_id,
                expected=pending.count,
                found=batch.count,
                first=position_text(pending.first),
                last=position_text(pending.last),
            )
        row, not_before = self._held.row, self._held.closed_until or 0.0
        sealed = await archive.reseal(row.shard_id, pending, batch, row.generation, not_before)
        await archive.abort_uploads(pending)
        if sealed.pending != pending:
            await self._held.write(LeaseChange(pending=sealed.pending))
        await self._put(archive, sealed)
        await self._commit(batch, pending.last)
        self._telemetry.info("pending_flush_replayed", shard_id=self._held.shard_id, records=batch.records)

    async def give_up_pending(self, archive: Archive | None) -> None:
        """Abort the uploads of a flush that can't be replayed: its shard is gone."""
        pending = self._held.row.pending
        if archive is not None and pending is not None:
            await archive.abort_uploads(pending)

    async def anchor(self, before: Position) -> None:
        """Fix where a shard that started at LATEST begins, at the first record seen: LATEST moves on while we read."""
        position = Position(before.sequence_number, before.sub_sequence_number - 1)
        await self._held.write(LeaseChange(checkpoint=Checkpoint.at(position), start_timestamp=None))

    async def anchor_time(self, latest_at: float | None) -> None:
        """Fix when a shard began at LATEST that has brought no record: its next owner must not skip what comes now.

        A later time that is stored was yet to come when this owner began.
        """
        row = self._held.row
        if latest_at is None or row.checkpoint.kind is not CheckpointKind.LATEST:
            return
        if row.start_timestamp is None or latest_at < row.start_timestamp:
            await self._held.write(LeaseChange(start_timestamp=latest_at))

    async def seek(self) -> None:
        """Go where an operator sent this shard; a flush that was pending has to be finished before.

        The shard's own marks would drop what is to be read again. Those of its parents, which are finished, stay right:
        what repeats one of their records belongs to their reading.
        """
        row = self._held.row
        if row.seek_to is None:
            return
        marks = merge_marks(await self._held.read_parents())
        change = LeaseChange(checkpoint=row.seek_to, seek_to=None, marks=marks, generation=row.generation + 1)
        await self._held.write(change)
        self._telemetry.info("shard_sought", shard_id=row.shard_id, generation=self._held.row.generation)

    async def finish(self, children: tuple[str, ...]) -> None:
        """Store SHARD_END; the marks are final, so that whoever comes first can make the children's rows from it."""
        end = LeaseChange(
            checkpoint=SHARD_END, children=children, finished_at=self._clock.wall(), pending=None, owner=None
        )
        if self._held.row.checkpoint.kind is CheckpointKind.LATEST:
            end = replace(end, start_timestamp=None)  # children begin at TRIM_HORIZON, not at a time
        await self._held.write(end)
        self._telemetry.info("shard_finished", shard_id=self._held.shard_id, children=len(children))

    def _check_rejected(self, batch: Batch, sealed: SealedFlush) -> None:
        """Halt before anything is written where too many events do not fit: the columns are wrong, not the events."""
        self._counters.dead_letters += sealed.rejected
        percent = self._failed_percent
        if sealed.rejected >= FAILURES_MIN and sealed.rejected * 100 > percent * batch.count:
            raise ShardHaltedError(
                f"{sealed.rejected:,} of {batch.count:,} events of `{self._held.shard_id}` do not fit the columns of "
                f"the archive, more than {percent:g} %",
                hint="Declare columns that the events fit with archive_schema, then restart",
            )

    async def _put(self, archive: Archive, sealed: SealedFlush) -> None:
        sent = await archive.put(sealed)
        self._counters.objects += len(sealed.pending.keys)
        self._counters.object_bytes += sent

    async def _commit(self, batch: Batch, last: Position) -> None:
        manifests = self._archive.manifests if self._archive is not None else None
        if manifests is not None and batch.last is not None and self._held.row.seek_to is None:
            # Records come nearly in the order of their arrival. What is read again after a seek has its old hours.
            self._held.close_until(batch.last_arrival - manifests.wait_seconds)
        await self._held.write(
            LeaseChange(
                closed_until=self._held.closed_until,
                checkpoint=Checkpoint.at(last),
                marks=batch.marks or {},
                pending=None,
                attempts=self.attempts.policy.after_commit,
                attempted_by=(),
            )
        )
        self._counters.commits += 1
        self._account.free(batch.charged)
        self._telemetry.info(
            "batch_committed",
            shard_id=self._held.shard_id,
            records=batch.records,
            lines=batch.count,
            bytes=batch.size,
            last=position_text(last),
        )
