"""Data that was trimmed before it was read is reported with both bounds, once; time running short is said before."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from consumer.core.retention_watch import RetentionWatch
from shared.errors import ThrottledError
from shared.lease import LeaseChange, LeaseExpectation
from shared.records import Position, StreamRecord
from shared.telemetry import SilentTelemetry
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud

FIRST = "shardId-000000000000"
DAY = 86_400.0


def page(*numbers: int) -> list[StreamRecord]:
    """Return records with these sequence numbers, each a second younger than the one before."""
    return [StreamRecord(b"", "k", number, 1000.0 + number) for number in numbers]


def test_the_stored_record_in_its_place_excludes_a_gap() -> None:
    """Reading begins AT the stored record: while it comes first, nothing behind it can be gone."""
    watch = RetentionWatch(FIRST)
    watch.expect(Position(5, 3), None)
    assert watch.find_gap(page(), 1e9, DAY) is None
    assert watch.find_gap(page(5, 6), 1e9, DAY) is None
    assert watch.find_gap(page(90), 1e9, DAY) is None  # only the first page tells


def test_another_record_in_its_place_is_a_gap() -> None:
    """If the stored record is gone, both bounds are named."""
    watch = RetentionWatch(FIRST)
    watch.expect(Position(5, 3), None)
    gap = watch.find_gap(page(9, 10), 1e9, DAY)
    assert gap is not None
    assert (gap.last_read, gap.first_available, gap.first_arrival) == (Position(5, 3), Position(9), 1009.0)
    assert gap.read_through is None


@pytest.mark.parametrize(("quiet_seconds", "is_gap"), [(DAY - 301, False), (DAY - 299, True)])
def test_a_quiet_shard_has_no_gap(quiet_seconds: float, is_gap: bool) -> None:
    """A shard read to its tip within the retention period lost nothing; five minutes of it are left to wrong clocks."""
    watch = RetentionWatch(FIRST)
    watch.expect(Position(5), 2000.0)
    assert (watch.find_gap(page(9), 2000.0 + quiet_seconds, DAY) is not None) is is_gap


def test_half_of_the_period_is_said_once_per_crossing() -> None:
    """Coming to half of the retention period is an event, staying there is not, and coming there again is."""
    watch = RetentionWatch(FIRST)
    ages = [0.4, 0.5, 0.6, 0.9, 0.2, 0.7]
    assert [watch.cross(age * DAY, DAY) for age in ages] == [False, True, False, False, False, True]


def gaps_of(cloud: SmallCloud) -> dict[str, Any]:
    """Return the gap objects by key."""
    return {key: orjson.loads(each.body) for key, each in cloud.objects.objects.items() if "retention-gap/" in key}


async def live(cloud: SmallCloud, seconds: float = 5, **settings: Any) -> None:
    """Let a worker live for a while."""
    stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, **settings))
    await asyncio.sleep(seconds)
    stop.set()
    await task


async def lose_unread(cloud: SmallCloud) -> None:
    """Read ten events, then let five more be trimmed unread, more than a day later."""
    await cloud.put_numbered(0, 10)
    await live(cloud)
    await cloud.put_numbered(10, 20)
    await asyncio.sleep(DAY + 60)
    cloud.kinesis.trim(SOURCE, FIRST, 15)


def test_a_gap_is_recorded_once() -> None:
    """The gap has both bounds and its object is written once, whatever reads the shard after that."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await lose_unread(cloud)
        await live(cloud)
        await live(cloud)

    cloud.run(story)
    ((key, gap),) = gaps_of(cloud).items()
    records = [record for _, record in cloud.kinesis.records(SOURCE)]
    assert key.startswith(f"errors/retention-gap/{FIRST}-{records[9].sequence_number}")
    assert gap["lastReadSequenceNumber"] == str(records[9].sequence_number)
    assert gap["firstAvailableSequenceNumber"] == str(records[15].sequence_number)
    assert gap["retentionSeconds"] == DAY
    assert cloud.telemetry.counters["retention_gaps",] == 1
    assert sorted(event["n"] for event in cloud.stored()) == [*range(10), *range(15, 20)]


