"""Manifests: an index per flush and hour, an hour that is said to be complete, and what happens around its end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson
import pytest

from consumer.core.manifest import Manifests, closed_until, complete_body
from consumer.core.shard_graph import rows_to_create
from shared.errors import AccessDeniedError, ConfigurationError
from shared.hash_key import even_ranges
from shared.lease import AT_TRIM_HORIZON, SHARD_END, Lease, TableRows
from shared.records import Shard
from tests.unit.consumer.small_cloud import WALL, SmallCloud

LEFT, RIGHT = even_ranges(2)
MANIFESTS: Final = Manifests("manifests/")
HOUR_END: Final = WALL // 3600 * 3600 + 3600
ON: Final[dict[str, Any]] = {"manifest_prefix": "manifests/", "manifest_wait_seconds": 5, "flush_seconds": 1}


def instant(text: str) -> float:
    """Return an instant, seconds since the epoch."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_hours_follow_the_zone_and_its_changes() -> None:
    """The hour that a clock set back repeats is one long hour; the one left out in spring does not exist."""
    berlin = Manifests("m/", ZoneInfo("Europe/Berlin"))
    autumn = instant("2026-10-25T00:30:00")
    assert berlin.hour(autumn) == berlin.hour(autumn + 3600) == "2026-10-25/02"
    assert (berlin.begin(autumn), berlin.end(autumn)) == (instant("2026-10-25"), instant("2026-10-25T02:00:00"))
    spring = instant("2026-03-29T00:30:00")
    assert berlin.hour(spring) == "2026-03-29/01"
    assert berlin.hour(berlin.end(spring)) == "2026-03-29/03"
    assert Manifests("m/", ZoneInfo("Asia/Kolkata")).begin(instant("2026-11-21T10:10:00")) == instant(
        "2026-11-21T09:30:00"
    )


def row(name: str, **values: Any) -> Lease:
    """Return a row that has promised something."""
    return Lease(name, **({"hash_key_range": LEFT, "closed_until": 100.0} | values))


def test_an_hour_is_closed_when_every_shard_says_so() -> None:
    """The earliest promise counts; a row that is missing, damaged, sought or silent forbids any."""
    left, right = row("a"), row("b", hash_key_range=RIGHT, closed_until=90.0)
    finished = row("parent", hash_key_range=None, checkpoint=SHARD_END, closed_until=1.0)
    assert closed_until(TableRows((left, right, finished))) == 90.0
    assert closed_until(TableRows((left, finished))) is None, "the child of a finished shard has no row yet"
    assert closed_until(TableRows((left, right), damaged=("c",))) is None
    assert closed_until(TableRows((left, replace(right, closed_until=None)))) is None
    assert closed_until(TableRows((left, replace(right, seek_to=AT_TRIM_HORIZON)))) is None
    assert closed_until(TableRows()) is None


def test_children_inherit_what_their_parents_promised() -> None:
    """A row that is made after an hour was closed must not open it again."""
    parents = {"a": row("a", checkpoint=SHARD_END), "b": row("b", checkpoint=SHARD_END, closed_until=None)}
    shards = [Shard("a", LEFT, ending_sequence_number=1), Shard("b", RIGHT, ending_sequence_number=1)]
    (child,) = rows_to_create([*shards, Shard("c", LEFT, "a", "b")], parents)
    assert child.closed_until == 100.0


def test_what_a_later_seek_writes_is_left_out() -> None:
    """A complete hour counts the readings that had closed it, those of other shards and names not at all."""
    keys = [
        "m/a-note.txt",
        "m/shardId-000000000000-1-2.r10.e0.json",
        "m/shardId-000000000000-3.1-4.5.r5.e2.json",
        "m/shardId-000000000000-1-4.g1.r7.e0.json",
        "m/shardId-000000000000-1-4.g2.r7.e0.json",
    ]
    complete = orjson.loads(complete_body("2026-11-21/05", "UTC", keys, [row("shardId-000000000000", generation=1)]))
    assert (complete["hour"], complete["indexes"], complete["records"], complete["dead_letters"]) == (
        "2026-11-21T05",
        3,
        22,
        2,
    )
    assert [(each["generation"], each["first"], each["last"]) for each in complete["shards"]] == [
        (0, "1", "4.5"),
        (1, "1", "4"),
    ]


@pytest.mark.parametrize("prefix", ["archive/", "archive/x/", "errors/", "arch/"])
def test_manifests_do_not_mix_with_other_objects(prefix: str) -> None:
    """A listing of the archive must show events only; a prefix beside it is fine."""
    if prefix == "arch/":
        Manifests(prefix).check("archive/", "errors/")
        return
    with pytest.raises(ConfigurationError, match="manifest_prefix is "):
        Manifests(prefix).check("archive/", "errors/")


