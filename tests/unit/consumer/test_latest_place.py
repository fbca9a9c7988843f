"""A shard that starts at LATEST keeps its place while nothing comes, whoever reads it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared.lease import AT_LATEST, Lease
from tests.support.fake_fan_out import FakeFanOut
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud

FIRST = "shardId-000000000000"


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("pushed", [False, True])
def test_a_shard_at_latest_keeps_its_place_when_its_worker_changes(is_killed: bool, pushed: bool) -> None:
    """What comes between two workers, before the first record was seen, is read by the second; older things are not."""
    cloud = SmallCloud.make()

    async def story() -> None:
        fan_out = FakeFanOut(cloud.kinesis) if pushed else None
        await cloud.put_numbered(0, 3)
        await asyncio.sleep(60)
        stop, task, process = cloud.start(cloud.worker(start_from="LATEST", fan_out=fan_out))
        await asyncio.sleep(10)
        assert cloud.leases.rows[FIRST].checkpoint == AT_LATEST
        if is_killed:
            cloud.loop.kill(process)
        else:
            stop.set()
            await task
        await cloud.put_numbered(3, 6)
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST", fan_out=fan_out))
        await asyncio.sleep(40)
        stop.set()
        await task

    cloud.run(story)
    assert [event["n"] for event in cloud.stored()] == [3, 4, 5]
    assert cloud.leases.rows[FIRST].start_timestamp is None


def test_a_worker_that_is_stopped_before_its_first_page_leaves_its_place() -> None:
    """It knows since when it would have read, and the next one begins there."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await asyncio.sleep(60)
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST"))
        cloud.network.delay = lambda: 1.0 if cloud.network.calls[-1] == "kinesis.get_records" else 0.003
        await cloud.until(lambda: "kinesis.get_records" in cloud.network.calls)
        assert cloud.leases.rows[FIRST].start_timestamp is None
        stop.set()
        await task
        assert cloud.leases.rows[FIRST].start_timestamp is not None
        await cloud.put_numbered(0, 3)
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST"))
        await asyncio.sleep(40)
        stop.set()
        await task

    cloud.run(story)
    assert [event["n"] for event in cloud.stored()] == [0, 1, 2]


