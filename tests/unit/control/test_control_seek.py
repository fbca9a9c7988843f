"""A running group is moved to a place in time: nothing is lost, dropped as a duplicate, or written over."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime

import pytest

from infra.control.seek import apply_seek, parse_target, plan_lines, plan_seek
from infra.control.seek_plan import SeekTarget, chosen_shards
from shared.errors import ConfigurationError, HeadraceError
from shared.records import Shard
from tests.simulation.loop import Process
from tests.unit.consumer.small_cloud import SOURCE, WALL, SmallCloud
from tests.unit.control.steered_group import audit, group_of, put_with_ids, seek, stored_by_generation

FIRST = "shardId-000000000000"


def once(first: int, end: int) -> Counter[int]:
    """Return each number once."""
    return Counter(range(first, end))


def test_what_is_read_again_is_once_in_its_own_generation() -> None:
    """A seek to TRIM_HORIZON under a running worker brings every event once more, under keys of its own."""
    cloud = SmallCloud.make(2)

    async def story() -> str:
        await put_with_ids(cloud, 0, 40)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(5)
        await seek(cloud, "TRIM_HORIZON")
        await put_with_ids(cloud, 40, 60)
        await asyncio.sleep(15)
        stop.set()
        await task
        return (await audit(cloud)).verdict

    assert cloud.run(story) == "ok"
    assert stored_by_generation(cloud) == {0: once(0, 40), 1: once(0, 60)}
    assert {row.generation for row in cloud.leases.rows.values()} == {1}
    assert all(row.seek_to is None for row in cloud.leases.rows.values())


def test_a_time_brings_back_what_arrived_since() -> None:
    """Only what arrived at or after the time is read again, a second seek makes a second generation."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await put_with_ids(cloud, 0, 10)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(5)
        middle = datetime.fromtimestamp(WALL + cloud.loop.time(), UTC).isoformat()
        await put_with_ids(cloud, 10, 20)
        await asyncio.sleep(5)
        await seek(cloud, middle)
        await asyncio.sleep(15)
        await seek(cloud, middle)
        await asyncio.sleep(15)
        stop.set()
        await task

    cloud.run(story)
    assert stored_by_generation(cloud) == {0: once(0, 20), 1: once(10, 20), 2: once(10, 20)}


def test_latest_leaves_out_what_is_unread() -> None:
    """After a seek to LATEST what was unread stays unread, and what comes later is read."""
    cloud = SmallCloud.make(2)

    async def story() -> None:
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(5)
        stop.set()
        await task
        await put_with_ids(cloud, 0, 10)
        await asyncio.sleep(1)
        await seek(cloud, "LATEST")
        await put_with_ids(cloud, 10, 20)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(15)
        stop.set()
        await task

    cloud.run(story)
    assert stored_by_generation(cloud) == {1: once(10, 20)}


def test_a_prepared_flush_is_finished_before_the_move() -> None:
    """A flush that was prepared when the seek came is written under its pinned keys, and then the shard moves."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await put_with_ids(cloud, 0, 12)
        _, _, process = cloud.start(cloud.worker(flush_seconds=1, worker_id="victim"))
        cloud.leases.on_write = lambda _before, after: cloud.loop.kill(process) if after.pending else None
        await cloud.until(lambda: any(row.pending for row in cloud.leases.rows.values()))
        cloud.leases.on_write = None
        await seek(cloud, "TRIM_HORIZON")
        row = cloud.leases.rows[FIRST]
        assert row.pending is not None
        assert row.seek_to is not None
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(10)
        stop.set()
        await task

    cloud.run(story)
    assert stored_by_generation(cloud) == {0: once(0, 12), 1: once(0, 12)}


def test_finished_parents_open_again_before_their_children() -> None:
    """After a split, a seek before it reads the parent again, then the children; order is kept in each generation."""
    cloud = SmallCloud.make()

    async def story() -> str:
        await put_with_ids(cloud, 0, 20)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, shard_sync_seconds=1))
        await asyncio.sleep(5)
        cloud.kinesis.split_shard(SOURCE, FIRST)
        await put_with_ids(cloud, 20, 50)
        await cloud.until(lambda: cloud.leases.rows[FIRST].checkpoint.is_shard_end)
        await asyncio.sleep(10)
        plan = await seek(cloud, "TRIM_HORIZON")
        assert len(plan.moves) == 3
        await asyncio.sleep(30)
        stop.set()
        await task
        return (await audit(cloud)).verdict

    assert cloud.run(story) == "ok"
    assert stored_by_generation(cloud) == {0: once(0, 50), 1: once(0, 50)}
    assert cloud.leases.rows[FIRST].checkpoint.is_shard_end


def test_marks_of_a_finished_parent_hold_for_its_children() -> None:
    """A repetition across a split stays a duplicate for a child that is read again from after the split."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await put_with_ids(cloud, 0, 10)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, shard_sync_seconds=1))
        await asyncio.sleep(5)
        cloud.kinesis.split_shard(SOURCE, FIRST)
        await asyncio.sleep(5)
        middle = datetime.fromtimestamp(WALL + cloud.loop.time(), UTC).isoformat()
        await put_with_ids(cloud, 5, 15)  # 5 to 9 came late for a second time
        await asyncio.sleep(10)
        plan = await seek(cloud, middle)
        assert plan.untouched == (FIRST,)
        await asyncio.sleep(15)
        stop.set()
        await task

    cloud.run(story)
    assert stored_by_generation(cloud) == {0: once(0, 15), 1: once(10, 15)}


