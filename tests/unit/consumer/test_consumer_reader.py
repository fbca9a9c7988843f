"""The follower behind `consumer_from_cli`, and how it shows records."""

from __future__ import annotations

import asyncio
import random

import orjson
import pytest

from consumer.reader import StreamFollower, render_json, render_text
from shared.errors import StreamNotFoundError
from shared.lease import AT_LATEST, AT_TRIM_HORIZON, Checkpoint
from shared.records import Position, UserRecord
from tests.support.aggregate import Aggregate
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud, VirtualClock

Taken = list[tuple[str, UserRecord]]


def follower(
    cloud: SmallCloud, taken: Taken, *, initial: Checkpoint = AT_TRIM_HORIZON, limit: int | None = None
) -> StreamFollower:
    """Return a follower that collects records."""
    return StreamFollower(
        SOURCE,
        kinesis=cloud.kinesis,
        clock=VirtualClock(cloud.loop),
        random=random.Random(1),
        telemetry=cloud.telemetry,
        initial=initial,
        take=lambda shard_id, record: taken.append((shard_id, record)),
        flush=lambda: None,
        limit=limit,
    )


def test_every_shard_is_followed_and_children_come_after_parents() -> None:
    """All records come, taken apart, each session's in order, through a split and a merge."""
    cloud = SmallCloud.make()
    taken: Taken = []

    async def story() -> int:
        await cloud.put_numbered(0, 20)
        low, high = cloud.kinesis.split_shard(SOURCE, "shardId-000000000000")
        await cloud.put_numbered(20, 40)
        cloud.kinesis.merge_shards(SOURCE, low, high)
        aggregate = Aggregate()
        for n in (40, 41):
            aggregate.append(orjson.dumps({"session_id": f"s{n % 10}", "n": n}), f"s{n % 10}")
        await cloud.kinesis.put_record(SOURCE, aggregate.encode())
        stop = asyncio.Event()
        cloud.loop.call_later(20, stop.set)
        return await follower(cloud, taken).follow(stop)

    assert cloud.run(story) == 42
    events = [orjson.loads(record.data) for _, record in taken]
    for session in range(10):
        assert [event["n"] for event in events if event["session_id"] == f"s{session}"] == [
            *range(session, 40, 10),
            *([40 + session] if session < 2 else []),
        ]
    assert taken[-1][1].position.sub_sequence_number == 1


def test_the_limit_ends_it_exactly() -> None:
    """`--limit` takes that many records and ends; 0 reads nothing."""
    cloud = SmallCloud.make()
    taken: Taken = []

    async def story() -> tuple[int, int]:
        await cloud.put_numbered(0, 20)
        nothing = await follower(cloud, [], limit=0).follow(asyncio.Event())
        return nothing, await follower(cloud, taken, limit=7).follow(asyncio.Event())

    assert cloud.run(story) == (0, 7)
    assert len(taken) == 7


def test_latest_shows_only_what_comes_now() -> None:
    """A start at LATEST leaves out what was there before."""
    cloud = SmallCloud.make()
    taken: Taken = []

    async def story() -> int:
        await cloud.put_numbered(0, 20)
        task = asyncio.create_task(follower(cloud, taken, initial=AT_LATEST, limit=3).follow(asyncio.Event()))
        await asyncio.sleep(1)
        await cloud.put_numbered(20, 30)
        return await task

    assert cloud.run(story) == 3
    assert all(orjson.loads(record.data)["n"] >= 20 for _, record in taken)


def test_errors_come_out_as_themselves() -> None:
    """A missing stream and a broken pipe are raised, not a group of them."""
    cloud = SmallCloud.make()

    def fail(_: str, __: UserRecord) -> None:
        raise BrokenPipeError

    async def story() -> None:
        await cloud.put_numbered(0, 1)
        broken = follower(cloud, [])
        broken._take = fail
        with pytest.raises(BrokenPipeError):
            await broken.follow(asyncio.Event())
        del cloud.kinesis.streams[SOURCE]
        with pytest.raises(StreamNotFoundError):
            await follower(cloud, []).follow(asyncio.Event())

    cloud.run(story)


def record(data: bytes, sub: int = 0) -> UserRecord:
    """Return a record at 49."""
    return UserRecord(data, "k\n", None, Position(49, sub), 1_700_000_000.5, is_last=True)


def test_json_lines_keep_the_events_own_bytes() -> None:
    """Numbers keep their digits and an event stays on one line; what is no JSON is base64."""
    line = render_json("shardId-0", record(b'{"a":\n 1.50, "big": 123456789012345678901234567890}', 2))
    assert "\n" not in line
    assert '"data":{"a":  1.50, "big": 123456789012345678901234567890}' in line
    assert orjson.loads(render_json("shardId-0", record(b"\xff"))) == {
        "shard_id": "shardId-0",
        "sequence_number": "49",
        "sub_sequence_number": 0,
        "partition_key": "k\n",
        "arrival_timestamp": "2023-11-14T22:13:20.500000Z",
        "data_base64": "/w==",
    }


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b'{"a": 1}', '{"a": 1}'),
        ("é".encode(), "é"),
        (b"a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        (b"\xff\x00", "base64 /wA="),
    ],
)
def test_text_lines_can_not_steer_a_terminal(data: bytes, shown: str) -> None:
    """A record is one line of printable characters."""
    assert render_text("shardId-0", record(data)) == f"Consumed record 49 from Shard shardId-0: {shown}"
