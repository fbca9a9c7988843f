"""Decides what is sent when: batches, retries, back-off, and what an answer means; does no I/O itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from producer.core.call_gate import CallGate
from producer.core.lanes import Lane, LaneQueues, QueuedRecord, effective_hash_key
from producer.core.ledger import Ledger
from producer.core.put_outcome import Verdict, judge
from producer.core.shard_map import ShardMap
from shared.aggregation import Aggregate
from shared.limits import AGGREGATE_RECORDS_MAX
from shared.ports import Delivered, Random
from shared.records import PutEntry, PutResult
from shared.retry import Backoff

_MEMBER_SLACK_BYTES: Final = 88  # what a member, or a stream record, takes at most beyond its data and key
_NEVER: Final = float("inf")


class FlushReason(Enum):
    """Why a batch was due."""

    BYTES = "bytes"
    COUNT = "count"
    LINGER = "linger"
    FLUSH = "flush"
    RETRY = "retry"


class OutgoingRecord:
    """One stream record on its way: its entry stays the same however often it is sent."""

    __slots__ = ("attempts", "entry", "lanes", "members", "shard_id", "size", "wire_bytes")

    def __init__(
        self, entry: PutEntry, members: list[QueuedRecord], lanes: list[Lane], shard_id: str | None, size: int
    ) -> None:
        self.entry = entry
        self.members = members
        self.lanes = lanes  # those that wait for it; none where order is not kept
        self.shard_id = shard_id  # predicted
        self.size = size  # data and keys of the members, as the queues count them
        self.wire_bytes = len(entry.data) + len(entry.partition_key.encode())
        self.attempts = 0

    @property
    def is_aggregate(self) -> bool:
        """Whether it holds more than one user record."""
        return len(self.members) > 1


@dataclass(slots=True)
class Batch:
    """One PutRecords request."""

    reason: FlushReason
    taken_at: float
    records: list[OutgoingRecord] = field(default_factory=list)
    bytes: int = 0

    @property
    def entries(self) -> list[PutEntry]:
        """The entries of the request, in the order in which `settle` expects their results."""
        return [record.entry for record in self.records]


@dataclass(slots=True)
class Settlement:
    """What came of a batch: receipts to hand out, and numbers for the telemetry."""

    delivered: list[tuple[list[QueuedRecord], Delivered]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)  # stream records by error code
    misplaced: int = 0  # aggregates that landed where readers drop them


@dataclass(slots=True)
class _Retry:
    due_at: float
    records: list[OutgoingRecord]


class _Group:
    """An aggregate under construction for one shard."""

    __slots__ = ("aggregate", "bytes", "lanes", "members", "shard_id", "size")

    def __init__(self, shard_id: str) -> None:
        self.shard_id = shard_id
        self.aggregate = Aggregate()
        self.members: list[QueuedRecord] = []
        self.lanes: list[Lane] = []
        self.bytes = 0  # of the aggregate
        self.size = 0  # of its members, as the queues count them


def _bound(record: QueuedRecord) -> int:
    """Return more bytes than the record can take in a request, in an aggregate of its own or in another's."""
    return len(record[0]) + 4 * len(record[1]) + _MEMBER_SLACK_BYTES


