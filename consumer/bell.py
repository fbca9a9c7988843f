"""Wakes the tasks of one shard: each looks again at its own condition, whatever has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress


class Bell:
    """Rung at every change that somebody may wait for."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake everybody who waits."""
        self._rung.set()

    async def wait(self, seconds_max: float | None = None) -> None:
        """Wait until it is rung, at most `seconds_max`."""
        self._rung.clear()
        try:
            async with asyncio.timeout(seconds_max):
                await self._rung.wait()
        except TimeoutError:
            return

    async def until(self, condition: Callable[[], bool], seconds_max: float | None = None) -> None:
        """Wait until a condition holds, at most `seconds_max`; whatever may bring it about rings."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                while not condition():
                    await self.wait()
