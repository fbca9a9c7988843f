"""Hours are completed one after the other, and again where a seek has written into one that had nothing."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

from consumer.core.manifest import COMPLETE_NAME, Manifests
from consumer.hour_closer import HourCloser
from consumer.retrier import Retrier
from shared.lease import Lease, TableRows
from shared.retry import Backoff
from shared.telemetry import SilentTelemetry
from tests.support.fake_objects import FakeObjects

HOUR = 3600.0
SHARD = "shardId-000000000000"
MANIFESTS = Manifests("manifests/")


async def follow(objects: FakeObjects, looks: list[Lease], seek_fills: float | None = None) -> list[str]:
    """Let a worker look at the table so often, and return the folders of the hours that are complete then.

    With `seek_fills`, the last look comes after a seek that has written into the hour of that instant.
    """
    telemetry = SilentTelemetry()
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
