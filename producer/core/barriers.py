"""Finds how far a source is done: the end of the acknowledged prefix, at points where a restart may begin."""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

PlaceT = TypeVar("PlaceT")
_SEGMENTS_MAX: Final = 16  # each holds a snapshot of the parser; beyond it, segments get longer instead


class Segment(Generic[PlaceT]):
    """The records between two barriers; `pending` of them are unacknowledged."""

    __slots__ = ("end", "pending")

    def __init__(self) -> None:
        self.pending = 0
        self.end: PlaceT | None = None  # the barrier; None while the segment is being filled


class Barriers(Generic[PlaceT]):
    """Counts acknowledgements per segment, so that a record costs two additions and no memory of its own.

    The caller adds 1 to `current.pending` for a record and takes it off at its acknowledgement.
    """

    def __init__(self) -> None:
        self.current: Segment[PlaceT] = Segment()
        self._segments: deque[Segment[PlaceT]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether another barrier may be set."""
        return len(self._segments) < _SEGMENTS_MAX

    def cut(self, place: PlaceT) -> None:
        """Set a barrier: everything put so far lies before `place`."""
        self.current.end = place
        self._segments.append(self.current)
        self.current = Segment()

    def reached(self) -> PlaceT | None:
        """Return the furthest barrier before which everything is acknowledged, once; None if there is no new one."""
        place: PlaceT | None = None
        while self._segments and not self._segments[0].pending:
            place = self._segments.popleft().end
        return place
