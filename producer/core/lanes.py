"""The queues in front of the batcher: one per part of a lane, so that a lane in flight holds back nobody else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import compress, repeat
from operator import attrgetter
from typing import Final

from producer.core.lane import Lane, LaneBoard
from producer.core.lane_columns import LaneColumns
from producer.core.lane_indexes import LaneIndexes, check_explicit_hash_key
from producer.core.record_columns import RecordColumns, Ticket, bytes_of, size_of
from producer.core.spill_frame import SpilledRecord
from shared.compiled import COLUMNS
from shared.errors import PartitionKeyError, RecordTooLargeError
from shared.event import id_of_head, with_numbered_id, with_numbered_ids
from shared.lanes import WHOLE, LaneDivision

RECORD_OVERHEAD_BYTES: Final = 256  # what a queued record costs beyond its bytes: objects, tuple, queue slot, token
_LENT_RECORDS_MAX: Final = 8  # of the largest ones: so much may be in memory beyond the buffer
_NEVER: Final = float("inf")
_append: Final = list.append
_waits_since: Final = attrgetter("waits_since")
_ready_since: Final = attrgetter("ready_since")
_run: Final = deque[None](maxlen=0).extend  # of an iterator of calls


Numbering = tuple[tuple[bytes, ...], int]  # of an event id: the heads, one per lane, and the number behind them
Numberings = tuple[tuple[bytes, ...], Sequence[int]]  # of many event ids: a number for each


class LaneQueues:
    """All lanes, and which of them are ready: not empty and not blocked by a stream record in flight.

    A record's lane is that of its partition key, whatever its explicit hash key: readers drop duplicates by a rising
    mark per lane of the partition key. `record_bytes_max` is the stream's limit on data and partition key together.
    """

    def __init__(self, *, buffer_bytes_max: int, record_bytes_max: int) -> None:
        self._is_mixed = False  # whether a record may be queued that has an explicit hash key
        self.has_spill = False  # whether lanes may have spilled records
        self.fresh: list[Lane] = []  # those that were empty and have something now: `stamp` tells them the time
        self.ready: deque[Lane] = deque()
        self.ready_since = _NEVER  # the longest-waiting ready lane waits
        self.ready_bytes = 0
        self.ready_count = 0
        self.accepted = 0
        self.spilled = 0  # records on disk only, counted among the accepted ones
        self.undeliverable = 0
        self.record_bytes_max = record_bytes_max
        self._settled = 0
        self._room_taken = 0  # by all records in memory that are not settled, with their overhead
        self._buffer_bytes_max = buffer_bytes_max
        self._room = buffer_bytes_max  # with what is lent
        self.is_paused = False  # whether nothing is accepted, as if there were no room
        self.divide(WHOLE)

    def divide(self, division: LaneDivision) -> None:
        """Have a queue for each part of the lanes from now on; nothing may be queued or in flight."""
        self.division = division
        self.ready.clear()
        self.fresh.clear()
        self._board = LaneBoard(len(division))
        self.lanes = [Lane(index, self._board) for index in range(len(division))]
        self._datas = [lane.records.datas for lane in self.lanes]
        self._keys = [lane.records.keys for lane in self.lanes]
        self.columns = LaneColumns(self.lanes, self._board, self._datas, self._keys)
        self.indexes = LaneIndexes(division)

    @property
    def ticket(self) -> Ticket | None:
        """That of the records that were queued together last, while some records are not settled."""
        return self._board.ticket

    @property
    def queued(self) -> int:
        """How many records wait in the lanes."""
        return sum(map(len, self._datas))

    @property
    def is_settled(self) -> bool:
        """Whether nothing is queued, sent, on disk or on its way there, and no room is reserved."""
        return not (self._room_taken or self.pending_count or self.spilled or self._board.spilled)

    @property
    def pending_count(self) -> int:
        """How many records in memory are not settled: queued, sent, or waiting to be sent again."""
        return self.accepted - self.spilled - self.undeliverable - self._settled

    @property
    def pending_bytes(self) -> int:
        """Data and keys of the records in memory that are not settled."""
        return self._room_taken - self.pending_count * RECORD_OVERHEAD_BYTES

    def accept(
        self,
        data: bytes,
        partition_key: str,
        ticket: Ticket | None = None,
        explicit_hash_key: int | None = None,
        numbering: Numbering | None = None,
    ) -> bool:
        """Queue a record; False if the buffer is full, or older records of its lane are spilled: nothing was done.

        With `numbering`, the record is an event that gets its id here, where its lane is known. `stamp` has to follow
        if a lane became `fresh`. Raises RecordTooLargeError or PartitionKeyError for a record that no stream takes.
        """
        if self.is_paused:
            return False
        lane = self.lanes[self.indexes[partition_key]]
        if numbering is not None:
            data = with_numbered_id(data, numbering[0][lane.index], numbering[1])
        size = size_of(data, partition_key)
        if size > self.record_bytes_max:
            raise self._too_large(size)
        if explicit_hash_key is not None:
            check_explicit_hash_key(explicit_hash_key)
        room_taken = self._room_taken + size
        if lane.spilled or (room_taken > self._room and self._room_taken):
            return False
        if not lane.records.datas:
            self._begin(lane)
        self._is_mixed |= explicit_hash_key is not None
        lane.append(data, partition_key, ticket, explicit_hash_key)
        self._room_taken = room_taken + RECORD_OVERHEAD_BYTES
        self.accepted += 1
        if not lane.is_blocked:
            self.ready_bytes += size
            self.ready_count += 1
        return True

    def reserve(self, size: int) -> bool:
        """Take `size` bytes of room for records to come, if there is as much; `unreserve` gives them back."""
        room_taken = self._room_taken + size
        if room_taken > self._room or self.is_paused:
            return False
        self._room_taken = room_taken
        return True

    def lend(self, sizes: Sequence[int]) -> None:
        """Let others have the room that records of these sizes take, up to a bound, until this is called again."""
        lent = sum(sizes) + len(sizes) * RECORD_OVERHEAD_BYTES
        room = self._buffer_bytes_max + min(lent, _LENT_RECORDS_MAX * self.record_bytes_max)
        self._room = max(room, self._room_taken)  # never less than is taken: of that, some may be reserved

    def unreserve(self, size: int) -> None:
        """Give back reserved room, to records that are accepted in the same step."""
        self._room_taken -= size

    def accept_all(
        self,
        datas: Sequence[bytes],
        partition_keys: Sequence[str],
        ticket: Ticket | None,
        numbering: Numberings | None = None,
    ) -> int:
        """Queue the first ones of some records, as `accept` does in a fifth of the time, and return how many.

        With `numbering`, the data are events that lack their last brace (and are not empty). The rest begins with one
        that has to be looked at by itself, as there is no room for it or an error to raise.
        """
        assert len(datas) == len(partition_keys), "each record has a key"
        if self.is_paused:
            return 0
        if not datas or self._queue(datas, partition_keys, ticket, numbering):
            return len(datas)
        try:
            indexes = list(map(self.indexes.__getitem__, partition_keys))
        except PartitionKeyError:
            return self._accept_each(datas, partition_keys, ticket, numbering)  # those before it
        events = datas
        if numbering is not None:
            events = with_numbered_ids(datas, map(numbering[0].__getitem__, indexes), numbering[1])
        size = bytes_of(events, partition_keys)
        room_taken = self._room_taken + size + len(events) * RECORD_OVERHEAD_BYTES
        if (
            room_taken > self._room
            or (size > self.record_bytes_max and max(map(size_of, events, partition_keys)) > self.record_bytes_max)
            or not self._takes_together(indexes)
        ):
            return self._accept_each(datas, partition_keys, ticket, numbering)
        if ticket is not self._board.ticket:
            self._change_ticket(ticket)
        self._begin_all(self._board.idle.intersection(indexes) if self._board.idle else ())
        _run(map(_append, map(self._datas.__getitem__, indexes), events))
        _run(map(_append, map(self._keys.__getitem__, indexes), partition_keys))
        self._room_taken = room_taken
        self.accepted += len(events)
        self._count_ready(indexes, events, partition_keys, size)
        return len(events)

    def _queue(
        self,
        datas: Sequence[bytes],
        partition_keys: Sequence[str],
        ticket: Ticket | None,
        numbering: Numberings | None,
    ) -> bool:
        """Queue all of some records by the compiled part; False if they need a closer look, and nothing was done."""
        if COLUMNS is None or self._is_mixed or self._board.spilled or ticket is not self._board.ticket:
            return False
        heads, numbers = (None, ()) if numbering is None else numbering
        room = self._room - self._room_taken - len(datas) * RECORD_OVERHEAD_BYTES
        queued = COLUMNS.queue_records(
            datas,
            partition_keys,
            self.indexes,
            heads,
            numbers.start if type(numbers) is range else numbers,
            self._datas,
            self._keys,
            self._board.free,
            room,
            self.record_bytes_max,
        )
        if queued is None:
            return False
        size, ready_bytes, ready_count, begun = queued
        self._begin_all(begun)
        self._room_taken += size + len(datas) * RECORD_OVERHEAD_BYTES
        self.accepted += len(datas)
        self.ready_bytes += ready_bytes
        self.ready_count += ready_count
        return True

    def _takes_together(self, indexes: list[int]) -> bool:
        """Whether records of some lanes can be queued in columns."""
        if self._is_mixed and len(self._board.idle) == len(self.lanes):
            self._is_mixed = False
        return not self._is_mixed and not (self._board.spilled and any(self.lanes[each].spilled for each in {*indexes}))

    def _change_ticket(self, ticket: Ticket | None) -> None:
        """Have another ticket for what is queued in columns from now on."""
        for lane in self.lanes:
            if lane.records.datas:
                lane.records.fill_tickets(self._board.ticket)
        self._board.ticket = ticket

    def _count_ready(self, indexes: list[int], events: Sequence[bytes], keys: Sequence[str], size: int) -> None:
        """Count records that were appended to their lanes just now, `size` bytes in all, if these are not blocked."""
        if 0 not in self._board.free:
            self.ready_bytes += size
            self.ready_count += len(events)
            return
        flags = list(map(self._board.free.__getitem__, indexes))
        self.ready_bytes += bytes_of(compress(events, flags), compress(keys, flags))
        self.ready_count += sum(flags)

    def _accept_each(
        self,
        datas: Sequence[bytes],
        partition_keys: Sequence[str],
        ticket: Ticket | None,
        numbering: Numberings | None,
    ) -> int:
        """Do what `accept_all` does, one by one."""
        heads, numbers = (None, repeat(0)) if numbering is None else numbering
        for count, (data, partition_key, number) in enumerate(zip(datas, partition_keys, numbers, strict=False)):
            try:
                lane = self.lanes[self.indexes[partition_key]]
                event = data if heads is None else with_numbered_ids([data], [heads[lane.index]], [number])[0]
                if not self.accept(event, partition_key, ticket):
                    return count
            except (PartitionKeyError, RecordTooLargeError):
                return count  # `accept` raises it again
        return len(datas)

    def _begin_all(self, indexes: Iterable[int]) -> None:
        """Take note of lanes that were empty; in this order, whoever has found them."""
        for index in sorted(indexes):
            self._begin(self.lanes[index])

    def _begin(self, lane: Lane) -> None:
        """Take note of a lane that was empty."""
        self._board.idle.discard(lane.index)
        self.fresh.append(lane)
        if not lane.is_blocked:
            self.ready.append(lane)

    def stamp(self, now: float) -> None:
        """Note since when the fresh lanes wait."""
        for lane in self.fresh:
            lane.ready_since = now
        if self.ready:
            self.ready_since = min(self.ready_since, now)
        self.fresh.clear()

    def event_id(self, partition_key: str, numbering: Numbering) -> str:
        """Return the id that an event gets."""
        return id_of_head(numbering[0][self.lane_of(partition_key).index], numbering[1])

    def numbered(self, data: bytes, partition_key: str, numbering: Numbering) -> bytes:
        """Return an event with its id, as `accept` would queue it."""
        return with_numbered_id(data, numbering[0][self.lane_of(partition_key).index], numbering[1])

    def accept_spilled(self, record: SpilledRecord, ticket: Ticket, now: float) -> bool:
        """Queue the oldest spilled record of its lane; False if the buffer is full. Errors as in `accept`."""
        lane = self.lane_of(record.partition_key)
        spilled, lane.spilled = lane.spilled, 0
        try:
            is_queued = self.accept(record.data, record.partition_key, ticket, record.explicit_hash_key)
        finally:
            lane.spilled = spilled
        self.stamp(now)
        if is_queued:
            lane.spilled -= 1
            self.spilled -= 1
            self.accepted -= 1  # it was counted when it was spilled
        return is_queued

    def reject_spilled(self, record: SpilledRecord) -> None:
        """Count the oldest spilled record of its lane as one that no stream takes."""
        self.lane_of(record.partition_key).spilled -= 1
        self.spilled -= 1
        self.undeliverable += 1

    def lane_of(self, partition_key: str) -> Lane:
        """Return the lane of a partition key; PartitionKeyError if Kinesis would not take it."""
        return self.lanes[self.indexes[partition_key]]

    def _too_large(self, size: int) -> RecordTooLargeError:
        msg = f"data and partition key have {size:,} bytes; the stream takes {self.record_bytes_max:,}"
        return RecordTooLargeError(msg, hint="Send less per record, or raise the stream's MaxRecordSize")

    def take_ready(self) -> deque[Lane]:
        """Hand over all ready lanes; each must be blocked, or given back by `put_back` or `make_ready`."""
        taken, self.ready = self.ready, deque()
        self.ready_bytes = 0
        self.ready_count = 0
        self.ready_since = _NEVER
        return taken

    def put_back(self, lanes: Sequence[Lane], size: int, count: int) -> None:
        """Have lanes ready again of which nothing was taken: `count` records of `size` bytes in all."""
        if lanes:
            self.ready.extend(lanes)
            self.ready_since = min(self.ready_since, *map(_ready_since, lanes))
            self.ready_bytes += size
            self.ready_count += count

    def sort_ready(self) -> None:
        """Have the ready lanes in the order in which requests left them out."""
        self.ready = deque(sorted(self.ready, key=_waits_since))

    def make_ready(self, lane: Lane) -> None:
        """Count a lane among the ready ones, if anything waits in it."""
        records = lane.records
        if count := len(records.datas):
            self.ready.append(lane)
            self.ready_since = min(self.ready_since, lane.ready_since)
            self.ready_bytes += records.size
            self.ready_count += count

    def release(self, lanes: Iterable[Lane]) -> None:
        """Unblock lanes whose stream record is settled."""
        free = self._board.free
        for lane in lanes:
            if not free[lane.index]:
                free[lane.index] = 1
                self.make_ready(lane)

    def return_to_front(self, records: RecordColumns, *, alone: bool = False) -> None:
        """Put records back before everything newer of their lanes, which are blocked (or have no order to keep).

        With `alone`, each is to be sent unwrapped.
        """
        by_lane: dict[Lane, RecordColumns] = {}
        for index, key in enumerate(records.keys):
            returned = by_lane.setdefault(self.lane_of(key), RecordColumns())
            returned.append(records.datas[index], key, records.ticket(index), records.explicit(index))
        for lane, returned in by_lane.items():
            lane.alone += alone * len(returned)
            if not lane.is_blocked:
                if not lane.records.datas:
                    self.ready.append(lane)
                    self.ready_since = min(self.ready_since, lane.ready_since)
                self.ready_bytes += returned.size
                self.ready_count += len(returned)
            self._is_mixed |= returned.hash_keys is not None
            lane.put_before(returned)

    def settle(self, count: int, size: int) -> None:
        """Give back the room of records whose outcome is known."""
        self._settled += count
        self._give_back(size + count * RECORD_OVERHEAD_BYTES)

    def reject(self, size: int) -> None:
        """Give back the room of a record of `size` bytes that the stream does not take."""
        self.undeliverable += 1
        self._give_back(size + RECORD_OVERHEAD_BYTES)

    def _give_back(self, room: int) -> None:
        self._room_taken -= room
        if not self._room_taken:
            self._board.ticket = None  # its token may hold much memory
