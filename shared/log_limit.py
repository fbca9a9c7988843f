"""Which of many log lines about the same are said: a bad hour must not fill the log."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from shared.ports import Clock, Telemetry


class LogLimit:
    """Admits each line at once and the same not again within `seconds_min`; `lines_max` different ones in that time."""

    def __init__(self, seconds_min: float, lines_max: int = 100) -> None:
        self._seconds_min = seconds_min
        self._lines_max = lines_max
        self._said: dict[Hashable, float] = {}  # what a line is about, and when it was said last

    def admits(self, about: Hashable, now: float) -> bool:
        """Whether to say a line now, monotonic seconds; it counts as said then."""
        self._said = {each: at for each, at in self._said.items() if now - at < self._seconds_min}
        if about in self._said or len(self._said) >= self._lines_max:
            return False
        self._said[about] = now
        return True


class LimitedLog:
    """Says a line at once, and the same not again for a while; at most `lines_max` different ones in that time."""

    def __init__(self, telemetry: Telemetry, clock: Clock, *, seconds_min: float = 1.0, lines_max: int = 100) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._limit = LogLimit(seconds_min, lines_max)

    def warning(self, event: str, *, about: Hashable = None, **fields: Any) -> None:
        """Say something unexpected happened and nothing was lost; lines of an event are the same if `about` is."""
        if self._limit.admits((event, about), self._clock.monotonic()):
            self._telemetry.warning(event, **fields)

    def error(self, event: str, *, about: Hashable = None, **fields: Any) -> None:
        """Say that data was lost or an operator is needed; lines of an event are the same if `about` is."""
        if self._limit.admits((event, about), self._clock.monotonic()):
            self._telemetry.error(event, **fields)
