"""Sequence numbers shaped like those of Kinesis: 56 digits, rising within a shard and from parent to child.

Layout of the 186-bit integer, from the top: one bit that is always set (hence always 56 digits), 48 bits shard epoch in
milliseconds, 64 bits counter, 37 bits zero, 32 bits shard index, 4 bits version. A child's epoch is above its
parents', so each of its numbers is above each of theirs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_FLAG: Final = 1 << 185
_EPOCH_SHIFT: Final = 137
_COUNTER_SHIFT: Final = 73
_INDEX_SHIFT: Final = 4
_VERSION: Final = 2
_EPOCH_MASK: Final = (1 << 48) - 1
_PATTERN: Final = re.compile(r"0|[1-9][0-9]{0,128}", re.ASCII)  # the service model's own


def parse_sequence_number(text: str) -> int | None:
    """Read a decimal sequence number; None if it is not one by the service model's pattern (at most 129 digits)."""
    return int(text) if _PATTERN.fullmatch(text) else None


def epoch_of(number: int) -> int | None:
    """Milliseconds at which the shard of a sequence number was made; None if the number is not of our making."""
    if number >> 185 != 1 or number & 0xF != _VERSION:
        return None
    return (number >> _EPOCH_SHIFT) & _EPOCH_MASK


@dataclass(frozen=True, slots=True)
class SequenceSpace:
    """The numbers of one shard: counter 0 is its StartingSequenceNumber, the first record has counter 1."""

    base: int

    @classmethod
    def of_shard(cls, epoch_ms: int, shard_index: int) -> SequenceSpace:
        """Numbers for the shard with this index, made at `epoch_ms` (milliseconds since 1970)."""
        return cls(_FLAG | ((epoch_ms & _EPOCH_MASK) << _EPOCH_SHIFT) | (shard_index << _INDEX_SHIFT) | _VERSION)

    def text(self, counter: int) -> str:
        """The decimal sequence number of a counter."""
        return str(self.base + (counter << _COUNTER_SHIFT))

    def counter_at_or_after(self, number: int) -> int:
        """The smallest counter whose number is not below `number`; negative when `number` is of an older shard."""
        return -((self.base - number) >> _COUNTER_SHIFT)

    def counter_after(self, number: int) -> int:
        """The smallest counter whose number is above `number`."""
        return ((number - self.base) >> _COUNTER_SHIFT) + 1
