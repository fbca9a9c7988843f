"""The status of a group: who holds what, how far behind it is, and what needs an operator."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from consumer.retrier import Retrier
from infra.control.hot_shards import sample_lines, sample_stream
from infra.control.span import span_text
from infra.control.status import GroupStatus, HeartbeatWatch, look_at_group, state_of, status_lines
from shared.errors import ThrottledError
from shared.hash_key import hash_key_of
from shared.lease import AT_TRIM_HORIZON, SHARD_END, Lease, Presence, TableRows
from shared.limits import SHARD_READ_BYTES_PER_SECOND
from shared.records import PutEntry
from shared.retry import Backoff
from shared.telemetry import SilentTelemetry
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud, VirtualClock
from tests.unit.control.steered_group import group_of

FIRST = "shardId-000000000000"


def test_a_status_names_age_and_headroom() -> None:
    """A stopped group falls behind: the age of its oldest unread record and what is left of the retention show it."""
    cloud = SmallCloud.make(2)

    async def story() -> tuple[GroupStatus, GroupStatus]:
        await cloud.put_numbered(0, 20)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(5)
        running = await look_at_group(group_of(cloud), HeartbeatWatch(), is_quick=False)
        stop.set()
        await task
        await cloud.put_numbered(20, 40)
        await asyncio.sleep(3600)
        return running, await look_at_group(group_of(cloud), HeartbeatWatch(), is_quick=False)

    running, stopped = cloud.run(story)
    assert [(each.state, each.iterator_age_seconds) for each in running.shards] == [("reading", 0.0)] * 2
    assert [(each.worker_id, each.shards) for each in running.workers] == [("worker-1", 2)]
    assert [each.state for each in stopped.shards] == ["unowned"] * 2
    for shard in stopped.shards:
        assert shard.iterator_age_seconds == pytest.approx(3600, abs=5)
        assert shard.retention_headroom_seconds == pytest.approx(23 * 3600, abs=5)
    text = "\n".join(status_lines(stopped))
    assert "1 h 0 min" in text
    assert "retention 24 h" in text


def test_a_quick_status_reads_no_record_and_lists_no_object() -> None:
    """With --quick only the table and the stream's summary are read."""
    cloud = SmallCloud.make()

    async def story() -> GroupStatus:
        await cloud.leases.create_lease(Lease(FIRST))
        cloud.network.calls.clear()
        return await look_at_group(group_of(cloud), HeartbeatWatch(), is_quick=True)

    status = cloud.run(story)
    assert not [call for call in cloud.network.calls if "get_" in call or "objects" in call]
    assert (status.dead_letter_objects, status.shards[0].iterator_age_seconds) == (None, None)


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (Lease("c"), "unowned"),
        (Lease("c", owner="w", epoch=2), "reading"),
        (Lease("c", owner="w", epoch=2, halted_epoch=2), "halted"),
        (Lease("c", owner="w", epoch=3, halted_epoch=2), "reading"),
        (Lease("c", owner="w", is_paused=True), "paused"),
        (Lease("c", seek_to=AT_TRIM_HORIZON), "seeking"),
        (Lease("c", parents=("p",)), "after its parents"),
        (Lease("c", parents=("gone",)), "unowned"),
        (Lease("c", checkpoint=SHARD_END, is_paused=True), "finished"),
    ],
)
def test_states(row: Lease, state: str) -> None:
    """Each row has one word for what its shard is doing."""
    assert state_of(row, {"p": Lease("p"), "c": row}) == state


def test_a_heartbeat_is_judged_by_looking_twice() -> None:
    """The first look knows nothing; one that moves is as old as its last move, one that stands still as it was seen."""
    watch = HeartbeatWatch()

    def ages(now: float, beat: int) -> dict[str, Any]:
        table = TableRows(
            (Lease("a", owner="x", heartbeat=beat), Lease("b", owner="y")), (Presence("z", beat, is_leaving=True),)
        )
        return {each.worker_id: each.heartbeat_age_seconds for each in watch.look(table, now)}

    assert ages(100.0, 1) == {"x": None, "y": None, "z": None}
    assert ages(103.0, 2) == {"x": 0.0, "y": None, "z": 0.0}
    assert ages(104.0, 2) == {"x": 1.0, "y": None, "z": 1.0}
    assert ages(120.0, 3) == {"x": 0.0, "y": 20.0, "z": 0.0}


