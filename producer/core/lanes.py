"""The queues in front of the batcher: one per lane, so that a lane in flight holds back nobody else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final

from producer.core.record_columns import RecordColumns, Ticket
from producer.core.spill_frame import SpilledRecord
from shared.errors import PartitionKeyError, RecordTooLargeError
from shared.event import id_of_head, id_tails, with_numbered_id
from shared.hash_key import hash_key_of
from shared.lanes import LANES, lane_of
from shared.limits import HASH_KEY_MAX, PARTITION_KEY_CHARACTERS_MAX

RECORD_OVERHEAD_BYTES: Final = 256  # what a queued record costs beyond its bytes: objects, tuple, queue slot, token
_KEYS_KEPT_MAX: Final = 65_536
_LANE_SHIFT: Final = 128 - 8

assert lane_of(HASH_KEY_MAX) == HASH_KEY_MAX >> _LANE_SHIFT == LANES - 1


Numbering = tuple[Sequence[bytes], int]  # of an event id: the heads, one per lane, and the number behind them
Numberings = tuple[Sequence[bytes], list[int]]  # of many event ids: a number for each


class Lane:
    """The records of one lane that wait, in the order in which they were put."""

    __slots__ = ("alone", "index", "is_blocked", "ready_since", "records", "spilled")

    def __init__(self, index: int) -> None:
        self.index = index
        self.records = RecordColumns()
        self.alone = 0  # so many of the first records are to be sent unwrapped: one of them was refused
        self.is_blocked = False
        self.ready_since = 0.0
        self.spilled = 0  # records on disk (or on their way there), which everything newer has to wait for


class LaneQueues:
    """All lanes, and which of them are ready: not empty and not blocked by a stream record in flight.

    A record's lane is that of its partition key, whatever its explicit hash key: readers drop duplicates by a rising
    mark per lane of the partition key. `record_bytes_max` is the stream's limit on data and partition key together.
    """

    def __init__(self, *, buffer_bytes_max: int, record_bytes_max: int) -> None:
        self.lanes = [Lane(index) for index in range(LANES)]
        self._used: dict[int, Lane] = {}  # those that a record was ever put into
        self.fresh: list[Lane] = []  # those that were empty and have something now: `stamp` tells them the time
        self.ready: deque[Lane] = deque()
        self.ready_bytes = 0
        self.ready_count = 0
        self.accepted = 0
        self.spilled = 0  # records on disk only, counted among the accepted ones
        self.undeliverable = 0
        self.record_bytes_max = record_bytes_max
        self._settled = 0
        self._room_taken = 0  # by all records in memory that are not settled, with their overhead
        self._buffer_bytes_max = buffer_bytes_max
        self._keys: dict[str, tuple[Lane, int]] = {}  # lane and bytes of the partition keys that were seen last
        self._places: dict[tuple[int, int], tuple[Lane, int]] = {}  # one for all keys that have it: fewer cache misses
        self._hash_keys: dict[str, int] = {}  # of the keys that `hash_key` was asked for last

    @property
    def queued(self) -> int:
        """How many records wait in the lanes."""
        return sum(len(lane.records.datas) for lane in self._used.values())

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
        known = self._keys.get(partition_key)
        lane, size = self._learn_key(partition_key) if known is None else known
        if numbering is not None:
            data = with_numbered_id(data, numbering[0][lane.index], numbering[1])
        size += len(data)
        if size > self.record_bytes_max:
            raise self._too_large(size)
        if explicit_hash_key is not None:
            _check_explicit_hash_key(explicit_hash_key)
        room_taken = self._room_taken + size
        if lane.spilled or (room_taken > self._buffer_bytes_max and self._room_taken):
            return False
        records = lane.records
        if not records.datas:
            self._begin(lane)
        if explicit_hash_key is not None or ticket is not None or not records.is_plain:
            records.append(data, partition_key, ticket, explicit_hash_key, size)
        else:  # what `append` does
            records.datas.append(data)
            records.keys.append(partition_key)
            records.size += size
        self._room_taken = room_taken + RECORD_OVERHEAD_BYTES
        self.accepted += 1
        if not lane.is_blocked:
            self.ready_bytes += size
            self.ready_count += 1
        return True

    def reserve(self, partition_key: str, size: int) -> int:
        """Take room for a record of `size` bytes; return its size with the key, or 0 if it can't be queued at once.

        Raises PartitionKeyError. `unreserve` has to follow, before records are accepted that are older than this one.
        """
        known = self._keys.get(partition_key)
        lane, key_bytes = self._learn_key(partition_key) if known is None else known
        size += key_bytes
        room_taken = self._room_taken + size
        if size > self.record_bytes_max or room_taken > self._buffer_bytes_max or lane.spilled:
            return 0
        self._room_taken = room_taken + RECORD_OVERHEAD_BYTES
        return size

    def unreserve(self, count: int, size: int) -> None:
        """Give back the room of `count` records, of `size` bytes together, that are accepted in the same step."""
        self._room_taken -= size + count * RECORD_OVERHEAD_BYTES

    def accept_all(
        self,
        datas: Sequence[bytes],
        partition_keys: Sequence[str],
        ticket: Ticket | None,
        numbering: Numberings | None = None,
    ) -> int:
        """Queue the first ones of some records, as `accept` does in a quarter of the time, and return how many.

        With `numbering`, the data are events that lack their last brace (and are not empty). The rest begins with one
        that has to be looked at by itself, as there is no room for it or an error to raise.
        """
        heads = None if numbering is None else numbering[0]
        tails = repeat(b"") if numbering is None else id_tails(numbering[1])
        bytes_max, room_max, join = self.record_bytes_max, self._buffer_bytes_max, b"".join
        room, ready_bytes, ready_count, accepted = self._room_taken, 0, 0, 0
        known = map(self._keys.get, partition_keys)
        for data, partition_key, tail, found in zip(datas, partition_keys, tails, known, strict=False):
            if found is None:
                try:
                    found = self._learn_key(partition_key)  # noqa: PLW2901 - as if it had been known
                except PartitionKeyError:
                    break  # `accept` raises it
            lane, size = found
            records = lane.records
            event = data if heads is None else join((data, heads[lane.index], tail))
            size += len(event)
            if size > bytes_max or room + size > room_max or lane.spilled or records.hash_keys is not None:
                break
            if not records.datas:
                self._begin(lane)
            if not lane.is_blocked:
                ready_bytes += size
                ready_count += 1
            room += size + RECORD_OVERHEAD_BYTES
            accepted += 1
            if records.tickets is not None:
                records.tickets.append(ticket)
            elif ticket is not None:
                records.tickets = [*[None] * len(records.datas), ticket]
            records.datas.append(event)
            records.keys.append(partition_key)
            records.size += size
        self._room_taken = room
        self.ready_bytes += ready_bytes
        self.ready_count += ready_count
        self.accepted += accepted
        return accepted

    def _begin(self, lane: Lane) -> None:
        """Take note of a lane that was empty."""
        self.fresh.append(lane)
        if not lane.is_blocked:
            self.ready.append(lane)

    def stamp(self, now: float) -> None:
        """Note since when the fresh lanes wait."""
        for lane in self.fresh:
            lane.ready_since = now
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

    def hash_key(self, partition_key: str) -> int:
        """Return the hash key of a partition key; PartitionKeyError if Kinesis would not take it."""
        known = self._hash_keys.get(partition_key)
        if known is not None:
            return known
        hash_key = _hash_key_of(partition_key)
        if len(self._hash_keys) >= _KEYS_KEPT_MAX:
            self._hash_keys.clear()
        self._hash_keys[partition_key] = hash_key
        return hash_key

    def lane_of(self, partition_key: str) -> Lane:
        """Return the lane of a partition key; errors as in `hash_key`."""
        known = self._keys.get(partition_key)
        return (self._learn_key(partition_key) if known is None else known)[0]

    def _learn_key(self, partition_key: str) -> tuple[Lane, int]:
        lane = self.lanes[_hash_key_of(partition_key) >> _LANE_SHIFT]
        self._used[lane.index] = lane
        size = len(partition_key.encode())
        if len(self._keys) >= _KEYS_KEPT_MAX:
            self._keys.clear()
            self._places.clear()
        known = self._places.setdefault((lane.index, size), (lane, size))
        self._keys[partition_key] = known
        return known

    def _too_large(self, size: int) -> RecordTooLargeError:
        msg = f"data and partition key have {size:,} bytes; the stream takes {self.record_bytes_max:,}"
        return RecordTooLargeError(msg, hint="Send less per record, or raise the stream's MaxRecordSize")

    @property
    def ready_since(self) -> float:
        """Since when the longest-waiting ready lane waits; infinity if none is ready."""
        return min((lane.ready_since for lane in self.ready), default=float("inf"))

    def take_ready(self) -> deque[Lane]:
        """Hand over all ready lanes; each must be blocked or given back by `make_ready`."""
        taken, self.ready = self.ready, deque()
        self.ready_bytes = 0
        self.ready_count = 0
        return taken

    def make_ready(self, lane: Lane) -> None:
        """Count a lane among the ready ones, if anything waits in it."""
        if lane.records.datas:
            self.ready.append(lane)
            self.ready_bytes += lane.records.size
            self.ready_count += len(lane.records.datas)

    def release(self, lanes: Iterable[Lane]) -> None:
        """Unblock lanes whose stream record is settled."""
        for lane in lanes:
            if lane.is_blocked:
                lane.is_blocked = False
                self.make_ready(lane)

    def return_to_front(self, records: RecordColumns, *, alone: bool = False) -> None:
        """Put records back before everything newer of their lanes, which are blocked (or have no order to keep).

        With `alone`, each is to be sent unwrapped.
        """
        by_lane: dict[Lane, RecordColumns] = {}
        for index, key in enumerate(records.keys):
            by_lane.setdefault(self.lane_of(key), RecordColumns()).extend(records.single(index))
        for lane, returned in by_lane.items():
            lane.alone += alone * len(returned)
            if not lane.is_blocked:
                if not lane.records.datas:
                    self.ready.append(lane)
                self.ready_bytes += returned.size
                self.ready_count += len(returned)
            returned.extend(lane.records)
            lane.records = returned

    def settle(self, count: int, size: int) -> None:
        """Give back the room of records whose outcome is known."""
        self._settled += count
        self._room_taken -= size + count * RECORD_OVERHEAD_BYTES

    def reject(self, size: int) -> None:
        """Give back the room of a record of `size` bytes that the stream does not take."""
        self.undeliverable += 1
        self._room_taken -= size + RECORD_OVERHEAD_BYTES


def _hash_key_of(partition_key: str) -> int:
    if not 0 < len(partition_key) <= PARTITION_KEY_CHARACTERS_MAX:
        msg = (
            f"the partition key has {len(partition_key):,} characters; 1 to {PARTITION_KEY_CHARACTERS_MAX} are allowed"
        )
        raise PartitionKeyError(msg)
    try:
        return hash_key_of(partition_key)
    except UnicodeEncodeError:
        msg = "the partition key holds a lone surrogate, which UTF-8 can't express"
        raise PartitionKeyError(msg) from None


def _check_explicit_hash_key(explicit_hash_key: int) -> None:
    if not 0 <= explicit_hash_key <= HASH_KEY_MAX:
        raise PartitionKeyError(f"explicit hash key {explicit_hash_key} is not inside 0..2^128-1")
