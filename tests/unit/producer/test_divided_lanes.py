"""Streams whose shards cut lanes: these in parts, the same for a source for good, and no event that is lost by them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest

from producer import Producer
from producer.bookmark import Bookmark, BookmarkStore, bookmark_path
from producer.run import SourceOptions, run_source
from shared.aggregation import deaggregate
from shared.errors import ConfigurationError, EventIdError
from shared.event import EventId
from shared.hash_key import hash_key_of
from shared.lanes import WHOLE, LaneDivision, lane_of
from shared.lifecycle import StopSignal
from shared.limits import KIB
from shared.records import PutResult
from shared.settings import Ordering, ProducerSettings
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import SimulationLoop
from tests.support.batchers import batcher_of
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis
from tests.support.loop_clock import LoopClock
from tests.support.network import PerfectNetwork, ScriptedNetwork
from tests.support.ways import way  # noqa: F401 - each test is run both ways

LOG = "/log/web.log"
WHOLE_ID = {"session_id": "s", "event_id": "elsewhere.a3.7"}


class Cloud:
    """A stream, and those who put on it."""

    def __init__(self, shards: int) -> None:
        self.kinesis = FakeKinesis(ScriptedNetwork())
        self.stream = self.kinesis.create_stream("orders", shards)
        self.files = FakeFiles()

    def producer(self, **settings: Any) -> Producer:
        """Make a producer."""
        return Producer(
            "orders",
            kinesis=self.kinesis,
            files=self.files,
            telemetry=SilentTelemetry(),
            settings=ProducerSettings(batch_linger_seconds=0, shard_rate_percent=0, **settings),
        )

    def places(self) -> dict[str, tuple[EventId, str]]:
        """Return the ids in the stream and the shards that they are in, by session."""
        events = [
            (orjson.loads(user.data), shard.shard.shard_id)
            for shard in self.stream.shards.values()
            for record in shard.records
            for user in deaggregate(record, shard.shard.hash_key_range).records
        ]
        found = [(event["session_id"], EventId.parse(event["event_id"]), shard_id) for event, shard_id in events]
        return {session: (event_id, shard_id) for session, event_id, shard_id in found if event_id is not None}

    def ids(self) -> dict[str, EventId]:
        """Return the ids in the stream, by session."""
        return {session: event_id for session, (event_id, _) in self.places().items()}

    async def run(
        self, *, is_followed: bool = True, source_id: str | None = None, is_whole: bool = False, **settings: Any
    ) -> None:
        """Read the log, and stop after the first event that is in the stream, unless it `is_whole`."""
        stop = StopSignal()
        await run_source(
            SourceOptions(path=LOG, is_followed=is_followed, source_id=source_id),
            stream="orders",
            kinesis=self.kinesis,
            files=self.files,
            clock=LoopClock(),
            random=random.Random(1),
            telemetry=SilentTelemetry(),
            settings=ProducerSettings(batch_linger_seconds=0, shard_rate_percent=0, state_dir="/state", **settings),
            stop=stop,
            on_receipt=None if is_whole else lambda *_: stop.requested.set(),
        )


@pytest.mark.parametrize(
    ("shards", "settings", "parts"),
    [(1, {}, 0), (256, {}, 0), (3, {}, 2), (300, {}, 296), (3, {"lanes_fine": False}, 0)],
)
async def test_lanes_are_cut_where_shards_begin(shards: int, settings: dict[str, Any], parts: int) -> None:
    """An id tells lane and part of its key: each part lies in one shard."""
    cloud = Cloud(shards)
    async with cloud.producer(**settings) as producer:
        await producer.put_all({"session_id": f"s{number}"} for number in range(2_000))
    places = cloud.places()
    assert len(places) == 2_000
    shards_of: dict[tuple[int | None, int | None], set[str]] = {}
    for session, (event_id, shard_id) in places.items():
        assert event_id.lane == lane_of(hash_key_of(session))
        shards_of.setdefault((event_id.lane, event_id.part), set()).add(shard_id)
    cut_lanes = {lane for lane, part in shards_of if part is not None}
    assert bool(cut_lanes) == bool(parts)
    assert not any(lane in cut_lanes for lane, part in shards_of if part is None)
    assert (max(map(len, shards_of.values())) == 1) == ("lanes_fine" not in settings)


@pytest.mark.parametrize(
    ("shards", "settings", "is_refused"),
    [
        (1, {}, False),
        (3, {}, False),
        (3 * 256, {}, True),
        (3 * 256, {"lanes_fine": False}, False),
        (1, {"ordering": Ordering.NONE}, True),
    ],
)
async def test_an_id_whose_order_would_be_lost_is_refused(
    shards: int, settings: dict[str, Any], is_refused: bool
) -> None:
    """Readers drop what comes after a higher number of its lane, so who keeps less order refuses such an id."""
    cloud = Cloud(shards)
    async with cloud.producer(**settings) as producer:
        await producer.put({"session_id": "own"})
        for foreign in ("mine", "elsewhere.-.7"):
            await producer.put(WHOLE_ID | {"event_id": foreign})
        if is_refused:
            with pytest.raises(EventIdError, match="order readers rely on") as caught:
                await producer.put(WHOLE_ID)
            assert "HEADRACE_PRODUCER_" in caught.value.hint
        else:
            await producer.put(WHOLE_ID)
    assert producer.ledger.acknowledged == 4 - is_refused


async def test_whoever_brings_ids_from_the_first_event_on_gets_whole_lanes() -> None:
    """As when what was archived is put again: nothing has an id of cut lanes yet, so that none need be cut."""
    cloud = Cloud(3 * 256)
    async with cloud.producer() as producer:
        for number in range(300):
            await producer.put({"session_id": f"s{number}", "event_id": f"elsewhere.{number % 256:02x}.{number}"})
        await producer.put({"session_id": "own"})
    assert producer.ledger.acknowledged == 301
    assert cloud.ids()["own"].part is None


async def test_a_source_that_brings_ids_from_the_first_line_on_gets_whole_lanes() -> None:
    """What is read once has no bookmark that would tell of cut lanes."""
    cloud = Cloud(3 * 256)
    lines = [{"session_id": f"s{number}", "event_id": f"elsewhere.a3.{number}"} for number in range(50)]
    cloud.files.write_log(LOG, b"".join(orjson.dumps(line) + b"\n" for line in [*lines, {"session_id": "own"}]))
    await cloud.run(is_followed=False, is_whole=True)
    ids = cloud.ids()
    assert len(ids) == 51
    assert ids["own"].part is None
    assert cloud.files.content("/state/dead-letters.ndjson") is None


async def test_a_line_whose_order_would_be_lost_is_a_dead_letter() -> None:
    """What a library refuses at once, a source keeps with its reason."""
    cloud = Cloud(3 * 256)
    cloud.files.write_log(LOG, b'{"session_id":"a"}\n' + orjson.dumps(WHOLE_ID) + b'\n{"session_id":"b"}\n')
    await cloud.run(is_followed=False, is_whole=True)
    assert cloud.ids().keys() == {"a", "b"}
    (letter,) = (cloud.files.content("/state/dead-letters.ndjson") or b"").splitlines()
    assert orjson.loads(letter)["error_code"] == "unordered-event-id"


async def test_a_source_keeps_its_lanes_however_the_stream_changes() -> None:
    """A followed file's lanes were cut when it was read last, or not: its ids stay as they were."""
    store = bookmark_path("/state", "orders", LOG)
    for before, after, is_cut in ((1, 3 * 256, False), (3 * 256, 1, True)):
        cloud = Cloud(before)
        cloud.files.write_log(LOG, b'{"session_id":"a"}\n')
        await cloud.run()
        assert cloud.ids()["a"].part is None  # events that bring ids may still come first
        bookmark = await BookmarkStore(cloud.files, store).load()
        assert bookmark is not None
        starts = [shard.shard.hash_key_range.start for shard in cloud.stream.open_shards()]
        await BookmarkStore(cloud.files, store).save(replace(bookmark, lanes=LaneDivision.along(starts)))
        cloud.stream = cloud.kinesis.create_stream("orders", after)
        cloud.files.write_log(LOG, b'{"session_id":"b"}\n')
        await cloud.run()
        ids = cloud.ids()
        assert (ids.keys(), ids["b"].part is not None) == ({"b"}, is_cut)


