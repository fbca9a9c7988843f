"""Lanes: the fixed classes of partition keys inside which order is kept and duplicates are recognised.

There are 256 of them, or 4,096 for a source of a stream whose many shards would cut those. The number belongs to it
for good: event ids carry a lane, consumers keep a high-water mark per (source, lane), and with another number an event
that comes again would have another id. What sends may keep order in wider classes than the ids say, never in narrower.
"""

from __future__ import annotations

from typing import Final

from shared.limits import HASH_KEY_MAX

LANES: Final = 256
FINE_LANES: Final = 4_096
_SHARDS_COARSE_MAX: Final = 64  # beyond it, 4,096 lanes are no more than 64 marks per shard and source
_HASH_KEY_BITS: Final = HASH_KEY_MAX.bit_length()


def lane_of(hash_key: int, lanes: int = LANES) -> int:
    """Return the lane of a 128-bit hash key: its first bits, so that a lane is a range of hash keys.

    `lanes` is how many there are, a power of two.
    """
    return hash_key >> (_HASH_KEY_BITS + 1 - lanes.bit_length())


def lanes_for(shards: int) -> int:
    """Return how many lanes a source has that begins on a stream of so many shards.

    A lane that a boundary cuts sends to one shard at a time, a few records each. Boundaries of an even split cut none
    if all shards have as many lanes.
    """
    return LANES if LANES % max(1, shards) == 0 or shards <= _SHARDS_COARSE_MAX else FINE_LANES
