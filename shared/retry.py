"""How long to wait before trying again: exponential back-off with full jitter."""

from __future__ import annotations

from dataclasses import dataclass

from shared.ports import Random

_DOUBLINGS_MAX = 32  # beyond it the cap has long been reached; keeps 2**attempt small


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: a delay drawn evenly from 0 to min(seconds_max, seconds_min * 2**attempt).

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: full jitter does the least work of the
    variants compared there. The ceiling bounds the call rate when everything fails.
    """

    seconds_min: float
    seconds_max: float

    def __post_init__(self) -> None:
        if not 0 < self.seconds_min <= self.seconds_max:
            msg = f"back-off from {self.seconds_min} s to {self.seconds_max} s; 0 < min <= max is needed"
            raise ValueError(msg)

    def ceiling(self, attempt: int) -> float:
        """Return the longest delay before retry number `attempt` (0 is the first retry), in seconds."""
        return min(self.seconds_max, self.seconds_min * float(2 ** min(attempt, _DOUBLINGS_MAX)))

    def delay(self, attempt: int, random: Random) -> float:
        """Draw the delay before retry number `attempt`, in seconds."""
        return random.random() * self.ceiling(attempt)
