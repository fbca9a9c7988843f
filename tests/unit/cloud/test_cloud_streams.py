"""The local Kinesis routes, numbers, splits, merges and ends shards as AWS does."""

from __future__ import annotations

import hashlib

import pytest

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.core.listing import ShardFilter
from infra.cloud.core.reading import StartingPosition
from infra.cloud.core.shard import Shard
from infra.cloud.core.writing import PutEntry
from shared.hash_key import holes
from shared.limits import HASH_KEY_MAX
from tests.support.cloud_clock import HandClock

TRIM_HORIZON = StartingPosition("TRIM_HORIZON")


@pytest.fixture
def clock() -> HandClock:
    """A clock that the test turns."""
    return HandClock()


@pytest.fixture
def engine(clock: HandClock) -> KinesisEngine:
    """An engine without throughput limits."""
    return KinesisEngine(clock, limits_enforced=False)


def shards_of(engine: KinesisEngine, name: str = "s") -> list[Shard]:
    """Every shard of a stream."""
    return engine.list_shards(name).shards


def read_all(engine: KinesisEngine, shard_id: str, name: str = "s") -> list[bytes]:
    """The data of a shard from its trim horizon to its tip."""
    iterator: str | None = engine.get_shard_iterator(name, shard_id, TRIM_HORIZON)
    found: list[bytes] = []
    while iterator is not None:
        page = engine.get_records(iterator)
        found += [each.data for each in page.records]
        iterator = None if page.millis_behind_latest == 0 else page.next_iterator
    return found


def test_key_goes_to_the_shard_whose_range_covers_its_md5(engine: KinesisEngine) -> None:
    """Each record lands in the shard whose range holds the MD5 of its key."""
    engine.create_stream("s", 7)
    keys = [f"key-{number}" for number in range(300)] + ["clé-日本", "x" * 256]
    outcomes = engine.put_records("s", [PutEntry(b"", key) for key in keys])
    ranges = {each.shard_id: each.hash_range for each in shards_of(engine)}
    for key, outcome in zip(keys, outcomes, strict=True):
        assert int(hashlib.md5(key.encode()).hexdigest(), 16) in ranges[outcome.shard_id or ""]  # noqa: S324


def test_explicit_hash_key_wins_over_the_partition_key(engine: KinesisEngine) -> None:
    """Both ends of each range lead to that range's shard, whatever the key says."""
    engine.create_stream("s", 3)
    for shard in shards_of(engine):
        for edge in (shard.hash_range.start, shard.hash_range.end):
            assert engine.put_record("s", b"", "same", str(edge)).shard_id == shard.shard_id


def test_sequence_numbers_have_56_digits_and_rise(engine: KinesisEngine, clock: HandClock) -> None:
    """Numbers rise within a shard even if the clock goes back, and lie between the shard's own ends."""
    engine.create_stream("s", 1)
    numbers = []
    for _ in range(50):
        clock.turn(-1.0)
        numbers.append(engine.put_record("s", b"", "k").sequence_number or "")
    assert {len(each) for each in numbers} == {56}
    assert numbers == sorted(set(numbers), key=int)
    shard = shards_of(engine)[0]
    assert int(shard.starting_sequence_number) < int(numbers[0])
    assert shard.ending_sequence_number is None


def test_children_number_above_their_parents(engine: KinesisEngine) -> None:
    """Even within one millisecond a child's first number is above its parent's last."""
    engine.create_stream("s", 2)
    last = int(engine.put_record("s", b"", "k", "0").sequence_number or 0)
    engine.split_shard("s", "shardId-000000000000", str(2**126))
    after = int(engine.put_record("s", b"", "k", "0").sequence_number or 0)
    parent = shards_of(engine)[0]
    assert last < int(parent.ending_sequence_number or 0) < after
    engine.merge_shards("s", "shardId-000000000002", "shardId-000000000003")
    merged = int(engine.put_record("s", b"", "k", "0").sequence_number or 0)
    assert after < merged


def test_split_parent_ends_and_names_its_children(engine: KinesisEngine) -> None:
    """A closed shard is read to its end, gives no next iterator, and names both children with their ranges."""
    engine.create_stream("s", 1)
    engine.put_records("s", [PutEntry(bytes([number]), "k") for number in range(10)])
    engine.split_shard("s", "shardId-000000000000", str(2**127))
    engine.put_record("s", b"child", "k", str(2**127))
    page = engine.get_records(engine.get_shard_iterator("s", "shardId-000000000000", TRIM_HORIZON))
    assert [each.data for each in page.records] == [bytes([number]) for number in range(10)]
    assert page.next_iterator is None
    assert [(each.shard_id, each.parent_ids, each.start, each.end) for each in page.child_shards] == [
        ("shardId-000000000001", ("shardId-000000000000",), 0, 2**127 - 1),
        ("shardId-000000000002", ("shardId-000000000000",), 2**127, HASH_KEY_MAX),
    ]
    assert read_all(engine, "shardId-000000000002") == [b"child"]


