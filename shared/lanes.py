"""Lanes: the fixed classes of partition keys inside which order is kept and duplicates are recognised.

The number of lanes is a constant of the format, never a setting: event ids carry a lane, consumers keep a high-water
mark per (source, lane), and a mark taken under another number of lanes would make a consumer drop events it never saw.
"""

from __future__ import annotations

from typing import Final

LANES: Final = 256
_SHIFT: Final = 128 - 8

assert LANES == 1 << 8


def lane_of(hash_key: int) -> int:
    """Return the lane (0..255) of a 128-bit hash key: its first byte, so that a lane is a range of hash keys."""
    return hash_key >> _SHIFT
