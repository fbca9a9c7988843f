"""Takes shards over from live owners: asks, waits until the owner has stored what it read, and goes on at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from consumer.lease_table import HeldLease, LeaseTable
from shared.errors import HeadraceError
from shared.lease import Lease
from shared.ports import Clock, Telemetry

_LOOK_SECONDS: Final = 0.25
_CLOSE_LOOK_SECONDS: Final = 0.05  # once the owner has stored something, it may give the shard away next
_CLOSE_SECONDS: Final = 2.0  # for so long after that
_LEAVE_SECONDS_MAX: Final = 2.0


class Succession:
    """The shards that this worker has asked for and not got yet; no shard is asked for twice at a time."""

    def __init__(
        self,
        table: LeaseTable,
        worker_id: str,
        *,
        patience_seconds: float,
        on_adopted: Callable[[HeldLease], None],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """`patience_seconds`: how long an owner may take to answer before the shard is left to it."""
        self._table = table
        self._worker_id = worker_id
        self._patience = patience_seconds
        self._on_adopted = on_adopted
        self._clock = clock
        self._telemetry = telemetry
        self._waiting: dict[str, tuple[Lease, asyncio.Task[None]]] = {}  # the row as it was asked for

    def ask(self, row: Lease, group: asyncio.TaskGroup) -> None:
        """Begin to ask for a shard, in a task of `group`."""
        if row.shard_id not in self._waiting:
            task = group.create_task(self._inherit(row))
            self._waiting[row.shard_id] = (row, task)
            task.add_done_callback(lambda done: self._forget(row.shard_id, done))

    def give_up(self, shard_id: str) -> None:
        """Ask for a shard no longer, e.g., because its owner is dead and the shard is taken instead."""
        waiting = self._waiting.pop(shard_id, None)
        if waiting is not None:
            waiting[1].cancel()

    async def leave(self) -> None:
        """Ask for nothing any more, and give back what is handed over at this moment, within a bounded time."""
        asked = [seen for seen, _ in self._waiting.values()]
        for seen in asked:
            self.give_up(seen.shard_id)
        await asyncio.gather(*(self._decline(seen) for seen in asked))

    async def _decline(self, seen: Lease) -> None:
        try:
            async with asyncio.timeout(_LEAVE_SECONDS_MAX):
                if not await self._table.withdraw(seen):
                    row = await self._table.read(seen.shard_id)
                    if row is not None and self._is_answer(row, seen):
                        await self._table.adopt(row).release()
        except (HeadraceError, TimeoutError) as error:
            self._telemetry.warning("lease_not_released", shard_id=seen.shard_id, error=type(error).__name__)

    def _forget(self, shard_id: str, task: asyncio.Task[None]) -> None:
        if shard_id in self._waiting and self._waiting[shard_id][1] is task:
            del self._waiting[shard_id]

    def _is_answer(self, row: Lease, seen: Lease) -> bool:
        return row.epoch == seen.epoch + 1 and row.owner == self._worker_id

    async def _inherit(self, seen: Lease) -> None:
        try:
            if not await self._table.ask(seen):
                return
            self._telemetry.info("lease_asked_for", shard_id=seen.shard_id, owner=seen.owner or "")
            if await self._is_answered(seen):
                return
            if await self._table.withdraw(seen):
                self._telemetry.warning("lease_not_handed_over", shard_id=seen.shard_id, seconds=self._patience)
            else:
                self._take_answer(await self._table.read(seen.shard_id), seen)
        except HeadraceError as error:
            # The shard is read by its owner, or taken when that one's lease expires.
            self._telemetry.warning("succession_failed", shard_id=seen.shard_id, error=type(error).__name__)

    async def _is_answered(self, seen: Lease) -> bool:
        """Wait for the owner's answer; False if none came in time."""
        deadline = self._clock.monotonic() + self._patience
        version, close_until = seen.version, 0.0
        while (now := self._clock.monotonic()) < deadline:
            await asyncio.sleep(_CLOSE_LOOK_SECONDS if now < close_until else _LOOK_SECONDS)
            try:
                row = await self._table.read(seen.shard_id)
            except HeadraceError as error:
                # Not to look again would leave a shard unread that is handed over next.
                self._telemetry.count("succession_looks_failed", error=type(error).__name__)
                continue
            if row is None or row.epoch != seen.epoch or row.successor != self._worker_id:
                self._take_answer(row, seen)
                return True
            if row.version != version:
                version, close_until = row.version, self._clock.monotonic() + _CLOSE_SECONDS
        return False

    def _take_answer(self, row: Lease | None, seen: Lease) -> None:
        if row is not None and self._is_answer(row, seen):
            self._on_adopted(self._table.adopt(row))
