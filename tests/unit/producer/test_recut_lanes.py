"""Lanes that are cut anew in awkward moments: behind a crash, with a spill, while somebody asks for the end."""

from __future__ import annotations

import asyncio
import errno

import orjson
import pytest

from shared.errors import EventIdError
from shared.hash_key import hash_key_of
from shared.lanes import start_of
from shared.records import Distribution
from shared.settings import Ordering
from tests.support.fake_files import FakeFiles
from tests.unit.producer.test_lane_cutter import LOG, Follower, World


class HalfDurableFiles(FakeFiles):
    """Replaces files, and then fails to write down that it did."""

    is_failing = False

    async def write_atomically(self, path: str, data: bytes) -> None:
        """Replace a file; an error may come after it is there."""
        await super().write_atomically(path, data)
        if self.is_failing:
            raise OSError(errno.EIO, "the folder can't be synced", path)


class SlowFollower(Follower):
    """Reads long lines, some per second if asked to."""

    def write(self, lines: int) -> None:
        """Write long lines."""
        keys, pad = self.world.keys, "x" * 10_000
        events = [
            {"session_id": keys[each % len(keys)], "n": each, "pad": pad}
            for each in range(self.number, self.number + lines)
        ]
        self.world.files.write_log(LOG, b"".join(orjson.dumps(event) + b"\n" for event in events))
        self.number += lines


def test_lanes_are_not_cut_among_lines_that_a_former_process_may_have_sent() -> None:
    """What it sent behind its last bookmark is in the stream under names of before."""
    follower = SlowFollower()
    world = follower.world

    async def main() -> None:
        world.files.write_log(LOG, b"")
        first = asyncio.create_task(follower.run())
        await asyncio.sleep(1)
        follower.write(1)
        await asyncio.sleep(3)
        world.files.bytes_max = 0  # no bookmark any more
        follower.write(499)
        await asyncio.sleep(5)
        first.cancel()
        await asyncio.wait([first])
        world.files.bytes_max = None
        world.reshard()
        follower.events_per_second = 50
        second = asyncio.create_task(follower.run())
        await asyncio.sleep(12)
        follower.write(100)
        await asyncio.sleep(60)
        follower.stop.requested.set()
        await second

    world.loop.run(main())
    world.judge(follower.number)
    assert world.parts() >= {0, 1}


@pytest.mark.parametrize("seconds", [5.5, 6.5, 7.5])
def test_spilled_events_go_on_once_lanes_could_not_be_cut(seconds: float) -> None:
    """Nobody has to put another one for that."""
    world = World(spill_bytes_max=10_000_000, buffer_bytes_max=2_097_152, retry_backoff_seconds_max=1.0)

    async def main() -> int:
        pad = "x" * 10_000
        async with world.producer() as producer:
            await producer.put({"session_id": world.keys[0], "n": 0})
            await asyncio.sleep(1)
            world.network.is_away = True
            for number in range(1, 300):
                await producer.put({"session_id": world.keys[number % 16], "n": number, "pad": pad})
            assert producer.ledger.spilled
            world.reshard()
            await asyncio.sleep(seconds)
            world.network.is_away = False
            await asyncio.sleep(3)
            assert producer.ledger.pending == 0
        return 300

    world.judge(world.loop.run(main()))


def test_more_boundaries_than_a_lane_has_parts_hold_nobody_up() -> None:
    """Lanes are cut once, however many of them are left over."""
    world = World()
    first = world.stream.open_shards()[0].shard
    shard = first.shard_id
    for number in range(1, 400):
        world.kinesis.split_shard("orders", shard, start_of(5) + number * 1000)
        shard = max(each.shard.shard_id for each in world.stream.open_shards())

    async def main() -> float:
        async with world.producer() as producer:
            longest = 0.0
            number = 0
            while world.loop.time() < 60:
                before = world.loop.time()
                await producer.put({"session_id": world.keys[number % 16], "n": number})
                longest = max(longest, world.loop.time() - before)
                number += 1
                await asyncio.sleep(0.001)
        return longest

    assert world.loop.run(main()) == 0


