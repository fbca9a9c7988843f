"""Holds a source to a rate of events."""

from __future__ import annotations

from typing import Final

_DEBT_SECONDS_MIN: Final = 0.01  # shorter waits are saved up: a timer per event would cost more than the event


class Pacer:
    """Spreads events evenly: `delay` says how long to wait before the next one. No rate means no wait."""

    def __init__(self, events_per_second: float | None) -> None:
        self._seconds_each = 1 / events_per_second if events_per_second else 0.0
        self._next_at: float | None = None

    def delay(self, now: float) -> float:
        """Count one event; return the seconds to wait, mostly 0. What was not used up in a pause is not caught up."""
        if not self._seconds_each:
            return 0.0
        next_at = now if self._next_at is None else max(self._next_at, now - _DEBT_SECONDS_MIN)
        self._next_at = next_at + self._seconds_each
        debt = self._next_at - now
        return debt if debt >= _DEBT_SECONDS_MIN else 0.0