def test_a_crash_behind_the_gap_does_not_record_it_twice() -> None:
    """A worker that dies between recording the gap and its checkpoint is followed by one that finds it recorded."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await lose_unread(cloud)
        _, _, process = cloud.start(cloud.worker(flush_seconds=600, worker_id="victim"))
        await cloud.until(lambda: bool(gaps_of(cloud)))
        cloud.loop.kill(process)
        await live(cloud, 30)

    cloud.run(story)
    assert len(gaps_of(cloud)) == 1
    assert cloud.telemetry.counters["retention_gaps",] == 1


@pytest.mark.parametrize("is_followed", [True, False])
def test_a_shard_that_was_trimmed_before_it_had_a_row_is_a_gap(is_followed: bool) -> None:
    """Its child tells of it, once, if the group has read what was before it; to a new group it is nothing."""
    cloud = SmallCloud.make()

    async def story() -> None:
        if is_followed:
            await cloud.put_numbered(0, 5)
            await live(cloud)
        parent, _ = cloud.kinesis.split_shard(SOURCE, FIRST)
        await cloud.put_numbered(5, 15)
        cloud.kinesis.split_shard(SOURCE, parent)
        await cloud.put_numbered(15, 25)
        for name in (FIRST, parent):
            cloud.kinesis.forget_shard(SOURCE, name)
        for _ in range(2):
            await live(cloud, 20)

    cloud.run(story)
    told = [gap for gap in gaps_of(cloud).values() if gap["shardId"] != FIRST]
    assert [(gap["shardId"], gap["firstAvailableSequenceNumber"]) for gap in told] == (
        [("shardId-000000000001", None)] if is_followed else []
    )


def test_a_group_that_followed_a_quiet_shard_reports_nothing() -> None:
    """The last record of a quiet shard is trimmed at last: whoever was at the tip knows that nothing was lost."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 3)
        await live(cloud, 600, lease_duration_seconds=600, read_idle_seconds=60, shard_sync_seconds=600)
        cloud.kinesis.trim(SOURCE, FIRST, 3)
        await cloud.put_numbered(3, 5)
        await live(cloud)

    cloud.run(story)
    assert gaps_of(cloud) == {}
    assert sorted(event["n"] for event in cloud.stored()) == [0, 1, 2, 3, 4]


def test_a_gap_before_an_empty_tip_is_recorded() -> None:
    """Where all that was unread is gone, the first look says so: nothing is left of it."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await lose_unread(cloud)
        cloud.kinesis.trim(SOURCE, FIRST, 20)
        await live(cloud, 20)

    cloud.run(story)
    records = [record for _, record in cloud.kinesis.records(SOURCE)]
    ((_, gap),) = gaps_of(cloud).items()
    assert gap["lastReadSequenceNumber"] == str(records[9].sequence_number)
    assert gap["firstAvailableSequenceNumber"] is None


def test_a_gap_at_the_end_of_a_shard_is_recorded() -> None:
    """A closed shard of which nothing unread is left ends with a gap that has no upper bound."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await lose_unread(cloud)
        cloud.kinesis.trim(SOURCE, FIRST, 20)
        cloud.kinesis.split_shard(SOURCE, FIRST)
        await live(cloud, 20)

    cloud.run(story)
    ((_, gap),) = gaps_of(cloud).items()
    assert gap["firstAvailableSequenceNumber"] is None
    assert cloud.leases.rows[FIRST].checkpoint.is_shard_end


def test_a_shard_that_ends_with_the_stored_record_has_no_gap() -> None:
    """The end of a closed shard is none, if what was stored last is still there."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 10)
        await live(cloud)
        await asyncio.sleep(DAY + 60)
        cloud.kinesis.trim(SOURCE, FIRST, 9)
        cloud.kinesis.split_shard(SOURCE, FIRST)
        await live(cloud, 20)

    cloud.run(story)
    assert gaps_of(cloud) == {}
    assert cloud.leases.rows[FIRST].checkpoint.is_shard_end


@pytest.mark.parametrize("trimmed", [4, 12])
def test_a_prepared_flush_that_was_trimmed_is_a_gap(trimmed: int) -> None:
    """What can't be rebuilt of a flush lies in a gap: from what was stored before to what is left of it, or its end."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 2)
        await live(cloud)
        await cloud.put_numbered(2, 10)
        cloud.network.errors["objects.put"] = [ThrottledError("down")] * 1000
        _, _, process = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(4)
        cloud.loop.kill(process)
        cloud.network.errors.clear()
        await asyncio.sleep(DAY + 600)
        await cloud.put_numbered(10, 14)
        cloud.kinesis.trim(SOURCE, FIRST, trimmed)
        await live(cloud, 40)

    cloud.run(story)
    records = [record for _, record in cloud.kinesis.records(SOURCE)]
    gaps = [
        (int(gap["lastReadSequenceNumber"]), int(gap["firstAvailableSequenceNumber"]))
        for gap in gaps_of(cloud).values()
    ]
    for lost in range(2, trimmed):
        assert any(low < records[lost].sequence_number < high for low, high in gaps), lost
    assert sorted(event["n"] for event in cloud.stored()) == [0, 1, *range(trimmed, 14)]


