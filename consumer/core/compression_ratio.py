"""What compression makes of a byte, learned per destination, to aim at objects of a size."""

from __future__ import annotations

from typing import Final

from consumer.core.partition import SLOT_SEPARATOR

_WEIGHT: Final = 0.3  # of the newest object
_BYTES_MIN: Final = 4_096  # smaller objects are mostly headers and tell nothing


class CompressionRatios:
    """Moving averages; 1 until the first object of a destination is known, so that the first ones are small.

    One per destination, not per partition: partitions of a destination hold the same kind of events, and are many.
    """

    def __init__(self) -> None:
        self._ratios: dict[str, float] = {}

    def of(self, slot: str) -> float:
        """Return bytes after per byte before."""
        return self._ratios.get(slot.partition(SLOT_SEPARATOR)[0], 1.0)

    def learn(self, slot: str, before: int, after: int) -> None:
        """Take an object of `before` bytes of lines and `after` bytes."""
        if before < _BYTES_MIN:
            return
        name = slot.partition(SLOT_SEPARATOR)[0]
        seen = after / before
        known = self._ratios.get(name)
        self._ratios[name] = seen if known is None else known + _WEIGHT * (seen - known)
