"""Finds the shards that share hash keys with one, without looking at all of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from shared.hash_key import HashKeyRange


class RangeIndex:
    """Names by their range of hash keys: sorted by where ranges start, under a tree of where they end at the latest.

    Finding k of n takes about k log n comparisons, however the ranges overlap.
    """

    def __init__(self, ranges: Iterable[tuple[str, HashKeyRange]]) -> None:
        entries = sorted(ranges, key=lambda entry: entry[1].start)
        self._names = [name for name, _ in entries]
        self._starts = [covered.start for _, covered in entries]
        self._levels = max(0, len(entries) - 1).bit_length()
        self._leaves = 1 << self._levels
        ends = [covered.end for _, covered in entries]
        # Node n is above 2n and 2n + 1, and the root is 1; -1 lies before every hash key.
        self._ends = [-1] * self._leaves + ends + [-1] * (self._leaves - len(ends))
        for node in range(self._leaves - 1, 0, -1):
            self._ends[node] = max(self._ends[2 * node], self._ends[2 * node + 1])

    def overlapping(self, wanted: HashKeyRange) -> Iterator[str]:
        """Yield the names whose range has a hash key in common with `wanted`, in the order of their starts."""
        count = bisect_right(self._starts, wanted.end)
        nodes = [1]
        while nodes:
            node = nodes.pop()
            first = (node << (self._levels + 1 - node.bit_length())) - self._leaves
            if first >= count or self._ends[node] < wanted.start:
                continue
            if node >= self._leaves:
                yield self._names[first]
            else:
                nodes += (2 * node + 1, 2 * node)
