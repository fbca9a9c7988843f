"""Sets or clears the operator's pause in the rows of a group, and clears halts; owners see it in their next round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from infra.control.group import ATTEMPTS_MAX, Group
from shared.errors import ConfigurationError
from shared.lease import Lease, LeaseChange, LeaseExpectation
from shared.ports import ConditionFailedError

_TURNS_MAX: Final = 5


async def set_pause(group: Group, names: Sequence[str], *, is_paused: bool) -> int:
    """Pause or resume shards (no names: all) and return how many rows changed; ConfigurationError for unknown names.

    Finished rows, too: a pause holds for all descendants, also for those that get their row later. A shard that its
    owner has halted is resumed as well.
    """
    changed: set[str] = set()
    for _ in range(_TURNS_MAX):
        rows = await group.retrier.call("list", group.leases.list_leases, attempts_max=ATTEMPTS_MAX)
        known = {row.shard_id for row in rows}
        for name in names:
            if name not in known:
                raise ConfigurationError(f"Shard `{name[:128]}` has no lease row", hint="`headrace status` lists them")
        due = [row for row in rows if _is_due(row, is_paused=is_paused) and (not names or row.shard_id in names)]
        if not due:
            break
        for row in due:
            if await _set(group, row, is_paused=is_paused):
                changed.add(row.shard_id)
    return len(changed)


def _is_due(row: Lease, *, is_paused: bool) -> bool:
    return row.is_paused != is_paused or (row.is_halted and not is_paused)


async def _set(group: Group, row: Lease, *, is_paused: bool) -> bool:
    """Write the flags alone: neither owner nor version move, so that it collides with no write of the owner."""
    expectation, change = LeaseExpectation(), LeaseChange(is_paused=is_paused)
    if row.is_halted and not is_paused:
        expectation = LeaseExpectation(epoch=row.epoch)  # the halt that was seen, not one of a later owner
        change = replace(change, halted_epoch=0)
    try:
        await group.retrier.call(
            "update",
            lambda: group.leases.update_lease(row.shard_id, expectation, change),
            attempts_max=ATTEMPTS_MAX,
        )
    except ConditionFailedError:
        return False  # the row was deleted meanwhile, or has another owner
    return True
