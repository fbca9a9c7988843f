"""Which open shard a hash key belongs to, by what ListShards said last."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property

from producer.core.lane_indexes import KEYS_KEPT_MAX, checked_hash_key
from shared.hash_key import HashKeyRange
from shared.lanes import LaneDivision
from shared.limits import HASH_KEY_MAX
from shared.records import Shard


class ShardMap:
    """An immutable view of a stream's shards.

    A shard id never changes its range, so an old map is never wrong about a range, only about which shards are open;
    but a stream that is deleted and made again has the same ids with other ranges.
    """

    def __init__(self, shards: Iterable[Shard] = ()) -> None:
        known = tuple(shards)
        self._ranges = {shard.shard_id: shard.hash_key_range for shard in known}
        self._set_open([(shard.hash_key_range, shard.shard_id) for shard in known if shard.is_open])

    def _set_open(self, pairs: list[tuple[HashKeyRange, str]]) -> None:
        self._open = sorted(pairs, key=lambda pair: pair[0].start)
        self._starts = [pair[0].start for pair in self._open]
        self._open_ids = frozenset(pair[1] for pair in self._open)
        self._of_lanes: ShardsOfLanes | None = None
        self.of_keys = _ShardsOfKeys(self)

    def predict(self, hash_key: int) -> str | None:
        """Return the open shard that a record with this hash key will go to; None if the map does not know."""
        index = bisect_right(self._starts, hash_key) - 1
        if index < 0 or self._open[index][0].end < hash_key:
            return None
        return self._open[index][1]

    def of_lanes(self, division: LaneDivision) -> ShardsOfLanes:
        """Return, for each part of the lanes, the open shard that takes it whole; None if a boundary cuts it."""
        if self._of_lanes is None or self._of_lanes.division is not division:
            self._of_lanes = ShardsOfLanes(self, division)
        return self._of_lanes

    def predict_range(self, start: int, end: int) -> str | None:
        """Return the open shard that takes all hash keys from `start` to `end`; None if none does, or it is unknown."""
        shard_id = self.predict(start)
        return shard_id if shard_id is not None and end <= self._ranges[shard_id].end else None

    def range_of(self, shard_id: str) -> HashKeyRange | None:
        """Return the range of a shard, open or closed; None if the map has never heard of it."""
        return self._ranges.get(shard_id)

    def is_open(self, shard_id: str) -> bool:
        """Whether the map takes this shard for open."""
        return shard_id in self._open_ids

    def follows(self, former: ShardMap) -> bool:
        """Whether it can be of the same stream as a former map: no range has changed, and there is a stream at all."""
        ranges = self._ranges
        return bool(ranges) and all(ranges.get(name, each) == each for name, each in former._ranges.items())

    @property
    def starts(self) -> Sequence[int]:
        """The first hash key of each open shard, in rising order."""
        return self._starts

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


class _ShardsOfKeys(dict[str, str | None]):
    """The open shards of the partition keys that were asked for last; PartitionKeyError for one that none takes."""

    def __init__(self, shard_map: ShardMap) -> None:
        super().__init__()
        self._shard_map = shard_map

    def __missing__(self, partition_key: str) -> str | None:
        shard_id = self._shard_map.predict(checked_hash_key(partition_key))
        if len(self) >= KEYS_KEPT_MAX:
            self.clear()
        self[partition_key] = shard_id
        return shard_id


class ShardsOfLanes(dict[int, str | None]):
    """Filled as parts of lanes are asked for: in a reshard, many maps follow each other."""

    def __init__(self, shard_map: ShardMap, division: LaneDivision) -> None:
        super().__init__()
        self.division = division
        self._shard_map = shard_map

    def __missing__(self, index: int) -> str | None:
        starts = self.division.starts
        end = starts[index + 1] - 1 if index + 1 < len(starts) else HASH_KEY_MAX
        shard_id = self[index] = self._shard_map.predict_range(starts[index], end)
        return shard_id

    @cached_property
    def is_cut(self) -> bool:
        """Whether a boundary cuts any of them."""
        return not {*self.division.starts}.issuperset(self._shard_map.starts)