def test_an_event_that_is_refused_as_no_order_is_kept_leaves_others_as_they_are() -> None:
    """Be it the first of all, on a producer that has cut lanes."""
    world = World(ordering=Ordering.NONE, spill_bytes_max=1_000_000)
    world.reshard()
    last = max((f"k{number}" for number in range(20_000)), key=hash_key_of)

    async def main() -> None:
        async with world.producer() as producer:
            with pytest.raises(EventIdError):
                await producer.put({"session_id": "s", "event_id": "elsewhere.10.1", "n": 0})
            await producer.put({"session_id": last, "n": 0})

    world.loop.run(main())
    assert [number for _, number, _ in world.seen()] == [0]


@pytest.mark.parametrize("seconds", [4, 5, 6, 7, 8])
def test_who_asks_for_the_end_does_not_wait_for_lanes_to_be_cut(seconds: float) -> None:
    """The drain takes what it may take, not more."""
    follower = Follower()
    world = follower.world
    world.settings = world.settings.model_copy(update={"drain_timeout_seconds": 3.0})

    async def main() -> float:
        world.files.write_log(LOG, b"")
        task = asyncio.create_task(follower.run())
        await follower.grow(1)
        world.reshard()
        await follower.grow(1)
        world.network.is_away = True
        await follower.grow(seconds)
        before = world.loop.time()
        follower.stop.requested.set()
        await task
        return world.loop.time() - before

    assert world.loop.run(main()) < 3.5


def test_a_followed_file_of_events_that_bring_their_ids_is_not_cut() -> None:
    """None of them is refused: neither at the start nor in the quiet after a restart."""
    follower = SlowFollower()
    world = follower.world
    world.reshard()

    def write() -> None:
        for _ in range(20):
            event = {"session_id": world.keys[0], "event_id": f"elsewhere.{world.cut_lane:02x}.{follower.number}"}
            world.files.write_log(LOG, orjson.dumps({**event, "n": follower.number}) + b"\n")
            follower.number += 1

    async def main() -> None:
        world.files.write_log(LOG, b"")
        for _ in range(2):
            task = asyncio.create_task(follower.run())
            await asyncio.sleep(20)
            write()
            await asyncio.sleep(20)
            follower.stop.requested.set()
            await task

    world.loop.run(main())
    world.judge(follower.number)
    assert follower.number == 40


def test_lanes_are_not_cut_where_the_stream_distributes_records_itself() -> None:
    """Shards have no part of the keys there, so nothing is gained, and no event that brings its id is refused."""
    world = World()
    world.stream = world.kinesis.create_stream("orders", 3, Distribution.AUTO)

    async def main() -> None:
        async with world.producer() as producer:
            await producer.put({"session_id": world.keys[0], "n": 0})
            await asyncio.sleep(20)
            await producer.put({"session_id": world.keys[0], "n": 1})
            await producer.put({"session_id": world.keys[0], "event_id": f"elsewhere.{world.cut_lane:02x}.1", "n": 2})

    world.loop.run(main())
    assert sorted((number, event_id.part) for _, number, event_id in world.seen()) == [(0, None), (1, None), (2, None)]


def test_a_bookmark_that_is_there_in_spite_of_an_error_tells_how_lanes_are_cut() -> None:
    """A crash makes a restart go by it."""
    follower = Follower()
    world = follower.world
    files = world.files = HalfDurableFiles()
    world.settings = world.settings.model_copy(update={"bookmark_interval_seconds": 60})

    async def main() -> None:
        files.write_log(LOG, b"")
        first = asyncio.create_task(follower.run())
        await follower.grow(1)
        world.reshard()
        await follower.grow(1)
        files.is_failing = True
        await follower.grow(10)
        first.cancel()
        await asyncio.wait([first])
        files.is_failing = False
        second = asyncio.create_task(follower.run())
        await follower.grow(5)
        await asyncio.sleep(5)
        follower.stop.requested.set()
        await second

    world.loop.run(main())
    world.judge(follower.number)
    assert world.parts() == {None, 0, 1}
