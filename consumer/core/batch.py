"""What a shard has read since its last batch: the lines of each object to be, and the boundary to checkpoint at."""

from __future__ import annotations

from typing import Final

from consumer.core.dead_letter import DeadLetter
from consumer.core.object_key import error_slot
from shared.lease import Marks
from shared.records import Position

# What a slot takes besides its lines: the object, its name, a place in the table, the spare room of its bytes.
SLOT_OVERHEAD_BYTES: Final = 640
# Names of objects are pinned in the lease row, twice (the slot and its key, which share long runs with others): what
# they take there once compressed, estimated from above.
PINNED_BYTES_PER_SLOT: Final = 16


class _Slot:
    """The lines of one object: one bytearray, because many small kept objects pin whole pages of memory."""

    __slots__ = ("count", "lines", "oldest_arrival")

    def __init__(self, arrival: float) -> None:
        self.lines = bytearray()
        self.count = 0
        self.oldest_arrival = arrival


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
        self._keeps_lines = keeps_lines
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

    def append(self, slot: str, lines: list[bytes], oldest_arrival: float) -> None:
        """Add lines to an object; `oldest_arrival` is that of the oldest of them, seconds since the epoch."""
        if not self._keeps_lines:
            return
        found = self._slots.get(slot)
        if found is None:
            found = self._slots[slot] = _Slot(oldest_arrival)
            self.pinned_bytes += PINNED_BYTES_PER_SLOT + 2 * len(slot.encode())
        elif oldest_arrival < found.oldest_arrival:
            found.oldest_arrival = oldest_arrival
        body = found.lines
        size = len(body)
        body += b"\n".join(lines)
        body += b"\n"
        found.count += len(lines)
        self.size += len(body) - size
        if len(body) > self.largest[1]:
            self.largest = (slot, len(body))

    def append_dead_letter(self, letter: DeadLetter, shard_id: str, now_wall: float) -> None:
        """Add a dead letter."""
        line = letter.encode(shard_id, now_wall)
        self.append(error_slot(letter.error_type), [line], letter.arrival_timestamp)

    def take_lines(self, slot: str) -> bytearray:
        """Return the body of an object, which the batch forgets."""
        found = self._slots[slot]
        lines, found.lines = found.lines, bytearray()
        return lines

    def lines_of(self, slot: str) -> bytearray | None:
        """Return the body of an object; None if the batch has nothing for it."""
        found = self._slots.get(slot)
        return found.lines if found else None

    def oldest_arrival(self, slot: str) -> float:
        """Return the arrival of the oldest record of an object, seconds since the epoch."""
        return self._slots[slot].oldest_arrival
