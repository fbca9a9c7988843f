"""Bounds the call rate while every call fails: one probe at a time, under full-jitter back-off."""

from __future__ import annotations

from shared.ports import Random
from shared.retry import Backoff


class CallGate:
    """Open while calls succeed; after a failure closed for a drawn delay, then open for one call at a time."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._calls = 0
        self._attempts: dict[Backoff, int] = {}  # failures of each kind since the last success, by their back-off
        self.closed_until = 0.0

    def is_closed(self, now: float) -> bool:
        """Whether no call may start now."""
        return now < self.closed_until or self.waits_for_answer

    @property
    def waits_for_answer(self) -> bool:
        """Whether a probe is under way, so that only its answer opens the gate."""
        return self.is_failing and self._calls > 0

    @property
    def is_failing(self) -> bool:
        """Whether the last calls failed."""
        return bool(self._attempts)

    def start(self) -> None:
        """Count a call that starts."""
        self._calls += 1

    def fail(self, started_at: float, now: float, random: Random, backoff: Backoff | None = None) -> None:
        """Take a call that failed; calls that were under way together fail together and count once.

        `backoff` stands in for the ordinary one, after failures of another kind. The first one of a kind waits least;
        kinds that take turns wait longer and longer all the same.
        """
        self._calls -= 1
        if started_at >= self.closed_until:
            backoff = backoff or self._backoff
            attempts = self._attempts.get(backoff, 0)
            self._attempts[backoff] = attempts + 1
            self.closed_until = now + backoff.delay(attempts, random)

    def end(self) -> None:
        """Take a call that failed and says nothing of the next one, which may follow at once."""
        self._calls -= 1

    def succeed(self, now: float) -> bool:
        """Take a call that delivered something; whether it is the first one after failures."""
        self._calls -= 1
        has_recovered = self.is_failing
        if has_recovered:
            self._attempts.clear()
            self.closed_until = now
        return has_recovered