def manifests_in(cloud: SmallCloud) -> dict[str, Any]:
    """Return all manifests by key."""
    return {key: orjson.loads(each.body) for key, each in cloud.objects.objects.items() if key.startswith("manifests/")}


def keys_in(index: dict[str, Any]) -> list[str]:
    """Return the keys that an index lists."""
    return [each["key"] for each in (*index["objects"], *index["dead_letters"])]


def test_an_hour_gets_its_indexes_and_is_complete_after_its_end() -> None:
    """Indexes list each object once with its counts; the hour is complete only once its end has passed for good."""
    cloud = SmallCloud.make(shards=2)
    complete_key = f"{MANIFESTS.folder(MANIFESTS.hour(WALL))}_COMPLETE.json"
    seen: list[bool] = []

    async def story() -> None:
        stop, task, _ = cloud.start(cloud.worker(**ON))
        await cloud.put_numbered(0, 10)
        await cloud.put({"session_id": "s", "browse_history": 7})
        await asyncio.sleep(HOUR_END - WALL - 30)
        await cloud.put_numbered(10, 12)
        for _ in range(2):
            await asyncio.sleep(34)
            seen.append(complete_key in cloud.objects.objects)
        await cloud.put_numbered(12, 14)
        await asyncio.sleep(10)
        stop.set()
        await task

    cloud.run(story)
    assert seen == [False, True]
    manifests = manifests_in(cloud)
    listed = sorted(key for each in manifests.values() if "objects" in each for key in keys_in(each))
    assert listed == sorted(key for key in cloud.objects.objects if not key.startswith("manifests/"))
    complete = manifests[complete_key]
    assert (complete["records"], complete["dead_letters"]) == (12, 1)
    later = MANIFESTS.folder(MANIFESTS.hour(HOUR_END))
    assert sum(each["records"] for key, each in manifests.items() if key.startswith(later)) == 2
    assert cloud.objects.overwritten == []


@pytest.mark.parametrize("after_landing", [False, True])
def test_a_crash_between_any_two_steps_leaves_each_object_in_one_index(after_landing: bool) -> None:
    """An index is pinned and replayed like any object, even by a worker that writes no manifests any more."""
    for kill_at in range(1, 100):
        cloud = SmallCloud.make()
        cloud.network.kills_after_landing = after_landing

        async def story(cloud: SmallCloud = cloud, kill_at: int = kill_at) -> None:
            await cloud.put_numbered(0, 6)
            cloud.network.kill_at = kill_at
            _, _, process = cloud.start(cloud.worker(worker_id="victim", **ON))
            await asyncio.sleep(4)
            cloud.loop.kill(process)
            cloud.network.kill_at = None
            stop, task, _ = cloud.start(cloud.worker(**({"flush_seconds": 1} if kill_at % 2 else ON)))
            await asyncio.sleep(25)
            stop.set()
            await task

        cloud.run(story)
        listed = sorted(key for each in manifests_in(cloud).values() for key in keys_in(each))
        stored = sorted(key for key in cloud.objects.objects if not key.startswith("manifests/"))
        assert len(listed) == len(set(listed)), f"killed at call {kill_at}: {cloud.network.killed}"
        assert set(listed) <= set(stored)
        if manifests_in(cloud) or not kill_at % 2:
            assert listed == stored
        if cloud.network.killed is None:
            break
    else:
        pytest.fail("the worker was still killed at its hundredth call")


def test_what_a_wrong_clock_closed_stays_closed() -> None:
    """A worker whose clock runs ahead closes hours too soon; then later records get the names of later hours."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 2)
        _, _, process = cloud.start(cloud.worker(**ON))
        await asyncio.sleep(4)
        cloud.loop.kill(process)
        name, held = next(iter(cloud.leases.rows.items()))
        cloud.leases.rows[name] = replace(held, closed_until=HOUR_END + 60)
        await cloud.put_numbered(2, 4)
        stop, task, _ = cloud.start(cloud.worker(**ON))
        await asyncio.sleep(40)
        stop.set()
        await task

    cloud.run(story)
    manifests = manifests_in(cloud)
    before, after = MANIFESTS.folder(MANIFESTS.hour(WALL)), MANIFESTS.folder(MANIFESTS.hour(HOUR_END))
    assert manifests[f"{before}_COMPLETE.json"]["records"] == 2
    assert [each["records"] for key, each in manifests.items() if key.startswith(after)] == [2]


def test_a_bucket_that_refuses_lists_stops_nothing_else() -> None:
    """Without the permission to list, events are archived as ever, and the reason is told."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 2)
        cloud.network.errors["objects.list"] = [AccessDeniedError("no")] * 10
        stop, task, _ = cloud.start(cloud.worker(**ON))
        await asyncio.sleep(60)
        stop.set()
        await task

    cloud.run(story)
    assert any(key.startswith("archive/") for key in cloud.objects.objects)
