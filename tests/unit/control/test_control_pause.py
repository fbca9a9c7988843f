"""A pause: the owner stops reading, stores what it has, keeps the lease, and reads on when it is over."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from consumer.core import enrichment
from consumer.core.shard_graph import is_paused, rows_to_create
from consumer.core.totals import Totals
from consumer.status import ShardState
from infra.control.pause import set_pause
from shared.errors import ConfigurationError
from shared.lease import AT_TRIM_HORIZON, SHARD_END, CheckpointKind, Lease
from shared.records import Shard
from tests.unit.consumer.small_cloud import SmallCloud
from tests.unit.control.steered_group import group_of, put_with_ids, stored_by_generation

FIRST = "shardId-000000000000"


def test_a_pause_stores_what_was_read_and_keeps_the_lease() -> None:
    """Within a round reading stops and the open batch is committed; the age of what waits goes on being known."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await put_with_ids(cloud, 0, 10)
        worker = cloud.worker(flush_seconds=600)
        stop, task, _ = cloud.start(worker)
        await asyncio.sleep(5)
        assert await set_pause(group_of(cloud), [], is_paused=True) == 1
        await asyncio.sleep(5)
        assert stored_by_generation(cloud) == {0: dict.fromkeys(range(10), 1)}
        epoch = cloud.leases.rows[FIRST].epoch
        await put_with_ids(cloud, 10, 20)
        await asyncio.sleep(60)
        (shard,) = worker.status().shards
        assert (shard.state, shard.epoch, shard.records) == (ShardState.PAUSED, epoch, 10)
        assert 45_000 <= shard.iterator_age_milliseconds <= 65_000
        assert worker.status().is_ready
        assert await set_pause(group_of(cloud), [], is_paused=False) == 1
        await cloud.until(lambda: worker.status().totals.read == 20)
        assert worker.status().shards[0].state is ShardState.READING
        assert cloud.leases.rows[FIRST].epoch == epoch
        stop.set()
        await task

    cloud.run(story)
    assert stored_by_generation(cloud) == {0: dict.fromkeys(range(20), 1)}


def test_a_worker_that_stops_while_paused_leaves_the_pause() -> None:
    """A paused shard is given back at once at SIGTERM, and its next owner does not read it, either."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await put_with_ids(cloud, 0, 5)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(5)
        await set_pause(group_of(cloud), [], is_paused=True)
        await asyncio.sleep(5)
        stop.set()
        await task
        assert cloud.leases.rows[FIRST].owner is None
        await put_with_ids(cloud, 5, 9)
        second = cloud.worker(flush_seconds=1)
        stop, task, _ = cloud.start(second)
        await asyncio.sleep(20)
        assert second.status().totals.read == 0
        await set_pause(group_of(cloud), [], is_paused=False)
        await cloud.until(lambda: second.status().totals.read == 4)
        stop.set()
        await task

    cloud.run(story)


def test_a_halted_shard_is_resumed_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once what made its records fail is mended, `resume` has it read on without a restart, and loses nothing."""
    cloud = SmallCloud.make()

    def fail(_: object) -> Totals:
        raise ZeroDivisionError

    async def story() -> None:
        events = [b'{"n":%d,"browse_history":null}' % number for number in range(300)]
        worker = cloud.worker(flush_seconds=1)
        with monkeypatch.context() as patch:
            patch.setattr(enrichment, "totals_of", fail)
            await cloud.put(*events)
            stop, task, _ = cloud.start(worker)
            await cloud.until(lambda: any(row.is_halted for row in cloud.leases.rows.values()))
            assert await set_pause(group_of(cloud), [], is_paused=True) == 1
            await asyncio.sleep(20)
            (shard,) = worker.status().shards
            assert shard.state is ShardState.HALTED
        assert await set_pause(group_of(cloud), [FIRST], is_paused=False) == 1
        await cloud.until(lambda: worker.status().is_ready and worker.status().totals.enriched == 300)
        assert await set_pause(group_of(cloud), [FIRST], is_paused=False) == 0
        stop.set()
        await task

    cloud.run(story)
    assert sorted(event["n"] for event in cloud.stored()) == list(range(300))
    assert cloud.stored("errors/") == []


def test_a_shard_that_fails_on_halts_again() -> None:
    """Resumed too early, it is halted again under its next lease, which can be resumed in its turn."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put(*[b"garbage"] * 300)
        stop, task, _ = cloud.start(cloud.worker())
        for _ in range(2):
            await cloud.until(lambda: any(row.is_halted for row in cloud.leases.rows.values()))
            halted = cloud.leases.rows[FIRST].epoch
            assert await set_pause(group_of(cloud), [], is_paused=False) == 1
            await cloud.until(partial(_has_passed, cloud, halted))
        await cloud.until(lambda: cloud.leases.rows[FIRST].is_halted)
        stop.set()
        await task

    cloud.run(story)
    assert cloud.stored("errors/") == []


def test_children_inherit_what_an_operator_wished() -> None:
    """The child of a merge is paused with either parent, and reads anew from the earlier time, once both have one."""
    parents = [Shard("a", ending_sequence_number=1), Shard("b", ending_sequence_number=1)]
    child = Shard("c", parent_shard_id="a", adjacent_parent_shard_id="b")
    first = Lease("a", checkpoint=SHARD_END, is_paused=True, generation=2, start_timestamp=8.0)
    second = Lease("b", checkpoint=SHARD_END, generation=1, start_timestamp=5.0)
    (row,) = rows_to_create([*parents, child], {"a": first, "b": second})
    assert (row.generation, row.start_timestamp) == (2, 5.0)
    assert (row.is_paused, is_paused(row, {"a": first, "b": second})) == (False, True)
    assert not is_paused(row, {"a": replace(first, is_paused=False), "b": second})
    assert row.checkpoint.kind is CheckpointKind.AT_TIMESTAMP
    (row,) = rows_to_create([*parents, child], {"a": first, "b": replace(second, start_timestamp=None)})
    assert (row.checkpoint, row.start_timestamp) == (AT_TRIM_HORIZON, None)


def _has_passed(cloud: SmallCloud, epoch: int) -> bool:
    return cloud.leases.rows[FIRST].epoch > epoch


def test_unknown_shards_are_refused() -> None:
    """A name that is in no row is an error, not a pause of nothing."""
    cloud = SmallCloud.make()

    async def story() -> None:
        with pytest.raises(ConfigurationError, match="has no lease row"):
            await set_pause(group_of(cloud), ["shardId-7"], is_paused=True)

    cloud.run(story)
