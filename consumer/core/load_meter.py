"""How many bytes per second a shard brings, as an average that forgets."""

from __future__ import annotations

import math
from typing import Final

_MEMORY_SECONDS: Final = 60.0  # longer than the pauses between pages, shorter than a shift of load


class LoadMeter:
    """An exponentially weighted mean over uneven intervals."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._rate = 0.0
        self._pending = 0

    def take(self, size: int, now: float) -> None:
        """Count `size` bytes that were read."""
        self._pending += size
        elapsed = now - self._since
        if elapsed > 0:
            weight = 1 - math.exp(-elapsed / _MEMORY_SECONDS)
            self._rate += weight * (self._pending / elapsed - self._rate)
            self._since, self._pending = now, 0

    def rate(self, now: float) -> int:
        """Return bytes per second."""
        self.take(0, now)
        return round(self._rate)
