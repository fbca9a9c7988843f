"""Takes shards over from live owners: asks, waits until the owner has stored what it read, and goes on at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from consumer.lease_table import HeldLease, LeaseTable
from shared.errors import HeadraceError
from shared.lease import Lease
from shared.ports import Clock, Telemetry

_LOOK_SECONDS: Final = 0.25  # how soon a shard that was handed over is read on


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
        self._waiting: dict[str, asyncio.Task[None]] = {}

    def ask(self, row: Lease, group: asyncio.TaskGroup) -> None:
        """Begin to ask for a shard, in a task of `group`."""
        if row.shard_id not in self._waiting:
            task = group.create_task(self._inherit(row))
            self._waiting[row.shard_id] = task
            task.add_done_callback(lambda done: self._forget(row.shard_id, done))

    def give_up(self, shard_id: str) -> None:
        """Ask for a shard no longer, e.g., because its owner is dead and the shard is taken instead."""
        task = self._waiting.pop(shard_id, None)
        if task is not None:
            task.cancel()

    def give_up_all(self) -> None:
        """Ask for nothing any more."""
        for shard_id in list(self._waiting):
            self.give_up(shard_id)

    def _forget(self, shard_id: str, task: asyncio.Task[None]) -> None:
        if self._waiting.get(shard_id) is task:
            del self._waiting[shard_id]

    async def _inherit(self, seen: Lease) -> None:
        try:
            if not await self._table.ask(seen):
                return
            self._telemetry.info("lease_asked_for", shard_id=seen.shard_id, owner=seen.owner or "")
            deadline = self._clock.monotonic() + self._patience
            while self._clock.monotonic() < deadline:
                await asyncio.sleep(_LOOK_SECONDS)
                row = await self._table.read(seen.shard_id)
                if row is None or row.epoch != seen.epoch or row.successor != self._worker_id:
                    if row is not None and row.epoch == seen.epoch + 1 and row.owner == self._worker_id:
                        self._on_adopted(self._table.adopt(row))
                    return
            await self._table.withdraw(seen)
            self._telemetry.warning("lease_not_handed_over", shard_id=seen.shard_id, seconds=self._patience)
        except HeadraceError as error:
            # The shard is read by its owner, or taken when that one's lease expires.
            self._telemetry.warning("succession_failed", shard_id=seen.shard_id, error=type(error).__name__)
