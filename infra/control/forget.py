"""Forgets an application whose workers are stopped: positions, marks and columns, so that its name may begin anew."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Final

from consumer.retrier import Retrier
from infra.control.group import ATTEMPTS_MAX
from shared.errors import ConfigurationError
from shared.lease import Lease, LeaseExpectation, TableRows
from shared.ports import ConditionFailedError, LeaseStore

_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Forgetting:
    """One run over the lease table of an application; a run that was cut short is completed by another one."""

    app: str
    leases: LeaseStore
    retrier: Retrier

    async def look(self) -> TableRows:
        """Return all rows and presences."""
        return await self.retrier.call("list", self.leases.list_rows, attempts_max=ATTEMPTS_MAX)

    async def check_stopped(self, seen: TableRows, lease_seconds: float) -> None:
        """Look for as long as a lease lasts whether anything moves; ConfigurationError if so, as a worker is alive.

        A worker renews several times within a lease, and one that holds none shows itself. Where neither an owner nor a
        presence is there, the last one ended in order, and nothing is waited for.
        """
        if not (seen.presences or any(row.owner is not None for row in seen.leases)):
            return
        for _ in range(int(lease_seconds / _LOOK_SECONDS) + 2):
            await asyncio.sleep(_LOOK_SECONDS)
            if _pulse(await self.look()) != _pulse(seen):
                raise self._alive()

    async def forget(self, seen: TableRows) -> None:
        """Delete all that the table holds of the application; ConfigurationError if a worker comes meanwhile.

        The description goes last: as long as it is there, no worker for another stream makes rows beside those left.
        """
        for shard_id in seen.damaged:
            await self._repair(shard_id)
        for row in (await self.look()).leases if seen.damaged else seen.leases:
            await self._delete(row)
        for presence in seen.presences:
            attempt = partial(self.leases.delete_presence, presence.worker_id, presence.heartbeat)
            await self.retrier.call("delete_presence", attempt, attempts_max=ATTEMPTS_MAX)
        if _pulse(await self.look()):
            raise self._alive()
        await self.retrier.call("delete_application", self.leases.delete_application, attempts_max=ATTEMPTS_MAX)

    async def _repair(self, shard_id: str) -> None:
        """Make a row that can't be read one that can be deleted."""
        attempt = partial(self.leases.replace_damaged, Lease(shard_id))
        await self.retrier.call("replace_damaged", attempt, attempts_max=ATTEMPTS_MAX)

    async def _delete(self, row: Lease) -> None:
        expectation = LeaseExpectation(
            owner=row.owner, epoch=row.epoch, heartbeat=row.heartbeat, version=row.version, successor=row.successor
        )

        async def attempt() -> None:
            try:
                await self.leases.delete_lease(row.shard_id, expectation)
            except ConditionFailedError as refused:
                if refused.current is not None:  # else an attempt before has landed
                    raise self._alive() from refused

        await self.retrier.call("delete_lease", attempt, attempts_max=ATTEMPTS_MAX)

    def _alive(self) -> ConfigurationError:
        return ConfigurationError(
            f"A worker of application `{self.app}` is alive: its rows have changed since the first look",
            hint="Stop all of its workers first, then run the same command again",
        )


def _pulse(rows: TableRows) -> dict[str, tuple[object, ...]]:
    """Return what moves while a worker is alive; empty where there is nothing at all."""
    leases = {row.shard_id: (row.owner, row.epoch, row.heartbeat, row.version, row.successor) for row in rows.leases}
    presences = {f"@{each.worker_id}": (each.heartbeat, each.is_leaving) for each in rows.presences}
    return leases | presences | dict.fromkeys(rows.damaged, ())
