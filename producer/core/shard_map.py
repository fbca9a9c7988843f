"""Which open shard a hash key belongs to, by what ListShards said last."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from shared.hash_key import HashKeyRange
from shared.limits import HASH_KEY_MAX
from shared.records import Shard


class ShardMap:
    """An immutable view of a stream's shards.

    A shard id never changes its range, so an old map is never wrong about a range, only about which shards are open.
    """

    def __init__(self, shards: Iterable[Shard] = ()) -> None:
        known = tuple(shards)
        self._ranges = {shard.shard_id: shard.hash_key_range for shard in known}
        self._set_open([(shard.hash_key_range, shard.shard_id) for shard in known if shard.is_open])

    def _set_open(self, pairs: list[tuple[HashKeyRange, str]]) -> None:
        self._open = sorted(pairs, key=lambda pair: pair[0].start)
        self._starts = [pair[0].start for pair in self._open]
        self._open_ids = frozenset(pair[1] for pair in self._open)
        self._by_lane: dict[tuple[int, int], str | None] = {}  # filled as lanes are asked for

    def _shard_of_lane(self, lane: int, lanes: int) -> str | None:
        width = (HASH_KEY_MAX + 1) // lanes
        index = bisect_right(self._starts, lane * width) - 1
        if index < 0 or self._open[index][0].end < (lane + 1) * width - 1:
            return None
        return self._open[index][1]

    def predict(self, hash_key: int) -> str | None:
        """Return the open shard that a record with this hash key will go to; None if the map does not know."""
        index = bisect_right(self._starts, hash_key) - 1
        if index < 0 or self._open[index][0].end < hash_key:
            return None
        return self._open[index][1]

    def predict_lane(self, lane: int, lanes: int) -> str | None:
        """Return the open shard that takes the whole lane, one of so many; None if a boundary cuts it or is unknown."""
        place = (lane, lanes)
        if place not in self._by_lane:
            self._by_lane[place] = self._shard_of_lane(lane, lanes)
        return self._by_lane[place]

    def range_of(self, shard_id: str) -> HashKeyRange | None:
        """Return the range of a shard, open or closed; None if the map has never heard of it."""
        return self._ranges.get(shard_id)

    def is_open(self, shard_id: str) -> bool:
        """Whether the map takes this shard for open."""
        return shard_id in self._open_ids

    @property
    def open_ids(self) -> frozenset[str]:
        """The ids of the open shards."""
        return self._open_ids

    @property
    def open_count(self) -> int:
        """How many open shards the map knows."""
        return len(self._open)

    def without(self, shard_id: str) -> ShardMap:
        """Return a map that no longer predicts this shard: a record meant for it has landed elsewhere."""
        changed = ShardMap()
        changed._ranges = self._ranges
        changed._set_open([pair for pair in self._open if pair[1] != shard_id])
        return changed
