"""Hours are completed one after the other, and again where a seek has written into one that had nothing."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

from consumer.core.manifest import COMPLETE_NAME, Manifests
from consumer.hour_closer import HourCloser
from consumer.retrier import Retrier
from shared.lease import Lease, TableRows
from shared.ports import Telemetry
from shared.retry import Backoff
from shared.telemetry import SilentTelemetry
from tests.support.fake_objects import FakeObjects
from tests.unit.consumer.small_fleet import NotingTelemetry

HOUR = 3600.0
SHARD = "shardId-000000000000"
MANIFESTS = Manifests("manifests/")


async def follow(
    objects: FakeObjects, looks: list[Lease], seek_fills: float | None = None, telemetry: Telemetry | None = None
) -> list[str]:
    """Let a worker look at the table so often, and return the folders of the hours that are complete then.

    With `seek_fills`, the last look comes after a seek that has written into the hour of that instant.
    """
    telemetry = telemetry or SilentTelemetry()
    retrier = Retrier(Backoff(0.1, 1.0), random.Random(1), telemetry)
    closer = HourCloser(objects, MANIFESTS, retrier=retrier, telemetry=telemetry)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(closer.run())
        for row in looks:
            if seek_fills is not None and row is looks[-1]:
                await put_index(objects, seek_fills, generation=1)
            closer.look(TableRows((row,)))
            for _ in range(200):
                await asyncio.sleep(0)
        running.cancel()
    return sorted(key.removesuffix(COMPLETE_NAME) for key in objects.objects if key.endswith(COMPLETE_NAME))


async def put_index(objects: FakeObjects, instant: float, generation: int = 0) -> None:
    """Write an index into the hour of an instant."""
    again = f".g{generation}" if generation else ""
    key = f"{MANIFESTS.folder(MANIFESTS.hour(instant))}{SHARD}-5-9{again}.r1.e0.json"
    await objects.put_object(key, b"{}", content_type="application/json")


async def test_each_hour_that_has_ended_is_complete_once() -> None:
    """An hour with an index is complete as soon as no shard writes into it any more, and not before."""
    objects = FakeObjects()
    await put_index(objects, 10 * HOUR)
    row = Lease(SHARD, closed_until=11 * HOUR - 1)
    assert await follow(objects, [row]) == []
    assert await follow(objects, [row, replace(row, closed_until=11 * HOUR)]) == [MANIFESTS.folder("1970-01-01/10")]


async def test_an_hour_that_a_seek_fills_is_completed_later() -> None:
    """Who follows the table looks back once a seek went through, though it did not see the seek under way."""
    objects = FakeObjects()
    row = Lease(SHARD, closed_until=12 * HOUR + 1)
    complete = await follow(objects, [row, replace(row, generation=1)], seek_fills=10 * HOUR)
    assert MANIFESTS.folder("1970-01-01/10") in complete


def folders(first: int, last: int) -> list[str]:
    """Return the folders of hours, counted from 1970."""
    return [MANIFESTS.folder(MANIFESTS.hour(number * HOUR)) for number in range(first, last + 1)]


async def test_hours_that_ended_days_ago_are_completed_some_at_each_look() -> None:
    """Who comes back after ten days completes every hour since the last complete one, with bounded work per look."""
    objects = FakeObjects()
    await put_index(objects, 100 * HOUR)
    assert await follow(objects, [Lease(SHARD, closed_until=101 * HOUR)]) == folders(100, 100)
    await put_index(objects, 101 * HOUR)
    now = Lease(SHARD, closed_until=341 * HOUR)
    calls = len(objects.network.calls)
    assert await follow(objects, [now] * 2) == folders(100, 100)
    assert len(objects.network.calls) - calls <= 2 * 60
    assert await follow(objects, [now] * 11) == folders(100, 340)
    assert objects.overwritten == []


async def test_whoever_comes_next_goes_on_where_another_stopped() -> None:
    """Worker after worker dies after a few looks; the hours that are complete never have a hole, and all get it."""
    objects = FakeObjects()
    await put_index(objects, 100 * HOUR)
    now = Lease(SHARD, closed_until=170 * HOUR)
    seen = [await follow(objects, [now] * 2) for _ in range(12)]
    assert seen[-1] == folders(100, 169)
    assert all(each == folders(100, 99 + len(each)) for each in seen)


async def test_an_hour_before_all_complete_ones_is_completed_though_a_worker_dies() -> None:
    """A seek that went behind the first hour leaves an oldest hour that is not complete, until all after it are."""
    objects = FakeObjects()
    await put_index(objects, 200 * HOUR)
    await follow(objects, [Lease(SHARD, closed_until=202 * HOUR)])
    await put_index(objects, 100 * HOUR, generation=1)
    now = Lease(SHARD, closed_until=202 * HOUR, generation=1)
    seen = [await follow(objects, [now] * 3) for _ in range(4)]
    assert 2 < len(seen[0]) < len(seen[-1])
    assert seen[-1] == folders(100, 201)
    assert all(each == folders(202 - len(each), 201) for each in seen)


async def test_other_objects_below_the_prefix_do_not_count() -> None:
    """A folder that is no hour, or of the year 1, neither ends the work nor makes it endless."""
    for strange in ("dt=0001-01-01/hour=00/x", "dt=1969-99-99/hour=77/x", "dt=/x"):
        objects = FakeObjects()
        await objects.put_object(MANIFESTS.prefix + strange, b"", content_type="")
        looks = [Lease(SHARD, closed_until=now * HOUR) for now in (500_000, 500_002)]
        found = await follow(objects, [looks[0]] * 400 + [looks[1]] * 2)
        assert found[-2:] == folders(500_000, 500_001)
        assert len(found) <= 2 + 366 * 24


async def test_what_somebody_else_put_before_the_first_hour_hides_no_hour() -> None:
    """S3's console makes an empty object for a day's folder; the hours of that day are completed all the same."""
    objects = FakeObjects()
    await objects.put_object("manifests/dt=1970-01-01/", b"", content_type="application/x-directory")
    await put_index(objects, 10 * HOUR)
    row = Lease(SHARD, closed_until=12 * HOUR)
    hours = [MANIFESTS.folder(f"1970-01-01/{hour}") for hour in (10, 11)]
    assert await follow(objects, [row]) == hours


async def test_who_finds_no_hour_among_keys_of_others_says_so() -> None:
    """A few of them are passed over; where no end of them is seen, it is told once and counted at each look."""
    objects, telemetry = FakeObjects(), NotingTelemetry()
    await put_index(objects, 100 * HOUR)
    row = Lease(SHARD, closed_until=101 * HOUR)
    for number in range(1_000):
        await objects.put_object(f"{MANIFESTS.days}!{number:04}", b"", content_type="text/plain")
    assert await follow(objects, [row], telemetry=telemetry) == folders(100, 100)
    assert telemetry.count_of("hours_not_found") == 0
    objects = FakeObjects()
    await put_index(objects, 100 * HOUR)
    for number in range(1_001):
        await objects.put_object(f"{MANIFESTS.days}!{number:04}", b"", content_type="text/plain")
    assert await follow(objects, [row, replace(row)], telemetry=telemetry) == []
    assert telemetry.count_of("hours_not_found") == 1
