"""Packs what waits in the lanes into a request: aggregates by shard, within the limits of request and shards."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice, repeat
from typing import Any, Final

from producer.core.aggregates import Aggregates
from producer.core.batch import (
    Batch,
    BatchShape,
    Group,
    OutgoingRecord,
    bytes_max,
    head_bytes_max,
    member_bytes_max,
    prefix_within,
    together,
    write,
)
from producer.core.lane import Lane
from producer.core.lane_columns import Left
from producer.core.lanes import LaneQueues
from producer.core.rate import ShardRates
from producer.core.record_columns import RecordColumns, size_of
from producer.core.shard_map import ShardMap
from shared.aggregation import AGGREGATE_OVERHEAD_BYTES, MEMBER_OVERHEAD_BYTES
from shared.compiled import COLUMNS
from shared.limits import AGGREGATE_RECORDS_MAX
from shared.records import PutEntry

_NONE: Final = repeat(None)
_ANY: Final = float("inf")
_UNKNOWN: Final = ShardMap()  # one for all requests, as it remembers that it knows no lane's shard
_new_tuple: Final[Any] = tuple.__new__  # half the time of a NamedTuple's own constructor


class Packer:
    """Moves records from ready lanes into stream records.

    With `keeps_order`, a lane has one stream record in flight; what of it does not fit waits for that one's outcome.
    """

    def __init__(
        self,
        queues: LaneQueues,
        shape: BatchShape,
        *,
        keeps_order: bool,
        rates: ShardRates,
    ) -> None:
        self.rates = rates
        self.held: list[tuple[float, Lane]] = []  # lanes whose shard has no allowance, and until when
        self._requests = 0  # so many were packed
        self._queues = queues
        self._keeps_order = keeps_order
        self._aggregates = shape.aggregates
        self._aggregate_bytes_max = min(shape.aggregate_bytes_max, shape.batch_bytes_max, queues.record_bytes_max - 1)
        self._batch_records_max = shape.batch_records_max
        self._batch_bytes_max = shape.batch_bytes_max
        self._shard_map = _UNKNOWN

    def keep_order(self) -> None:
        """Send one stream record of a lane at a time from now on."""
        self._keeps_order = True

    def has_room(self, batch: Batch, open_groups: int, size: int) -> bool:
        """Whether a request takes one more stream record of `size` bytes beside the groups that are open."""
        count = batch.count + open_groups
        return not count or (count < self._batch_records_max and batch.bytes + size <= self._batch_bytes_max)

    def free_held(self, now: float) -> None:
        """Make lanes ready whose shard has an allowance again, in front of those that wait for less long."""
        freed = [lane for due_at, lane in self.held if due_at <= now]
        if freed:
            self.held = [held for held in self.held if held[0] > now]
            self._queues.release(freed)
            self._queues.sort_ready()

    def add(self, batch: Batch, record: OutgoingRecord) -> None:
        """Add a stream record to a request."""
        if self.rates.is_on:
            self.rates.take(record.shard_id, record.wire_bytes)
        batch.singled.append(record)
        batch.bytes += record.wire_bytes

    def pack(self, batch: Batch, shard_map: ShardMap | None, waiting_since: float = _ANY) -> None:
        """Fill a request from the ready lanes; without a map, nobody can tell which shard a record goes to.

        A lane that waits for less long than `waiting_since` tells only joins the aggregate of its shard.
        """
        self._shard_map = shard_map or _UNKNOWN
        self._requests += 1
        queues = self._queues
        left = Left(queues.ready_bytes, queues.ready_count)
        lanes = queues.take_ready()
        shards = self._shard_map.of_lanes(queues.division)
        taken = self._take_together(batch, lanes, shards, waiting_since, left)
        if taken is None or left.looked_at < len(lanes):
            groups = {} if taken is None else self._go_on(batch, taken)
            self._take_each(batch, groups, lanes, shards, waiting_since, left)
            for group in groups.values():
                self._close(batch, group)
            taken = None
        self._write(batch, taken)
        if self.rates.is_on:  # else nobody asks since when they wait
            for lane in left.untouched:
                self._let_wait(lane)
        # In this order, so that no lane starves; one that was looked at in vain keeps its place, too.
        queues.put_back(left.untouched, left.size, left.count)
        for lane in left.touched:
            if not lane.is_blocked:
                queues.make_ready(lane)

    def _take_each(
        self,
        batch: Batch,
        groups: dict[str, Group],
        lanes: Iterable[Lane],
        shards: Mapping[int, str | None],
        waiting_since: float,
        left: Left,
    ) -> None:
        """Move what can be moved of lanes, one after the other, until the request is full."""
        waiting = islice(lanes, left.looked_at, None)
        for lane in waiting:
            whole = shards[lane.index]
            joins = bool(groups) and lane.ready_since > waiting_since
            if joins and whole is not None and whole not in groups:
                left.untouched.append(lane)
                continue
            count, size = len(lane.records.datas), lane.records.size
            if not self._take(batch, groups, lane, whole, joins=joins):
                left.untouched.append(lane)
                left.untouched.extend(waiting)
            elif lane.is_blocked or len(lane.records.datas) < count:
                left.size, left.count = left.size - size, left.count - count
                left.touched.append(lane)
            else:
                left.untouched.append(lane)

    def _take_together(
        self,
        batch: Batch,
        lanes: Collection[Lane],
        shards: Mapping[int, str | None],
        waiting_since: float,
        left: Left,
    ) -> Aggregates | None:
        """Empty lanes into aggregates of their shards by the compiled part, until one needs a look; None without it."""
        if COLUMNS is None or not self._aggregates or not lanes:
            return None
        limits = (
            max(0, self._batch_records_max - batch.count),
            max(0, self._batch_bytes_max - batch.bytes),
            self._aggregate_bytes_max,
            # Where a shard may have no allowance for another aggregate, that needs a look.
            self._aggregate_bytes_max // (1 if self.rates.is_on else 2),
            AGGREGATE_RECORDS_MAX,
            AGGREGATE_OVERHEAD_BYTES,
            MEMBER_OVERHEAD_BYTES,
        )
        whole = [None if lane.alone or lane.records.hash_keys is not None else shards[lane.index] for lane in lanes]
        if self.rates.is_on:
            whole = self.rates.at_once(whole, self._aggregate_bytes_max, batch.taken_at)
        joins = None if waiting_since == _ANY else bytes([lane.ready_since > waiting_since for lane in lanes])
        return self._queues.columns.take(COLUMNS, list(lanes), whole, joins, limits, left, blocks=self._keeps_order)

    def _go_on(self, batch: Batch, taken: Aggregates) -> dict[str, Group]:
        """Return the groups that more can be added to, by their shards; the others are closed."""
        groups = list(Group.each_of(taken))
        full = len(groups) - len({*taken.shard_ids})  # these come first
        batch.bytes += sum(group.bytes for group in groups)
        for group in groups[:full]:
            self._close(batch, group)
        return {group.shard_id: group for group in groups[full:]}

    def _take(self, batch: Batch, groups: dict[str, Group], lane: Lane, whole: str | None, *, joins: bool) -> bool:
        """Move what can be moved of a lane, or put it aside; False if the request is full."""
        if self._take_whole(batch, groups, lane, whole) if groups else self._take_plain(batch, lane, whole):
            return True
        # A request that has as many records as it may takes what waits for their shards, to hold more of each.
        is_cut = joins or (bool(groups) and batch.count + len(groups) >= self._batch_records_max)
        if not is_cut and not self.has_room(batch, len(groups), head_bytes_max(lane.records, 0)):
            return False
        self._take_part(batch, groups, lane, whole, is_cut=is_cut)
        return True

    def _let_wait(self, lane: Lane) -> None:
        lane.waits_since = min(lane.waits_since, self._requests)

    def _take_part(
        self, batch: Batch, groups: dict[str, Group], lane: Lane, whole: str | None, *, is_cut: bool
    ) -> None:
        """Move what can be moved of a lane: nothing if its shard has no aggregate in a request that is cut."""
        shard_id = whole
        if whole is None or lane.records.hash_keys is not None:
            shard_id = self._predict(lane.records, 0)
        if (is_cut and shard_id not in groups) or self._is_held(batch, groups, lane, shard_id, 0):
            return
        if shard_id is None or not self._aggregates or lane.alone:
            self._take_singles(batch, len(groups), lane, shard_id, whole)
        else:
            self._fill(batch, groups, lane, shard_id, is_whole=shard_id == whole)

    def _take_plain(self, batch: Batch, lane: Lane, shard_id: str | None) -> bool:
        """Move all of a lane into a request as it is, where nothing else is asked for; False if that can't be."""
        records = lane.records
        count, size = len(records.datas), records.size
        if self._aggregates or self._keeps_order or records.hash_keys is not None:
            return False
        if batch.count + count > self._batch_records_max or batch.bytes + size > self._batch_bytes_max:
            return False
        if self.rates.is_on and self._shard_map.open_count:
            if shard_id is None or not self.rates.may_go(shard_id, size, count, batch.taken_at):
                return False
            self.rates.take(shard_id, size, count)
        lane.move_to(batch.plain, count)
        batch.bytes += size
        lane.alone = 0
        return True

    def single(self, plain: RecordColumns, index: int, shard_map: ShardMap | None) -> OutgoingRecord:
        """Return one of the records that were sent as they are by itself, e.g. to send it again."""
        data, key = plain.datas[index], plain.keys[index]
        shard_id = self.shard_of(shard_map, key)
        return OutgoingRecord(PutEntry(data, key), None, (), shard_id, size_of(data, key), plain.ticket(index))

    def next_single(self, lanes: Sequence[Lane], shard_map: ShardMap | None) -> OutgoingRecord | None:
        """Take the first record out of a lane that is blocked, to be sent unwrapped; None if nothing waits there."""
        if not lanes or not lanes[0].records.datas:
            return None
        lane, taken = lanes[0], RecordColumns()
        lane.move_to(taken, 1)
        lane.alone = max(0, lane.alone - 1)
        entry = PutEntry(taken.datas[0], taken.keys[0], taken.explicit(0))
        record = OutgoingRecord(entry, None, (lane,), None, taken.size, taken.ticket(0))
        self.locate(record, shard_map)
        return record

    def locate(self, record: OutgoingRecord, shard_map: ShardMap | None) -> None:
        """Predict where a record goes, if nobody has: it was made before the map was known."""
        if record.shard_id is None:
            _, key, explicit = record.entry
            record.shard_id = self.shard_of(shard_map, key, explicit)

    def shard_of(self, shard_map: ShardMap | None, key: str, explicit_hash_key: int | None = None) -> str | None:
        """Return which shard a record goes to, as far as the map knows."""
        if shard_map is None:
            return None
        return shard_map.of_keys[key] if explicit_hash_key is None else shard_map.predict(explicit_hash_key)

    def _take_whole(self, batch: Batch, groups: dict[str, Group], lane: Lane, shard_id: str | None) -> bool:
        """Move all of a lane into the aggregate of its shard, or put it aside; False if it needs a closer look."""
        records = lane.records
        if shard_id is None or records.hash_keys is not None or lane.alone:
            return False
        group = groups.get(shard_id)
        count = len(records.datas)
        size = records.size + count * MEMBER_OVERHEAD_BYTES
        if group is None:
            size += AGGREGATE_OVERHEAD_BYTES
            taken = members = 0
            if not self._aggregates or batch.count + len(groups) >= self._batch_records_max:
                return False
        else:
            taken, members = group.bytes, len(group.members.datas)
        if (
            taken + size > self._aggregate_bytes_max
            or batch.bytes + size > self._batch_bytes_max
            or members + count > AGGREGATE_RECORDS_MAX
        ):
            return False
        if self.rates.is_on and self._is_held(batch, groups, lane, shard_id, 0):
            return True
        if group is None:
            group = groups[shard_id] = Group(shard_id)
        lane.move_to(group.members, count)
        group.lanes.append(lane)
        group.bytes = taken + size
        batch.bytes += size
        lane.is_blocked = self._keeps_order
        return True

    def _is_held(self, batch: Batch, groups: dict[str, Group], lane: Lane, shard_id: str | None, index: int) -> bool:
        """Put a lane aside until the shard of its record `index` has an allowance; False if it has one."""
        if shard_id is None or not self.rates.is_on:
            return False
        if self._aggregates:
            group = groups.get(shard_id)
            size = min(lane.records.size, self._aggregate_bytes_max) + (group.bytes if group else 0)
        else:
            size = size_of(lane.records.datas[index], lane.records.keys[index])
        ready_at = self.rates.ready_at(shard_id, size, batch.taken_at)
        if ready_at <= batch.taken_at:
            return False
        lane.is_blocked = True
        self._let_wait(lane)
        self.held.append((ready_at, lane))
        return True

    def _take_singles(self, batch: Batch, groups: int, lane: Lane, shard_id: str | None, whole: str | None) -> None:
        """Send records unwrapped: one where order is kept, as many as fit where it is not.

        `shard_id` is the shard of the first one, `whole` that of all without an explicit hash key, if it is one.
        """
        lane.write_tickets()
        records, count, taken = lane.records, 0, 0
        lanes = (lane,) if self._keeps_order else ()
        columns = records.datas, records.keys, records.hash_keys or _NONE, records.tickets or _NONE
        for data, key, explicit, ticket in islice(zip(*columns, strict=False), 1 if self._keeps_order else None):
            size = size_of(data, key)
            if not self.has_room(batch, groups, size):
                break
            if count and shard_id is not None:
                shard_id = self._predict(records, count) if whole is None or explicit is not None else whole
                if self._is_held(batch, {}, lane, shard_id, count):
                    break
            entry = _new_tuple(PutEntry, (data, key, explicit))
            self.add(batch, OutgoingRecord(entry, None, lanes, shard_id, size, ticket))
            count += 1
            taken += size
        lane.is_blocked = lane.is_blocked or bool(count and self._keeps_order)
        lane.drop(count, taken)
        lane.alone = max(0, lane.alone - count)

    def _fill(self, batch: Batch, groups: dict[str, Group], lane: Lane, shard_id: str, *, is_whole: bool) -> None:
        """Move the longest prefix of a lane that goes to `shard_id` and fits into that shard's aggregate."""
        group = groups.get(shard_id)
        count = 0
        if group is not None:
            # To cut a lane costs as much as to begin an aggregate: one that is half full is left as it is.
            is_full = group.bytes > self._aggregate_bytes_max // 2
            count = 0 if is_full else self._prefix(batch, group, lane, is_whole=is_whole)
            if not count:
                self._close(batch, groups.pop(shard_id))
                group = None
        if group is None:
            if not self.has_room(batch, len(groups), head_bytes_max(lane.records, 0)):
                return
            group = groups[shard_id] = Group(shard_id)
            batch.bytes += group.bytes
            count = max(1, self._prefix(batch, group, lane, is_whole=is_whole))  # one record may be larger than that
        batch.bytes -= group.bytes
        group.take(lane, count)
        batch.bytes += group.bytes
        lane.is_blocked = self._keeps_order

    def _prefix(self, batch: Batch, group: Group, lane: Lane, *, is_whole: bool) -> int:
        """Count the first records of a lane that go to the group's shard and fit into its aggregate and the request."""
        records = lane.records
        room = min(self._aggregate_bytes_max - group.bytes, self._batch_bytes_max - batch.bytes)
        count_max = AGGREGATE_RECORDS_MAX - len(group.members)
        is_plain = is_whole and records.hash_keys is None
        if is_plain and len(records) <= count_max and bytes_max(records) <= room:
            return len(records)
        if is_plain:
            return min(count_max, prefix_within(records, room))
        count = 0
        for explicit in islice(records.hash_keys or _NONE, min(count_max, len(records))):
            room -= member_bytes_max(records, count)
            is_ours = (is_whole and explicit is None) or self._predict(records, count) == group.shard_id
            if room < 0 or not is_ours:
                break
            count += 1
        return count

    def _predict(self, records: RecordColumns, index: int) -> str | None:
        return self.shard_of(self._shard_map, records.keys[index], records.explicit(index))

    def _close(self, batch: Batch, group: Group) -> None:
        """Take no more into an aggregate; until it is written, it counts with the most that it can take."""
        self.rates.take(group.shard_id, group.bytes)
        batch.closed.append(group)

    def _write(self, batch: Batch, taken: Aggregates | None) -> None:
        """Write the aggregates that were taken together, or those that are closed, and count what they take in fact."""
        if not self._keeps_order:
            for group in batch.closed:
                group.lanes = []
        closed, batch.closed = batch.closed, []
        aggregates = together(closed) if taken is None else taken
        if aggregates is None:
            records = write(closed)
            shard_ids, sizes = [each.shard_id for each in closed], [each.wire_bytes for each in records]
            batch.singled += records
        else:
            shard_ids, sizes = aggregates.shard_ids, aggregates.write()
            batch.aggregates = aggregates if shard_ids else None
        batch.bytes += sum(sizes) - sum(each.bytes for each in closed)
        if self.rates.is_on:
            counted = [each.bytes for each in closed] or repeat(0)
            for shard_id, size, bound in zip(shard_ids, sizes, counted, strict=False):
                self.rates.take(shard_id, size - bound, not bound)
