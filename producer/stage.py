"""Where events that are put one by one wait for each other, to be queued together in a third of the time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import orjson

from producer.core.json_line import SESSION_ID_FIELD
from producer.core.lanes import RECORD_OVERHEAD_BYTES, LaneQueues, Numbering
from producer.intake import Intake
from shared.compiled import COLUMNS
from shared.errors import DeliveryFailedError, PartitionKeyError
from shared.event import EVENT_ID_CHARACTERS_MAX, EVENT_ID_FIELD, SHORT_BYTES, event_id_heads
from shared.limits import EVENT_DEPTH_MAX, PARTITION_KEY_CHARACTERS_MAX

_EVENTS_MAX: Final = 128
_ID_BYTES_MAX: Final = EVENT_ID_CHARACTERS_MAX + len(b',"event_id":""}')
_KEY_BYTES_MAX: Final = 4 * PARTITION_KEY_CHARACTERS_MAX
_COST_BYTES_MAX: Final = SHORT_BYTES + _ID_BYTES_MAX + _KEY_BYTES_MAX + RECORD_OVERHEAD_BYTES
_ROOM_BYTES: Final = _EVENTS_MAX * _COST_BYTES_MAX
_EMPTY_BYTES: Final = len(b"{}")
_dumps: Final = orjson.dumps
_EVENT_RULES: Final = (_dumps, SESSION_ID_FIELD, EVENT_ID_FIELD, SHORT_BYTES - len(b"}"), EVENT_DEPTH_MAX)


class Stage:
    """Accepts events, and numbers and queues them together, at the latest once the event loop has run what is ready.

    An event that is staged is accepted: room for it is reserved in the buffer. Whatever looks at the queues, closes the
    producer or puts by another way has to `clear` the stage first; records from a spill need not, as lanes that have
    some are not staged for.
    """

    def __init__(self, intake: Intake, queues: LaneQueues, source_id: str, *, has_lanes: bool) -> None:
        self.intake = intake
        self._queues = queues
        self._may_spill = queues.has_spill
        self._source_id = source_id
        self._has_lanes = has_lanes
        self.renumber()
        self._loop = asyncio.get_running_loop()
        self._count = 0  # of the numbers that were given
        self._bodies: list[bytes] = []
        self._keys: list[str] = []

    def renumber(self) -> None:
        """Number events by how lanes are cut now; nothing may be staged."""
        self._indexes = self._queues.indexes
        self._heads = event_id_heads(self._source_id, self._queues.division, has_lanes=self._has_lanes)

    def add(self, event: Any, partition_key: Any) -> bool:
        """Accept an event; False if it needs a look of its own: it is no ordinary one, or there is no room.

        Its partition key is that of `SESSION_ID_FIELD` unless given.
        """
        if COLUMNS is not None and self._bodies and not self._may_spill:
            count = COLUMNS.stage_event(event, partition_key, _EVENT_RULES, self._indexes, self._bodies, self._keys)
            if count >= _EVENTS_MAX:
                self.clear()
            if count:
                return True
        return self._add(event, partition_key)

    def _add(self, event: Any, partition_key: Any) -> bool:
        """Do what `add` does, step by step."""
        if type(event) is not dict or EVENT_ID_FIELD in event:
            return False
        key = event.get(SESSION_ID_FIELD) if partition_key is None else partition_key
        if type(key) is not str:
            return False
        try:
            data = _dumps(event)
            index = self._indexes[key]
        except (orjson.JSONEncodeError, PartitionKeyError):
            return False  # the closer look tells why
        size = len(data)
        # As opening_count counts. A reader will decode it: orjson writes nothing else that would be refused.
        openings = 2 * size - len(data.replace(b"[", b"")) - len(data.replace(b"{", b""))
        if openings > EVENT_DEPTH_MAX or not _EMPTY_BYTES < size <= SHORT_BYTES:
            return False
        bodies = self._bodies
        if (self._may_spill and self._queues.lanes[index].spilled) or not (bodies or self._begin()):
            return False
        bodies.append(data[:-1])
        self._keys.append(key)
        if len(bodies) >= _EVENTS_MAX:
            self.clear()
        return True

    def _begin(self) -> bool:
        """Take room for as many events as may be staged, and have the stage cleared soon; False if there is none."""
        self.intake.check_open()
        self.check_loop()
        if not self._queues.reserve(_ROOM_BYTES):
            return False
        self._loop.call_soon(self.clear)
        return True

    def check_loop(self) -> None:
        """Raise DeliveryFailedError in another event loop than the producer's, where nothing would be woken."""
        if asyncio.get_running_loop() is not self._loop:
            raise DeliveryFailedError(
                "the producer belongs to another event loop", hint="Open one in each event loop that puts"
            )

    def clear(self) -> None:
        """Queue what is staged."""
        if not self._bodies:
            return
        bodies, keys = self._bodies.copy(), self._keys.copy()
        self._bodies.clear()  # the same lists for good: events may be added to them at any time
        self._keys.clear()
        self._queues.unreserve(_ROOM_BYTES)
        if self.put_all(bodies, keys) < len(bodies):
            msg = "an event that was accepted found no room"
            raise AssertionError(msg)

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
