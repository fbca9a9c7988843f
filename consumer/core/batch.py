"""What a shard has read since its last batch: the lines of each object to be, and the boundary to checkpoint at."""

from __future__ import annotations

from consumer.core.dead_letter import DeadLetter
from consumer.core.object_key import error_slot
from shared.lease import Marks
from shared.records import Position


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
        self.records = 0
        self.size = 0  # bytes of all lines
        self.charged = 0  # bytes taken from the budget
        self.marks: Marks | None = None  # set when it is closed
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

    def open(self, first: Position, now: float) -> None:
        """Take note of where it begins."""
        self.first = first
        self.opened_at = now

    def extend(self, last: Position, records: int) -> None:
        """Move its end: `records` more were looked at, the last of them at `last`."""
        assert self.first is not None, "a batch is opened before it grows"
        assert self.last is None or last > self.last, "positions rise"
        self.last = last
        self.records += records

    def append(self, slot: str, lines: list[bytes], oldest_arrival: float) -> None:
        """Add lines to an object; `oldest_arrival` is that of the oldest of them, seconds since the epoch."""
        if not self._keeps_lines:
            return
        found = self._slots.get(slot)
        if found is None:
            found = self._slots[slot] = _Slot(oldest_arrival)
        elif oldest_arrival < found.oldest_arrival:
            found.oldest_arrival = oldest_arrival
        body = found.lines
        size = len(body)
        body += b"\n".join(lines)
        body += b"\n"
        found.count += len(lines)
        self.size += len(body) - size

    def append_dead_letter(self, letter: DeadLetter, shard_id: str, now_wall: float) -> None:
        """Add a dead letter."""
        line = letter.encode(shard_id, now_wall)
        self.append(error_slot(letter.error_type), [line], letter.arrival_timestamp)

    def lines_of(self, slot: str) -> bytearray | None:
        """Return the body of an object; None if the batch has nothing for it."""
        found = self._slots.get(slot)
        return found.lines if found else None

    def oldest_arrival(self, slot: str) -> float:
        """Return the arrival of the oldest record of an object, seconds since the epoch."""
        return self._slots[slot].oldest_arrival
