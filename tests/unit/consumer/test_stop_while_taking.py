"""A worker that is stopped while it takes a shard gives it back, as it does what it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pytest

from shared.errors import AccessDeniedError
from shared.lease import Lease
from tests.unit.consumer.small_fleet import SmallFleet

T = TypeVar("T")
_SHARD = "shardId-000000000000"
_SHARDS = 20  # more than are taken at a time


def _slow_down(fleet: SmallFleet, seconds: float) -> None:
    """Let answers to writes of lease rows take a while, though the writes land at once."""
    call = fleet.cloud.network.call

    async def slow(operation: str, land: Callable[[], T]) -> T:
        landed = await call(operation, land)
        if operation == "leases.update":
            await asyncio.sleep(seconds)
        return landed

    fleet.cloud.network.call = slow  # type: ignore[method-assign]  # the same, slower


@pytest.mark.parametrize("answered_after", [0.2, 0.8])
def test_a_shard_that_is_being_taken_is_given_back(answered_after: float) -> None:
    """The next worker need not wait for any lease to expire, and the first ends soon."""
    fleet = SmallFleet.make(_SHARDS)

    async def story() -> None:
        _slow_down(fleet, answered_after)
        first = fleet.add(lease_duration_seconds=60)
        rows = fleet.cloud.leases.rows
        await fleet.cloud.until(lambda: any(row.owner for row in rows.values()))
        asked_at = fleet.cloud.loop.time()
        await first.leave()
        assert fleet.cloud.loop.time() - asked_at < 3.0
        assert {row.owner for row in rows.values()} == {None}
        assert not fleet.reads, "nothing was read any more"

    fleet.cloud.run(story)


def test_a_take_without_an_answer_does_not_hold_up_the_end() -> None:
    """Whether it landed is not known: the lease expires."""
    fleet = SmallFleet.make(1)

    async def story() -> None:
        _slow_down(fleet, 1_000)
        first = fleet.add()
        await fleet.cloud.until(lambda: any(row.owner for row in fleet.cloud.leases.rows.values()))
        asked_at = fleet.cloud.loop.time()
        await first.leave()
        assert fleet.cloud.loop.time() - asked_at < 4.0
        assert fleet.telemetry.count_of("takes_not_answered") == 1

    fleet.cloud.run(story)


def test_a_shard_that_can_not_be_given_back_is_told_of() -> None:
    """Its lease stands until it expires, and whoever wonders why finds it in the log."""
    fleet = SmallFleet.make(1)

    async def story() -> None:
        _slow_down(fleet, 0.5)
        first = fleet.add(lease_duration_seconds=60)
        await fleet.cloud.until(lambda: any(row.owner for row in fleet.cloud.leases.rows.values()))
        fleet.cloud.network.errors["leases.update"] = [AccessDeniedError("not allowed")]
        await first.leave()
        assert fleet.telemetry.count_of("lease_not_released") == 1

    fleet.cloud.run(story)


@pytest.mark.parametrize("is_first_round", [True, False])
def test_a_take_that_is_refused_ends_a_start_alone(is_first_round: bool) -> None:
    """What a start can't get over is raised; later it is told, and the shard is taken at the next round."""
    fleet = SmallFleet.make(1)

    async def story() -> None:
        if not is_first_round:
            fleet.cloud.leases.rows[_SHARD] = Lease(_SHARD, owner="other", epoch=1)
        fleet.cloud.network.errors["leases.update"] = [AccessDeniedError("not allowed")]
        member = fleet.add(lease_duration_seconds=6)
        if is_first_round:
            with pytest.raises(AccessDeniedError):
                await member.task
            return
        await fleet.cloud.until(lambda: fleet.owners()[member.name] == 1)
        assert fleet.telemetry.count_of("round_failed") == 1
        await member.leave()

    fleet.cloud.run(story)
