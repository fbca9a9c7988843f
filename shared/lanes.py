"""Lanes: the fixed classes of partition keys inside which order is kept and duplicates are recognised.

There are 256 of them, or 4,096 for a source of a stream with more shards than that. The number belongs to the source
for good: event ids carry a lane, consumers keep a high-water mark per (source, lane), and with another number an event
that comes again would have another id. What sends may keep order in wider classes than the ids say, never in narrower.
"""

from __future__ import annotations

from typing import Final

from shared.limits import HASH_KEY_MAX

LANES: Final = 256
FINE_LANES: Final = 4_096
_HASH_KEY_BITS: Final = HASH_KEY_MAX.bit_length()


def lane_of(hash_key: int, lanes: int = LANES) -> int:
    """Return the lane of a 128-bit hash key: its first bits, so that a lane is a range of hash keys.

    `lanes` is how many there are, a power of two.
    """
    return hash_key >> (_HASH_KEY_BITS + 1 - lanes.bit_length())
