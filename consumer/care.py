"""Keeps the shards of a process apart: one that looks at a suspect is alone, and decoded events have their bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from consumer.budget import Budget, Turn
from shared.limits import MIB

# What decoded events may take while functions have them; a chunk that needs more has it alone.
DECODED_BYTES_MAX: Final = 128 * MIB
# Then a chunk goes beyond that: a function may try its records again for ever, which is no reason for others to wait.
_WAIT_SECONDS_MAX: Final = 60.0


class Care:
    """A gate that all shards of a worker pass before each chunk, replays too; one with a suspect piece passes alone.

    Without it, a record that kills the process counts against whatever other shards look at in the same moment, and a
    harmless one may be condemned in its place.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._suspect: asyncio.Task[Any] | None = None  # the task that holds the gate
        self._decoded = Budget(DECODED_BYTES_MAX)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Hold everybody else back until the piece is stored; suspects take turns."""
        async with self._lock:
            self._suspect = asyncio.current_task()
            try:
                yield
            finally:
                self._suspect = None

    async def pass_by(self) -> None:
        """Wait until nobody else holds the gate; who goes on without awaiting anything is overtaken by no suspect."""
        while self._lock.locked() and self._suspect is not asyncio.current_task():
            async with self._lock:
                pass

    @asynccontextmanager
    async def decoded(self, amount: int) -> AsyncIterator[None]:
        """Hold room for what is decoded, and pass the gate with it. A suspect needs none: who has room waits for it."""
        if self._suspect is asyncio.current_task():
            yield
            return
        try:
            async with asyncio.timeout(_WAIT_SECONDS_MAX):
                await self._decoded.acquire(amount, Turn.IN_ORDER)
        except TimeoutError:
            amount = 0
        try:
            await self.pass_by()
            yield
        finally:
            self._decoded.release(reserved=amount)
