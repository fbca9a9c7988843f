"""What lies between the product and the fakes: every call crosses a network, which decides what becomes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Network(Protocol):
    """The place where faults are drawn. Fakes hold state and rules; only the network knows time and misfortune."""

    def now(self) -> float:
        """Return the server's monotonic seconds."""
        ...

    def wall(self) -> float:
        """Return the server's clock, seconds since the epoch."""
        ...

    async def call(self, operation: str, land: Callable[[], T]) -> T:
        """Carry a request to the service, run `land` there and carry the answer back.

        `land` may raise what the service answers. May raise an error without landing, land and raise
        AmbiguousCallError, or land after having raised it.
        """
        ...

    def entry_error(self, operation: str, shard_id: str) -> str:
        """Return the error code of one entry of a batch, empty if it is taken."""
        ...

    def page_length(self, operation: str, length: int) -> int:
        """Return how many of `length` waiting entries the next page holds: 0..length."""
        ...

    def happens(self, kind: str) -> bool:
        """Whether a fault of this kind strikes now; every strike is counted."""
        ...

    def part(self, whole: int) -> int:
        """Return an arbitrary number in 0..whole: how much of a write landed."""
        ...


class PerfectNetwork:
    """No faults and no latency, on the ordinary clock or on one that a test moves with `advance`."""

    def __init__(self, *, wall: float | None = None) -> None:
        self._offset = 0.0
        self._wall = wall
        self.calls: list[str] = []

    def advance(self, seconds: float) -> None:
        """Move the clocks on."""
        self._offset += seconds

    def now(self) -> float:
        """Return seconds: the moved ones only where the wall clock was given, else the machine's plus them."""
        return self._offset if self._wall is not None else time.monotonic() + self._offset

    def wall(self) -> float:
        """Return seconds since the epoch."""
        return (self._wall if self._wall is not None else time.time()) + self._offset

    async def call(self, operation: str, land: Callable[[], T]) -> T:
        """Yield to the loop once, as any call would, and land."""
        self.calls.append(operation)
        await asyncio.sleep(0)
        return land()

    def entry_error(self, operation: str, shard_id: str) -> str:
        """Take every entry."""
        return ""

    def page_length(self, operation: str, length: int) -> int:
        """Fill every page."""
        return length

    def happens(self, kind: str) -> bool:
        """Nothing happens."""
        return False

    def part(self, whole: int) -> int:
        """All of it."""
        return whole


class ScriptedNetwork(PerfectNetwork):
    """A perfect network, except for the faults that a test queues for an operation.

    A script entry is an exception to raise instead of landing, `Lost(error)` to land and raise it, or None for a call
    that goes well. Entry errors are queued under the operation's name, too: one list of codes per batch.
    """

    def __init__(self, *, wall: float | None = None) -> None:
        super().__init__(wall=wall)
        self.scripts: dict[str, list[Exception | Lost | None]] = {}
        self.entry_errors: dict[str, list[str]] = {}

    async def call(self, operation: str, land: Callable[[], T]) -> T:
        """Do what the script says."""
        self.calls.append(operation)
        await asyncio.sleep(0)
        script = self.scripts.get(operation)
        step = script.pop(0) if script else None
        if isinstance(step, Exception):
            raise step
        answer = land()
        if isinstance(step, Lost):
            raise step.error
        return answer

    def entry_error(self, operation: str, shard_id: str) -> str:
        """Return the next queued code."""
        queued = self.entry_errors.get(operation)
        return queued.pop(0) if queued else ""


class Lost:
    """The call lands, and the caller sees `error` instead of the answer."""

    def __init__(self, error: Exception) -> None:
        self.error = error
