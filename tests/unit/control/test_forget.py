"""An application is forgotten once its workers are stopped, and not before."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from consumer.worker import Worker
from infra.control.forget import Forgetting
from shared.errors import AmbiguousCallError, ConfigurationError
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud
from tests.unit.control.steered_group import group_of

LEASE_SECONDS = 15.0
FIRST = "shardId-000000000000"


def forgetting_of(cloud: SmallCloud) -> Forgetting:
    """Return what the command works with."""
    return Forgetting("test", cloud.leases, group_of(cloud).retrier)


async def forget(cloud: SmallCloud) -> None:
    """Forget as the command does."""
    forgetting = forgetting_of(cloud)
    seen = await forgetting.look()
    await forgetting.check_stopped(seen, LEASE_SECONDS)
    await forgetting.forget(seen)


def is_empty(cloud: SmallCloud) -> bool:
    """Whether nothing is left in the lease table."""
    leases = cloud.leases
    return not (leases.rows or leases.presences or leases.damaged or leases.application or leases.schema)


async def run_for(cloud: SmallCloud, worker: Worker, stored: int) -> None:
    """Let a worker run until so many events are in the bucket, and stop it."""
    stop, task, _ = cloud.start(worker)
    await cloud.until(lambda: len(cloud.stored()) == stored)
    stop.set()
    await task


def test_a_stream_that_was_made_anew_is_read_by_the_same_name() -> None:
    """From its beginning: nothing is left of the rows of the former stream."""
    cloud = SmallCloud.make()

    async def story() -> float:
        await cloud.put_numbered(0, 10)
        await run_for(cloud, cloud.worker(), 10)
        del cloud.kinesis.streams[SOURCE]
        cloud.kinesis.create_stream(SOURCE, 2)
        await cloud.put_numbered(10, 20)
        before = cloud.loop.time()
        await forget(cloud)
        waited = cloud.loop.time() - before
        assert is_empty(cloud)
        await run_for(cloud, cloud.worker(), 20)
        return waited

    assert cloud.run(story) < 1, "who ended in order is not waited for"
    assert sorted(event["n"] for event in cloud.stored()) == list(range(20))


@pytest.mark.parametrize("holds_shard", [True, False])
def test_a_worker_that_is_alive_keeps_its_application(holds_shard: bool) -> None:
    """Be it that it renews a lease or only says that it is there."""
    cloud = SmallCloud.make()

    async def story() -> None:
        started = [cloud.start(cloud.worker()) for _ in range(1 if holds_shard else 2)]
        await asyncio.sleep(20)
        if not holds_shard:
            owner = cloud.leases.rows[FIRST].owner
            (_, _, process) = next(each for each in started if each[2].name == owner)
            started = [each for each in started if each[2].name != owner]
            cloud.loop.kill(process)
        rows = dict(cloud.leases.rows)
        with pytest.raises(ConfigurationError, match="alive") as caught:
            await forget(cloud)
        assert "Stop all" in caught.value.hint
        assert {*cloud.leases.rows} == {*rows}
        assert cloud.leases.application is not None
        for stop, task, _ in started:
            stop.set()
            await task

    cloud.run(story)


def test_a_worker_that_died_is_told_from_one_that_lives_by_waiting() -> None:
    """Its lease and its presence stand still, and go with the rest; a row that can't be read, too."""
    cloud = SmallCloud.make(shards=2)

    async def story() -> float:
        _, _, process = cloud.start(cloud.worker())
        await cloud.until(lambda: len(cloud.leases.rows) == 2 and all(row.owner for row in cloud.leases.rows.values()))
        cloud.loop.kill(process)
        cloud.leases.damage(FIRST)
        before = cloud.loop.time()
        cloud.network.errors["leases.delete"] = [AmbiguousCallError("no answer")] * 2
        await forget(cloud)
        return cloud.loop.time() - before

    assert cloud.run(story) >= LEASE_SECONDS
    assert is_empty(cloud)


def test_a_worker_that_comes_meanwhile_is_not_forgotten() -> None:
    """The row that it took stays, and so does the description, so that the command can be repeated."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 5)
        await run_for(cloud, cloud.worker(), 5)
        forgetting = forgetting_of(cloud)
        seen = await forgetting.look()
        row = cloud.leases.rows[FIRST]
        cloud.leases.rows[FIRST] = replace(row, owner="worker-9", epoch=row.epoch + 1)
        with pytest.raises(ConfigurationError, match="alive"):
            await forgetting.forget(seen)

    cloud.run(story)
    assert cloud.leases.rows[FIRST].owner == "worker-9"
    assert cloud.leases.application is not None
