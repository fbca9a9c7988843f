"""A fleet in virtual time meets single errors, lost rows and shards that stand: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from consumer.status import ShardState
from shared.errors import (
    AccessDeniedError,
    AmbiguousCallError,
    InvalidRequestError,
    ServiceUnavailableError,
    ThrottledError,
)
from shared.lease import Lease
from shared.records import RecordPage
from tests.simulation.loop import PROCESS
from tests.unit.consumer.small_fleet import SmallFleet

_LEASE_SECONDS = 15
FIRST = "shardId-000000000000"
_ERRORS = (
    AmbiguousCallError("no answer"),
    ThrottledError("slow down"),
    ServiceUnavailableError("unavailable"),
    AccessDeniedError("not now"),
    InvalidRequestError("damaged on its way"),
)


def _delete(fleet: SmallFleet) -> None:
    del fleet.cloud.leases.rows[FIRST]


def _damage(fleet: SmallFleet) -> None:
    fleet.cloud.leases.damage(FIRST)


@pytest.mark.parametrize("strike", [_delete, _damage])
def test_a_row_that_goes_under_its_holder_comes_back(strike: Callable[[SmallFleet], None]) -> None:
    """The holder, which knows how far it came, writes it again: nothing is lost, and nothing is stored twice."""
    fleet = SmallFleet.make(2)

    async def story() -> None:
        async with fleet.load():
            members = [fleet.add(), fleet.add()]
            await fleet.cloud.until(lambda: set(fleet.owners().values()) == {1})
            await asyncio.sleep(6)
            strike(fleet)
            await asyncio.sleep(2 * _LEASE_SECONDS + 5)
            assert set(fleet.owners().values()) == {1}
        await asyncio.gather(*(each.leave() for each in members))

    fleet.cloud.run(story)
    assert fleet.telemetry.count_of("lease_row_restored") == 1
    fleet.check_whole()


@pytest.mark.parametrize("strike", [_delete, _damage])
def test_a_row_that_comes_back_takes_no_promise_back(strike: Callable[[SmallFleet], None]) -> None:
    """What only renewals told is in it: hours may be complete by it, and nothing of before its time is a gap."""
    fleet = SmallFleet.make(1)

    async def story() -> tuple[Lease, Lease]:
        member = fleet.add(manifest_prefix="manifests/", manifest_wait_seconds=0)
        await fleet.cloud.until(lambda: FIRST in fleet.cloud.leases.rows)
        await asyncio.sleep(30)  # at an empty tip: no commit ever tells
        before = fleet.cloud.leases.rows[FIRST]
        strike(fleet)
        await fleet.cloud.until(lambda: FIRST in fleet.cloud.leases.rows)
        after = fleet.cloud.leases.rows[FIRST]
        await member.leave()
        return before, after

    before, after = fleet.cloud.run(story)
    assert before.closed_until is not None
    assert after.closed_until is not None
    assert after.closed_until >= before.closed_until
    assert before.read_through is not None
    assert after.read_through is not None
    assert after.read_through >= before.read_through


@pytest.mark.parametrize("strike", [_delete, _damage])
def test_a_row_that_goes_while_nobody_holds_it_loses_nothing(strike: Callable[[SmallFleet], None]) -> None:
    """Nobody knows how far the shard had come: it is read again as a whole, and an error says so if it was damaged."""
    fleet = SmallFleet.make(1)

    async def story() -> None:
        async with fleet.load():
            first = fleet.add()
            await asyncio.sleep(5)
            await first.leave()
            strike(fleet)
            second = fleet.add()
            await asyncio.sleep(2 * _LEASE_SECONDS + 15)
        await second.leave()

    fleet.cloud.run(story)
    numbers = {event["n"] for event in fleet.cloud.stored()}
    assert numbers == set(range(fleet.written))
    assert fleet.telemetry.count_of("lease_row_rebuilt") == (strike is _damage)


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("operation", ["leases.list", "leases.update", "leases.read", "leases.write_presence"])
def test_a_single_error_of_the_table_heals_within_a_lease(operation: str, error: Exception) -> None:
    """Wherever it strikes while a worker comes and shards move, every shard stores something within a lease."""
    fleet = SmallFleet.make(4)

    async def story() -> dict[str, float]:
        async with fleet.load():
            first = fleet.add()
            await asyncio.sleep(7)
            second = fleet.add()
            await asyncio.sleep(1)
            fleet.cloud.network.errors[operation] = [error]
            struck_at = fleet.cloud.loop.time()
            await asyncio.sleep(_LEASE_SECONDS)
            stored = {name: [at for at, _ in commits if at > struck_at] for name, commits in fleet.commits.items()}
            now = fleet.cloud.loop.time()
            waits = {
                name: max(later - sooner for sooner, later in pairwise((struck_at, *times, now)))
                for name, times in stored.items()
            }
            await asyncio.sleep(2 * _LEASE_SECONDS)
            assert set(fleet.owners().values()) == {2}
        await asyncio.gather(first.leave(), second.leave())
        return waits

    waits = fleet.cloud.run(story)
    assert len(waits) == 4
    assert max(waits.values()) < _LEASE_SECONDS, waits
    fleet.check_whole()


def test_a_shard_without_progress_goes_to_another_worker() -> None:
    """Where a worker's destination hangs, its lease goes back after the progress timeout, and another stores all."""
    fleet = SmallFleet.make(1)
    for sink in fleet.cloud.sinks.values():
        sink.is_open = False

    async def story() -> None:
        async with fleet.load():
            first = fleet.add(progress_timeout_seconds=20)
            await asyncio.sleep(5)
            second = fleet.add(progress_timeout_seconds=20)
            await asyncio.sleep(10)
            assert fleet.owners() == {first.name: 1}
            for sink in fleet.cloud.sinks.values():
                sink.is_open = True  # for what is put from now on
            await fleet.cloud.until(lambda: fleet.owners() == {second.name: 1})
        await asyncio.gather(first.leave(), second.leave())

    fleet.cloud.run(story)
    assert fleet.telemetry.count_of("shard_stalled") == 1
    fleet.check_whole()


