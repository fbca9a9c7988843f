"""Sets or clears the operator's pause in the rows of a group; whoever holds a lease sees it in its next round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from infra.control.group import ATTEMPTS_MAX, Group
from shared.errors import ConfigurationError
from shared.lease import LeaseChange, LeaseExpectation
from shared.ports import ConditionFailedError

_TURNS_MAX: Final = 5


async def set_pause(group: Group, names: Sequence[str], *, is_paused: bool) -> int:
    """Pause or resume shards (no names: all) and return how many rows changed; ConfigurationError for unknown names.

    Finished rows, too: a pause holds for all descendants, also for those that get their row later.
    """
    changed: set[str] = set()
    for _ in range(_TURNS_MAX):
        rows = await group.retrier.call("list", group.leases.list_leases, attempts_max=ATTEMPTS_MAX)
        known = {row.shard_id for row in rows}
        for name in names:
            if name not in known:
                raise ConfigurationError(f"Shard `{name[:128]}` has no lease row", hint="`headrace status` lists them")
        due = [row.shard_id for row in rows if row.is_paused != is_paused and (not names or row.shard_id in names)]
        if not due:
            break
        for shard_id in due:
            if await _set(group, shard_id, is_paused=is_paused):
                changed.add(shard_id)
    return len(changed)


async def _set(group: Group, shard_id: str, *, is_paused: bool) -> bool:
    """Write the flag alone: neither owner nor version move, so that it collides with no write of the owner."""
    change = LeaseChange(is_paused=is_paused)
    try:
        await group.retrier.call(
            "update",
            lambda: group.leases.update_lease(shard_id, LeaseExpectation(), change),
            attempts_max=ATTEMPTS_MAX,
        )
    except ConditionFailedError:
        return False  # the row was deleted meanwhile
    return True
