"""A network that holds every call until a test says what becomes of it: for state machines that choose each landing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar

from shared.errors import AmbiguousCallError, ServiceUnavailableError
from tests.simulation.loop import PROCESS, Process
from tests.support.network import PerfectNetwork

T = TypeVar("T")
AUTHOR: ContextVar[Any] = ContextVar("AUTHOR", default=None)  # on whose behalf a call is made, for the test to see


class HeldCall:
    """A request under way: it has not landed, and its caller waits or has given up."""

    def __init__(self, operation: str, land: Callable[[], Any]) -> None:
        self.operation = operation
        self.author = AUTHOR.get()
        self.process: Process | None = PROCESS.get()
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._land = land

    @property
    def is_awaited(self) -> bool:
        """Whether somebody still wants to know."""
        return not self.answer.done() and (self.process is None or self.process.alive)

    def land(self, *, is_answered: bool) -> None:
        """Run the call at the service; its answer comes back, or gets lost on the way."""
        try:
            result, refusal = self._land(), None
        except Exception as error:  # noqa: BLE001 - whatever the service answers, it is the caller's
            result, refusal = None, error
        if not is_answered:
            self.lose()
        elif self.is_awaited and refusal is not None:
            self.answer.set_exception(refusal)
        elif self.is_awaited:
            self.answer.set_result(result)

    def refuse(self) -> None:
        """Fail before landing."""
        if self.is_awaited:
            self.answer.set_exception(ServiceUnavailableError("the service is down"))

    def lose(self) -> None:
        """Let the caller run into its time-out."""
        if self.is_awaited:
            self.answer.set_exception(AmbiguousCallError("no answer came"))


class HeldNetwork(PerfectNetwork):
    """Calls wait in `waiting`; what was given up without having landed is in `late` and may land at any time."""

    def __init__(self, *, wall: float) -> None:
        super().__init__(wall=wall)
        self.waiting: list[HeldCall] = []
        self.late: list[HeldCall] = []

    async def call(self, operation: str, land: Callable[[], T]) -> T:
        """Wait for the test's word."""
        held = HeldCall(operation, land)
        self.waiting.append(held)
        answer: T = await held.answer
        return answer

    def sort(self) -> None:
        """Move the calls whose callers died or were cancelled to the late ones."""
        self.late += [each for each in self.waiting if not each.is_awaited]
        self.waiting = [each for each in self.waiting if each.is_awaited]