def test_a_halted_shard_is_handed_over_and_halts_there() -> None:
    """It moves like any other, and no record of it becomes a dead letter on the way."""
    fleet = SmallFleet.make(1)

    async def story() -> tuple[ShardState, str | None]:
        await fleet.cloud.put(*[b"garbage"] * 300)
        first = fleet.add()
        await fleet.cloud.until(lambda: fleet.telemetry.count_of("shard_halted") == 1)
        second = fleet.add()
        await asyncio.sleep(6)
        await first.leave()
        await fleet.cloud.until(lambda: fleet.telemetry.count_of("shard_halted") == 2)
        (status,) = second.worker.status().shards
        owner = fleet.cloud.leases.rows[FIRST].owner
        await second.leave()
        return status.state, owner

    assert fleet.cloud.run(story) == (ShardState.HALTED, "worker-2")
    assert fleet.telemetry.count_of("lease_handed_over") == 1
    assert fleet.cloud.stored("errors/") == []


def test_a_paused_shard_is_handed_over_and_stays_paused() -> None:
    """The next owner rests, too, and reads everything once the operator resumes."""
    fleet = SmallFleet.make(1)

    def pause(*, is_paused: bool) -> None:
        fleet.cloud.leases.rows[FIRST] = replace(fleet.cloud.leases.rows[FIRST], is_paused=is_paused)

    async def story() -> None:
        async with fleet.load():
            first, second = fleet.add(), fleet.add()
            await asyncio.sleep(5)
            pause(is_paused=True)
            await asyncio.sleep(6)
            (before,) = fleet.owners()
            leaving, staying = (first, second) if before == first.name else (second, first)
            await leaving.leave()
            await asyncio.sleep(1)
            stored = len(fleet.commits[FIRST])
            (status,) = staying.worker.status().shards
            assert status.state is ShardState.PAUSED
            await asyncio.sleep(10)
            assert len(fleet.commits[FIRST]) == stored
            pause(is_paused=False)
            await asyncio.sleep(10)
        await staying.leave()

    fleet.cloud.run(story)
    assert fleet.telemetry.count_of("lease_handed_over") == 1
    fleet.check_whole()


def test_a_process_reads_a_shard_once_at_a_time() -> None:
    """A worker that loses shards and takes them again, over and over, never has two readers of one."""
    fleet = SmallFleet.make(2)
    under_way: set[tuple[str, str]] = set()

    async def story() -> None:
        get_records = fleet.cloud.kinesis.get_records

        async def guarded(stream: str, iterator: str, limit: int) -> RecordPage:
            process = PROCESS.get()
            assert process is not None
            reader = (process.name, iterator.rsplit(":", 2)[0])
            assert reader not in under_way
            under_way.add(reader)
            try:
                return await get_records(stream, iterator, limit)
            finally:
                under_way.discard(reader)

        fleet.cloud.kinesis.get_records = guarded  # type: ignore[method-assign]  # the same, guarded
        async with fleet.load():
            first = fleet.add()
            await asyncio.sleep(5)
            for _ in range(5):
                fleet.cloud.loop.freeze(first.process, 2 * _LEASE_SECONDS)
                second = fleet.add()
                await fleet.cloud.until(lambda: first.name not in fleet.owners())
                await asyncio.sleep(_LEASE_SECONDS)
                await second.leave()
                await asyncio.sleep(6)
        await first.leave()

    fleet.cloud.run(story)
    assert fleet.telemetry.count_of("lease_lost") >= 5
    fleet.check_whole()


@pytest.mark.parametrize("strike", [_delete, _damage])
def test_a_worker_that_wakes_up_does_not_restore_what_it_held_long_ago(strike: Callable[[SmallFleet], None]) -> None:
    """A row that goes just as a frozen worker wakes is left to who holds the lease now, and knows what it stored."""
    fleet = SmallFleet.make(1)

    async def story() -> None:
        async with fleet.load():
            first = fleet.add()
            await asyncio.sleep(7)
            fleet.cloud.loop.freeze(first.process, 3 * _LEASE_SECONDS)
            second = fleet.add()
            await asyncio.sleep(3 * _LEASE_SECONDS - 0.01)
            assert fleet.owners() == {second.name: 1}
            strike(fleet)
            await asyncio.sleep(2 * _LEASE_SECONDS + 5)
        await asyncio.gather(first.leave(), second.leave())

    fleet.cloud.run(story)
    fleet.check_whole()