def test_a_quiet_shard_that_changes_hands_reports_nothing() -> None:
    """Being at the tip again and again, each time within the retention period, excludes a gap for good."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 3)
        await live(cloud)
        await asyncio.sleep(0.7 * DAY)
        cloud.kinesis.trim(SOURCE, FIRST, 3)
        await live(cloud, 20)
        await asyncio.sleep(0.7 * DAY)
        await cloud.put_numbered(3, 5)
        await live(cloud)

    cloud.run(story)
    assert gaps_of(cloud) == {}


def test_a_pause_longer_than_the_retention_period_is_a_gap() -> None:
    """What was trimmed while a shard was paused is found when it is resumed."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 5)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, lease_duration_seconds=30, shard_sync_seconds=10))
        await asyncio.sleep(5)
        await cloud.leases.update_lease(FIRST, LeaseExpectation(), LeaseChange(is_paused=True))
        await asyncio.sleep(15)
        await cloud.put_numbered(5, 10)
        await asyncio.sleep(0.6 * DAY)
        assert cloud.telemetry.counters["retention_headroom_low",] == 1
        await asyncio.sleep(0.5 * DAY)
        cloud.kinesis.trim(SOURCE, FIRST, 7)
        await cloud.leases.update_lease(FIRST, LeaseExpectation(), LeaseChange(is_paused=False))
        await asyncio.sleep(30)
        stop.set()
        await task

    cloud.run(story)
    assert len(gaps_of(cloud)) == 1
    assert sorted(event["n"] for event in cloud.stored()) == [0, 1, 2, 3, 4, 7, 8, 9]


class _Gauges(SilentTelemetry):
    """Keeps the headroom that was told last, and the alarms, by shard."""

    def __init__(self) -> None:
        super().__init__()
        self.headroom: dict[str, float] = {}
        self.alarms: list[str] = []

    def gauge(self, metric: str, value: float, **labels: str) -> None:
        """Keep the headroom."""
        if metric == "retention_headroom_seconds":
            self.headroom[labels["shard_id"]] = value

    def warning(self, event: str, **fields: Any) -> None:
        """Keep an alarm."""
        if event == "retention_headroom_low":
            self.alarms.append(fields["shard_id"])


def test_headroom_is_told_per_shard_and_an_alarm_comes_before_anything_is_trimmed() -> None:
    """Of two shards the one that nobody reads runs short: its gauge falls, and it alone is warned of, at half."""
    cloud = SmallCloud.make(2)
    telemetry = cloud.telemetry = _Gauges()

    async def story() -> None:
        stop, task, _ = cloud.start(cloud.worker(lease_duration_seconds=30, shard_sync_seconds=10))
        await cloud.until(lambda: len(cloud.leases.rows) == 2)
        await cloud.leases.update_lease(FIRST, LeaseExpectation(), LeaseChange(is_paused=True))
        await asyncio.sleep(15)
        await cloud.put_numbered(0, 20)
        await asyncio.sleep(0.45 * DAY)
        assert not telemetry.alarms
        await asyncio.sleep(0.1 * DAY)
        stop.set()
        await task

    cloud.run(story)
    assert telemetry.alarms == [FIRST]
    assert telemetry.headroom[FIRST] == pytest.approx(0.45 * DAY, abs=60)
    assert telemetry.headroom["shardId-000000000001"] == pytest.approx(DAY, abs=60)
    assert not gaps_of(cloud)
