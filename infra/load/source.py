"""The events of a load test as a source: each comes when it is due, whether or not those before it were taken."""

from __future__ import annotations

import asyncio
from array import array
from bisect import bisect_right
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

import orjson

from producer.source import Chunk
from shared.ports import Clock, Random

_LINES_MAX: Final = 500  # of a chunk: a source that fell behind gives the run its turns all the same
_SESSIONS: Final = 2_000
_PRODUCTS: Final = 500
_PLACES: Final = (("Washington", "USA"), ("Chicago", "USA"), ("Paris", "France"), ("Osaka", "Japan"))
SOURCE_ID: Final = "load"


class ScheduledSource:
    """Gives the event number n of `due` as a line at offset n, as soon as its time has come."""

    name = SOURCE_ID

    def __init__(self, due: array[float], *, clock: Clock, random: Random) -> None:
        self._due = due
        self._clock = clock
        self._random = random
        self._stopped = asyncio.Event()
        self.began_at = 0.0  # on the clock's monotonic time
        self.began_wall = 0.0  # the same instant as a time of day

    def stop(self) -> None:
        """Give no further events."""
        self._stopped.set()

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Give all events whose time has come, then wait for the next."""
        self.began_at, self.began_wall = self._clock.monotonic(), self._clock.wall()
        done = 0
        while done < len(self._due) and not self._stopped.is_set():
            now = self._clock.monotonic() - self.began_at
            until = min(bisect_right(self._due, now, done), done + _LINES_MAX)
            if until == done:
                with suppress(TimeoutError):  # the next event's time has come
                    async with asyncio.timeout(self._due[done] - now):
                        await self._stopped.wait()
                continue
            lines = [(number, self._event(number)) for number in range(done, until)]
            yield Chunk(SOURCE_ID, lines, (), until, 0, sum(len(line) + 1 for _, line in lines))
            done = until

    def _event(self, number: int) -> bytes:
        """Return a session event of about 300 bytes."""
        chance = self._random
        session = int(chance.random() * _SESSIONS)
        city, country = _PLACES[session % len(_PLACES)]
        return orjson.dumps(
            {
                "session_id": f"load-{session:06d}",
                "customer_number": session,
                "city": city,
                "country": country,
                "credit_limit": 1000,
                "browse_history": [
                    {
                        "product_code": f"P{int(chance.random() * _PRODUCTS)}",
                        "quantity": 1 + number % 3,
                        "in_shopping_cart": number % 2 == 0,
                    }
                    for _ in range(2)
                ],
                "number": number,
            }
        )
