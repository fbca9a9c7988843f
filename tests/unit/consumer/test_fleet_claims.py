"""Claims of free shards: as many in a round as there are, by whoever has room, and none where nothing is free."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from shared.lease import LeaseChange
from tests.unit.consumer.small_fleet import SmallFleet

_ROUND_SECONDS = 5.0  # a third of a lease
_LEASE_SECONDS = 15.0
_SHARDS = 24
_WORKERS = 4


def _count_claims(fleet: SmallFleet) -> list[tuple[float, str]]:
    """Return when a claim is made, and of which shard, landed or not, from now on."""
    claims: list[tuple[float, str]] = []
    update = fleet.cloud.leases.update_lease

    async def counted(shard_id: str, expected: Any, change: LeaseChange) -> Any:
        if isinstance(change.owner, str) and change.successor is None:
            claims.append((fleet.cloud.loop.time(), shard_id))
        return await update(shard_id, expected, change)

    fleet.cloud.leases.update_lease = counted  # type: ignore[method-assign]  # the same, counted
    return claims


@pytest.mark.parametrize("apart_seconds", [0.0, 1.3])
def test_what_a_dead_worker_leaves_is_claimed_in_a_round(apart_seconds: float) -> None:
    """All its shards have an owner one round after its leases expired, with few more claims than there are shards."""
    fleet = SmallFleet.make(_SHARDS)

    async def story() -> tuple[list[tuple[float, str]], float]:
        async with fleet.load():
            members = []
            for _ in range(_WORKERS):
                members.append(fleet.add())
                await asyncio.sleep(apart_seconds)
            share = _SHARDS // _WORKERS
            await fleet.cloud.until(lambda: sorted(fleet.owners().values()) == [share] * _WORKERS)
            claims = _count_claims(fleet)
            await asyncio.sleep(2 * _ROUND_SECONDS)
            assert not claims, "nothing is free"
            fleet.cloud.loop.kill(members[0].process)
            died_at = fleet.cloud.loop.time()
            await fleet.cloud.until(lambda: members[0].name not in fleet.owners())
            took = fleet.cloud.loop.time() - died_at
            await asyncio.sleep(2 * _ROUND_SECONDS)
        await asyncio.gather(*(each.leave() for each in members[1:]))
        return claims, took

    claims, took = fleet.cloud.run(story)
    per_shard = Counter(shard for _, shard in claims)
    assert len(per_shard) == _SHARDS // _WORKERS
    assert took < _LEASE_SECONDS + 2 * _ROUND_SECONDS, took
    assert len(claims) <= 2 * len(per_shard), per_shard
    fleet.check_whole()
