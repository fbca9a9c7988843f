"""Where a partition key lies on the ring of 2^128 hash keys, and which range covers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared.compiled import COLUMNS
from shared.limits import HASH_KEY_MAX

try:  # CPython's own MD5 takes half the time of OpenSSL's for a few bytes
    from _md5 import md5  # type: ignore[import-not-found]  # no stub tells of it
except ImportError:  # a build without it
    from hashlib import md5

_BYTES: Final = 16


def hash_key_of(partition_key: str) -> int:
    """MD5 of the UTF-8 partition key as a big-endian unsigned 128-bit integer, as Kinesis computes it."""
    return int.from_bytes(md5(partition_key.encode(), usedforsecurity=False).digest(), "big")


@dataclass(frozen=True, slots=True)
class HashKeyRange:
    """A closed range of hash keys, both ends included."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= HASH_KEY_MAX:
            msg = f"hash key range {self.start}..{self.end} is not inside 0..2^128-1"
            raise ValueError(msg)

    def __contains__(self, hash_key: int) -> bool:
        return self.start <= hash_key <= self.end

    def holds_all(self, partition_keys: list[str]) -> bool:
        """Whether each of some partition keys belongs to the range, in less time than one by one."""
        start, end = (each.to_bytes(_BYTES, "big") for each in (self.start, self.end))
        found = None if COLUMNS is None else COLUMNS.lie_in_range(partition_keys, start, end)
        if found is not None:
            return found
        # Keys repeat. By Python a digest takes longer than to find that out; sixteen at a time don't.
        digests = {md5(key.encode(), usedforsecurity=False).digest() for key in {*partition_keys}}
        return not digests or (start <= min(digests) and max(digests) <= end)

    @property
    def width(self) -> int:
        """How many hash keys lie in the range."""
        return self.end - self.start + 1

    def overlaps(self, other: HashKeyRange) -> bool:
        """Whether the two ranges have a hash key in common."""
        return self.start <= other.end and other.start <= self.end

    def is_adjacent_to(self, other: HashKeyRange) -> bool:
        """Whether the two ranges touch without overlapping, in either order."""
        return self.end + 1 == other.start or other.end + 1 == self.start


FULL_RANGE = HashKeyRange(0, HASH_KEY_MAX)


def even_ranges(count: int) -> tuple[HashKeyRange, ...]:
    """Cut the ring into `count` ranges of equal width (the last takes the rest), as CreateStream does."""
    if count < 1:
        msg = f"shard count is {count}; at least 1 is needed"
        raise ValueError(msg)
    width = (HASH_KEY_MAX + 1) // count
    starts = [width * index for index in range(count)]
    ends = [start - 1 for start in starts[1:]] + [HASH_KEY_MAX]
    return tuple(HashKeyRange(start, end) for start, end in zip(starts, ends, strict=True))


def holes(ranges: list[HashKeyRange]) -> list[HashKeyRange]:
    """Return the parts of the ring that none of `ranges` covers, in ascending order."""
    uncovered: list[HashKeyRange] = []
    next_start = 0
    for each in sorted(ranges, key=lambda item: item.start):
        if each.start > next_start:
            uncovered.append(HashKeyRange(next_start, each.start - 1))
        next_start = max(next_start, each.end + 1)
    if next_start <= HASH_KEY_MAX:
        uncovered.append(HashKeyRange(next_start, HASH_KEY_MAX))
    return uncovered
