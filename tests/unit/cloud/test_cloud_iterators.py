"""Shard iterators stand where their type says, expire, and can't be made up."""

from __future__ import annotations

import pytest

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.core.reading import StartingPosition
from infra.cloud.core.writing import PutEntry
from tests.support.cloud_clock import HandClock

SHARD = "shardId-000000000000"


@pytest.fixture
def clock() -> HandClock:
    """A clock that the test turns."""
    return HandClock()


@pytest.fixture
def engine(clock: HandClock) -> KinesisEngine:
    """An engine without throughput limits."""
    engine = KinesisEngine(clock, limits_enforced=False)
    engine.create_stream("s", 1)
    return engine


def put_ten(engine: KinesisEngine, clock: HandClock) -> list[str]:
    """Ten records, one a second, the first now."""
    numbers = []
    for number in range(10):
        numbers.append(engine.put_record("s", bytes([number]), "k").sequence_number or "")
        clock.turn(1.0)
    return numbers


def read_from(engine: KinesisEngine, start: StartingPosition, limit: int = 10_000) -> list[int]:
    """The first byte of each record from a position on."""
    page = engine.get_records(engine.get_shard_iterator("s", SHARD, start), limit)
    return [each.data[0] for each in page.records]


def test_each_iterator_type_starts_at_its_place(engine: KinesisEngine, clock: HandClock) -> None:
    """TRIM_HORIZON, LATEST, AT and AFTER a number, AT a time: each reads from where its name says."""
    began = clock()
    numbers = put_ten(engine, clock)
    assert read_from(engine, StartingPosition("TRIM_HORIZON")) == list(range(10))
    assert read_from(engine, StartingPosition("LATEST")) == []
    assert read_from(engine, StartingPosition("AT_SEQUENCE_NUMBER", numbers[4])) == list(range(4, 10))
    assert read_from(engine, StartingPosition("AFTER_SEQUENCE_NUMBER", numbers[4])) == list(range(5, 10))
    assert read_from(engine, StartingPosition("AT_TIMESTAMP", timestamp=began + 6.5)) == [7, 8, 9]
    assert read_from(engine, StartingPosition("AT_TIMESTAMP", timestamp=began + 7)) == [7, 8, 9]
    assert read_from(engine, StartingPosition("AT_TIMESTAMP", timestamp=began - 99)) == list(range(10))
    assert read_from(engine, StartingPosition("AT_TIMESTAMP", timestamp=clock())) == []


def test_time_of_a_record_finds_that_record(engine: KinesisEngine, clock: HandClock) -> None:
    """Arrival times come out rounded to milliseconds, and asking for one finds its record, not the next."""
    for fraction in (0.0004, 0.0005, 0.0006, 0.1239, 0.9996):
        clock.now = int(clock.now) + 1 + fraction
        engine.put_record("s", b"\x01", "k")
    clock.turn(1)
    page = engine.get_records(engine.get_shard_iterator("s", SHARD, StartingPosition("TRIM_HORIZON")))
    for record in page.records:
        iterator = engine.get_shard_iterator("s", SHARD, StartingPosition("AT_TIMESTAMP", timestamp=record.arrival))
        assert engine.get_records(iterator, 1).records == [record]


def test_shards_own_ends_are_valid_numbers(engine: KinesisEngine, clock: HandClock) -> None:
    """The starting and ending sequence numbers that ListShards shows are accepted as positions."""
    put_ten(engine, clock)
    engine.split_shard("s", SHARD, "1000")
    shard = engine.list_shards("s").shards[0]
    start = StartingPosition("AT_SEQUENCE_NUMBER", shard.starting_sequence_number)
    assert read_from(engine, start) == list(range(10))
    end = StartingPosition("AFTER_SEQUENCE_NUMBER", shard.ending_sequence_number)
    assert read_from(engine, end) == []


