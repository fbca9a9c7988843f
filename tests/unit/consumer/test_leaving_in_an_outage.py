"""A worker ends by its deadline whatever the services do: an outage is no reason to ignore SIGTERM."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pytest

from shared.errors import AmbiguousCallError, HeadraceError, ServiceUnavailableError
from tests.unit.consumer.small_fleet import SmallFleet

T = TypeVar("T")
_DRAIN_SECONDS = 10.0
_SPARE_SECONDS = 3.0


def _break(fleet: SmallFleet, error: HeadraceError, seconds: float) -> None:
    """Let every call from now on fail after a while."""

    async def call(operation: str, land: Callable[[], T]) -> T:
        await asyncio.sleep(seconds)
        raise error

    fleet.cloud.network.call = call  # type: ignore[method-assign]  # nothing answers any more


@pytest.mark.parametrize("seconds", [0.01, 2.0])
@pytest.mark.parametrize("error", [ServiceUnavailableError("nobody listens"), AmbiguousCallError("no answer")])
@pytest.mark.parametrize("lasted", [0.0, 30.0])
def test_a_worker_that_reaches_nobody_ends_by_its_deadline(error: HeadraceError, seconds: float, lasted: float) -> None:
    """The outage began this moment, or so long ago that the leases are lost: the stop takes its deadline at most."""
    fleet = SmallFleet.make(2)

    async def story() -> float:
        await fleet.cloud.put_numbered(0, 40)
        members = [fleet.add(flush_seconds=900, drain_timeout_seconds=_DRAIN_SECONDS) for _ in range(2)]
        await asyncio.sleep(8)
        _break(fleet, error, seconds)
        await asyncio.sleep(lasted)
        asked_at = fleet.cloud.loop.time()
        async with asyncio.timeout(600):
            await asyncio.gather(*(each.leave() for each in members))
        return fleet.cloud.loop.time() - asked_at

    assert fleet.cloud.run(story) <= _DRAIN_SECONDS + _SPARE_SECONDS


@pytest.mark.parametrize("seconds", [0.01, 2.0])
def test_a_worker_that_was_never_begun_ends_at_once(seconds: float) -> None:
    """SIGTERM while it still waits for its first answer."""
    fleet = SmallFleet.make(1)

    async def story() -> float:
        _break(fleet, ServiceUnavailableError("nobody listens"), seconds)
        member = fleet.add()
        await asyncio.sleep(40)
        asked_at = fleet.cloud.loop.time()
        async with asyncio.timeout(600):
            await member.leave()
        return fleet.cloud.loop.time() - asked_at

    assert fleet.cloud.run(story) < 1.0
