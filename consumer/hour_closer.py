"""Writes, once per hour, the object that says that the hour is complete; any worker does, the first one wins."""

from __future__ import annotations

import asyncio
from typing import Final

from consumer.core.manifest import COMPLETE_NAME, Manifests, closed_until, complete_body
from consumer.retrier import Retrier
from shared.errors import HeadraceError
from shared.lease import TableRows
from shared.ports import ObjectStore, Telemetry

_LOOK_BACK_HOURS: Final = 24  # at the start, for hours that ended while nobody lived to say so
_PAUSE_SECONDS: Final = 60.0  # after a refusal


class HourCloser:
    """Follows the rows of the lease table and completes one hour after the other.

    An hour may be completed by several workers at once: they write the same bytes, on condition that there are none.
    """

    def __init__(self, objects: ObjectStore, manifests: Manifests, *, retrier: Retrier, telemetry: Telemetry) -> None:
        self._objects = objects
        self._manifests = manifests
        self._retrier = retrier
        self._telemetry = telemetry
        self._rows = TableRows()
        self._has_looked = asyncio.Event()
        self._next: float | None = None  # when the hour begins that is to be completed next
        self._generations: dict[str, int] = {}  # of the shards; a seek raises them

    def look(self, rows: TableRows) -> None:
        """Take the rows as they were just read."""
        self._rows = rows
        self._has_looked.set()

    async def run(self) -> None:
        """Complete hours until cancelled."""
        while True:
            await self._has_looked.wait()
            self._has_looked.clear()
            try:
                await self._complete_hours(self._rows)
            except HeadraceError as error:
                self._telemetry.error("hour_not_completed", error=str(error), hint=error.hint)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _complete_hours(self, rows: TableRows) -> None:
        generations = {row.shard_id: row.generation for row in rows.leases}
        if any(generations.get(shard_id, number) > number for shard_id, number in self._generations.items()):
            self._next = None  # a seek may have written into an hour that had nothing before
        self._generations = generations
        until = closed_until(rows)
        if until is None:
            return
        if self._next is None:
            self._next = await self._find_first(until)
        while (end := self._manifests.end(self._next)) <= until:
            await self._complete(self._next, rows)
            self._next = end

    async def _find_first(self, until: float) -> float:
        """Return the hour after the last complete one; without one, the oldest that has an index, or that of now."""
        first = begin = self._manifests.begin(until)
        for _ in range(_LOOK_BACK_HOURS):
            after, begin = begin, self._manifests.begin(begin - 1)
            keys = await self._list(self._manifests.hour(begin))
            if any(key.endswith(COMPLETE_NAME) for key in keys):
                return after
            first = begin if keys else first
        return first

    async def _complete(self, begin: float, rows: TableRows) -> None:
        hour = self._manifests.hour(begin)
        body = complete_body(hour, str(self._manifests.zone), await self._list(hour), rows.leases)
        is_first = await self._retrier.call(
            "put_object",
            lambda: self._objects.put_object(
                self._manifests.folder(hour) + COMPLETE_NAME,
                body,
                content_type="application/json",
                only_if_absent=True,
            ),
        )
        if is_first:
            self._telemetry.info("hour_completed", hour=hour)
            self._telemetry.count("hours_completed")

    async def _list(self, hour: str) -> list[str]:
        prefix = self._manifests.folder(hour)

        async def walk() -> list[str]:
            return [each.key async for each in self._objects.list_objects(prefix)]

        return await self._retrier.call("list_objects", walk)