async def test_a_named_source_that_is_read_again_gets_the_ids_it_had() -> None:
    """Nothing was written down of it: its lanes are the same on every stream."""
    for shards in (1, 3 * 256):
        cloud = Cloud(shards)
        cloud.files.write_log(LOG, b'{"session_id":"a"}\n')
        await cloud.run(is_followed=False, source_id="web-1")
        assert cloud.ids()["a"].part is None


async def test_a_followed_file_keeps_its_ordering() -> None:
    """What comes again after a crash would have other ids, which nobody recognises: another ordering is refused."""
    cloud = Cloud(1)
    cloud.files.write_log(LOG, b'{"session_id":"a"}\n')
    await cloud.run(ordering=Ordering.NONE)
    path = bookmark_path("/state", "orders", LOG)
    # As a crash leaves it, whose event is in the stream already: the bookmark is at the beginning.
    bookmark = await BookmarkStore(cloud.files, path).load()
    assert bookmark is not None
    crashed = replace(bookmark, offset=0)
    await BookmarkStore(cloud.files, path).save(crashed)
    with pytest.raises(ConfigurationError, match="ordering none, not lane") as caught:
        await cloud.run()
    assert "--ordering none" in caught.value.hint
    assert set(cloud.ids()) == {"a"}
    # A bookmark of before tells nothing: it is taken up, and tells from then on.
    await BookmarkStore(cloud.files, path).save(replace(crashed, ordering=None))
    await cloud.run()
    taken_up = await BookmarkStore(cloud.files, path).load()
    assert taken_up is not None
    assert taken_up.ordering is Ordering.LANE