@pytest.mark.parametrize(
    "start",
    [
        StartingPosition("AT_SEQUENCE_NUMBER", "1"),
        StartingPosition("AT_SEQUENCE_NUMBER", "9" * 56),
        StartingPosition("AT_SEQUENCE_NUMBER", "9" * 129),
        StartingPosition("AFTER_SEQUENCE_NUMBER"),
        StartingPosition("AT_TIMESTAMP"),
        StartingPosition("AT_TIMESTAMP", timestamp=4_000_000_000.0),
    ],
)
def test_position_outside_the_shard_is_refused(engine: KinesisEngine, start: StartingPosition) -> None:
    """A number of another shard, a missing one and a time to come are invalid arguments."""
    with pytest.raises(ApiError) as caught:
        engine.get_shard_iterator("s", SHARD, start)
    assert caught.value.code == "InvalidArgumentException"


@pytest.mark.parametrize("start", [StartingPosition("NEWEST"), StartingPosition("AT_SEQUENCE_NUMBER", "-1")])
def test_ill_formed_position_fails_validation(engine: KinesisEngine, start: StartingPosition) -> None:
    """An unknown type and a number that is none are validation errors."""
    with pytest.raises(ApiError) as caught:
        engine.get_shard_iterator("s", SHARD, start)
    assert caught.value.code == "ValidationException"


def test_iterator_expires_after_five_minutes(engine: KinesisEngine, clock: HandClock) -> None:
    """An iterator works for 300 s; the one that a read returns starts its own 300 s."""
    iterator = engine.get_shard_iterator("s", SHARD, StartingPosition("LATEST"))
    clock.turn(300)
    following = engine.get_records(iterator).next_iterator or ""
    clock.turn(1)
    with pytest.raises(ApiError, match="ExpiredIteratorException"):
        engine.get_records(iterator)
    assert engine.get_records(following).records == []


@pytest.mark.parametrize("token", ["", "x", "AAAAAAAAAAE=", "A" * 512, "é", "A" * 10_000])
def test_made_up_iterator_is_an_invalid_argument(engine: KinesisEngine, token: str) -> None:
    """What is not an iterator of this service is refused, never a server fault."""
    with pytest.raises(ApiError, match="InvalidArgumentException"):
        engine.get_records(token)


def test_changed_iterator_is_an_invalid_argument(engine: KinesisEngine) -> None:
    """Flipping any one character of an iterator makes it invalid."""
    token = engine.get_shard_iterator("s", SHARD, StartingPosition("LATEST"))
    for index in range(0, len(token), 5):
        changed = token[:index] + ("B" if token[index] != "B" else "C") + token[index + 1 :]
        with pytest.raises(ApiError, match="InvalidArgumentException"):
            engine.get_records(changed)


def test_iterator_of_a_recreated_stream_finds_nothing(engine: KinesisEngine, clock: HandClock) -> None:
    """A stream of the same name made later is another stream."""
    token = engine.get_shard_iterator("s", SHARD, StartingPosition("LATEST"))
    engine.delete_stream("s")
    engine.create_stream("s", 1)
    with pytest.raises(ApiError, match="ResourceNotFoundException"):
        engine.get_records(token)


def test_millis_behind_latest_counts_to_now(engine: KinesisEngine, clock: HandClock) -> None:
    """Behind by the age of the last record returned while more is left, zero at the tip."""
    put_ten(engine, clock)
    iterator = engine.get_shard_iterator("s", SHARD, StartingPosition("TRIM_HORIZON"))
    page = engine.get_records(iterator, 4)
    assert page.millis_behind_latest == 7_000
    assert engine.get_records(page.next_iterator or "").millis_behind_latest == 0


def test_answer_is_capped_at_ten_mebibytes(engine: KinesisEngine) -> None:
    """A page holds at most 10 MiB, and the pages together every record."""
    for _ in range(3):
        engine.put_records("s", [PutEntry(b"x" * 1_000_000, "k")] * 5)
    iterator = engine.get_shard_iterator("s", SHARD, StartingPosition("TRIM_HORIZON"))
    page = engine.get_records(iterator)
    assert len(page.records) == 10
    assert len(engine.get_records(page.next_iterator or "").records) == 5


@pytest.mark.parametrize("limit", [0, 10_001])
def test_limit_is_between_1_and_10000(engine: KinesisEngine, limit: int) -> None:
    """GetRecords takes a limit from 1 to 10,000."""
    iterator = engine.get_shard_iterator("s", SHARD, StartingPosition("LATEST"))
    with pytest.raises(ApiError, match="ValidationException"):
        engine.get_records(iterator, limit)
