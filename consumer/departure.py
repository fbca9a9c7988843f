"""How a worker leaves: it offers its shards to others, drains what is left, and gives every lease back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from consumer.core.lease_planner import LeasePlanner
from consumer.holding import Holdings, join
from consumer.lease_table import LeaseTable
from shared.errors import HeadraceError
from shared.lease import Presence, TableRows
from shared.ports import Clock, RecordSink, Telemetry

_LOOK_SECONDS: Final = 0.25
_FORGET_SECONDS_MAX: Final = 1.0
_RELEASE_SHARE: Final = 0.1  # of the drain time, what is kept for giving the leases back
_OFFER_SHARE_MAX: Final = 0.4  # of the drain time, what may pass until others have asked


class Departure:
    """The end of a worker, within `drain_timeout_seconds`."""

    def __init__(
        self,
        holdings: Holdings,
        planner: LeasePlanner,
        table: LeaseTable,
        sinks: Mapping[str, RecordSink],
        *,
        worker_id: str,
        drain_timeout_seconds: float,
        offer_seconds: float,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """`offer_seconds`: how long others may take to notice that this worker leaves."""
        self._holdings = holdings
        self._planner = planner
        self._table = table
        self._sinks = sinks
        self._worker_id = worker_id
        self._drain_seconds = drain_timeout_seconds
        self._offer_seconds = min(offer_seconds, _OFFER_SHARE_MAX * drain_timeout_seconds)
        self._clock = clock
        self._telemetry = telemetry

    async def run(self, hurry: asyncio.Event, group: asyncio.TaskGroup, heartbeat: int) -> None:
        """Leave; `hurry` skips what takes time. Shards are read on until somebody asks for them."""
        started_at = self._clock.monotonic()
        over = asyncio.Event()
        attendant = group.create_task(_set_after(hurry.wait, over))
        offering = group.create_task(_set_after(lambda: self._offer(heartbeat, group), over))
        await over.wait()
        offering.cancel()
        attendant.cancel()
        await self._drain(hurry, group, started_at + self._drain_seconds * (1 - _RELEASE_SHARE))
        try:
            async with asyncio.timeout(_FORGET_SECONDS_MAX):
                await self._table.forget(self._worker_id)
        except (HeadraceError, TimeoutError) as error:
            # It stands still from now on, and whoever looks judges by that.
            self._telemetry.warning("presence_not_removed", error=type(error).__name__)

    async def _offer(self, heartbeat: int, group: asyncio.TaskGroup) -> None:
        """Say that this worker leaves, and hand shards over as others ask for them, for `offer_seconds` at most."""
        try:
            # The table's calls are repeated for as long as an outage lasts: this ends them.
            async with asyncio.timeout(self._offer_seconds):
                rows = await self._table.list_rows()
                if not self._holdings or not self._planner.others(rows, self._clock.monotonic()):
                    return
                await self._table.announce(Presence(self._worker_id, heartbeat, is_leaving=True))
                while self._holdings:
                    await asyncio.sleep(_LOOK_SECONDS)
                    await self._hand_over(await self._table.list_rows(), group)
        except TimeoutError:
            return  # what nobody asked for is released below
        except HeadraceError as error:
            self._telemetry.warning("offer_failed", error=type(error).__name__)

    async def _hand_over(self, rows: TableRows, group: asyncio.TaskGroup) -> None:
        epochs = {name: each.held.epoch for name, each in self._holdings.items()}
        plan = self._planner.plan(rows, epochs, self._clock.monotonic())
        for each in plan.hand_over:
            self._holdings.hand_over(self._holdings[each.shard_id], each.successor, group)
        for row in plan.decline:
            await self._table.decline(row)

    async def _drain(self, hurry: asyncio.Event, group: asyncio.TaskGroup, deadline: float) -> None:
        """Stop reading, let sinks and batches finish, checkpoint, release; by the deadline what is left is dropped.

        What is dropped was not checkpointed, so that the next owner reads it again.
        """
        for holding in list(self._holdings.values()):
            holding.consumer.stop()
        tasks = [holding.task for holding in self._holdings.values() if holding.task is not None]
        over = asyncio.Event()
        attendants = [
            group.create_task(_set_after(lambda: join(tasks), over)),
            group.create_task(_set_after(hurry.wait, over)),
            *(group.create_task(self._flush_sink(name, deadline)) for name in self._sinks),
        ]
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await over.wait()
        except TimeoutError:
            self._telemetry.warning("drain_timed_out", seconds=self._drain_seconds)
        for each in attendants:
            each.cancel()
        await self._holdings.abandon()

    async def _flush_sink(self, name: str, deadline: float) -> None:
        try:
            pending = await self._sinks[name].flush(max(0.0, deadline - self._clock.monotonic()))
        except HeadraceError as error:
            # Its records keep their receipts back, so that no checkpoint passes them.
            self._telemetry.error("sink_failed", destination=name, error=str(error), hint=error.hint)
            return
        if pending:
            self._telemetry.warning("sink_not_drained", destination=name, records=pending)


async def _set_after(call: Callable[[], Awaitable[object]], event: asyncio.Event) -> None:
    await call()  # made here: a task that is cancelled before it began leaves no coroutine behind
    event.set()