class Batcher:
    """Turns queued records into PutRecords requests and answers into outcomes.

    With `keeps_order`, a lane has one stream record in flight and nothing of it overtakes that; what queues up behind
    it travels together. After a failure the same stream record is sent again, so a lane never skips ahead. While
    every call fails, one call at a time probes under full-jitter back-off: the call rate is bounded, nothing expires.
    """

    def __init__(
        self,
        queues: LaneQueues,
        *,
        keeps_order: bool,
        aggregates: bool,
        aggregate_bytes_max: int,
        batch_records_max: int,
        batch_bytes_max: int,
        linger_seconds: float,
        backoff: Backoff,
    ) -> None:
        self.queues = queues
        self.aggregates = aggregates
        self.is_draining = False
        self.shard_map = ShardMap()
        self.needs_shard_map = True
        self._keeps_order = keeps_order
        self._aggregate_bytes_max = min(aggregate_bytes_max, batch_bytes_max, queues.record_bytes_max - 1)
        self._batch_records_max = batch_records_max
        self._batch_bytes_max = batch_bytes_max
        self._linger_seconds = linger_seconds
        self._backoff = backoff
        self._retries: list[_Retry] = []
        self._unverified: list[tuple[OutgoingRecord, PutResult]] = []
        self._gate = CallGate(backoff)
        self._in_flight = 0
        self._acknowledged = 0

    @property
    def ledger(self) -> Ledger:
        """Where every accepted record is now."""
        queues = self.queues
        return Ledger(queues.accepted, self._acknowledged, 0, queues.queued, self._in_flight)

    def next_deadline(self, now: float) -> float | None:
        """Return when `take` should be asked next (may be past); None if only a new record or answer changes it."""
        if self._gate.waits_for_answer:
            return None
        due_at = min((retry.due_at for retry in self._retries), default=_NEVER)
        if self.queues.ready:
            due_at = min(due_at, now if self.is_full() or self.is_draining else self._linger_end())
        return None if due_at == _NEVER else max(due_at, self._gate.closed_until)

    def _linger_end(self) -> float:
        return self.queues.ready_since + self._linger_seconds

    def is_full(self) -> FlushReason | None:
        """Return why what is ready fills a request; None if it does not."""
        queues = self.queues
        if queues.ready_bytes >= self._batch_bytes_max:
            return FlushReason.BYTES
        if not self.aggregates:
            count = len(queues.ready) if self._keeps_order else queues.ready_count
            if count >= self._batch_records_max:
                return FlushReason.COUNT
        return None

    def is_held_back(self, now: float) -> bool:
        """Whether nothing may be sent now, because calls have failed."""
        return self._gate.is_closed(now)

    def _due_reason(self, now: float) -> FlushReason | None:
        if self.is_held_back(now):
            return None
        if any(retry.due_at <= now for retry in self._retries):
            return FlushReason.RETRY
        if not self.queues.ready:
            return None
        if full := self.is_full():
            return full
        if self.is_draining:
            return FlushReason.FLUSH
        return FlushReason.LINGER if now >= self._linger_end() else None

    def take(self, now: float) -> Batch | None:
        """Return the next request if one is due; `settle` or `fail` must follow for each."""
        reason = self._due_reason(now)
        if reason is None:
            return None
        batch = Batch(reason, now)
        self._take_retries(batch, now)
        self._take_ready(batch)
        if not batch.records:
            return None
        self._gate.start()
        return batch

    def _take_retries(self, batch: Batch, now: float) -> None:
        for retry in self._retries:
            if retry.due_at > now:
                continue
            kept: list[OutgoingRecord] = []
            for record in retry.records:
                if record.is_aggregate and record.shard_id and not self.shard_map.is_open(record.shard_id):
                    # Its shard is gone: sent as it is, it would land where readers drop it.
                    self._regroup(record)
                elif self._has_room(batch, 0, record.wire_bytes):
                    batch.records.append(record)
                    batch.bytes += record.wire_bytes
                else:
                    kept.append(record)
            retry.records = kept
        self._retries = [retry for retry in self._retries if retry.records]

    def _has_room(self, batch: Batch, open_groups: int, size: int) -> bool:
        count = len(batch.records) + open_groups
        return not count or (count < self._batch_records_max and batch.bytes + size <= self._batch_bytes_max)

    def _take_ready(self, batch: Batch) -> None:
        groups: dict[str, _Group] = {}
        lanes = self.queues.take_ready()
        untouched: list[Lane] = []
        touched: list[Lane] = []
        for lane in lanes:
            head = lane.queue[0]
            if not self._has_room(batch, len(groups), _bound(head)):
                untouched.append(lane)
                continue
            whole = self.shard_map.predict_lane(lane.index) if self.aggregates else None
            shard_id = whole
            if self.aggregates and (whole is None or head[3] is not None):
                shard_id = self.shard_map.predict(effective_hash_key(head))
            if shard_id is None:
                self._take_single(batch, len(groups), lane)
            else:
                self._fill(batch, groups, lane, shard_id, is_whole=shard_id == whole)
            if not lane.is_blocked:
                touched.append(lane)
        for group in groups.values():
            self._close(batch, group)
        for lane in untouched + touched:  # in this order, so that no lane starves
            self.queues.make_ready(lane)

    def _take_single(self, batch: Batch, groups: int, lane: Lane) -> None:
        """Send records unwrapped: one where order is kept, as many as fit where it is not."""
        while lane.queue:
            record = lane.queue[0]
            if not self._has_room(batch, groups, _bound(record)):
                return
            lane.queue.popleft()
            size = len(record[0]) + len(record[1])
            lane.bytes -= size
            self._launch(batch, OutgoingRecord(PutEntry(record[0], record[1], record[3]), [record], [lane], None, size))
            if self._keeps_order:
                return

    def _fill(self, batch: Batch, groups: dict[str, _Group], lane: Lane, shard_id: str, *, is_whole: bool) -> None:
        """Move the longest prefix of a lane that goes to `shard_id` and fits into that shard's aggregate."""
        group = groups.get(shard_id)
        queue = lane.queue
        limit = self._group_limit(batch, group)
        taken = 0
        while queue:
            record = queue[0]
            data, key, _, explicit, _, _ = record
            if (not is_whole or explicit is not None) and self._predict(record) != shard_id:
                break
            length = len(data) + len(key)
            if group is not None and (
                group.bytes + length + 3 * len(key) > limit or group.aggregate.count >= AGGREGATE_RECORDS_MAX
            ):
                self._close(batch, groups.pop(shard_id))
                group = None
                if taken or not self._has_room(batch, len(groups), _bound(record)):
                    break
            if group is None:
                group = groups[shard_id] = _Group(shard_id)
                limit = self._group_limit(batch, group)
            if not taken:
                group.lanes.append(lane)
            batch.bytes -= group.bytes
            group.bytes = group.aggregate.append(data, key, explicit)
            batch.bytes += group.bytes
            group.members.append(queue.popleft())
            taken += length
            group.size += length
        lane.bytes -= taken
        lane.is_blocked = self._keeps_order and taken > 0

    def _group_limit(self, batch: Batch, group: _Group | None) -> int:
        """Return up to how many bytes an aggregate may grow without bursting itself or the request."""
        room = self._batch_bytes_max - batch.bytes + (group.bytes if group else 0)
        return min(self._aggregate_bytes_max, room) - _MEMBER_SLACK_BYTES

    def _predict(self, record: QueuedRecord) -> str | None:
        return self.shard_map.predict(effective_hash_key(record))

    def _close(self, batch: Batch, group: _Group) -> None:
        batch.bytes -= group.bytes  # `_launch` counts what is sent
        self._launch(
            batch,
            OutgoingRecord(group.aggregate.encode(), group.members, group.lanes, group.shard_id, group.size),
        )

    def _launch(self, batch: Batch, record: OutgoingRecord) -> None:
        if self._keeps_order:
            for lane in record.lanes:
                lane.is_blocked = True
        else:
            record.lanes = []
        count = len(record.members)
        self.queues.queued -= count
        self._in_flight += count
        batch.records.append(record)
        batch.bytes += record.wire_bytes

    def settle(self, batch: Batch, results: Sequence[PutResult], now: float, random: Random) -> Settlement:
        """Take the answer to a batch, one result per entry in order."""
        assert len(results) == len(batch.records), "PutRecords answers each entry"
        settlement = Settlement()
        failed: list[OutgoingRecord] = []
        for record, result in zip(batch.records, results, strict=True):
            if result.error_code:
                settlement.failed[result.error_code] += 1
                failed.append(record)
            else:
                self._place(record, result, settlement, is_final=False)
        if len(failed) < len(batch.records):
            if self._gate.succeed(now):
                for retry in self._retries:
                    retry.due_at = min(retry.due_at, now)
            if failed:
                self._retry_later(failed, now, random)
        else:
            self._retry_all(batch, now, random)
        assert self.ledger.balances, "accepted = acknowledged + undeliverable + pending"
        return settlement

    def _place(self, record: OutgoingRecord, result: PutResult, settlement: Settlement, *, is_final: bool) -> None:
        """Judge a stream record that landed; with `is_final`, an unknown shard counts as the wrong one."""
        hash_keys = map(effective_hash_key, record.members) if record.is_aggregate else None
        verdict = judge(result, record.shard_id, hash_keys, self.shard_map)
        if record.shard_id is not None and result.shard_id != record.shard_id and not is_final:
            self.shard_map = self.shard_map.without(record.shard_id)
            self.needs_shard_map = True
        if verdict is Verdict.UNKNOWN_SHARD and not is_final:
            self._unverified.append((record, result))
        elif verdict is Verdict.DELIVERED:
            count = len(record.members)
            self._in_flight -= count
            self._acknowledged += count
            self.queues.settle(count, record.size)
            self.queues.release(record.lanes)
            settlement.delivered.append((record.members, Delivered(result.shard_id, result.sequence_number)))
        else:
            settlement.misplaced += 1
            self._regroup(record)

    def _regroup(self, record: OutgoingRecord) -> None:
        """Put the members back to the front of their lanes, to be grouped anew."""
        self._in_flight -= len(record.members)
        self.queues.return_to_front(record.members)
        self.queues.release(record.lanes)

    def fail(self, batch: Batch, now: float, random: Random) -> None:
        """Take note that a call failed as a whole; it may have landed, so its stream records stay as they are."""
        self._retry_all(batch, now, random)

    def _retry_all(self, batch: Batch, now: float, random: Random) -> None:
        for record in batch.records:
            record.attempts += 1
        self._retries.append(_Retry(now, batch.records))
        self._gate.fail(batch.taken_at, now, random)

    def _retry_later(self, failed: list[OutgoingRecord], now: float, random: Random) -> None:
        attempt = max(record.attempts for record in failed)
        for record in failed:
            record.attempts += 1
        self._retries.append(_Retry(now + self._backoff.delay(attempt, random), failed))

    def install(self, shard_map: ShardMap) -> Settlement:
        """Take a fresh shard map, and judge what waited for one."""
        self.shard_map = shard_map
        self.needs_shard_map = False
        settlement = Settlement()
        unverified, self._unverified = self._unverified, []
        for record, result in unverified:
            self._place(record, result, settlement, is_final=True)
        return settlement
