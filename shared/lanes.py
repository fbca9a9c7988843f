"""Lanes: the fixed classes of partition keys inside which order is kept and duplicates are recognised.

There are 256 of them. A source may cut some in parts, along the boundaries that the shards of its stream had when it
began: what sends keeps a part in order by itself, and so a part goes to one shard. How they are cut belongs to the
source: event ids carry lane and part, consumers keep a high-water mark for each, and cut in another way an event that
comes again would have another id. What sends may keep order in wider classes than the ids say, never in narrower.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

from shared.limits import HASH_KEY_MAX

LANES: Final = 256
PARTS_MAX: Final = 256  # of a lane: two more hex digits in event ids
_LANE_BITS: Final = HASH_KEY_MAX.bit_length() + 1 - LANES.bit_length()


def lane_of(hash_key: int) -> int:
    """Return the lane of a 128-bit hash key: its first bits, so that a lane is a range of hash keys."""
    return hash_key >> _LANE_BITS


def start_of(lane: int) -> int:
    """Return the first hash key of a lane."""
    return lane << _LANE_BITS


@dataclass(frozen=True, slots=True)
class LaneDivision:
    """How lanes are cut: at these hash keys, in rising order, each of which is the first one of a part.

    The parts of all lanes, in the order of their hash keys, are numbered from 0 on.
    """

    cuts: tuple[int, ...] = ()
    starts: tuple[int, ...] = field(init=False, repr=False, compare=False)  # the first hash key of each part

    def __post_init__(self) -> None:
        """Hold what lookups rely on; ValueError where a stored division is damaged."""
        parts = Counter(map(lane_of, self.cuts))
        if any(not 0 < cut <= HASH_KEY_MAX or cut == start_of(lane_of(cut)) for cut in self.cuts):
            msg = "a cut lies inside a lane"
            raise ValueError(msg)
        if any(first >= second for first, second in zip(self.cuts, self.cuts[1:], strict=False)):
            msg = "cuts rise"
            raise ValueError(msg)
        if any(count >= PARTS_MAX for count in parts.values()):
            msg = f"a lane has at most {PARTS_MAX} parts"
            raise ValueError(msg)
        object.__setattr__(self, "starts", tuple(sorted((*map(start_of, range(LANES)), *self.cuts))))

    @classmethod
    def along(cls, boundaries: Iterable[int]) -> Self:
        """Return the division at the first hash keys of shards; what would be one part too many stays together."""
        cuts: list[int] = []
        parts: Counter[int] = Counter()
        for cut in sorted({*boundaries}):
            lane = lane_of(cut)
            if cut != start_of(lane) and parts[lane] < PARTS_MAX - 1:
                cuts.append(cut)
                parts[lane] += 1
        return cls(tuple(cuts))

    def __len__(self) -> int:
        """Return how many parts there are; a lane that is not cut is one."""
        return LANES + len(self.cuts)

    def index_of(self, hash_key: int) -> int:
        """Return the number of the part that has a hash key."""
        return lane_of(hash_key) + bisect_right(self.cuts, hash_key)

    def names(self) -> list[str]:
        """Return what event ids call each part: two hex digits for a lane that is not cut, two more for a part."""
        cut_lanes = {*map(lane_of, self.cuts)}
        names: list[str] = []
        part = 0
        for start in self.starts:
            lane = lane_of(start)
            part = 0 if start == start_of(lane) else part + 1
            names.append(f"{lane:02x}{part:02x}" if lane in cut_lanes else f"{lane:02x}")
        return names

    def cuts_lane(self, lane: int) -> bool:
        """Whether a lane has more than one part."""
        return bisect_right(self.cuts, start_of(lane)) < bisect_right(self.cuts, start_of(lane + 1) - 1)


WHOLE: Final = LaneDivision()
