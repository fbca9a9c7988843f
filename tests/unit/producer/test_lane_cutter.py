"""Lanes are cut anew after a reshard: when nothing is under way, and so that no event is lost, doubled or renamed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from producer import Producer
from producer.bookmark import BookmarkStore, bookmark_path
from producer.run import SourceOptions, run_source
from shared.aggregation import deaggregate
from shared.errors import ThrottledError
from shared.event import EventId
from shared.hash_key import hash_key_of
from shared.lanes import lane_of
from shared.lifecycle import StopSignal
from shared.settings import ProducerSettings
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import SimulationLoop
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis
from tests.support.loop_clock import LoopClock
from tests.support.network import PerfectNetwork

LOG = "/log/web.log"


class _Network(PerfectNetwork):
    """Calls take 10 milliseconds; PutRecords may be away."""

    is_away = False

    async def call(self, operation: str, land: Callable[[], Any]) -> Any:
        await asyncio.sleep(0.01)
        if self.is_away and operation == "kinesis.put_records":
            message = "away"
            raise ThrottledError(message)
        return land()


class World:
    """A stream of two shards, who puts on it, and what a reader sees."""

    def __init__(self, **settings: Any) -> None:
        self.loop = SimulationLoop()
        self.network = _Network()
        self.kinesis = FakeKinesis(self.network)
        self.stream = self.kinesis.create_stream("orders", 2)
        self.files = FakeFiles()
        self.settings = ProducerSettings(
            shard_map_refresh_seconds=5,
            shard_rate_percent=0,
            state_dir="/state",
            bookmark_interval_seconds=1,
            **settings,
        )
        # In a lane that will be cut, one on each side; and elsewhere.
        keys = [f"key-{number}" for number in range(20_000)]
        cut = [key for key in keys if lane_of(hash_key_of(key)) == self.cut_lane]
        sides = (min(cut, key=hash_key_of), max(cut, key=hash_key_of))
        self.keys = [*sides, *keys[:14]]

    @property
    def boundary(self) -> int:
        """Where a shard will begin, inside of a lane."""
        return 2**128 // 3

    @property
    def cut_lane(self) -> int:
        """The lane that is cut."""
        return lane_of(self.boundary)

    def reshard(self) -> None:
        """Split the first shard there."""
        first = self.stream.open_shards()[0].shard
        self.kinesis.split_shard("orders", first.shard_id, self.boundary)

    def producer(self) -> Producer:
        """Make a producer."""
        return Producer(
            "orders",
            kinesis=self.kinesis,
            files=self.files,
            clock=LoopClock(),
            telemetry=SilentTelemetry(),
            settings=self.settings,
        )

    async def put(self, producer: Producer, seconds: float, first: int = 0) -> int:
        """Put events of all keys, each with a number, for a while; return the next number."""
        number, end = first, self.loop.time() + seconds
        while self.loop.time() < end:
            await producer.put({"session_id": self.keys[number % len(self.keys)], "n": number})
            number += 1
            if number % 4 == 0:
                await asyncio.sleep(0.01)
        return number

    def seen(self) -> Iterator[tuple[str, int, EventId]]:
        """Read the stream as a consumer does, which drops what comes late in its lane."""
        marks: dict[str, dict[tuple[Any, ...], int]] = {}
        for shard_id, shard in sorted(self.stream.shards.items()):
            mine = marks[shard_id] = {}
            for parent in shard.shard.parents:
                for name, offset in marks[parent].items():
                    mine[name] = max(offset, mine.get(name, -1))
            for record in shard.records:
                for user in deaggregate(record, shard.shard.hash_key_range).records:
                    event = orjson.loads(user.data)
                    event_id = EventId.parse(event["event_id"])
                    assert event_id is not None
                    name = event_id.source_id, event_id.lane, event_id.part
                    if event_id.offset > mine.get(name, -1):
                        mine[name] = event_id.offset
                        yield event["session_id"], event["n"], event_id

    def judge(self, count: int) -> None:
        """Each event is seen once, those of a key in their order."""
        numbers: dict[str, list[int]] = {}
        for key, number, _ in self.seen():
            numbers.setdefault(key, []).append(number)
        assert sorted(number for each in numbers.values() for number in each) == [*range(count)]
        for each in numbers.values():
            assert each == sorted(each)

    def parts(self) -> set[int | None]:
        """Return the parts of the lane that was cut."""
        return {event_id.part for _, _, event_id in self.seen() if event_id.lane == self.cut_lane}


def test_lanes_are_cut_under_way_once_the_shards_have_been_quiet() -> None:
    """Whoever puts without a pause is held up for a moment, and nobody is spilled, late or renamed."""
    world = World(spill_bytes_max=1_000_000)

    async def main() -> int:
        async with world.producer() as producer:
            number = await world.put(producer, 1)
            world.reshard()
            number = await world.put(producer, 2, number)
            assert world.parts() == {None}
            number = await world.put(producer, 20, number)
            assert world.parts() == {None, 0, 1}
            before = world.loop.time()
            assert producer.ledger.spilled == 0
            number = await world.put(producer, 1, number)
            assert world.loop.time() - before < 1.1
        return number

    count = world.loop.run(main())
    world.judge(count)
    assert sum(event_id.part == 1 for _, _, event_id in world.seen() if event_id.lane == world.cut_lane) > 400


def test_lanes_stay_as_they_are_while_the_stream_is_away() -> None:
    """What does not settle is waited for some seconds, and later once more."""
    world = World()

    async def main() -> int:
        async with world.producer() as producer:
            number = await world.put(producer, 1)
            world.reshard()
            number = await world.put(producer, 1, number)
            world.network.is_away = True
            number = await world.put(producer, 30, number)
            assert producer.ledger.pending > 400
            world.network.is_away = False
            number = await world.put(producer, 5, number)
            assert world.parts() == {None}
            return await world.put(producer, 80, number)

    world.judge(world.loop.run(main()))
    assert world.parts() == {None, 0, 1}


def test_what_never_settles_seldom_holds_up_the_others() -> None:
    """A stream that is away for an hour: nothing is accepted for some seconds, ever more rarely."""
    world = World(drain_timeout_seconds=600)

    async def main() -> float:
        async with world.producer() as producer:
            await producer.put({"session_id": world.keys[0], "n": 0})
            world.reshard()
            await asyncio.sleep(1)
            world.network.is_away = True
            held_up, number = 0.0, 1
            while world.loop.time() < 3_600:
                before = world.loop.time()
                await producer.put({"session_id": world.keys[number % 2], "n": number})
                held_up += world.loop.time() - before
                number += 1
                await asyncio.sleep(1)
            world.network.is_away = False
        world.judge(number)  # with what was delivered at the close
        return held_up

    assert 5 < world.loop.run(main()) < 40


def test_lanes_stay_whole_behind_an_event_that_brought_its_id() -> None:
    """Readers rely on the order of its lane, which may go on."""
    world = World()

    async def main() -> None:
        async with world.producer() as producer:
            await producer.put({"session_id": "s", "event_id": f"elsewhere.{world.cut_lane:02x}.1", "n": 0})
            world.reshard()
            await asyncio.sleep(60)
            await producer.put({"session_id": world.keys[0], "n": 1})
            await producer.put({"session_id": world.keys[0], "event_id": f"elsewhere.{world.cut_lane:02x}.2", "n": 2})

    world.loop.run(main())
    assert [event_id.part for _, _, event_id in world.seen()] == [None, None, None]


def test_lanes_are_not_cut_where_that_is_switched_off() -> None:
    """The setting holds for later, too."""
    world = World(lanes_fine=False)

    async def main() -> int:
        async with world.producer() as producer:
            world.reshard()
            return await world.put(producer, 40)

    world.judge(world.loop.run(main()))
    assert world.parts() == {None}


class Follower:
    """A log that grows, and the process that follows it."""

    events_per_second: float | None = None

    def __init__(self) -> None:
        self.world = World()
        self.number = 0
        self.stop = StopSignal()

    async def run(self) -> None:
        """Follow the log until stopped."""
        self.stop = StopSignal()
        await run_source(
            SourceOptions(path=LOG, is_followed=True, events_per_second=self.events_per_second),
            stream="orders",
            kinesis=self.world.kinesis,
            files=self.world.files,
            clock=LoopClock(),
            random=random.Random(1),
            telemetry=SilentTelemetry(),
            settings=self.world.settings,
            stop=self.stop,
        )

    async def grow(self, seconds: float) -> None:
        """Write lines for a while."""
        world = self.world
        for _ in range(int(seconds * 10)):
            keys = world.keys
            lines = [{"session_id": keys[each % len(keys)], "n": each} for each in range(self.number, self.number + 10)]
            world.files.write_log(LOG, b"".join(orjson.dumps(line) + b"\n" for line in lines))
            self.number += 10
            await asyncio.sleep(0.1)

    async def cuts(self) -> int:
        """Return in how many places the stored bookmark has lanes cut."""
        bookmark = await BookmarkStore(self.world.files, bookmark_path("/state", "orders", LOG)).load()
        assert bookmark is not None
        assert bookmark.lanes is not None
        return len(bookmark.lanes.cuts)


def test_a_followed_file_tells_from_where_on_its_lanes_are_cut() -> None:
    """Whatever a crash leaves, each line has one id: behind the place in the bookmark the one by its cuts."""
    follower = Follower()
    world = follower.world

    async def main() -> None:
        world.files.write_log(LOG, b"")
        first = asyncio.create_task(follower.run())
        await follower.grow(1)
        world.reshard()
        await follower.grow(1)
        assert await follower.cuts() == 0
        await follower.grow(10)
        assert await follower.cuts() == 1
        first.cancel()  # nothing is flushed, no bookmark moved
        await asyncio.wait([first])
        second = asyncio.create_task(follower.run())
        await follower.grow(5)
        await asyncio.sleep(5)
        follower.stop.requested.set()
        await second

    world.loop.run(main())
    world.judge(follower.number)
    assert world.parts() == {None, 0, 1}


def test_lanes_of_a_followed_file_stay_where_the_bookmark_can_not_be_written() -> None:
    """Else a restart would give other ids to what was sent since."""
    follower = Follower()
    world = follower.world

    async def main() -> None:
        world.files.write_log(LOG, b"")
        task = asyncio.create_task(follower.run())
        await follower.grow(1)
        world.reshard()
        world.files.bytes_max = 0  # nothing more can be written, the bookmark, too
        await follower.grow(30)
        assert world.parts() == {None}
        world.files.bytes_max = None
        await follower.grow(70)
        await asyncio.sleep(5)
        follower.stop.requested.set()
        await task
        assert await follower.cuts() == 1

    world.loop.run(main())
    world.judge(follower.number)
    assert world.parts() == {None, 0, 1}
