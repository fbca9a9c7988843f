"""Repeats a call for as long as the service may recover: infrastructure errors are waited out, never dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from shared.errors import IteratorExpiredError, ServiceError
from shared.ports import Random, Telemetry
from shared.retry import Backoff

T = TypeVar("T")
_ATTEMPTS_BEFORE_WARNING: Final = 4
START_ATTEMPTS_MAX: Final = 4


class Retrier:
    """Full-jitter retries without an end of their own: the caller's task is cancelled when there is no more point."""

    def __init__(self, backoff: Backoff, random: Random, telemetry: Telemetry) -> None:
        self._backoff = backoff
        self._random = random
        self._telemetry = telemetry

    async def call(self, operation: str, attempt: Callable[[], Awaitable[T]], *, attempts_max: int | None = None) -> T:
        """Run `attempt` until it returns; errors that no repetition heals, and expired iterators, go to the caller.

        So does the last error after `attempts_max` attempts, for those who should hear of it: at a start, somebody
        looks on who may have given a wrong endpoint.
        """
        failures = 0
        while True:
            try:
                return await attempt()
            except IteratorExpiredError:
                raise
            except ServiceError as error:
                if not error.retryable or (attempts_max is not None and failures + 1 >= attempts_max):
                    raise
                self._telemetry.count("calls_retried", operation=operation, error=type(error).__name__)
                # Powers of two: an outage of hours is a handful of lines.
                if failures >= _ATTEMPTS_BEFORE_WARNING and failures & (failures - 1) == 0:
                    self._telemetry.warning(
                        "call_failing", operation=operation, attempts=failures, error=type(error).__name__
                    )
                await asyncio.sleep(self._backoff.delay(failures, self._random))
                failures += 1
