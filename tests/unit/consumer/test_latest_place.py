"""A shard that starts at LATEST keeps its place while nothing comes, whoever reads it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from shared.lease import AT_LATEST
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