def test_merge_names_both_parents(engine: KinesisEngine) -> None:
    """The child of a merge has two parents, the one named first as ParentShardId, and covers both ranges."""
    engine.create_stream("s", 3)
    engine.merge_shards("s", "shardId-000000000002", "shardId-000000000001")
    child = shards_of(engine)[-1]
    assert child.parents == (2, 1)
    assert child.hash_range.end == HASH_KEY_MAX
    assert not shards_of(engine)[1].is_open


@pytest.mark.parametrize(("count", "target"), [(1, 2), (2, 3), (4, 2), (5, 3), (7, 14), (6, 4)])
def test_update_shard_count_gives_even_ranges(engine: KinesisEngine, count: int, target: int) -> None:
    """After uniform scaling the open shards tile the ring evenly and nothing that was put is lost."""
    engine.create_stream("s", count)
    engine.put_records("s", [PutEntry(str(number).encode(), str(number)) for number in range(200)])
    assert engine.update_shard_count("s", target) == count
    open_shards = [each for each in shards_of(engine) if each.is_open]
    assert len(open_shards) == target
    assert holes([each.hash_range for each in open_shards]) == []
    widths = {each.hash_range.width for each in open_shards}
    assert max(widths) - min(widths) < target
    found = [data for shard in shards_of(engine) for data in read_all(engine, shard.shard_id)]
    assert sorted(found, key=int) == [str(number).encode() for number in range(200)]


@pytest.mark.parametrize("target", [0, 1, 9, 10_001])
def test_update_shard_count_outside_half_to_double_is_refused(engine: KinesisEngine, target: int) -> None:
    """AWS scales from half to double in one call."""
    engine.create_stream("s", 4)
    with pytest.raises(ApiError, match="InvalidArgumentException"):
        engine.update_shard_count("s", target)


@pytest.mark.parametrize("start", [0, 1, 2**127 - 1, 2**127])
def test_split_at_an_edge_is_refused(engine: KinesisEngine, start: int) -> None:
    """A split must leave at least two hash keys below, and lie inside the shard."""
    engine.create_stream("s", 2)
    with pytest.raises(ApiError, match="not both greater than one plus"):
        engine.split_shard("s", "shardId-000000000000", str(start))


def test_closed_or_distant_shards_do_not_merge(engine: KinesisEngine) -> None:
    """Only two different, open, adjacent shards merge."""
    engine.create_stream("s", 3)
    for first, second in ((0, 2), (0, 0)):
        with pytest.raises(ApiError, match="InvalidArgumentException"):
            engine.merge_shards("s", f"shardId-{first:012}", f"shardId-{second:012}")
    engine.split_shard("s", "shardId-000000000000", "1000")
    with pytest.raises(ApiError, match="InvalidArgumentException"):
        engine.merge_shards("s", "shardId-000000000000", "shardId-000000000001")


def test_status_passes_through_creating_updating_and_deleting(clock: HandClock) -> None:
    """With a delay a stream is CREATING, then ACTIVE; UPDATING refuses the next change; DELETING ends in nothing."""
    engine = KinesisEngine(clock, status_delay_seconds=1.0)
    stream = engine.create_stream("s", 1)
    assert (stream.status(clock()), engine.shards_of("s")) == ("CREATING", [])
    with pytest.raises(ApiError, match="ResourceNotFoundException"):
        engine.put_record("s", b"", "k")
    clock.turn(1.0)
    assert stream.status(clock()) == "ACTIVE"
    engine.split_shard("s", "0", "1000")
    assert stream.status(clock()) == "UPDATING"
    with pytest.raises(ApiError, match="ResourceInUseException"):
        engine.split_shard("s", "1", "10")
    engine.put_record("s", b"", "k")
    clock.turn(1.0)
    engine.delete_stream("s")
    assert engine.list_stream_names() == ["s"]
    clock.turn(1.0)
    assert engine.list_stream_names() == []
    engine.create_stream("s", 1)


def test_shard_filters_select_by_time(engine: KinesisEngine, clock: HandClock) -> None:
    """Each filter type lists what its sentence in the API reference says."""
    engine.create_stream("s", 1)
    created = clock()
    clock.turn(10)
    engine.split_shard("s", "0", str(2**127))
    clock.turn(10)
    engine.merge_shards("s", "1", "2")
    clock.turn(10)

    def ids(wanted: ShardFilter) -> list[int]:
        return [each.index for each in engine.list_shards("s", wanted=wanted).shards]

    assert ids(ShardFilter("AT_TRIM_HORIZON")) == [0]
    assert ids(ShardFilter("FROM_TRIM_HORIZON")) == [0, 1, 2, 3]
    assert ids(ShardFilter("AT_LATEST")) == [3]
    assert ids(ShardFilter("AT_TIMESTAMP", timestamp=created + 15)) == [1, 2]
    assert ids(ShardFilter("FROM_TIMESTAMP", timestamp=created + 15)) == [1, 2, 3]
    assert ids(ShardFilter("AFTER_SHARD_ID", shard_id="shardId-000000000001")) == [2, 3]


