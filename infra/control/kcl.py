"""Takes the checkpoints of a KCL application over into ours, and gives them back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from consumer.lease_table import LeaseTable
from consumer.retrier import Retrier
from infra.control.group import ATTEMPTS_MAX
from infra.control.kcl_item import is_lease, item_from_row, row_from_item
from infra.query.rows import table_lines
from shared.errors import ConfigurationError, TableNotFoundError
from shared.lease import Lease, LeaseChange
from shared.ports import Clock, LeaseStore, Random
from shared.retry import Backoff
from shared.telemetry import SilentTelemetry

_LOOK_SECONDS: Final = 5.0  # KCL renews a lease every 3.3 s by default
_OPERATOR: Final = "@kcl-import"
_TABLE_HINT: Final = "Name the lease table of the KCL application with --table; KCL makes it at its first start"


class KclTable(Protocol):
    """A KCL lease table."""

    async def scan(self) -> Sequence[Mapping[str, Any]]:
        """Read all items."""
        ...

    async def put_unowned(self, item: Mapping[str, Any]) -> bool:
        """Write an item; False if one with an owner is in its place."""
        ...


@dataclass(frozen=True, slots=True)
class KclPorts:
    """A KCL table beside the lease table of an application of ours."""

    kcl: KclTable
    leases: LeaseStore
    clock: Clock
    random: Random
    retrier: Retrier = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "retrier", Retrier(Backoff(0.05, 2), self.random, SilentTelemetry()))


async def plan_import(ports: KclPorts) -> tuple[Lease, ...]:
    """Return the rows to be; ConfigurationError while either application runs, or for leases we can't take over."""
    items = await _stopped_leases(ports)
    rows = tuple(row_from_item(each, ports.clock.wall()) for each in items)
    if not rows:
        raise ConfigurationError("The KCL table holds no lease", hint=_TABLE_HINT)
    _check_stopped(await _our_rows(ports))
    return tuple(sorted(rows, key=lambda row: row.shard_id))


async def _stopped_leases(ports: KclPorts) -> list[Mapping[str, Any]]:
    """Read the leases twice, unless nobody owns one: a counter that moves belongs to a worker that runs."""
    items = await _leases(ports)
    if any("leaseOwner" in each for each in items):
        await asyncio.sleep(_LOOK_SECONDS)
        again = await _leases(ports)
        if _counters(again) != _counters(items):
            raise ConfigurationError(
                f"The KCL application runs: its lease counters moved within {_LOOK_SECONDS:g} s",
                hint="Stop all its workers and wait for them to checkpoint",
            )
    return items


async def _leases(ports: KclPorts) -> list[Mapping[str, Any]]:
    try:
        items = await ports.retrier.call("scan", ports.kcl.scan, attempts_max=ATTEMPTS_MAX)
    except TableNotFoundError as error:
        raise ConfigurationError(str(error), hint=_TABLE_HINT) from error
    return [each for each in items if is_lease(each)]


def _counters(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {str(each.get("leaseKey")): (each.get("leaseCounter"), each.get("checkpoint")) for each in items}


async def _our_rows(ports: KclPorts) -> tuple[Lease, ...]:
    return await ports.retrier.call("list", ports.leases.list_leases, attempts_max=ATTEMPTS_MAX)


def _check_stopped(rows: Sequence[Lease]) -> None:
    for row in rows:
        if row.owner is not None:
            raise ConfigurationError(
                f"Shard `{row.shard_id}` is owned by `{row.owner[:128]}`: the application runs, or its worker crashed",
                hint="Stop all workers with SIGTERM; after a crash, start one and stop it",
            )
        if row.pending is not None:
            raise ConfigurationError(
                f"Shard `{row.shard_id}` has a flush to finish", hint="Start a worker, and stop it once it has"
            )


async def apply_import(ports: KclPorts, rows: Sequence[Lease]) -> int:
    """Write the rows; rows of ours that exist are moved to the KCL checkpoint, as by a seek. Returns how many.

    Children first: a row that is missing yet keeps its children from starting.
    """
    ours = {row.shard_id: row for row in await _our_rows(ports)}
    table = LeaseTable(ports.leases, ports.retrier, worker_id=_OPERATOR, random=ports.random)
    written = 0
    for row in reversed(rows):
        known = ours.get(row.shard_id)
        if known is None:
            written += await table.create(row)
            continue
        held = await table.take(known)
        if held is None:
            raise ConfigurationError(f"Shard `{row.shard_id}` was taken meanwhile", hint="Stop all workers")
        change = LeaseChange(
            owner=None,
            successor=None,
            checkpoint=row.checkpoint,
            children=row.children,
            finished_at=row.finished_at,
            marks={},
            start_timestamp=None,
            read_through=None,
            closed_until=None,
            attempts=0,
            attempted_by=(),
            generation=known.generation + 1,
        )
        await held.write(change)
        written += 1
    return written


async def plan_export(ports: KclPorts) -> tuple[dict[str, Any], ...]:
    """Return the KCL items to be; ConfigurationError while either application runs, or for what KCL can't express."""
    rows = await _our_rows(ports)
    if not rows:
        raise ConfigurationError(
            "The application has no lease row", hint="Run `headrace consume` with this --app, or name another one"
        )
    _check_stopped(rows)
    await _stopped_leases(ports)
    return tuple(item_from_row(row) for row in rows)


async def apply_export(ports: KclPorts, items: Sequence[Mapping[str, Any]]) -> int:
    """Write the items over unowned leases; ConfigurationError at the first that a KCL worker owns."""
    for item in items:
        if not await ports.retrier.call(
            "put",
            lambda item=item: ports.kcl.put_unowned(item),  # type: ignore[misc] # mypy on defaults
            attempts_max=ATTEMPTS_MAX,
        ):
            raise ConfigurationError(
                f"KCL lease `{item['leaseKey']['S']}` has an owner", hint="Stop all KCL workers with a clean shutdown"
            )
    return len(items)


def row_lines(rows: Sequence[Lease]) -> list[str]:
    """Return rows as lines for people."""
    cells = iter(
        [
            (
                row.shard_id,
                row.checkpoint.text,
                row.checkpoint.position.sub_sequence_number,
                " ".join(row.parents) or "-",
            )
            for row in rows
        ]
    )
    return list(table_lines(("shard", "checkpoint", "sub", "parents"), cells))
