"""Writes, once per hour, the object that says that the hour is complete; any worker does, the first one wins."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from consumer.core.manifest import COMPLETE_NAME, Manifests, closed_until, complete_body
from consumer.retrier import Retrier
from shared.errors import HeadraceError
from shared.lease import TableRows
from shared.limits import RETENTION_HOURS_MAX
from shared.ports import ObjectStore, Telemetry

_HOURS_PER_LOOK: Final = 48  # that are looked at or completed; the rest waits for the next look at the table
_LOOK_BACK_SECONDS: Final = 3600.0 * RETENTION_HOURS_MAX  # nothing older can have been read
_PAUSE_SECONDS: Final = 60.0  # after a refusal
_STRANGERS_MAX: Final = 1_000  # keys of no hour that are passed over


@dataclass(slots=True)
class _Stretch:
    """Hours from `bottom` to before `top` (when they begin, seconds since the epoch), of which none is complete."""

    bottom: float
    top: float
    is_whole: bool = False  # its other end was found


class HourCloser:
    """Follows the rows of the lease table and completes one hour after the other.

    An hour may be completed by several workers at once: they write the same bytes, on condition that there are none.

    The bucket alone tells which hours are left to complete, however long nobody was there to do it. Complete hours have
    no hole: the latest ones are completed oldest first, and those before the first complete one, into which a seek may
    have written, newest first. So whoever comes looks for the last complete hour from the end on, and then at the
    oldest hour that there is.
    """

    def __init__(self, objects: ObjectStore, manifests: Manifests, *, retrier: Retrier, telemetry: Telemetry) -> None:
        self._objects = objects
        self._manifests = manifests
        self._retrier = retrier
        self._telemetry = telemetry
        self._rows = TableRows()
        self._has_looked = asyncio.Event()
        self._generations: dict[str, int] = {}  # of the shards; a seek raises them
        self._hours_left = 0  # of this look
        self._next: float | None = None  # when the hour begins that is to be completed next
        self._latest: _Stretch | None = None  # what lies behind the last complete hour, while that is looked for
        self._oldest: _Stretch | None = None  # what lies before the first complete hour, while that is completed
        self._is_oldest_complete = False
        self._has_warned = False  # of keys of others

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
            self._start_over()  # a seek may have written into an hour that had nothing before
        self._generations = generations
        until = closed_until(rows)
        if until is None:
            return
        self._hours_left = _HOURS_PER_LOOK
        if self._next is None:
            self._next = await self._find_next(until)
        if self._next is None:
            return
        while (end := self._manifests.end(self._next)) <= until and self._take_hour():
            await self._complete(self._next, rows)
            self._next = end
        if not self._is_oldest_complete and self._manifests.end(self._next) > until:
            await self._complete_oldest(until, rows)

    def _start_over(self) -> None:
        self._next = self._latest = self._oldest = None
        self._is_oldest_complete = False

    def _take_hour(self) -> bool:
        self._hours_left -= 1
        return self._hours_left >= 0

    async def _find_next(self, until: float) -> float | None:
        """Return the hour after the last complete one, or the oldest that there is; None: not found at this look."""
        if self._latest is None:
            top = self._manifests.begin(until)
            self._latest = _Stretch(top, top)
        stretch, oldest = self._latest, await self._find_oldest(until)
        while oldest is not None and stretch.bottom > oldest:
            if not self._take_hour():
                return None
            before = self._manifests.begin(stretch.bottom - 1)
            if await self._is_complete(before):
                break
            stretch.bottom = before
        self._latest = None
        return stretch.bottom

    async def _complete_oldest(self, until: float, rows: TableRows) -> None:
        """Complete what lies before the first complete hour, newest first."""
        if self._oldest is None:
            oldest = await self._find_oldest(until)
            if oldest is None:
                self._is_oldest_complete = True
                return
            self._oldest = _Stretch(oldest, oldest)
        stretch = self._oldest
        while not stretch.is_whole:
            if not self._take_hour():
                return
            is_end = stretch.top >= self._manifests.begin(until) or await self._is_complete(stretch.top)
            stretch.is_whole = is_end
            stretch.top = stretch.top if is_end else self._manifests.end(stretch.top)
        while stretch.top > stretch.bottom:
            if not self._take_hour():
                return
            before = self._manifests.begin(stretch.top - 1)
            await self._complete(before, rows)
            stretch.top = before
        self._oldest, self._is_oldest_complete = None, True

    async def _find_oldest(self, until: float) -> float | None:
        """Return when the oldest hour with a manifest begins, at most a year ago; None if there is none."""
        begin = await self._first_begin()
        return None if begin is None else max(begin, self._manifests.begin(until - _LOOK_BACK_SECONDS))

    async def _first_begin(self) -> float | None:
        async def look() -> float | None:
            strangers = 0  # keys of no hour: somebody else's, a folder that S3's console made
            async with aclosing(self._objects.list_objects(self._manifests.days)) as found:
                async for each in found:
                    begin = self._manifests.begin_of(each.key)
                    if begin is not None:
                        return begin
                    if strangers == _STRANGERS_MAX:
                        self._warn_of_strangers()
                        return None
                    strangers += 1
            return None

        return await self._retrier.call("list_objects", look)

    def _warn_of_strangers(self) -> None:
        """Say, once, that no hour is looked for behind so many keys of others; it is looked for again at each look."""
        self._telemetry.count("hours_not_found")
        if not self._has_warned:
            self._has_warned = True
            self._telemetry.warning(
                "hours_not_found",
                prefix=self._manifests.days,
                foreign_keys=_STRANGERS_MAX,
                consequence="no hour is completed until they are gone",
            )

    async def _is_complete(self, begin: float) -> bool:
        hour = self._manifests.hour(begin)
        return await self._first_key(self._manifests.folder(hour) + COMPLETE_NAME) is not None

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

    async def _first_key(self, prefix: str) -> str | None:
        async def look() -> str | None:
            async with aclosing(self._objects.list_objects(prefix)) as found:
                async for each in found:
                    return each.key
            return None

        return await self._retrier.call("list_objects", look)