@pytest.mark.parametrize(("lanes", "version"), [(None, 1), (WHOLE, 1), (LaneDivision((1, 2**127 + 1)), 3)])
def test_an_older_release_refuses_a_bookmark_of_cut_lanes_only(lanes: LaneDivision | None, version: int) -> None:
    """It knows version 1, and would take the lanes for whole ones: other event ids, read as new events."""
    data = Bookmark("abc", lanes=lanes).encode()
    assert orjson.loads(data)["version"] == version
    assert Bookmark.decode(data, "path").lanes == lanes


def test_a_bookmark_of_before_has_whole_lanes() -> None:
    """A stored bookmark that does not tell is of a source whose lanes are whole."""
    stored = orjson.loads(Bookmark("abc", lanes=WHOLE).encode())
    del stored["lanes"], stored["cuts"]
    assert Bookmark.decode(orjson.dumps(stored), "path").lanes == WHOLE


@pytest.mark.parametrize(
    "changes",
    [
        {"lanes": 4_096, "version": 2},
        {"lanes": 4_096},
        {"cuts": ["0"]},
        {"cuts": ["2", "1"]},
        {"cuts": ["1", "1"]},
        {"cuts": [f"{2**120:x}"]},
        {"cuts": [f"{2**128:x}"]},
        {"cuts": ["-1"]},
        {"cuts": ["x"]},
        {"cuts": [1]},
        {"cuts": [f"{cut:x}" for cut in range(1, 257)]},
    ],
)
def test_a_bookmark_with_other_lanes_is_damaged(changes: dict[str, Any]) -> None:
    """Nothing is guessed: other event ids would be read as new events."""
    stored = orjson.loads(Bookmark("abc", lanes=LaneDivision((1,))).encode())
    with pytest.raises(ConfigurationError, match="damaged or of another version"):
        Bookmark.decode(orjson.dumps(stored | changes), "path")


def test_where_a_request_can_not_serve_all_shards_the_next_one_waits_for_its_turn() -> None:
    """Each shard is served once in the time of lingering: else each request would hold a few events for some shards."""
    batcher = batcher_of(200, batch_records_max=100, linger_seconds=0.1)
    keys = [f"key-{number}" for number in range(4_000)]
    assert batcher.queues.accept_all([b"x"] * len(keys), keys, None) == len(keys)
    batcher.queues.stamp(0.0)
    sent, turns = [], [0.1 + 0.1 * 100 / 200, 0.1 + 2 * (0.1 * 100 / 200)]
    for now in (0.1, 0.125, turns[0], 0.175):
        batch = batcher.take(now)
        sent.append(0 if batch is None else batch.count)
        assert batcher.next_deadline(now) in {None, *turns}
    assert sent[:2] == [100, 0]
    assert sent[2] > 80
    assert sent[3] == 0