@pytest.mark.parametrize("after_landing", [False, True])
def test_a_seek_that_dies_at_any_call_harms_nothing(after_landing: bool) -> None:
    """A command that is killed half-way leaves a group that works, and the same command completes it."""
    sought = 0
    for kill_at in range(1, 40):
        cloud = SmallCloud.make(2)
        cloud.network.kills_after_landing = after_landing

        async def story(cloud: SmallCloud = cloud, kill_at: int = kill_at) -> tuple[str, bool]:
            await put_with_ids(cloud, 0, 20)
            stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, lease_duration_seconds=3))
            await asyncio.sleep(5)
            operator = Process("operator")
            cloud.network.counted = 0
            command = cloud.loop.spawn(operator, lambda: seek(cloud, "TRIM_HORIZON"))
            # The worker's calls count, too: they only make the kill fall somewhere else.
            cloud.network.kill_at = None
            await asyncio.sleep(0.003 * kill_at)
            is_done = command.done()
            cloud.loop.kill(operator)
            await put_with_ids(cloud, 20, 30)
            await asyncio.sleep(15)
            await seek(cloud, "TRIM_HORIZON")
            await asyncio.sleep(15)
            stop.set()
            await task
            return (await audit(cloud)).verdict, is_done

        verdict, is_done = cloud.run(story)
        assert verdict == "ok", kill_at
        last = max(row.generation for row in cloud.leases.rows.values())
        found = stored_by_generation(cloud)
        assert sum((found[each] for each in found if each), Counter[int]()) >= once(0, 30), (last, kill_at)
        sought += is_done
    assert sought < 39


def test_descendants_go_along() -> None:
    """A named shard takes all that came out of it, through splits and merges; other shards stay."""
    names = ["shardId-0", "shardId-1", "shardId-2", "shardId-3", "shardId-4"]
    shards = [
        Shard(names[0]),
        Shard(names[1]),
        Shard(names[2], parent_shard_id=names[0]),
        Shard(names[3], parent_shard_id=names[2], adjacent_parent_shard_id=names[1]),
        Shard(names[4], parent_shard_id=names[1]),
    ]
    assert [each.shard_id for each in chosen_shards(shards, [names[2]])] == [names[2], names[3]]
    assert [each.shard_id for each in chosen_shards(shards, [])] == names
    with pytest.raises(ConfigurationError, match="shardId-9"):
        chosen_shards(shards, ["shardId-9"])


def test_children_that_came_after_the_plan_are_sent_back_as_well() -> None:
    """Shards merge and their child is stored in part while a seek is planned: it is read again like its parents."""
    cloud = SmallCloud.make(2)

    async def story() -> None:
        await put_with_ids(cloud, 0, 20)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(5)
        group = group_of(cloud)
        plan = await plan_seek(group, SeekTarget(), [])
        first, second = (shard.shard_id for shard in await cloud.kinesis.list_shards(SOURCE))
        child = cloud.kinesis.merge_shards(SOURCE, first, second)
        await put_with_ids(cloud, 20, 40)
        await asyncio.sleep(15)
        assert cloud.leases.rows[child].checkpoint.position is not None, "the child was read before the seek began"
        await apply_seek(group, plan)
        await asyncio.sleep(25)
        stop.set()
        await task

    cloud.run(story)
    assert stored_by_generation(cloud) == {0: once(0, 40), 1: once(0, 40)}


def test_targets() -> None:
    """TRIM_HORIZON, LATEST and times are places; the future and anything else are not."""
    assert parse_target("TRIM_HORIZON", 5.0) == SeekTarget()
    assert parse_target("LATEST", 5.0) == SeekTarget(5.0)
    assert parse_target("1970-01-01T00:00:03", 5.0) == SeekTarget(3.0)
    for text in ("1970-01-01T00:00:06+00:00", "yesterday", ""):
        with pytest.raises(HeadraceError):
            parse_target(text, 5.0)


def test_a_dry_run_says_what_would_be_read_again() -> None:
    """The plan names the span of time and changes no row."""
    cloud = SmallCloud.make()

    async def story() -> list[str]:
        await put_with_ids(cloud, 0, 3)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(100)
        stop.set()
        await task
        before = dict(cloud.leases.rows)
        group = group_of(cloud)
        plan = await plan_seek(group, SeekTarget(), [])
        assert cloud.leases.rows == before
        assert plan.moves[0].again_seconds == pytest.approx(100, abs=2)
        return plan_lines(plan)

    assert "1 min 40 s read again" in "\n".join(cloud.run(story))
