"""Shards change hands in virtual time: by scale-out, SIGTERM and crash, without a gap, a loss or a doubled event."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared.errors import AccessDeniedError
from shared.records import StreamSummary
from tests.unit.consumer.small_fleet import SmallFleet

_LEASE_SECONDS = 15
_GAP_SECONDS_MAX = 1.0
FIRST = "shardId-000000000000"


def asked_for(fleet: SmallFleet) -> bool:
    """Whether a worker waits for a shard."""
    return any(row.successor for row in fleet.cloud.leases.rows.values())


async def _until_asked(fleet: SmallFleet) -> None:
    await fleet.cloud.until(lambda: asked_for(fleet))


def test_a_worker_that_comes_gets_its_part_without_a_gap() -> None:
    """A second worker is handed half of the shards, and each is read on within a second of its last checkpoint."""
    fleet = SmallFleet.make(4)

    async def story() -> None:
        async with fleet.load():
            first = fleet.add()
            await asyncio.sleep(10)
            second = fleet.add()
            await fleet.cloud.until(lambda: set(fleet.owners().values()) == {2})
            await asyncio.sleep(5)
        await asyncio.gather(first.leave(), second.leave())

    fleet.cloud.run(story)
    changes = [each for each in fleet.changes() if each.after == "worker-2"]
    assert len(changes) == 2
    assert max(each.seconds for each in changes) < _GAP_SECONDS_MAX, changes
    assert fleet.telemetry.count_of("lease_lost") == 0
    fleet.check_whole()


def test_a_worker_that_is_ended_hands_its_shards_over_without_a_gap() -> None:
    """After SIGTERM each shard is read on by another worker within a second of its last checkpoint."""
    fleet = SmallFleet.make(6)

    async def story() -> float:
        async with fleet.load():
            members = [fleet.add() for _ in range(3)]
            await fleet.cloud.until(lambda: sorted(fleet.owners().values()) == [2, 2, 2])
            await asyncio.sleep(5)
            fleet.reads.clear()
            began_at = fleet.cloud.loop.time()
            await members[0].leave()
            took = fleet.cloud.loop.time() - began_at
            await asyncio.sleep(5)
        await asyncio.gather(*(each.leave() for each in members[1:]))
        return took

    assert fleet.cloud.run(story) < 10 + _GAP_SECONDS_MAX, "the others look once in five seconds"
    changes = [each for each in fleet.changes() if each.before == "worker-1"]
    assert len(changes) == 2
    assert max(each.seconds for each in changes) < _GAP_SECONDS_MAX, changes
    assert fleet.telemetry.count_of("lease_handed_over") >= 2
    fleet.check_whole()


def test_a_single_worker_leaves_at_once() -> None:
    """Nobody is there to take its shards, so that it waits for nobody."""
    fleet = SmallFleet.make(2)

    async def story() -> float:
        async with fleet.load():
            member = fleet.add()
            await asyncio.sleep(5)
        began_at = fleet.cloud.loop.time()
        await member.leave()
        return fleet.cloud.loop.time() - began_at

    assert fleet.cloud.run(story) < 1
    assert fleet.owners() == {"": 2}


@pytest.mark.parametrize("hurries_after", [0.1, 3])
def test_a_second_signal_hurries(hurries_after: float) -> None:
    """A worker whose destination accepts nothing drains up to its deadline, unless it is told to hurry."""
    fleet = SmallFleet.make(2)
    for sink in fleet.cloud.sinks.values():
        sink.is_open = False

    async def story() -> float:
        async with fleet.load():
            member = fleet.add()
            await asyncio.sleep(5)
            began_at = fleet.cloud.loop.time()
            member.stop.set()
            await asyncio.sleep(hurries_after)
            member.hurry.set()
            await member.task
            return fleet.cloud.loop.time() - began_at

    assert hurries_after <= fleet.cloud.run(story) < hurries_after + 0.5
    assert fleet.owners() == {"": 2}


def test_a_successor_that_dies_while_it_waits_holds_nothing_up() -> None:
    """The owner reads on, or has it back after a lease; nobody's ask stays behind, and all events are stored once."""
    fleet = SmallFleet.make(4)

    async def story() -> list[str]:
        async with fleet.load():
            first = fleet.add()
            await asyncio.sleep(7)
            second = fleet.add()
            await _until_asked(fleet)
            fleet.cloud.loop.kill(second.process)
            await asyncio.sleep(_LEASE_SECONDS + 5)
            late = [name for name in fleet.reads if fleet.cloud.loop.time() - fleet.reads[name][-1][0] > 1]
            assert fleet.owners() == {first.name: 4}
            await asyncio.sleep(_LEASE_SECONDS)
            assert not asked_for(fleet)
        await first.leave()
        return late

    assert fleet.cloud.run(story) == []
    fleet.check_whole()