def test_a_shard_that_is_stopped_again_before_its_first_page_leaves_its_place() -> None:
    """A worker that leaves stops what it hands over, too: the write of its place is not cut off by that."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await asyncio.sleep(60)
        worker = cloud.worker(start_from="LATEST")
        stop, task, _ = cloud.start(worker)
        cloud.network.delay = lambda: 1.0 if cloud.network.calls[-1] == "kinesis.get_records" else 0.003
        await cloud.until(lambda: "kinesis.get_records" in cloud.network.calls)
        cloud.network.delay = lambda: 0.5 if cloud.network.calls[-1] == "leases.update" else 0.003
        consumer = worker._holdings[FIRST].consumer  # what is handed over is stopped before the rest
        consumer.stop()
        stop.set()
        await task
        assert cloud.leases.rows[FIRST].start_timestamp is not None

    cloud.run(story)


@pytest.mark.parametrize("pushed", [False, True])
def test_a_time_that_is_yet_to_come_holds_nothing_up(pushed: bool) -> None:
    """A worker whose clock had jumped ahead leaves a time that the service refuses: the next begins at LATEST."""
    cloud = SmallCloud.make()

    async def story() -> None:
        fan_out = FakeFanOut(cloud.kinesis) if pushed else None
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST", fan_out=fan_out))
        await asyncio.sleep(10)
        stop.set()
        await task
        row = cloud.leases.rows[FIRST]
        cloud.leases.rows[FIRST] = replace(row, start_timestamp=cloud.network.wall() + 86_400)
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST", fan_out=fan_out))
        await asyncio.sleep(10)
        await cloud.put_numbered(0, 3)
        await asyncio.sleep(10)
        stop.set()
        await task

    cloud.run(story)
    assert [event["n"] for event in cloud.stored()] == [0, 1, 2]


@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize(
    "fast_seconds", [(90, 0, 0), (90, 90, 90), (90, -90, 0), (-90, 90, 0), (100_000, 0, 100_000), (0, 90, -90)]
)
def test_no_clock_lets_a_later_owner_skip_what_came(fast_seconds: tuple[float, float, float], pushed: bool) -> None:
    """Three owners with wrong clocks, two of which see nothing: what came since the first began is read by the last."""
    cloud = SmallCloud.make()

    async def live(fast: float, seconds: float) -> None:
        fan_out = FakeFanOut(cloud.kinesis) if pushed else None
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST", fan_out=fan_out, fast_seconds=fast))
        await asyncio.sleep(seconds)
        stop.set()
        await task

    async def story() -> None:
        await asyncio.sleep(200)
        began_at = cloud.network.wall()
        await live(fast_seconds[0], 10)
        assert (cloud.leases.rows[FIRST].start_timestamp or began_at + 10) < began_at + 10
        await live(fast_seconds[1], 10)
        await cloud.put_numbered(0, 3)
        await asyncio.sleep(110)
        await live(fast_seconds[2], 20)

    cloud.run(story)
    assert [event["n"] for event in cloud.stored()] == [0, 1, 2]


@pytest.mark.parametrize("pushed", [False, True])
def test_a_time_that_was_yet_to_come_is_corrected_by_who_reads(pushed: bool) -> None:
    """An earlier release stored it: the next owner begins at LATEST and stores when, for the one that comes after."""
    cloud = SmallCloud.make()

    async def live(seconds: float) -> None:
        fan_out = FakeFanOut(cloud.kinesis) if pushed else None
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST", fan_out=fan_out))
        await asyncio.sleep(seconds)
        stop.set()
        await task

    async def story() -> None:
        await live(10)
        row = cloud.leases.rows[FIRST]
        cloud.leases.rows[FIRST] = replace(row, start_timestamp=cloud.network.wall() + 90)
        await live(10)
        await cloud.put_numbered(0, 3)
        await asyncio.sleep(110)
        await live(20)

    cloud.run(story)
    assert [event["n"] for event in cloud.stored()] == [0, 1, 2]


@pytest.mark.parametrize("fast_seconds", [0.0, 90.0])
@pytest.mark.parametrize("pushed", [False, True])
def test_a_shard_that_is_paused_at_latest_keeps_its_place(pushed: bool, fast_seconds: float) -> None:
    """What comes during a pause is read after it, also by another worker, and whatever the clock of the first."""
    cloud = SmallCloud.make()

    def pause(*, is_paused: bool) -> None:
        cloud.leases.rows[FIRST] = replace(cloud.leases.rows[FIRST], is_paused=is_paused)

    async def story() -> None:
        fan_out = FakeFanOut(cloud.kinesis) if pushed else None
        cloud.leases.rows[FIRST] = Lease(FIRST, checkpoint=AT_LATEST, is_paused=True)
        await asyncio.sleep(200)
        _, _, process = cloud.start(cloud.worker(start_from="LATEST", fan_out=fan_out, fast_seconds=fast_seconds))
        await asyncio.sleep(20)
        await cloud.put_numbered(0, 3)
        await asyncio.sleep(20)
        cloud.loop.kill(process)
        pause(is_paused=False)
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST", fan_out=fan_out))
        await asyncio.sleep(60)
        stop.set()
        await task

    cloud.run(story)
    assert [event["n"] for event in cloud.stored()] == [0, 1, 2]


def test_children_of_a_shard_that_ended_at_latest_are_read_whole() -> None:
    """A shard that was split before its first record leaves no time to its children, which begin at their beginning."""
    cloud = SmallCloud.make()

    async def story() -> None:
        stop, task, process = cloud.start(cloud.worker(start_from="LATEST"))
        await asyncio.sleep(10)
        row = cloud.leases.rows[FIRST]
        cloud.loop.kill(process)
        assert row.start_timestamp is not None
        cloud.leases.rows[FIRST] = replace(row, start_timestamp=cloud.network.wall() + 86_400)
        cloud.kinesis.split_shard(SOURCE, FIRST)
        await cloud.put_numbered(0, 20)
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST"))
        await asyncio.sleep(40)
        stop.set()
        await task

    cloud.run(story)
    assert sorted(event["n"] for event in cloud.stored()) == list(range(20))
