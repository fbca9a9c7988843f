"""A wall clock that a test turns by hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class HandClock:
    """Seconds since 1970; calling it reads it."""

    now: float = 1_790_000_000.0

    def __call__(self) -> float:
        """Read the clock."""
        return self.now

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
