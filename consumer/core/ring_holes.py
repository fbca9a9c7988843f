"""Which hash keys no unfinished lease row covers, and for how long that has been so."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import takewhile

from shared.hash_key import HashKeyRange


class RingHoles:
    """The holes in the ring of hash keys at each look.

    One lasts from the first look at which a part of it was a hole, as long as each later look has found a part of that.
    While a stream is resharded rows come parents first, so that there is a hole at one look and another at the next.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._since: dict[HashKeyRange, float] = {}  # ascending

    def look(self, holes: Sequence[HashKeyRange], now: float) -> list[HashKeyRange]:
        """Take note of the holes there are, in ascending order, and return those that have lasted too long."""
        former = list(self._since)
        starts = [each.start for each in former]
        since: dict[HashKeyRange, float] = {}
        for hole in holes:
            last = bisect_right(starts, hole.end) - 1
            overlapping = takewhile(hole.overlaps, (former[index] for index in range(last, -1, -1)))
            since[hole] = min((self._since[each] for each in overlapping), default=now)
        self._since = since
        return [hole for hole, began_at in since.items() if now - began_at > self._patience]
