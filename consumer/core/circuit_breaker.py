"""Tells a few bad records from a bad deploy: too many deterministic failures stop the shard."""

from __future__ import annotations

from collections import deque
from typing import Final

from shared.errors import ShardHaltedError

FAILURES_MIN: Final = 50  # fewer than this say nothing, however few records there were


class CircuitBreaker:
    """Open once at least 50 of the last `window_records` failed and they are more than `failed_percent` of them."""

    def __init__(self, *, window_records: int, failed_percent: float) -> None:
        self._window = window_records
        self._percent = failed_percent
        self._seen = 0
        self._failures: deque[int] = deque()  # ordinal numbers of failed records inside the window

    @property
    def failed(self) -> int:
        """How many of the records in the window failed."""
        return len(self._failures)

    @property
    def counted(self) -> int:
        """How many records the window holds."""
        return min(self._seen, self._window)

    @property
    def is_open(self) -> bool:
        """Whether the shard has to stop."""
        return self.failed >= FAILURES_MIN and self.failed * 100 > self._percent * self.counted

    def count(self, shard_id: str, records: int, failed: int) -> None:
        """Count records of which some failed; ShardHaltedError if that is too many."""
        self.succeed(records - failed)
        for _ in range(failed):
            self.fail()
        if self.is_open:
            raise ShardHaltedError(
                f"{self.failed} of the last {self.counted:,} records of `{shard_id}` failed, more than "
                f"{self._percent:g} %",
                hint="Look at the dead letters; deploy a fix or raise breaker_failed_percent, or `headrace resume`",
            )

    def succeed(self, count: int) -> None:
        """Count records that went well."""
        self._seen += count
        self._forget()

    def fail(self) -> None:
        """Count a record that failed."""
        self._seen += 1
        self._failures.append(self._seen)
        self._forget()

    def _forget(self) -> None:
        oldest = self._seen - self._window
        while self._failures and self._failures[0] <= oldest:
            self._failures.popleft()