def test_an_owner_that_dies_while_it_is_asked_is_taken_over() -> None:
    """Whoever asked takes all shards when the owner's lease has expired."""
    fleet = SmallFleet.make(4)

    async def story() -> None:
        async with fleet.load():
            first = fleet.add()
            await asyncio.sleep(7)
            second = fleet.add()
            await _until_asked(fleet)
            fleet.cloud.loop.kill(first.process)
            await asyncio.sleep(_LEASE_SECONDS + 5)
            assert fleet.owners() == {second.name: 4}
            await asyncio.sleep(5)
        await second.leave()

    fleet.cloud.run(story)
    fleet.check_whole()


def test_an_asker_that_leaves_is_handed_nothing() -> None:
    """A worker that is ended while it waits withdraws, so that no shard goes to where nobody reads it."""
    fleet = SmallFleet.make(4)

    async def story() -> None:
        async with fleet.load():
            first = fleet.add()
            await asyncio.sleep(7)
            second = fleet.add()
            await _until_asked(fleet)
            await second.leave()
            assert not asked_for(fleet)
            before = len(fleet.reads[FIRST])
            await asyncio.sleep(2)
            assert fleet.owners() == {first.name: 4}
            assert len(fleet.reads[FIRST]) > before
        await first.leave()

    fleet.cloud.run(story)
    assert fleet.telemetry.count_of("lease_handed_over") == 0
    fleet.check_whole()


def test_the_ask_of_a_worker_that_is_gone_is_undone() -> None:
    """An owner declines an ask that nobody is behind, so that another worker can ask."""
    fleet = SmallFleet.make(2)

    async def story() -> None:
        async with fleet.load():
            first = fleet.add()
            await asyncio.sleep(5)
            rows = fleet.cloud.leases.rows
            rows.update({name: replace(row, successor="gone") for name, row in rows.items()})
            second = fleet.add()
            await fleet.cloud.until(lambda: set(fleet.owners().values()) == {1})
        await asyncio.gather(first.leave(), second.leave())

    fleet.cloud.run(story)
    assert fleet.telemetry.count_of("lease_ask_declined") == 2
    fleet.check_whole()


def test_an_error_while_it_waits_does_not_lose_what_is_handed_over() -> None:
    """A look at the row that fails for good is repeated: a shard that is handed over next is read on at once."""
    fleet = SmallFleet.make(2)

    async def story() -> None:
        async with fleet.load():
            first = fleet.add()
            await asyncio.sleep(10)
            second = fleet.add()
            await _until_asked(fleet)
            fleet.cloud.network.errors["leases.read"] = [AccessDeniedError("not now")]
            await fleet.cloud.until(lambda: len(fleet.owners()) == 2)
            await asyncio.sleep(5)
        await asyncio.gather(first.leave(), second.leave())

    fleet.cloud.run(story)
    (change,) = (each for each in fleet.changes() if each.after == "worker-2")
    assert change.seconds < _GAP_SECONDS_MAX
    fleet.check_whole()


def test_a_new_retention_period_is_known_soon() -> None:
    """A worker asks for the stream's retention period again, as it decides when what was not read is a gap."""
    fleet = SmallFleet.make(1)
    describe = fleet.cloud.kinesis.describe_stream

    async def prolonged(stream: str) -> StreamSummary:
        return replace(await describe(stream), retention_hours=168)

    async def story() -> tuple[float, float]:
        member = fleet.add()
        await asyncio.sleep(1)
        retention = member.worker._parts.retention
        before = retention.seconds
        fleet.cloud.kinesis.describe_stream = prolonged  # type: ignore[method-assign]  # the same stream, prolonged
        await asyncio.sleep(320)
        after = retention.seconds
        await member.leave()
        return before, after

    assert fleet.cloud.run(story) == (24 * 3_600, 168 * 3_600)
