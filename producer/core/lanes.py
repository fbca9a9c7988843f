"""The queues in front of the batcher: one per lane, so that a lane in flight holds back nobody else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from producer.core.spill_frame import SpilledRecord
from shared.errors import PartitionKeyError, RecordTooLargeError
from shared.hash_key import hash_key_of
from shared.lanes import LANES, lane_of
from shared.limits import HASH_KEY_MAX, PARTITION_KEY_CHARACTERS_MAX
from shared.ports import Receipt

# Data, partition key, hash key of the partition key, explicit hash key, receipt, token, bytes of data and key. A tuple:
# it is made for every record, and a class costs three times as much.
QueuedRecord = tuple[bytes, str, int, int | None, Receipt | None, Any, int]

RECORD_OVERHEAD_BYTES: Final = 256  # what a queued record costs beyond its bytes: objects, tuple, queue slot, token
_KEYS_KEPT_MAX: Final = 65_536
_LANE_SHIFT: Final = 128 - 8

assert lane_of(HASH_KEY_MAX) == HASH_KEY_MAX >> _LANE_SHIFT == LANES - 1


def effective_hash_key(record: QueuedRecord) -> int:
    """Return the hash key that decides on the record's shard."""
    explicit = record[3]
    return record[2] if explicit is None else explicit


class Lane:
    """The records of one lane that wait, in the order in which they were put."""

    __slots__ = ("alone", "bytes", "has_explicit", "index", "is_blocked", "queue", "ready_since", "spilled")

    def __init__(self, index: int) -> None:
        self.index = index
        self.queue: deque[QueuedRecord] = deque()
        self.alone = 0  # so many of the first records are to be sent unwrapped: one of them was refused
        self.bytes = 0  # of what is queued: data and keys
        self.has_explicit = False  # whether a record with an explicit hash key was queued since it was empty
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
        self._keys: dict[str, tuple[int, int]] = {}  # hash key and bytes of the partition keys seen last
        self._queues = [lane.queue for lane in self.lanes]

    @property
    def queued(self) -> int:
        """How many records wait in the lanes."""
        return sum(map(len, self._queues))

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
        receipt: Receipt | None,
        token: Any,
        explicit_hash_key: int | None,
        now: float,
    ) -> bool:
        """Queue a record; False if the buffer is full, or older records of its lane are spilled: nothing was done.

        Raises RecordTooLargeError or PartitionKeyError for a record that no stream would take.
        """
        known = self._keys.get(partition_key)
        if known is None:
            known = self._learn_key(partition_key)
        hash_key, size = known
        size += len(data)
        if size > self.record_bytes_max:
            raise self._too_large(size)
        if explicit_hash_key is not None:
            _check_explicit_hash_key(explicit_hash_key)
        lane = self.lanes[hash_key >> _LANE_SHIFT]
        room_taken = self._room_taken + size
        if lane.spilled or (room_taken > self._buffer_bytes_max and self._room_taken):
            return False
        self._room_taken = room_taken + RECORD_OVERHEAD_BYTES
        self.accepted += 1
        lane.bytes += size
        queue = lane.queue
        if not queue:
            lane.ready_since = now
            lane.has_explicit = False
            if not lane.is_blocked:
                self.ready.append(lane)
        if explicit_hash_key is not None:
            lane.has_explicit = True
        queue.append((data, partition_key, hash_key, explicit_hash_key, receipt, token, size))
        if not lane.is_blocked:
            self.ready_bytes += size
            self.ready_count += 1
        return True

    def accept_spilled(self, record: SpilledRecord, receipt: Receipt, token: Any, now: float) -> bool:
        """Queue the oldest spilled record of its lane; False if the buffer is full. Errors as in `accept`."""
        lane = self.lanes[self.hash_key(record.partition_key) >> _LANE_SHIFT]
        spilled, lane.spilled = lane.spilled, 0
        try:
            is_queued = self.accept(record.data, record.partition_key, receipt, token, record.explicit_hash_key, now)
        finally:
            lane.spilled = spilled
        if is_queued:
            lane.spilled -= 1
            self.spilled -= 1
            self.accepted -= 1  # it was counted when it was spilled
        return is_queued

    def reject_spilled(self, record: SpilledRecord) -> None:
        """Count the oldest spilled record of its lane as one that no stream takes."""
        self.lanes[self.hash_key(record.partition_key) >> _LANE_SHIFT].spilled -= 1
        self.spilled -= 1
        self.undeliverable += 1

    def hash_key(self, partition_key: str) -> int:
        """Return the hash key of a partition key; PartitionKeyError if Kinesis would not take it."""
        known = self._keys.get(partition_key)
        return (self._learn_key(partition_key) if known is None else known)[0]

    def _learn_key(self, partition_key: str) -> tuple[int, int]:
        if not 0 < len(partition_key) <= PARTITION_KEY_CHARACTERS_MAX:
            msg = (
                f"the partition key has {len(partition_key):,} characters; "
                f"1 to {PARTITION_KEY_CHARACTERS_MAX} are allowed"
            )
            raise PartitionKeyError(msg)
        try:
            hash_key = hash_key_of(partition_key)
        except UnicodeEncodeError:
            msg = "the partition key holds a lone surrogate, which UTF-8 can't express"
            raise PartitionKeyError(msg) from None
        if len(self._keys) >= _KEYS_KEPT_MAX:
            self._keys.clear()
        known = self._keys[partition_key] = hash_key, len(partition_key.encode())
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
        if lane.queue:
            self.ready.append(lane)
            self.ready_bytes += lane.bytes
            self.ready_count += len(lane.queue)

    def release(self, lanes: Iterable[Lane]) -> None:
        """Unblock lanes whose stream record is settled."""
        for lane in lanes:
            if lane.is_blocked:
                lane.is_blocked = False
                self.make_ready(lane)

    def return_to_front(self, records: list[QueuedRecord], *, alone: bool = False) -> None:
        """Put records back before everything newer of their lanes, which are blocked (or have no order to keep).

        With `alone`, each is to be sent unwrapped.
        """
        for record in reversed(records):
            lane = self.lanes[record[2] >> _LANE_SHIFT]
            lane.alone += alone
            size = record[6]
            if not lane.is_blocked:
                if not lane.queue:
                    self.ready.append(lane)
                self.ready_bytes += size
                self.ready_count += 1
            lane.has_explicit = record[3] is not None or (lane.has_explicit and bool(lane.queue))
            lane.queue.appendleft(record)
            lane.bytes += size

    def settle(self, count: int, size: int) -> None:
        """Give back the room of records whose outcome is known."""
        self._settled += count
        self._room_taken -= size + count * RECORD_OVERHEAD_BYTES

    def reject(self, record: QueuedRecord) -> None:
        """Give back the room of a record that the stream does not take."""
        self.undeliverable += 1
        self._room_taken -= record[6] + RECORD_OVERHEAD_BYTES


def _check_explicit_hash_key(explicit_hash_key: int) -> None:
    if not 0 <= explicit_hash_key <= HASH_KEY_MAX:
        raise PartitionKeyError(f"explicit hash key {explicit_hash_key} is not inside 0..2^128-1")