def test_list_shards_pages_and_its_token_expires(engine: KinesisEngine, clock: HandClock) -> None:
    """Pages together give every shard once; a token is good for 300 s; a made-up one is refused."""
    engine.create_stream("s", 25)
    page = engine.list_shards("s", wanted=ShardFilter("AT_LATEST"), count_max=10)
    found = [each.index for each in page.shards]
    token = page.next_token or ""
    while page.next_token is not None:
        page = engine.list_shards_page(page.next_token, count_max=10)
        found += [each.index for each in page.shards]
    assert found == list(range(25))
    clock.turn(301)
    with pytest.raises(ApiError, match="ExpiredNextTokenException"):
        engine.list_shards_page(token)
    with pytest.raises(ApiError, match="InvalidArgumentException"):
        engine.list_shards_page("bm90IG91cnM=")


def test_retention_trims_records_and_then_closed_shards(engine: KinesisEngine, clock: HandClock) -> None:
    """After 24 hours records are gone, and a closed shard with them; a longer retention keeps both."""
    engine.create_stream("s", 1)
    engine.put_record("s", b"old", "k")
    clock.turn(3_600)
    engine.put_record("s", b"young", "k")
    engine.split_shard("s", "0", str(2**127))
    clock.turn(23 * 3_600 + 1)
    assert read_all(engine, "shardId-000000000000") == [b"young"]
    engine.settings.set_retention("s", 48, grow=True)
    clock.turn(3_600)
    assert read_all(engine, "shardId-000000000000") == [b"young"]
    clock.turn(24 * 3_600)
    assert [each.index for each in shards_of(engine)] == [1, 2]
    engine.sweep()
    assert [each.parents for each in shards_of(engine)] == [(0,), (0,)]


def test_store_is_bounded(clock: HandClock) -> None:
    """A full store refuses puts with a server fault, and takes them again once retention has freed it."""
    engine = KinesisEngine(clock, limits_enforced=False, store_bytes_max=1_000)
    engine.create_stream("s", 1)
    engine.put_record("s", b"x" * 1_000, "k")
    with pytest.raises(ApiError, match="InternalFailure"):
        engine.put_record("s", b"x", "k")
    clock.turn(25 * 3_600)
    engine.sweep()
    engine.put_record("s", b"x", "k")


def test_auto_distribution_spreads_one_key_over_all_shards(engine: KinesisEngine) -> None:
    """Under AUTO the service chooses the shard and a partition key is not needed."""
    engine.create_stream("s", mode="ON_DEMAND", distribution="AUTO")
    outcomes = engine.put_records("s", [PutEntry(b"", None if number % 2 else "same") for number in range(8)])
    assert len({each.shard_id for each in outcomes}) == 4


def test_consumers_are_counted_and_found_by_either_name(engine: KinesisEngine, clock: HandClock) -> None:
    """A consumer is found by ARN and by name, its name is taken once, and a stream holds at most 20."""
    arn = engine.create_stream("s", 1).arn
    consumer = engine.consumers.register(arn, "c0")
    assert consumer.arn == f"{arn}/consumer/c0:{int(clock())}"
    assert engine.consumers.find(None, None, consumer.arn)[1] is consumer
    assert engine.consumers.find(arn, "c0", None)[1] is consumer
    with pytest.raises(ApiError, match="ResourceInUseException"):
        engine.consumers.register(arn, "c0")
    for number in range(1, 20):
        engine.consumers.register(arn, f"c{number}")
    with pytest.raises(ApiError, match="LimitExceededException"):
        engine.consumers.register(arn, "c20")
    with pytest.raises(ApiError, match="ResourceInUseException"):
        engine.delete_stream("s")


def test_subscription_is_replaced_only_after_five_seconds(engine: KinesisEngine, clock: HandClock) -> None:
    """A second subscription within 5 s is refused; later it ends the first, which else ends after 5 minutes."""
    arn = engine.consumers.register(engine.create_stream("s", 1).arn, "c").arn
    latest = StartingPosition("LATEST")
    first = engine.consumers.subscribe(arn, "0", latest)
    with pytest.raises(ApiError, match="ResourceInUseException"):
        engine.consumers.subscribe(arn, "0", latest)
    clock.turn(5)
    second = engine.consumers.subscribe(arn, "0", latest)
    assert engine.consumers.event(first, first.position) is None
    assert engine.consumers.event(second, second.position) is not None
    clock.turn(300)
    assert engine.consumers.event(second, second.position) is None
