"""Per-shard throughput: what may go in and out of a shard per second, as token buckets judged by a given clock."""

from __future__ import annotations

from typing import Final

from shared.limits import (
    SHARD_READ_BYTES_PER_SECOND,
    SHARD_READ_CALLS_PER_SECOND,
    SHARD_WRITE_BYTES_PER_SECOND,
    SHARD_WRITE_RECORDS_PER_SECOND,
)

_BURST_SECONDS: Final = 1.0


class WriteBudget:
    """1,000 records/s and 1 MiB/s with one second of burst.

    A record above 1 MiB (streams may allow 10 MiB) needs a full bucket and leaves a debt, as AWS describes its
    burst capacity for large records.
    """

    __slots__ = ("_bytes", "_now", "_records")

    def __init__(self, now: float) -> None:
        self._now = now
        self._records = float(SHARD_WRITE_RECORDS_PER_SECOND)
        self._bytes = float(SHARD_WRITE_BYTES_PER_SECOND)

    def refill(self, now: float) -> None:
        """Credit the time since the last call; a clock that went back credits nothing."""
        elapsed = now - self._now
        self._now = now
        if elapsed > 0:
            records = self._records + elapsed * SHARD_WRITE_RECORDS_PER_SECOND
            self._records = min(records, float(SHARD_WRITE_RECORDS_PER_SECOND))
            count = self._bytes + elapsed * SHARD_WRITE_BYTES_PER_SECOND
            self._bytes = min(count, float(SHARD_WRITE_BYTES_PER_SECOND))

    def take(self, size: int) -> bool:
        """Take one record of `size` bytes (data and key); False, taking nothing, if the shard is over its limit."""
        if self._records < 1.0 or self._bytes < min(size, SHARD_WRITE_BYTES_PER_SECOND):
            return False
        self._records -= 1.0
        self._bytes -= size
        return True


class ReadBudget:
    """5 calls/s and 2 MiB/s for all readers of a shard together.

    An answer above 2 MiB is paid for in full before the next call: after 10 MiB nothing is answered for 5 s
    (GetRecords in the API reference).
    """

    __slots__ = ("_bytes", "_calls", "_now", "_paused_until")

    def __init__(self, now: float) -> None:
        self._now = now
        self._calls = float(SHARD_READ_CALLS_PER_SECOND)
        self._bytes = float(SHARD_READ_BYTES_PER_SECOND)
        self._paused_until = now

    def take_call(self, now: float) -> bool:
        """Take one call; False if the shard's readers are over the calls or the bytes per second."""
        elapsed = now - self._now
        self._now = now
        if elapsed > 0:
            calls = self._calls + elapsed * SHARD_READ_CALLS_PER_SECOND
            self._calls = min(calls, float(SHARD_READ_CALLS_PER_SECOND))
            count = self._bytes + elapsed * SHARD_READ_BYTES_PER_SECOND
            self._bytes = min(count, float(SHARD_READ_BYTES_PER_SECOND))
        elif elapsed < 0:
            # After a step back of the clock an old pause could last for ever; it is bounded by its own length.
            self._paused_until = min(self._paused_until, now + _BURST_SECONDS)
        if now < self._paused_until or self._calls < 1.0 or self._bytes <= 0.0:
            return False
        self._calls -= 1.0
        return True

    def charge(self, now: float, size: int) -> None:
        """Account for an answer of `size` bytes."""
        self._bytes -= size
        if size > SHARD_READ_BYTES_PER_SECOND:
            self._bytes = 0.0
            self._paused_until = now + size / SHARD_READ_BYTES_PER_SECOND


class CallBudget:
    """`rate` calls per second with one second of burst."""

    __slots__ = ("_calls", "_now", "_rate")

    def __init__(self, now: float, rate: float) -> None:
        self._now = now
        self._rate = rate
        self._calls = rate

    def take(self, now: float) -> bool:
        """Take one call; False if there were too many within the last second."""
        self._calls = min(self._rate, self._calls + max(0.0, now - self._now) * self._rate)
        self._now = now
        if self._calls < 1.0:
            return False
        self._calls -= 1.0
        return True