def seconds_for(shards: int) -> float:
    """Return how long 20,000 events take, where each call takes 10 milliseconds and the processor no time."""
    loop = SimulationLoop()
    kinesis = FakeKinesis(_SlowNetwork())
    kinesis.create_stream("orders", shards)

    async def main() -> float:
        settings = ProducerSettings(shard_rate_percent=0, drain_timeout_seconds=600)
        async with Producer("orders", kinesis=kinesis, settings=settings, telemetry=SilentTelemetry()) as producer:
            await producer.put_all({"session_id": f"s{number}"} for number in range(20_000))
            assert await producer.flush(600) == 0
        return loop.time()

    return loop.run(main())


class _SlowNetwork(PerfectNetwork):
    async def call(self, operation: str, land: Callable[[], Any]) -> Any:
        await asyncio.sleep(0.01)
        return land()


def test_a_thousand_shards_take_as_much_as_one() -> None:
    """What a round trip bounds is much the same with 1,000 shards; in whole lanes it would take 0.9 seconds."""
    assert seconds_for(1_000) < seconds_for(1) + 0.2


def test_full_records_do_not_take_turns() -> None:
    """Where few shards have all the load, waiting would fill nothing: what is due goes at once (world 13001482)."""
    batcher = batcher_of(300, aggregate_bytes_max=KIB, batch_records_max=1, linger_seconds=1.0)
    keys = [f"key-{number}" for number in range(20)]
    batcher.queues.accept_all([bytes(900)] * len(keys), keys, None)
    batcher.queues.stamp(0.0)
    assert [batcher.take(1.0) is not None for _ in range(5)] == [True] * 5


def test_a_request_that_can_not_serve_all_shards_takes_all_that_waits_for_those_it_serves() -> None:
    """Else each request of a stream with many shards would hold a few events of many lanes, and leave the others."""
    batcher = batcher_of(300, batch_records_max=100, linger_seconds=0.1)
    batcher.queues.divide(LaneDivision.along([*range(1, 2**128, 2**116)]))  # sixteen parts in each lane
    keys = [f"key-{number}" for number in range(9_000)]
    assert batcher.queues.accept_all([bytes(100)] * len(keys), keys, None) == len(keys)
    batcher.queues.stamp(0.0)
    batch = batcher.take(0.1)
    assert batch is not None
    assert batch.count == 100
    served = {record.shard_id for record in batch.records}
    waiting = [lane.index for lane in batcher.queues.lanes if not lane.is_blocked and lane.records.datas]
    assert served.isdisjoint(map(batcher.shard_map.of_lanes(batcher.queues.division).__getitem__, waiting))
    assert len(waiting) > 2_000


def test_a_lane_that_finds_its_shard_full_in_a_cut_request_keeps_its_place() -> None:
    """Else those behind it overtake it in request after request, while it is the one that finds the aggregate full."""
    batcher = batcher_of(4, aggregate_bytes_max=2 * KIB, batch_records_max=2, linger_seconds=0.1)
    by_shard: dict[str | None, dict[int, str]] = {}
    for key in (f"key-{number}" for number in range(100)):
        hash_key = hash_key_of(key)
        by_shard.setdefault(batcher.shard_map.predict(hash_key), {}).setdefault(lane_of(hash_key), key)
    first, hot, other = ([*by_shard[shard_id].values()] for shard_id in ("s0", "s1", "s2"))
    waiting = [first[0], hot[0], hot[1], other[0], hot[2]]
    served: set[str] = set()
    for number in range(10):
        for key in waiting:
            assert batcher.queues.accept(bytes(1500), key)
        batcher.queues.stamp(float(number))
        batch = batcher.take(number + 0.5)
        assert batch is not None
        waiting = [key for record in batch.records for key in record.members.keys]
        results = [PutResult(str(record.shard_id), number) for record in batch.records]
        batcher.settle(batch, results, number + 0.5, random.Random(1))
        served.update(waiting)
    assert served == {first[0], other[0], *hot[:3]}
