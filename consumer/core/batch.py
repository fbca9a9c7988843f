"""What a shard has read since its last batch: the lines of each object to be, and the boundary to checkpoint at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from consumer.core.dead_letter import DeadLetter
from consumer.core.object_key import error_slot
from shared.lease import Marks
from shared.limits import KIB
from shared.records import Position

# What a slot takes besides its lines: the object, its name, a place in the table, the spare room of its bytes.
SLOT_OVERHEAD_BYTES: Final = 640
_BLOCK_BYTES: Final = 32 * KIB
# Names of objects are pinned in the lease row, twice (the slot and its key, which share long runs with others): what
# they take there once compressed, estimated from above.
PINNED_BYTES_PER_SLOT: Final = 16


class _Slot:
    """The lines of one object, in blocks: a long text is one, short ones are put together in the last one.

    Not each of them by itself, because many small kept objects pin whole pages of memory, nor all in one, which would
    be moved eight times while it grows beside others.
    """

    __slots__ = ("blocks", "count", "last", "oldest_arrival", "size")

    def __init__(self, arrival: float) -> None:
        self.blocks: list[bytes | bytearray] = []
        self.last = bytearray()
        self.size = 0
        self.count = 0
        self.oldest_arrival = arrival

    def append(self, lines: bytes) -> None:
        """Add whole lines."""
        self.size += len(lines)
        if len(lines) < _BLOCK_BYTES:
            self.last += lines
            if len(self.last) < _BLOCK_BYTES:
                return
            self.blocks.append(self.last)
        else:
            self.blocks += (self.last, lines)
        self.last = bytearray()

    def take(self) -> bytearray:
        """Return all lines, which are forgotten block by block: hardly any is in memory twice."""
        body, at = bytearray(self.size), 0
        for block in self._drain():
            body[at : at + len(block)] = block
            at += len(block)
        return body

    def _drain(self) -> Iterator[bytes | bytearray]:
        blocks = deque[bytes | bytearray]((*self.blocks, self.last))
        self.blocks, self.last, self.size = [], bytearray(), 0
        while blocks:
            yield blocks.popleft()


class Batch:
    """Grows record by record until it is closed; then it only takes late dead letters of its own records."""

    def __init__(self, opened_at: float, *, keeps_lines: bool) -> None:
        self.opened_at = opened_at  # monotonic seconds of its first record
        self.first: Position | None = None
        self.last: Position | None = None
        self.last_arrival = 0.0  # of the record at `last`, seconds since the epoch
        self.records = 0
        self.size = 0  # bytes of all lines
        self.charged = 0  # bytes taken from the budget
        self.marks: Marks | None = None  # set when it is closed
        self.condemned_after = 0  # attempts at its one record, if that is refused for having killed
        self.pinned_bytes = 0  # at most what the names of its objects take in the lease row
        self.largest: tuple[str, int] = ("", 0)  # the slot with most lines, and their bytes
        self.keeps_lines = keeps_lines
        self._slots: dict[str, _Slot] = {}

    @property
    def slots(self) -> tuple[str, ...]:
        """The objects this batch makes, sorted, so that their order is the same at each attempt."""
        return tuple(sorted(self._slots))

    @property
    def count(self) -> int:
        """How many lines the objects hold together."""
        return sum(slot.count for slot in self._slots.values())

    @property
    def held_bytes(self) -> int:
        """What it takes in memory, about."""
        return self.size + SLOT_OVERHEAD_BYTES * len(self._slots)

    def open(self, first: Position, now: float) -> None:
        """Take note of where it begins."""
        self.first = first
        self.opened_at = now

    def extend(self, last: Position, records: int, arrival: float) -> None:
        """Move its end: `records` more were looked at, the last of them at `last`, which came at `arrival`."""
        assert self.first is not None, "a batch is opened before it grows"
        assert self.last is None or last > self.last, "positions rise"
        self.last = last
        self.last_arrival = arrival
        self.records += records

    def append(self, slot: str, lines: bytes, count: int, oldest_arrival: float) -> None:
        """Add lines, with their newlines, to an object; `oldest_arrival` is that of the oldest (epoch seconds)."""
        if not self.keeps_lines:
            return
        found = self._slots.get(slot)
        if found is None:
            found = self._slots[slot] = _Slot(oldest_arrival)
            self.pinned_bytes += PINNED_BYTES_PER_SLOT + 2 * len(slot.encode())
        elif oldest_arrival < found.oldest_arrival:
            found.oldest_arrival = oldest_arrival
        found.append(lines)
        found.count += count
        self.size += len(lines)
        if found.size > self.largest[1]:
            self.largest = (slot, found.size)

    def append_dead_letter(self, letter: DeadLetter, shard_id: str, now_wall: float) -> None:
        """Add a dead letter."""
        line = letter.encode(shard_id, now_wall)
        self.append(error_slot(letter.error_type), line + b"\n", 1, letter.arrival_timestamp)

    def take_lines(self, slot: str) -> bytearray:
        """Return the body of an object, which the batch forgets."""
        return self._slots[slot].take()

    def blocks_of(self, slot: str) -> Iterator[bytes | bytearray]:
        """Yield the lines of an object in blocks of whole lines."""
        found = self._slots.get(slot)
        return iter((*found.blocks, found.last) if found else ())

    def oldest_arrival(self, slot: str) -> float:
        """Return the arrival of the oldest record of an object, seconds since the epoch."""
        return self._slots[slot].oldest_arrival
