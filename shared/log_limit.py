"""Which of many log lines about the same are said: a bad hour must not fill the log."""

from __future__ import annotations

from collections.abc import Hashable


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
