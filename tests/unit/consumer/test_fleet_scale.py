"""Many shards in one group, in virtual time: how soon they are read, what they cost, and that they rest."""

from __future__ import annotations

import asyncio
import random
import sys
import tracemalloc
from collections import Counter

import pytest

from shared.hash_key import even_ranges
from shared.records import PutEntry
from tests.unit.consumer.small_cloud import SOURCE
from tests.unit.consumer.small_fleet import SmallFleet

_MEMORY_BYTES_PER_SHARD_MAX = 64 * 1024


def _tell(text: str) -> None:
    """Print figures for whoever runs this with -s."""
    sys.stdout.write(f"\n{text}\n")


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "seconds_max"), [(4, 5), (1_000, 30)])
def test_a_cold_start_reads_every_shard_soon(shards: int, seconds_max: int) -> None:
    """With 5 to 20 ms per call and no rows yet, the first record of the last shard is read within the bound."""
    fleet = SmallFleet.make(shards)
    chance = random.Random(4)
    fleet.cloud.network.delay = lambda: 0.005 + 0.015 * chance.random()

    async def story() -> tuple[float, Counter[str]]:
        for keys in even_ranges(shards):
            await fleet.cloud.kinesis.put_record(SOURCE, PutEntry(b'{"session_id":"s"}', "k", keys.start))
        began_at = fleet.cloud.loop.time()
        member = fleet.add(flush_seconds=60)
        await fleet.cloud.until(lambda: member.worker.status().totals.read == shards)
        took = fleet.cloud.loop.time() - began_at
        fleet.cloud.network.calls.clear()
        await asyncio.sleep(10)
        calls = Counter(fleet.cloud.network.calls)
        member.stop.set()
        member.hurry.set()
        await member.task
        return took, calls

    took, calls = fleet.cloud.run(story)
    per_second = {call: round(count / 10, 1) for call, count in sorted(calls.items())}
    _tell(f"{shards} shards: first record of the last after {took:.1f} s; calls a second, all idle: {per_second}")
    assert took < seconds_max
    # An idle shard is asked once a second, and its lease is renewed every six.
    assert calls["kinesis.get_records"] <= 13 * shards
    assert calls["leases.update"] <= 10 * shards / 6 + shards


@pytest.mark.slow
def test_a_shard_costs_little_memory() -> None:
    """Shards that are read hold less than 64 KiB each, the fakes of stream and table and the worker itself included."""
    shards = 250
    fleet = SmallFleet.make(shards)

    async def story() -> float:
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        member = fleet.add(flush_seconds=60)
        await fleet.cloud.until(lambda: len(member.worker.status().shards) == shards)
        await asyncio.sleep(10)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        member.stop.set()
        member.hurry.set()
        await member.task
        return (after - before) / shards

    size = fleet.cloud.run(story)
    _tell(f"{size / 1024:.1f} KiB per shard")
    assert size < _MEMORY_BYTES_PER_SHARD_MAX


@pytest.mark.slow
def test_64_shards_over_four_workers_rest_evenly() -> None:
    """Started together, four workers share evenly, and under a steady but noisy load no shard moves any more."""
    fleet = SmallFleet.make(64)
    fleet.cloud.network.calls = _Nothing()

    async def story() -> tuple[list[int], int]:
        over = asyncio.Event()
        keys = [keys.start for keys in even_ranges(64)]

        async def put() -> None:
            number = 0
            while not over.is_set():
                for index, key in enumerate(keys):
                    # Four shards in each eight bring ten times as much; what comes varies by a half.
                    size = int((200 if index % 2 else 2_000) * (0.5 + (number * 7 + index * 3) % 11 / 10))
                    await fleet.cloud.kinesis.put_record(SOURCE, PutEntry(b'{"a":"%s"}' % (b"x" * size), "k", key))
                number += 1
                await asyncio.sleep(10)

        task = asyncio.get_running_loop().create_task(put())
        # Nothing comes for ten seconds at a time: to look less often than once a second changes nothing but the cost.
        members = [fleet.add(flush_seconds=60, read_idle_seconds=4) for _ in range(4)]
        await asyncio.sleep(300)
        before = sum(row.epoch for row in fleet.cloud.leases.rows.values())
        await asyncio.sleep(600)
        moves = sum(row.epoch for row in fleet.cloud.leases.rows.values()) - before
        counts = sorted(fleet.owners().values())
        over.set()
        await task
        for member in members:
            member.stop.set()
            member.hurry.set()
        await asyncio.gather(*(member.task for member in members))
        return counts, moves

    counts, moves = fleet.cloud.run(story)
    _tell(f"shards per worker {counts}, {moves} moves in ten minutes")
    assert sum(counts) == 64
    assert counts[-1] - counts[0] <= 2, "counts, within what loads allow"
    assert moves == 0


class _Nothing(list[str]):
    """A list of calls that keeps none."""

    def append(self, _: str) -> None:
        """Keep nothing."""
