"""What a seed draws of the producer as a library, beside the draws that were there before: how the stream is used."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from shared.hash_key import hash_key_of
from shared.lanes import LANES, lane_of
from shared.records import Distribution
from shared.settings import Ordering

_AUTO_SHARE: Final = 0.1
_UNORDERED_SHARE: Final = 0.25
_MANY_SHARDS_SHARE: Final = 0.03  # rarely: each look at so many shards costs as much as all else
_LANES_USED: Final = 4  # where boundaries run through lanes, keys of different shards have to meet in one


@dataclass(frozen=True, slots=True)
class PuttingUsage:
    """It has a generator of its own, so that what is added at its end leaves everything else of a seed as it was."""

    distribution: Distribution
    ordering: Ordering
    shard_count: int  # 0: a few, as the world draws
    shard_rate_percent: int

    @classmethod
    def draw(cls, seed: int) -> PuttingUsage:
        """Draw for a seed."""
        chance = random.Random(f"putting {seed}/usage")
        return cls(
            distribution=Distribution.AUTO if chance.random() < _AUTO_SHARE else Distribution.USER_PARTITION_KEY,
            ordering=Ordering.NONE if chance.random() < _UNORDERED_SHARE else Ordering.LANE,
            shard_count=chance.choice([LANES + 1, 600, 1_000]) if chance.random() < _MANY_SHARDS_SHARE else 0,
            shard_rate_percent=chance.choice([100, 100, 100, 100, 10, 1, 0]),
        )

    @property
    def is_ordered(self) -> bool:
        """Whether the order of a key is promised, and with it that what comes twice is known."""
        return self.ordering is Ordering.LANE and self.distribution is not Distribution.AUTO

    @property
    def has_cut_lanes(self) -> bool:
        """Whether boundaries of shards run through lanes."""
        return self.shard_count > LANES

    def key(self, name: str, number: int) -> str:
        """Return the key `number` of a task: where lanes are cut, keys lie in few of them."""
        if not self.has_cut_lanes:
            return f"{name}-{number}"
        salt = 0
        while lane_of(hash_key_of(f"{name}-{number}-{salt}")) >= _LANES_USED:
            salt += 1
        return f"{name}-{number}-{salt}"
