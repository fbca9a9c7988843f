"""The crash table of a flush: a worker dies between every two calls, in every format, and each event is stored once."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter
from typing import Any

import orjson
import pytest

from infra.audit.object_events import events_of
from shared.aws.objects import WriteOptions
from shared.errors import AmbiguousCallError, ServiceUnavailableError
from shared.lease import Lease
from shared.settings import ArchiveFormat, Compression
from tests.unit.consumer.small_cloud import SmallCloud

SHARD = "shardId-000000000000"
PARTITIONED = "archive/!{destination}/session=!{event:session_id}/"
WAYS: dict[str, dict[str, Any]] = {
    "json": {},
    "partitioned": {"archive_prefix": PARTITIONED},
    "zstd": {"compression": Compression.ZSTD},
    "csv": {"archive_format": ArchiveFormat.CSV, "archive_prefix": PARTITIONED},
    "parquet": {"archive_format": ArchiveFormat.PARQUET},
    "in parts": {"uploads": WriteOptions(multipart_bytes_min=1, part_bytes=150)},
    "declared": {"archive_format": ArchiveFormat.PARQUET, "archive_schema": '{"n": "int64", "session_id": "string"}'},
}


def stored(cloud: SmallCloud) -> list[int]:
    """Return the numbers of all events in the archive and of those that did not fit its columns."""
    found: list[int] = []
    for key, stored_object in cloud.objects.objects.items():
        if key.startswith("archive/"):
            found += [int(event["n"]) for event in events_of(key, stored_object.body)]
        elif key.startswith("errors/format-conversion-failed/"):
            letters = events_of(key, stored_object.body)
            found += [orjson.loads(base64.b64decode(letter["rawData"]))["n"] for letter in letters]
    return sorted(found)


def crash(way: dict[str, Any], kill_at: int, *, after_landing: bool, freeze_seconds: float | None = None) -> SmallCloud:
    """Kill a worker at one of its calls, or freeze it, let a second one take over, and return what is left."""
    cloud = SmallCloud.make()
    cloud.network.kills_after_landing = after_landing
    cloud.network.freeze_seconds = freeze_seconds

    async def story() -> None:
        events = [{"session_id": f"s{n % 3}", "n": n, "country": "USA" if n % 2 else "Peru"} for n in range(8)]
        await cloud.put(*events)
        cloud.network.kill_at = kill_at
        leave, victim, process = cloud.start(cloud.worker(flush_seconds=1, worker_id="victim", **way))
        await asyncio.sleep(4)
        if freeze_seconds is None:
            cloud.loop.kill(process)
        cloud.network.kill_at = None
        # A name that the first flush did not have, and a number that is none.
        await cloud.put({"session_id": "s0", "n": 8, "late": 1}, {"session_id": "s1", "n": 9, "country": 5})
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, **way))
        await asyncio.sleep(25 + (freeze_seconds or 0.0))
        stop.set()
        await task
        if freeze_seconds is not None:
            leave.set()
            await victim

    cloud.run(story)
    return cloud


@pytest.mark.parametrize("after_landing", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_crash_between_any_two_steps_stores_each_event_once(way: str, after_landing: bool) -> None:
    """Before or after PREPARE, each PUT and COMMIT: the next owner finishes what was prepared, under the same keys."""
    killed: Counter[str] = Counter()
    for kill_at in range(1, 100):
        cloud = crash(WAYS[way], kill_at, after_landing=after_landing)
        assert stored(cloud) == list(range(10)), f"killed at call {kill_at}: {cloud.network.killed}"
        assert all(row.pending is None for row in cloud.leases.rows.values())
        assert (cloud.objects.overwritten, cloud.uploads.left_open) == ([], [])
        if cloud.network.killed is None:
            break
        killed[cloud.network.killed] += 1
    assert killed["objects.put"] == (6 if "!{event" in str(WAYS[way]) else 2)
    assert (killed["objects.upload_part"] > 2) == (way == "in parts")
    assert killed["leases.update"] >= 3, "a take, a PREPARE and a COMMIT"
    needs_inference = way in {"csv", "parquet"}
    assert killed["leases.hold_schema"] == needs_inference


@pytest.mark.parametrize("after_landing", [False, True])
@pytest.mark.parametrize("seconds", [5.0, 40.0], ids=["wakes in time", "wakes as a zombie"])
@pytest.mark.parametrize("way", ["partitioned", "in parts"])
def test_a_worker_that_stood_still_between_any_two_steps_changes_nothing(
    way: str, seconds: float, after_landing: bool
) -> None:
    """Frozen before or after PREPARE, each PUT and COMMIT, and awake after another one took over: nothing is twice."""
    frozen: Counter[str] = Counter()
    for call in range(1, 100):
        cloud = crash(WAYS[way], call, after_landing=after_landing, freeze_seconds=seconds)
        assert stored(cloud) == list(range(10)), f"frozen at call {call}: {cloud.network.killed}"
        assert all(row.pending is None for row in cloud.leases.rows.values())
        assert (cloud.objects.overwritten, cloud.uploads.left_open) == ([], [])
        if cloud.network.killed is None:
            break
        frozen[cloud.network.killed] += 1
    assert frozen["objects.put"] >= 2
    assert frozen["leases.update"] >= 3, "a take, a PREPARE and a COMMIT"


@pytest.mark.parametrize("operation", ["leases.update", "objects.put", "leases.hold_schema"])
@pytest.mark.parametrize("error", [ServiceUnavailableError("down"), AmbiguousCallError("no answer")])
def test_failing_calls_of_a_flush_are_repeated(operation: str, error: Exception) -> None:
    """A step that failed, or whose answer was lost, is taken again until it is known to have landed."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 8)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=3, **WAYS["parquet"]))
        await asyncio.sleep(2)
        cloud.network.errors[operation] = [error] * 3
        await asyncio.sleep(20)
        stop.set()
        await task

    cloud.run(story)
    assert stored(cloud) == list(range(8))


