"""How UpdateShardCount with uniform scaling gets from any ranges to N even ones: splits first, then merges."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from shared.hash_key import HashKeyRange, even_ranges


@dataclass(frozen=True, slots=True)
class Split:
    """Split the open shard that covers `new_start` so that the upper child starts there."""

    new_start: int


@dataclass(frozen=True, slots=True)
class Merge:
    """Merge the two open shards that meet at `boundary` (the start of the upper one)."""

    boundary: int


def uniform_scaling(current: list[HashKeyRange], target_count: int) -> list[Split | Merge]:
    """Return the steps that turn `current`, which must tile the ring, into `target_count` even ranges.

    Each boundary of the target that is missing costs a split, each boundary that is too many a merge, so no step
    is taken twice; like on AWS some shards on the way are closed without ever holding a record.
    """
    have = {each.start for each in current}
    want = {each.start for each in even_ranges(target_count)}
    splits: list[Split | Merge] = [Split(start) for start in sorted(want - have)]
    merges: list[Split | Merge] = [Merge(start) for start in sorted(have - want)]
    return splits + merges


def covering(starts: list[int], hash_key: int) -> int:
    """Index of the range that covers a hash key, given the sorted starts of ranges that tile the ring."""
    return bisect_right(starts, hash_key) - 1
