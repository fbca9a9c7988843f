"""An in-memory lease table behind the port, with DynamoDB's conditional semantics."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import orjson

from shared.errors import InvalidRequestError
from shared.lease import Lease, LeaseChange, LeaseExpectation, Presence, TableRows
from shared.limits import DYNAMODB_ITEM_BYTES_MAX
from shared.ports import ConditionFailedError
from tests.support.network import Network, PerfectNetwork

_MARKS_PACKED_MIN = 2_000  # fewer marks can't reach the bound: packing them costs more than the rest of a call


class FakeLeases:
    """The port `LeaseStore`, whole, in memory."""

    def __init__(self, network: Network | None = None) -> None:
        self.network: Network = network or PerfectNetwork()
        self.rows: dict[str, Lease] = {}
        self.presences: dict[str, Presence] = {}
        self.damaged: dict[str, int] = {}  # shard id -> epoch, of rows that can't be read
        self.application: dict[str, Any] | None = None
        self.schema = ""
        self.on_write: Callable[[Lease, Lease], None] | None = None  # told the row before and after an update

    def damage(self, shard_id: str) -> None:
        """Make a row unreadable, its fence included."""
        self.damaged[shard_id] = self.rows.pop(shard_id).epoch

    async def list_leases(self) -> tuple[Lease, ...]:
        """Read all rows."""

        def land() -> tuple[Lease, ...]:
            for shard_id in self.damaged:
                raise _unreadable(shard_id)
            return tuple(self.rows[name] for name in sorted(self.rows))

        return await self.network.call("leases.list", land)

    async def list_rows(self) -> TableRows:
        """Read all rows and presences."""

        def land() -> TableRows:
            return TableRows(
                tuple(self.rows[name] for name in sorted(self.rows)),
                tuple(self.presences[name] for name in sorted(self.presences)),
                tuple(sorted(self.damaged)),
            )

        return await self.network.call("leases.list", land)

    async def replace_damaged(self, lease: Lease) -> bool:
        """Put a row in the place of one that can't be read."""

        def land() -> bool:
            epoch = self.damaged.pop(lease.shard_id, None)
            if epoch is None:
                return False
            self.rows[lease.shard_id] = _snapshot(replace(lease, epoch=epoch + 1))
            return True

        return await self.network.call("leases.replace_damaged", land)

    async def write_presence(self, presence: Presence) -> None:
        """Say that a worker is there."""

        def land() -> None:
            self.presences[presence.worker_id] = presence

        await self.network.call("leases.write_presence", land)

    async def delete_presence(self, worker_id: str, heartbeat: int | None = None) -> None:
        """Take a presence away."""

        def land() -> None:
            found = self.presences.get(worker_id)
            if found is not None and heartbeat in {None, found.heartbeat}:
                del self.presences[worker_id]

        await self.network.call("leases.delete_presence", land)

    async def read_lease(self, shard_id: str) -> Lease | None:
        """Read one row."""

        def land() -> Lease | None:
            if shard_id in self.damaged:
                raise _unreadable(shard_id)
            return self.rows.get(shard_id)

        return await self.network.call("leases.read", land)

    async def create_lease(self, lease: Lease) -> None:
        """Write a row if there is none."""
        row = _snapshot(lease)

        def land() -> None:
            if row.shard_id in self.rows or row.shard_id in self.damaged:
                raise ConditionFailedError(self.rows.get(row.shard_id))
            self.rows[row.shard_id] = row

        await self.network.call("leases.create", land)

    async def update_lease(self, shard_id: str, expectation: LeaseExpectation, change: LeaseChange) -> Lease:
        """Apply a change under its condition."""
        # What is sent is fixed now: a caller that goes on changing its marks must not change the request.
        if isinstance(change.marks, Mapping):
            change = replace(change, marks=MappingProxyType(dict(change.marks)))

        def land() -> Lease:
            row = self._expect(shard_id, expectation)
            written = self.rows[shard_id] = _snapshot(change.apply(row))
            if self.on_write is not None:
                self.on_write(row, written)
            return written

        return await self.network.call("leases.update", land)

    async def delete_lease(self, shard_id: str, expectation: LeaseExpectation) -> None:
        """Delete a row under its condition."""

        def land() -> None:
            self._expect(shard_id, expectation)
            del self.rows[shard_id]

        await self.network.call("leases.delete", land)

    async def read_application(self) -> Mapping[str, Any] | None:
        """Read what the application said of itself."""
        return await self.network.call("leases.read_application", lambda: self.application)

    async def write_application(self, description: Mapping[str, Any]) -> Mapping[str, Any]:
        """Store what the application says of itself, unless it reads another stream."""
        copy = dict(description)

        def land() -> Mapping[str, Any]:
            held = (self.application or {}).get("source_stream")
            if self.application is None or held in {None, copy.get("source_stream")}:
                self.application = copy
            return self.application

        return await self.network.call("leases.write_application", land)

    async def delete_application(self) -> None:
        """Take both away."""

        def land() -> None:
            self.application, self.schema = None, ""

        await self.network.call("leases.delete_application", land)

    async def hold_schema(self, schema: str) -> str:
        """Store the columns of the archive unless there are some."""

        def land() -> str:
            self.schema = self.schema or schema
            return self.schema

        return await self.network.call("leases.hold_schema", land)

    def _expect(self, shard_id: str, expectation: LeaseExpectation) -> Lease:
        row = self.rows.get(shard_id)
        if row is None or not expectation.holds(row):
            raise ConditionFailedError(row)
        return row


def _unreadable(shard_id: str) -> InvalidRequestError:
    return InvalidRequestError(f"Lease row `{shard_id}` is damaged")


def _snapshot(lease: Lease) -> Lease:
    # The bound and the packing are the adapter's: marks may take half of a row.
    size = 0 if len(lease.marks) < _MARKS_PACKED_MIN else len(zlib.compress(orjson.dumps(dict(lease.marks)), 1))
    if size > DYNAMODB_ITEM_BYTES_MAX // 2:
        raise InvalidRequestError(f"the marks take {size:,} bytes; a row has {DYNAMODB_ITEM_BYTES_MAX // 2:,} for them")
    # DynamoDB keeps parents and children as sets: their order is lost.
    parents, children = tuple(sorted(lease.parents)), tuple(sorted(lease.children))
    return replace(lease, parents=parents, children=children, marks=MappingProxyType(dict(lease.marks)))