def test_the_format_of_a_prepared_flush_outlives_a_change_of_settings() -> None:
    """A flush that was prepared as partitioned CSV is finished so by a worker that now writes plain JSON."""
    cloud = SmallCloud.make()
    prepared: list[Lease] = []

    async def story() -> None:
        await cloud.put_numbered(0, 6)
        cloud.network.errors["objects.put"] = [ServiceUnavailableError("down")] * 1000
        _, _, process = cloud.start(cloud.worker(flush_seconds=1, **WAYS["csv"]))
        await asyncio.sleep(4)
        cloud.loop.kill(process)
        prepared.append(cloud.leases.rows[SHARD])
        cloud.network.errors.clear()
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(25)
        stop.set()
        await task

    cloud.run(story)
    pending = prepared[0].pending
    assert pending is not None
    assert set(cloud.objects.objects) == set(pending.keys)
    assert all(key.endswith(".csv.gz") for key in pending.keys)
    assert stored(cloud) == list(range(6))


def test_columns_that_most_events_do_not_fit_halt_the_shard_before_anything_is_written() -> None:
    """A wrong schema must not drain the stream into the dead letters."""
    cloud = SmallCloud.make()

    async def story() -> str:
        await cloud.put_numbered(0, 100)
        wrong = {"archive_format": ArchiveFormat.PARQUET, "archive_schema": '{"session_id": "int64"}'}
        worker = cloud.worker(flush_seconds=1, **wrong)
        stop, task, _ = cloud.start(worker)
        await asyncio.sleep(5)
        state = worker.status().shards[0].state.value
        stop.set()
        await task
        return state

    assert cloud.run(story) == "halted"
    assert cloud.objects.objects == {}
    assert cloud.leases.rows[SHARD].pending is None


def test_all_workers_write_the_columns_that_the_first_flush_had() -> None:
    """Two shards, each with a worker of its own, agree on one schema; who comes later doesn't fit."""
    cloud = SmallCloud.make(2)

    async def story() -> None:
        stops = [cloud.start(cloud.worker(flush_seconds=1, **WAYS["parquet"])) for _ in range(2)]
        await asyncio.sleep(15)
        await cloud.put_numbered(0, 20)
        await asyncio.sleep(15)
        await cloud.put({"session_id": "s1", "n": 20, "new": True})
        await asyncio.sleep(15)
        for stop, task, _ in stops:
            stop.set()
            await task

    cloud.run(story)
    assert stored(cloud) == list(range(21))
    (letter,) = cloud.stored("errors/format-conversion-failed/")
    assert letter["errorCode"] == letter["lastErrorCode"] == "DataFormatConversion.MalformedData"
    assert letter["errorMessage"] == letter["lastErrorMessage"]
    assert letter["attemptsMade"] == 1
    assert letter["attemptEndingTimestamp"] >= letter["arrivalTimestamp"] > 1_700_000_000_000
    assert {"shardId", "sequenceNumber", "subSequenceNumber", "eventId", "rawData"} <= set(letter)


def test_ten_thousand_partitions_stay_within_the_budget() -> None:
    """There is no limit of partitions: batches close before their names outgrow the lease row, and all is stored."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put(*({"session_id": f"session-{n}", "n": n} for n in range(10_000)))
        worker = cloud.worker(
            archive_prefix=PARTITIONED, flush_seconds=600, flush_bytes_max=100 * 1024 * 1024, drain_timeout_seconds=600
        )
        stop, task, _ = cloud.start(worker)
        await asyncio.sleep(60)
        stop.set()
        await task

    cloud.run(story)
    assert stored(cloud) == list(range(10_000))
    assert len(cloud.objects.objects) == 10_000


@pytest.mark.parametrize("way", ["csv", "parquet"])
def test_an_event_too_large_for_columns_holds_nothing_up(way: str) -> None:
    """It becomes a dead letter, also where it is all that the first flush has: the columns are those of others."""
    cloud = SmallCloud.make()

    async def story() -> None:
        hostile = {"session_id": "s1", "n": 0, "country": "Peru", "s": {f"{n:060}": n for n in range(900)}}
        await cloud.put(hostile)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, **WAYS[way]))
        await asyncio.sleep(5)
        await cloud.put(*({"session_id": "s0", "n": n, "country": "Peru"} for n in range(1, 6)))
        await asyncio.sleep(5)
        stop.set()
        await task

    cloud.run(story)
    assert stored(cloud) == list(range(6))
    letters = [key for key in cloud.objects.objects if key.startswith("errors/format-conversion-failed/")]
    assert len(letters) == 1


def test_columns_are_inferred_from_the_events_of_every_object() -> None:
    """A thousand events of one destination do not leave those of another one without their columns."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put(*({"session_id": "s0", "n": n, "country": "Peru"} for n in range(1_100)))
        await cloud.put(*({"session_id": "s1", "n": n, "country": "USA", "plan": "b"} for n in range(1_100, 1_105)))
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=20, **WAYS["csv"]))
        await cloud.until(lambda: any("USA" in key for key in cloud.objects.objects))
        stop.set()
        await task

    cloud.run(story)
    assert stored(cloud) == list(range(1_105))
    assert not [key for key in cloud.objects.objects if key.startswith("errors/")]
