"""Counts latencies in bounded memory, to about one and a half percent, and reads percentiles from the counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

_SUB_BITS: Final = 6  # 64 buckets per power of two: a bucket is at most 1/64 of its value wide
_MICROSECONDS_MAX: Final = 2**42  # 51 days; whatever is above counts as this


def _bucket_of(microseconds: int) -> int:
    shift = max(0, microseconds.bit_length() - _SUB_BITS - 1)
    return (shift << _SUB_BITS) + (microseconds >> shift)


def _top_of(bucket: int) -> int:
    """Return the largest value of a bucket, microseconds."""
    shift = max(0, (bucket >> _SUB_BITS) - 1)
    return ((bucket - (shift << _SUB_BITS) + 1) << shift) - 1


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Latencies, seconds; each is an upper bound that is at most 1.6 % too high. `count` values were counted."""

    count: int
    p50: float
    p90: float
    p99: float
    p99_9: float
    max: float


class Histogram:
    """Latencies from a microsecond to 51 days, as HDR histograms count them (Gil Tene): 64 buckets per doubling."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._max = 0

    def add(self, seconds: float) -> None:
        """Count a latency; less than nothing (clocks of a millisecond) counts as nothing."""
        microseconds = min(_MICROSECONDS_MAX, max(0, round(seconds * 1e6)))
        self._counts[_bucket_of(microseconds)] += 1
        self._max = max(self._max, microseconds)

    def percentiles(self) -> Percentiles | None:
        """Return the figures; None if nothing was counted."""
        count = self._counts.total()
        if not count:
            return None
        return Percentiles(
            count, p50=self._at(0.5), p90=self._at(0.9), p99=self._at(0.99), p99_9=self._at(0.999), max=self._max / 1e6
        )

    def _at(self, share: float) -> float:
        """Return the latency that this share of all does not exceed, seconds."""
        wanted, seen = share * self._counts.total(), 0
        for bucket, number in sorted(self._counts.items()):
            seen += number
            if seen >= wanted:
                return min(_top_of(bucket), self._max) / 1e6
        return self._max / 1e6