def test_hot_keys_of_a_stream_are_named_with_the_split_that_helps() -> None:
    """One shard has one hot key, the other two halves: only there a split helps. Keys can't steer a terminal."""
    cloud = SmallCloud.make(2)
    clock = VirtualClock(cloud.loop)
    keys = ["\x1b[2J0", "\x1b[2J1"]
    hashes = [hash_key_of(key) for key in keys]
    assert hash_key_of("a") < 2**127 <= min(hashes)

    async def story() -> list[str]:
        for number in range(60):
            await cloud.kinesis.put_record(SOURCE, PutEntry(b"x" * 100, "a"))  # its MD5 lies in the lower half
            await cloud.kinesis.put_record(SOURCE, PutEntry(b"x" * 100, keys[number % 2]))
        retrier = Retrier(Backoff(0.05, 2), random.Random(1), SilentTelemetry())
        samples = await sample_stream(cloud.kinesis, retrier, clock, SOURCE)
        assert [each.records for each in samples] == [60, 60]
        by_shard = {each.shard_id: each for each in samples}
        assert by_shard[FIRST].split_at is None
        assert by_shard[FIRST].keys[0].share == 1.0
        other = by_shard["shardId-000000000001"]
        assert other.split_at is not None
        assert min(hashes) < other.split_at <= max(hashes)
        assert other.larger_share == pytest.approx(0.5)
        return sample_lines(SOURCE, samples)

    lines = cloud.run(story)
    assert all(line.isprintable() for line in lines)
    assert any("no split helps" in line for line in lines)


class _LimitedReads:
    """Gives fifty records a call, and refuses calls before a shard's read rate allows for what the last one gave."""

    def __init__(self, cloud: SmallCloud, clock: VirtualClock, calls_max: int) -> None:
        self._cloud, self._clock, self._calls_left = cloud, clock, calls_max
        self._free_at: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cloud.kinesis, name)

    async def get_records(self, stream: str, iterator: str, limit: int) -> Any:
        shard = stream  # the tests have one
        if not self._calls_left or self._clock.monotonic() < self._free_at.get(shard, 0.0):
            raise ThrottledError("Rate exceeded")
        self._calls_left -= 1
        page = await self._cloud.kinesis.get_records(stream, iterator, min(limit, 50))
        size = sum(len(each.data) for each in page.records)
        self._free_at[shard] = self._clock.monotonic() + size / SHARD_READ_BYTES_PER_SECOND
        return page


@pytest.mark.parametrize(("calls_max", "seen"), [(99, 70), (1, 50)])
def test_a_shard_with_large_records_is_sampled_within_its_read_rate(calls_max: int, seen: int) -> None:
    """Pages of megabytes are not read faster than a shard allows; where others read it, too, what came is enough."""
    cloud = SmallCloud.make(1)
    clock = VirtualClock(cloud.loop)

    async def story() -> list[int]:
        for number in range(70):
            await cloud.kinesis.put_record(SOURCE, PutEntry(b"x" * 110_000, f"k{number}"))
        # No retry waits for long: the sample has to keep to the rate by itself.
        retrier = Retrier(Backoff(0.001, 0.001), random.Random(1), SilentTelemetry())
        limited: Any = _LimitedReads(cloud, clock, calls_max)
        return [each.records for each in await sample_stream(limited, retrier, clock, SOURCE)]

    assert cloud.run(story) == [seen]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0, "0.0 s"), (59.94, "59.9 s"), (60, "1 min 0 s"), (3_661, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_spans(seconds: float | None, text: str) -> None:
    """A span of time has its two largest units."""
    assert span_text(seconds) == text
