"""Takes free shards, and leaves none taken behind when the worker leaves meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from consumer.holding import join
from consumer.lease_table import HeldLease, LeaseTable
from shared.errors import HeadraceError
from shared.lease import Lease
from shared.ports import Clock, Telemetry

_TAKES_MAX: Final = 16  # at a time
_LEAVE_SECONDS_MAX: Final = 2.0


class Taker:
    """The takes that are under way.

    They run in tasks of the worker's own, not in those of a round: a call that is cancelled may have landed, and would
    leave its shard to nobody until the lease expires.
    """

    def __init__(self, table: LeaseTable, *, clock: Clock, telemetry: Telemetry) -> None:
        self._table = table
        self._clock = clock
        self._telemetry = telemetry
        self._gate = asyncio.Semaphore(_TAKES_MAX)
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_leaving = False

    async def take(
        self, rows: Iterable[Lease], group: asyncio.TaskGroup, on_taken: Callable[[Lease, HeldLease, float], bool]
    ) -> None:
        """Take rows that are as they were seen, in tasks of `group`; HeadraceError of one that failed.

        `on_taken` gets the row as it was seen, the lease and when the call began (monotonic seconds), and answers
        whether the shard is wanted: it is given back if not.
        """
        failures: list[HeadraceError] = []
        tasks = [group.create_task(self._take(row, on_taken, failures)) for row in rows]
        for task in tasks:
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        await join(tasks)
        if failures:
            raise failures[0]

    async def leave(self) -> None:
        """Begin no take any more, and let those under way end and be given back, within a bounded time."""
        self._is_leaving = True
        tasks = list(self._under_way)
        try:
            async with asyncio.timeout(_LEAVE_SECONDS_MAX):
                await join(tasks)
        except TimeoutError:
            # Whether they landed is not known: those leases expire.
            for task in tasks:
                task.cancel()
            self._telemetry.warning("takes_not_answered", shards=len(self._under_way))

    async def _take(
        self, row: Lease, on_taken: Callable[[Lease, HeldLease, float], bool], failures: list[HeadraceError]
    ) -> None:
        try:
            async with self._gate:
                if self._is_leaving:
                    return
                started_at = self._clock.monotonic()
                held = await self._table.take(row)
        except HeadraceError as error:
            failures.append(error)
            return
        if held is not None and not on_taken(row, held, started_at):
            await self._give_back(held)

    async def _give_back(self, held: HeldLease) -> None:
        try:
            await held.release()
        except HeadraceError as error:  # the lease expires by itself
            self._telemetry.warning("lease_not_released", shard_id=held.shard_id, error=type(error).__name__)
        else:
            self._telemetry.info("lease_released", shard_id=held.shard_id)
