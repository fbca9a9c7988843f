"""What a seed draws of the producer as a library, beside the draws that were there before: how the stream is used."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from shared.hash_key import even_ranges, hash_key_of
from shared.lanes import LANES, LaneDivision, lane_of
from shared.records import Distribution
from shared.settings import Ordering

_AUTO_SHARE: Final = 0.1
_UNORDERED_SHARE: Final = 0.25
_MANY_SHARDS_SHARE: Final = 0.03  # rarely: each look at so many shards costs as much as all else
_CUT_LANES_SHARE: Final = 0.25
_FINE_SHARE: Final = 0.7
_REFUSALS_SHARE: Final = 0.2
_LANES_USED: Final = 4  # where boundaries run through lanes, keys of different shards have to meet in one


@dataclass(frozen=True, slots=True)
class Refusals:
    """Many records that the service refuses, at the heads of the few lanes there are, and a buffer that is soon full.

    What is behind them may fill the buffer, so that no other lane can show any more that the stream is well; and while
    the service is away nothing shows it anyhow.
    """

    share: float
    lanes_used: int
    buffer_bytes_max: int
    outages: tuple[tuple[float, float], ...]  # (begin, end), as parts of the chaos

    @classmethod
    def draw(cls, chance: random.Random) -> Refusals | None:
        """Draw; None for most worlds."""
        if chance.random() >= _REFUSALS_SHARE:
            return None
        return cls(
            share=chance.choice([0.1, 0.2, 0.4]),
            lanes_used=chance.choice([2, 4, 10, 30]),
            buffer_bytes_max=chance.choice([6_000, 24_000, 100_000]),
            outages=tuple(
                (begin, min(1.0, begin + chance.uniform(0.05, 0.4)))
                for begin in (chance.random() for _ in range(chance.choice([0, 1, 2])))
            ),
        )


@dataclass(frozen=True, slots=True)
class PuttingUsage:
    """It has a generator of its own, so that what is added at its end leaves everything else of a seed as it was."""

    distribution: Distribution
    ordering: Ordering
    shard_count: int  # 0: a few, as the world draws
    shard_rate_percent: int
    refusals: Refusals | None
    lanes_fine: bool  # whether lanes that boundaries run through are cut

    @classmethod
    def draw(cls, seed: int) -> PuttingUsage:
        """Draw for a seed."""
        chance = random.Random(f"putting {seed}/usage")
        usage = cls(
            distribution=Distribution.AUTO if chance.random() < _AUTO_SHARE else Distribution.USER_PARTITION_KEY,
            ordering=Ordering.NONE if chance.random() < _UNORDERED_SHARE else Ordering.LANE,
            shard_count=chance.choice([LANES + 1, 600, 1_000]) if chance.random() < _MANY_SHARDS_SHARE else 0,
            shard_rate_percent=chance.choice([100, 100, 100, 100, 10, 1, 0]),
            refusals=Refusals.draw(chance),
            lanes_fine=True,
        )
        uneven = chance.choice([3, 5, 6, 7, 11]) if chance.random() < _CUT_LANES_SHARE else 0
        lanes_fine = chance.random() < _FINE_SHARE
        return replace(usage, shard_count=usage.shard_count or uneven, lanes_fine=lanes_fine)

    @property
    def is_ordered(self) -> bool:
        """Whether the order of a key is promised, and with it that what comes twice is known."""
        return self.ordering is Ordering.LANE and self.distribution is not Distribution.AUTO

    @property
    def has_cut_lanes(self) -> bool:
        """Whether boundaries of shards run through lanes."""
        return self.shard_count > 0 and LANES % self.shard_count > 0

    @property
    def lanes_used(self) -> frozenset[int]:
        """The lanes that keys lie in."""
        if self.has_cut_lanes:
            division = LaneDivision.along(each.start for each in even_ranges(self.shard_count))
            return frozenset([lane for lane in range(LANES) if division.cuts_lane(lane)][:_LANES_USED])
        return frozenset(range(LANES if self.refusals is None else self.refusals.lanes_used))

    def key(self, name: str, number: int) -> str:
        """Return the key `number` of a task: where lanes are cut, keys lie in few of them."""
        lanes = self.lanes_used
        if len(lanes) == LANES:
            return f"{name}-{number}"
        salt = 0
        while lane_of(hash_key_of(f"{name}-{number}-{salt}")) not in lanes:
            salt += 1
        return f"{name}-{number}-{salt}"
