"""Says how much time is left before unread data is trimmed, and keeps a record where some was."""

from __future__ import annotations

from typing import Final

import orjson

from consumer.core.object_key import GAP_FOLDER, constant_prefix, position_text
from consumer.core.retention_watch import RetentionGap, RetentionWatch, is_in_retention
from consumer.lease_table import HeldLease
from consumer.retrier import Retrier
from shared.lease import CheckpointKind, PendingFlush
from shared.ports import Clock, ObjectStore, Telemetry
from shared.records import Position, RecordPage

_SECONDS_PER_HOUR: Final = 3600.0
_DEFAULT_HOURS: Final = 24  # the service's shortest


class Retention:
    """What the shards of a worker share: the stream's retention period, and where gaps are recorded."""

    def __init__(
        self,
        objects: ObjectStore | None,
        error_prefix: str,
        *,
        retrier: Retrier,
        clock: Clock,
        telemetry: Telemetry,
        closing_seconds: float | None = None,
    ) -> None:
        """`closing_seconds`: how long after an hour it is closed where nothing comes; None: hours are not closed."""
        self._objects = objects
        self._folder = constant_prefix(error_prefix) + GAP_FOLDER
        self._retrier = retrier
        self.clock = clock
        self.telemetry = telemetry
        self.closing_seconds = closing_seconds
        self.seconds = _DEFAULT_HOURS * _SECONDS_PER_HOUR

    def set_hours(self, hours: int) -> None:
        """Take the period that the stream has now."""
        self.seconds = hours * _SECONDS_PER_HOUR

    async def record(self, gap: RetentionGap, generation: int) -> None:
        """Keep a gap as an object, once: its name is where reading had come to, however often it is found."""
        again = f".g{generation}" if generation else ""
        key = f"{self._folder}{gap.shard_id}-{position_text(gap.last_read)}{again}.json"
        if self._objects is not None and not await self._put(self._objects, key, self._describe(gap)):
            return
        self.telemetry.count("retention_gaps")
        self.telemetry.error(
            "retention_gap_found",
            shard_id=gap.shard_id,
            last_read=position_text(gap.last_read),
            first_available="" if gap.first_available is None else position_text(gap.first_available),
            read_through=gap.read_through,
            first_arrival=gap.first_arrival,
            consequence="what arrived in between may have been trimmed unread",
        )

    async def _put(self, objects: ObjectStore, key: str, body: bytes) -> bool:
        return await self._retrier.call(
            "put_object",
            lambda: objects.put_object(key, body, content_type="application/json", only_if_absent=True),
        )

    def _describe(self, gap: RetentionGap) -> bytes:
        available = gap.first_available
        return orjson.dumps(
            {
                "errorCode": "RetentionGap",
                "errorMessage": "What arrived in between may have been trimmed before it was read",
                "shardId": gap.shard_id,
                "lastReadSequenceNumber": str(gap.last_read.sequence_number),
                "lastReadSubSequenceNumber": gap.last_read.sub_sequence_number,
                "readThroughTimestamp": _milliseconds(gap.read_through),
                "firstAvailableSequenceNumber": None if available is None else str(available.sequence_number),
                "firstAvailableTimestamp": _milliseconds(gap.first_arrival),
                "detectedTimestamp": _milliseconds(self.clock.wall()),
                "retentionSeconds": int(self.seconds),
            }
        )


class ShardRetention:
    """The watch over one shard under one lease."""

    def __init__(self, retention: Retention, held: HeldLease) -> None:
        self._retention = retention
        self._held = held
        self._watch = RetentionWatch(held.shard_id)

    def expect(self, stored: Position) -> None:
        """Say that reading begins AT a record that was read before."""
        self._watch.expect(stored, self._held.read_through)

    async def take(self, page: RecordPage, *, is_all_stored: bool) -> None:
        """Take a page: look for a gap before it, and say when time runs short.

        `is_all_stored`: nothing that was read waits for its checkpoint.
        """
        retention, records, age_milliseconds = self._retention, page.records, page.behind_milliseconds
        now = retention.clock.wall()
        is_tip = not records and (not age_milliseconds or page.next_iterator is None)
        gap = self._watch.find_gap(records, now, retention.seconds, is_tip=is_tip)
        if gap is not None:
            await retention.record(gap, self._held.row.generation)
        if is_tip and is_all_stored:
            self._held.read_through = now
            if retention.closing_seconds is not None:
                self._held.close_until(now - retention.closing_seconds)
        self.measure(age_milliseconds)

    async def take_rebuilt(self, pending: PendingFlush, first: Position | None) -> None:
        """Record what of a prepared flush was trimmed, given the first record that is left; before it is committed."""
        if first is not None and first <= pending.first:
            return
        row, last = self._held.row, pending.last
        stored = row.checkpoint.position if row.checkpoint.kind is CheckpointKind.NUMBER else Position(0)
        left = first or Position(last.sequence_number + 1)  # no record has that number: the gap may go on
        await self._retention.record(RetentionGap(row.shard_id, stored, row.read_through, left, None), row.generation)

    def measure(self, age_milliseconds: int) -> None:
        """Take the age of the oldest unread record."""
        retention, age = self._retention, age_milliseconds / 1000
        headroom = max(0.0, retention.seconds - age)
        retention.telemetry.gauge("retention_headroom_seconds", headroom, shard_id=self._held.shard_id)
        if self._watch.cross(age, retention.seconds):
            retention.telemetry.count("retention_headroom_low")
            retention.telemetry.warning(
                "retention_headroom_low",
                shard_id=self._held.shard_id,
                headroom_seconds=round(headroom),
                retention_seconds=int(retention.seconds),
            )

    async def lose_shard(self) -> None:
        """Record that a whole shard is past retention, unless it was read to its tip not long before."""
        row, retention = self._held.row, self._retention
        through = self._held.read_through
        if is_in_retention(through, retention.clock.wall(), retention.seconds):
            return
        position = row.checkpoint.position if row.checkpoint.kind is CheckpointKind.NUMBER else Position(0)
        await retention.record(RetentionGap(row.shard_id, position, through, None, None), row.generation)


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1000)
