"""An attempt counts where its process died: leases that are lost in an outage halt no shard and condemn no record."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from consumer.core.attempt_policy import attempts_before, with_attempt, without_attempt
from shared.errors import ServiceUnavailableError
from shared.lease import Lease, LeaseChange
from tests.unit.consumer.small_cloud import SmallCloud
from tests.unit.consumer.small_fleet import NotingTelemetry

_LOSSES = 20  # more than halt a shard
_SHARD = "shardId-000000000000"


async def _lose_leases(cloud: SmallCloud) -> int:
    """Take the row away from whoever holds it, again and again; return the most attempts that it shows."""
    shown = 0
    for _ in range(_LOSSES):
        await asyncio.sleep(12)
        row = cloud.leases.rows[_SHARD]
        shown = max(shown, row.attempts)
        cloud.leases.rows[_SHARD] = replace(row, owner=None, epoch=row.epoch + 1)
    return shown


def _run_outage(workers: int, *, of_bucket: bool) -> None:
    """Let leases be lost while the bucket or a destination is down; then everything has to be stored once."""
    cloud = SmallCloud.make()
    cloud.telemetry = telemetry = NotingTelemetry()

    async def story() -> None:
        await cloud.put_numbered(0, 40)
        if of_bucket:
            cloud.network.errors["objects.put"] = [ServiceUnavailableError("down")] * 10_000
        for sink in cloud.sinks.values():
            sink.is_open = of_bucket
        started = [cloud.start(cloud.worker(flush_seconds=1)) for _ in range(workers)]
        await cloud.until(lambda: _SHARD in cloud.leases.rows and cloud.leases.rows[_SHARD].attempts > 0)
        if of_bucket:
            await cloud.until(lambda: cloud.leases.rows[_SHARD].pending is not None)
        assert await _lose_leases(cloud) <= workers
        cloud.network.errors.clear()
        for sink in cloud.sinks.values():
            sink.is_open = True
        await asyncio.sleep(60)
        for stop, _, _ in started:
            stop.set()
        for _, task, _ in started:
            await task

    cloud.run(story)
    assert telemetry.count_of("lease_lost") >= _LOSSES - 1
    for event in ("shard_halted", "record_condemned", "shard_read_carefully"):
        assert telemetry.count_of(event) == 0, event
    assert sorted(event["n"] for event in cloud.stored()) == list(range(40))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_leases_lost_while_the_bucket_is_down_halt_no_shard(workers: int) -> None:
    """A prepared flush is tried by one living owner after the other, and stored when the bucket is back."""
    _run_outage(workers, of_bucket=True)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_leases_lost_while_a_destination_is_down_condemn_no_record(workers: int) -> None:
    """No batch can be closed, and the same records are looked at by one living owner after the other."""
    _run_outage(workers, of_bucket=False)


def test_the_living_take_their_attempts_back_from_the_row_of_another() -> None:
    """Those of the dead stay, and the owner notices nothing."""
    cloud = SmallCloud.make()
    other = Lease("shardId-000000000001", owner="other", epoch=3, version=5, attempts=7, write_id="theirs")

    async def story() -> None:
        worker = cloud.worker(flush_seconds=1)
        stop, task, _ = cloud.start(worker)
        await cloud.until(lambda: _SHARD in cloud.leases.rows and cloud.leases.rows[_SHARD].owner == worker.worker_id)
        process = cloud.leases.rows[_SHARD].write_id.partition(".")[0]
        cloud.leases.rows[other.shard_id] = replace(other, attempted_by=("dead", process))
        await cloud.until(lambda: cloud.leases.rows[other.shard_id].attempted_by == ("dead",))
        assert cloud.leases.rows[other.shard_id] == replace(other, attempts=6, attempted_by=("dead",))
        stop.set()
        await task

    cloud.run(story)


def test_a_process_has_one_attempt_in_a_row_and_none_before_itself() -> None:
    """It can't die twice, and lives as long as it asks; whoever asks else counts it."""
    row = Lease("a", attempts=2, attempted_by=("x",))
    change = with_attempt(row, "me")
    assert change == LeaseChange(attempts=3, attempted_by=("me", "x"))
    row = change.apply(row)
    assert with_attempt(row, "me") is None
    assert (attempts_before(row, "me"), attempts_before(row, "another")) == (2, 3)
    taken_back = without_attempt(row, "me")
    assert taken_back == LeaseChange(attempts=2, attempted_by=("x",))
    assert without_attempt(taken_back.apply(row), "me") is None


def test_names_are_bounded_and_attempts_go_on() -> None:
    """What has no name any more can't be taken back: by then a record is condemned, or a shard halted."""
    row = Lease("a")
    for number in range(40):
        change = with_attempt(row, f"{number:016x}")
        assert change is not None
        row = change.apply(row)
    assert (row.attempts, len(row.attempted_by)) == (40, 16)
    assert with_attempt(row, f"{39:016x}") is None
