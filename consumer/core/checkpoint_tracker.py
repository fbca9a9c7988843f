"""The contiguous acknowledged prefix of a shard: how far a checkpoint may go while receipts come in any order."""

from __future__ import annotations

from collections import deque

from shared.records import Position


class Unit:
    """A run of neighbouring records that is acknowledged as one, to keep the cost per record low."""

    __slots__ = ("last", "outstanding")

    def __init__(self) -> None:
        self.last: Position | None = None  # set when the unit is sealed
        self.outstanding = 0

    @property
    def is_done(self) -> bool:
        """Whether it is complete and every receipt has come."""
        return self.last is not None and self.outstanding == 0


class CheckpointTracker:
    """Keeps the units in flight in reading order and answers with the end of the contiguous finished prefix."""

    def __init__(self) -> None:
        self._units: deque[Unit] = deque()
        self._last_sealed: Position | None = None
        self.watermark: Position | None = None  # everything up to and including it is done; None: nothing yet

    @property
    def in_flight(self) -> int:
        """How many units are not finished, or wait for one before them."""
        return len(self._units)

    def begin(self) -> Unit:
        """Open the next unit; the one before must be sealed."""
        assert not self._units or self._units[-1].last is not None, "a unit is sealed before the next begins"
        unit = Unit()
        self._units.append(unit)
        return unit

    def reopen(self, unit: Unit) -> None:
        """Let more records join the newest unit, which is not finished: it is to be sealed again behind them."""
        assert unit is self._units[-1], "only the newest unit in flight can grow"
        unit.last = None

    def expect(self, unit: Unit, count: int = 1) -> None:
        """So many more receipts will come for the unit."""
        assert unit.last is None, "a sealed unit expects nothing more"
        unit.outstanding += count

    def seal(self, unit: Unit, last: Position) -> bool:
        """Say that the unit ends with the record at `last`; return whether the watermark moved."""
        assert unit.last is None, "a unit is sealed once, or reopened before"
        assert self._last_sealed is None or last > self._last_sealed, "positions rise"
        unit.last = last
        self._last_sealed = last
        return self._advance()

    def acknowledge(self, unit: Unit, count: int = 1) -> bool:
        """Take receipts of the unit; return whether the watermark moved."""
        assert unit.outstanding >= count, "no more receipts than were expected"
        unit.outstanding -= count
        return unit.outstanding == 0 and self._advance()

    def covers(self, position: Position) -> bool:
        """Whether everything up to and including `position` is done."""
        return self.watermark is not None and self.watermark >= position

    def _advance(self) -> bool:
        units = self._units
        moved = False
        while units and units[0].is_done:
            self.watermark = units.popleft().last
            moved = True
        return moved
