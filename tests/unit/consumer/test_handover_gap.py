"""A planned hand-over at default settings: what passes between two records of a shard, in its parts (virtual time)."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pytest

from shared.lease import Presence
from tests.unit.consumer.small_fleet import Gap, Member, SmallFleet

T = TypeVar("T")
_GAP_SECONDS_MAX: Final = 1.0
_IDLE_GAP_SECONDS_MAX: Final = 0.5
_SHARDS: Final = 12
_EVENTS_PER_PUT: Final = 60  # ten times a second: each page of each shard has some
# What a call takes, in seconds, by service: as from a container in the same region, the slow ones of S3 included.
_SECONDS: Final = {"kinesis": (0.01, 0.04), "leases": (0.004, 0.02), "objects": (0.05, 0.4)}
_DEFAULTS: Final[dict[str, Any]] = {"flush_seconds": 60, "shard_sync_seconds": 10}


def _fleet(seed: int, slow_puts: list[float] | None = None) -> SmallFleet:
    """Make a fleet; the next puts of objects take what `slow_puts` has, for as long as it has any."""
    fleet = SmallFleet.make(_SHARDS)
    fleet.per_put = _EVENTS_PER_PUT
    chance, network = random.Random(seed), fleet.cloud.network
    call = network.call

    async def call_for_a_while(operation: str, land: Callable[[], T]) -> T:
        # The load, and the sinks of this fleet, put one record after the other.
        seconds = 0.0 if operation == "kinesis.put_record" else chance.uniform(*_SECONDS[operation.partition(".")[0]])
        if operation == "objects.put" and slow_puts:
            seconds = slow_puts.pop()
        network.delay = lambda: seconds
        return await call(operation, land)

    network.call = call_for_a_while  # type: ignore[method-assign]  # the same, as slow as a service
    return fleet


async def _three_of(fleet: SmallFleet, seconds: float) -> list[Member]:
    """Let three workers share the shards for a while; what comes after that is news."""
    members = [fleet.add(**_DEFAULTS) for _ in range(3)]
    await fleet.cloud.until(lambda: sorted(fleet.owners().values()) == [_SHARDS // 3] * 3)
    await asyncio.sleep(seconds)
    fleet.news.clear()
    return members


def _check(gaps: list[Gap], count: int) -> None:
    assert len(gaps) >= count
    longest = max(gaps, key=lambda each: each.seconds)
    assert longest.seconds < _GAP_SECONDS_MAX, longest


@pytest.mark.parametrize("seed", range(3))
def test_sigterm_of_one_of_three_leaves_no_shard_unread_for_a_second(seed: int) -> None:
    """Under load and with slow objects, each shard of a worker that is ended brings its next record within a second."""
    fleet = _fleet(seed)

    async def story() -> None:
        async with fleet.load():
            members = await _three_of(fleet, 10 + seed)
            await members[0].leave()
            await asyncio.sleep(2)
        await asyncio.gather(*(each.leave() for each in members[1:]))

    fleet.cloud.run(story)
    _check([each for each in fleet.gaps() if each.before == "worker-1"], _SHARDS // 3)
    fleet.check_whole()


@pytest.mark.parametrize("seed", range(3))
def test_scale_out_leaves_no_shard_unread_for_a_second(seed: int) -> None:
    """A fourth worker gets its part, and each of its shards brings its next record within a second."""
    fleet = _fleet(seed)

    async def story() -> None:
        async with fleet.load():
            members = await _three_of(fleet, 10 + seed)
            members.append(fleet.add(**_DEFAULTS))
            await fleet.cloud.until(lambda: sorted(fleet.owners().values()) == [_SHARDS // 4] * 4)
            await asyncio.sleep(2)
        await asyncio.gather(*(each.leave() for each in members))

    fleet.cloud.run(story)
    _check([each for each in fleet.gaps() if each.after == "worker-4"], _SHARDS // 4)
    fleet.check_whole()


@pytest.mark.parametrize("seed", range(3))
def test_a_newcomer_asks_for_the_part_of_one_that_died(seed: int) -> None:
    """A worker that came a moment ago can't tell a dead one's presence; a third one's shards are asked for all."""
    fleet = _fleet(seed)

    async def story() -> None:
        fleet.cloud.leases.presences["dead"] = Presence("dead", 7)
        async with fleet.load():
            members = [fleet.add(**_DEFAULTS) for _ in range(2)]
            await fleet.cloud.until(lambda: sorted(fleet.owners().values()) == [_SHARDS // 2] * 2)
            await asyncio.sleep(30)
            members.append(fleet.add(**_DEFAULTS))
            await asyncio.sleep(0.5 + seed)
            fleet.news.clear()
            await members[0].leave()
            await asyncio.sleep(3)
        await asyncio.gather(*(each.leave() for each in members[1:]))

    fleet.cloud.run(story)
    _check([each for each in fleet.gaps() if each.before == "worker-1"], _SHARDS // 3)
    fleet.check_whole()


def test_a_large_batch_is_stored_while_reading_goes_on() -> None:
    """Objects that take three seconds to write when a worker is ended delay the hand-over, not the records."""
    slow_puts: list[float] = []
    fleet = _fleet(0, slow_puts)

    async def story() -> None:
        async with fleet.load():
            members = [fleet.add(**_DEFAULTS) for _ in range(3)]
            await fleet.cloud.until(lambda: sorted(fleet.owners().values()) == [_SHARDS // 3] * 3)
            await asyncio.sleep(10)
            fleet.news.clear()
            slow_puts.extend([3.0] * (_SHARDS // 3))
            await members[0].leave()
            await asyncio.sleep(2)
        await asyncio.gather(*(each.leave() for each in members[1:]))

    fleet.cloud.run(story)
    assert not slow_puts
    _check([each for each in fleet.gaps() if each.before == "worker-1"], _SHARDS // 3)
    fleet.check_whole()


def test_a_record_that_comes_after_an_idle_pause_began_waits_for_less_than_a_second() -> None:
    """A shard without news is read once more before it is handed over: its reader may have rested for a second."""
    fleet = SmallFleet.make(2)

    async def story() -> None:
        members = [fleet.add(**_DEFAULTS) for _ in range(2)]
        await fleet.cloud.until(lambda: sorted(fleet.owners().values()) == [1, 1])
        await asyncio.sleep(10.45)
        await members[0].leave()
        await asyncio.sleep(2)
        await members[1].leave()

    fleet.cloud.run(story)
    pauses = [
        began_at - ended_at
        for reads in fleet.reads.values()
        for (ended_at, before), (began_at, after) in itertools.pairwise(reads)
        if (before, after) == ("worker-1", "worker-2")
    ]
    assert pauses
    assert max(pauses) < _IDLE_GAP_SECONDS_MAX
