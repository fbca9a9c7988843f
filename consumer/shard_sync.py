"""Keeps the lease table in step with the stream: new shards, lost rows, tombstones, holes in the ring of hash keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from consumer.core.retention_watch import RetentionGap
from consumer.core.ring_holes import RingHoles
from consumer.core.row_memory import RowMemory, tombstones_to_delete
from consumer.core.shard_graph import of_former_stream, rows_to_create
from consumer.lease_table import LeaseTable
from consumer.retention import Retention
from consumer.retrier import Retrier
from shared.hash_key import FULL_RANGE, holes
from shared.lease import AT_TRIM_HORIZON, Checkpoint, Lease, TableRows
from shared.log_limit import LimitedLog
from shared.ports import Clock, Kinesis, Telemetry
from shared.records import Position, Shard

_DESCRIBE_SECONDS: Final = 300.0  # how soon a new retention period is known
_LISTING_SECONDS_MAX: Final = 300.0  # by which ListShards, and a clock, may lag behind
_ERROR_SECONDS_MIN: Final = 600.0  # between two lines about rows of a former stream
_CREATIONS_MAX: Final = 16  # at a time: a stream of 1,000 shards starts in seconds, a small table isn't throttled


class ShardSync:
    """What every worker does now and then; all of it is safe to be done by several at once."""

    def __init__(
        self,
        stream: str,
        initial: Checkpoint,
        *,
        kinesis: Kinesis,
        table: LeaseTable,
        retrier: Retrier,
        retention: Retention,
        patience_seconds: float,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._stream = stream
        self._initial = initial
        self._kinesis = kinesis
        self._table = table
        self._retrier = retrier
        self._retention = retention
        self._clock = clock
        self._telemetry = telemetry
        self._memory = RowMemory(patience_seconds)
        self._holes = RingHoles(patience_seconds)
        self._log = LimitedLog(telemetry, clock, seconds_min=_ERROR_SECONDS_MIN)
        self._described_at = clock.monotonic()  # the worker did so as it started

    async def sync(self, rows: TableRows, held: Mapping[str, Lease]) -> bool:
        """Compare the stream with the rows that were just read; whether any row was written.

        `held`: the rows of the leases that this worker holds, or held last.
        """
        await self._follow_retention()
        shards = await self._retrier.call("list_shards", lambda: self._kinesis.list_shards(self._stream))
        listed = {shard.shard_id for shard in shards}
        leases = {row.shard_id: row for row in rows.leases}
        self._memory.look(rows, held, listed, self._clock.monotonic())
        self._audit(shards, leases)
        written = await self._restore(held, leases, set(rows.damaged))
        written += await self._create(shards, leases, set(rows.damaged))
        await self._delete_tombstones(leases, shards)
        return bool(written)

    def note(self, rows: TableRows) -> None:
        """Take note of rows between two syncs: one that nobody remembers would be begun anew when it is gone."""
        self._memory.note(rows)

    async def _follow_retention(self) -> None:
        if self._clock.monotonic() - self._described_at < _DESCRIBE_SECONDS:
            return
        summary = await self._retrier.call("describe_stream", lambda: self._kinesis.describe_stream(self._stream))
        self._retention.set_hours(summary.retention_hours)
        self._described_at = self._clock.monotonic()

    async def _restore(self, held: Mapping[str, Lease], leases: dict[str, Lease], damaged: set[str]) -> int:
        restored = self._memory.to_restore(held, self._clock.monotonic())
        for row in restored:
            leases[row.shard_id] = row
            if await self._write(row, damaged):
                self._telemetry.error(
                    "lease_row_restored",
                    shard_id=row.shard_id,
                    checkpoint=row.checkpoint.text,
                    consequence="none" if row.shard_id in held else "what was stored since is stored again",
                )
                self._telemetry.count("lease_rows_restored")
        return len(restored)

    async def _create(self, shards: Sequence[Shard], leases: Mapping[str, Lease], damaged: set[str]) -> int:
        """Write the rows that are missing; a row that was there before is left to its owner for a while."""
        new = [row for row in rows_to_create(shards, leases, self._initial) if row.shard_id not in damaged]
        if damaged:
            # Nothing tells how far a row that can't be read had come: never skip, read all of the shard again.
            new += [row for row in rows_to_create(shards, leases, AT_TRIM_HORIZON) if row.shard_id in damaged]
        now = self._clock.monotonic()
        new = [row for row in new if not self._memory.is_left_to_others(row.shard_id, now)]
        await self._tell_lost_parents([row for row in new if row.shard_id not in damaged], shards, leases)
        gate = asyncio.Semaphore(_CREATIONS_MAX)

        async def create(row: Lease) -> None:
            is_damaged = row.shard_id in damaged
            async with gate:
                made = await self._write(row, damaged)
            if made and is_damaged:
                self._telemetry.error(
                    "lease_row_rebuilt", shard_id=row.shard_id, consequence="the shard is read and stored again"
                )
                self._telemetry.count("lease_rows_restored")
            elif made:
                self._telemetry.info("lease_created", shard_id=row.shard_id, start=row.checkpoint.text)

        async with asyncio.TaskGroup() as group:
            for row in new:
                group.create_task(create(row))
        return len(new)

    async def _tell_lost_parents(
        self, new: Sequence[Lease], shards: Sequence[Shard], leases: Mapping[str, Lease]
    ) -> None:
        """Record a gap for each parent that was trimmed before it had a row, where this group has read its ancestors.

        Before the row is made, as nobody looks again after that.
        """
        known = leases.keys() | {shard.shard_id for shard in shards}
        followed = [row for row in new if any(parent in leases for parent in row.parents)]
        lost = {parent: row.generation for row in followed for parent in row.parents if parent not in known}
        for parent, generation in lost.items():
            await self._retention.record(RetentionGap(parent, Position(0), None, None, None), generation)

    async def _write(self, row: Lease, damaged: set[str]) -> bool:
        if row.shard_id in damaged:
            return await self._table.replace_damaged(row)
        return await self._table.create(row)

    async def _delete_tombstones(self, leases: Mapping[str, Lease], shards: Sequence[Shard]) -> None:
        for row in tombstones_to_delete(leases, shards, self._clock.wall(), self._retention.seconds):
            if await self._table.delete(row):
                self._telemetry.info("lease_deleted", shard_id=row.shard_id)

    def _audit(self, shards: Sequence[Shard], leases: Mapping[str, Lease]) -> None:
        """Say where rows are not of this stream, or the ring has no unfinished one although the stream is open there.

        The latter if it stays so: rows are made parents first, so that between two looks a hole is normal.
        """
        former = of_former_stream(shards, leases, self._clock.wall() - _LISTING_SECONDS_MAX)
        if former:
            self._log.error(
                "stream_made_anew",
                stream=self._stream,
                shards=len(former),
                first_shard_id=former[0],
                consequence="positions in the lease table are of a former stream of this name",
                hint="Stop all workers and run `headrace forget`, or read it under another application name (--app)",
            )
        ranges = [
            row.hash_key_range or FULL_RANGE  # an imported row may not tell
            for row in leases.values()
            if not row.checkpoint.is_shard_end
        ]
        uncovered = holes(ranges) if any(shard.is_open for shard in shards) else []
        lasting = self._holes.look(uncovered, self._clock.monotonic())
        self._telemetry.gauge("hash_key_ranges_uncovered", len(lasting))
        if lasting:
            self._telemetry.error(
                "hash_keys_uncovered",
                stream=self._stream,
                ranges=len(lasting),
                first_start=str(lasting[0].start),
                first_end=str(lasting[0].end),
            )
