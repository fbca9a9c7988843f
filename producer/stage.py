"""Where events that are put one by one wait for each other, to be queued together in a third of the time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from producer.core.lanes import LaneQueues, Numbering
from producer.intake import Intake
from shared.event import EVENT_ID_CHARACTERS_MAX

_EVENTS_MAX: Final = 64
_ID_BYTES_MAX: Final = EVENT_ID_CHARACTERS_MAX + len(b',"event_id":""}')


class Stage:
    """Accepts events, and numbers and queues them together, at the latest once the event loop has run what is ready.

    An event that is staged is accepted: its room in the buffer is taken. Whatever looks at the queues, closes the
    producer or puts by another way has to `clear` the stage first.
    """

    def __init__(self, intake: Intake, queues: LaneQueues, heads: tuple[bytes, ...]) -> None:
        self.intake = intake
        self._queues = queues
        self._heads = heads
        self._count = 0  # of the numbers that were given
        self._bodies: list[bytes] = []
        self._keys: list[str] = []
        self._size = 0  # of bodies and keys, as room was taken for them

    def add(self, body: bytes, partition_key: str) -> bool:
        """Accept an event that lacks its last brace and is not empty; False if it needs a look of its own, or room."""
        bodies = self._bodies
        if not bodies:
            self.intake.check_open()
        size = self._queues.reserve(partition_key, len(body) + _ID_BYTES_MAX)
        if not size:
            return False
        if not bodies:
            asyncio.get_running_loop().call_soon(self.clear)
        self._size += size
        bodies.append(body)
        self._keys.append(partition_key)
        if len(bodies) >= _EVENTS_MAX:
            self.clear()
        return True

    def clear(self) -> None:
        """Queue what is staged."""
        bodies, keys = self._bodies, self._keys
        if not bodies:
            return
        self._queues.unreserve(len(bodies), self._size)
        self._bodies, self._keys, self._size = [], [], 0
        done = 0
        while (done := done + self.put_all(bodies[done:], keys[done:])) < len(bodies):
            # Its lane has records with explicit hash keys, from a spill. There is room: it was taken.
            self.intake.take(bodies[done] + b"}", keys[done], None, self.number())
            done += 1

    def put_all(self, bodies: Sequence[bytes], keys: Sequence[str]) -> int:
        """Queue the first ones of some events that lack their last brace, and return how many."""
        numbers = range(self._count + 1, self._count + 1 + len(bodies))
        accepted = self.intake.take_all(bodies, keys, None, (self._heads, numbers))
        self._count += accepted
        return accepted

    def number(self) -> Numbering:
        """Return the next number, for an event that is queued in this step.

        Readers take an event that comes after a higher number of its lane for a duplicate.
        """
        self._count += 1
        return self._heads, self._count
