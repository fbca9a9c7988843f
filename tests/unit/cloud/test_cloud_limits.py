"""The per-shard limits and the sizes of requests hold as AWS states them, judged by a virtual clock."""

from __future__ import annotations

import pytest

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.core.reading import StartingPosition
from infra.cloud.core.writing import PutEntry
from shared.limits import MIB
from tests.support.cloud_clock import HandClock

SHARD = "shardId-000000000000"
THROTTLED = "ProvisionedThroughputExceededException"


@pytest.fixture
def clock() -> HandClock:
    """A clock that the test turns."""
    return HandClock()


@pytest.fixture
def engine(clock: HandClock) -> KinesisEngine:
    """An engine with its limits on."""
    engine = KinesisEngine(clock)
    engine.create_stream("s", 2)
    return engine


def failed(engine: KinesisEngine, entries: list[PutEntry]) -> int:
    """How many entries of a call were throttled."""
    return sum(each.error_code == THROTTLED for each in engine.put_records("s", entries))


def test_shard_takes_1000_records_a_second(engine: KinesisEngine, clock: HandClock) -> None:
    """The 1,001st record within a second is throttled alone, the other shard goes on, and time lifts the limit."""
    entries = [PutEntry(b"", "k", "0")] * 500
    assert (failed(engine, entries), failed(engine, entries)) == (0, 0)
    mixed = [PutEntry(b"", "k", "0"), PutEntry(b"", "k", str(2**128 - 1)), PutEntry(b"", "k", "0")]
    outcomes = engine.put_records("s", mixed)
    assert [each.error_code for each in outcomes] == [THROTTLED, None, THROTTLED]
    assert (
        outcomes[0].error_message
        == "Rate exceeded for shard shardId-000000000000 in stream s under account 123456789012."
    )
    clock.turn(0.125)
    assert failed(engine, entries) == 375
    clock.turn(1.0)
    assert failed(engine, entries) == 0


def test_shard_takes_1_mebibyte_a_second(engine: KinesisEngine, clock: HandClock) -> None:
    """Bytes of data and key count against 1 MiB/s."""
    entries = [PutEntry(b"x" * (100 * 1024 - 1), "k", "0")] * 11
    assert failed(engine, entries) == 1
    clock.turn(0.5)
    assert failed(engine, entries) == 6


def test_single_put_of_a_throttled_shard_is_an_error(engine: KinesisEngine) -> None:
    """PutRecord has no outcome per record: the call itself fails."""
    engine.put_record("s", b"x" * (MIB - 1), "k", "0")
    with pytest.raises(ApiError, match=THROTTLED):
        engine.put_record("s", b"x", "k", "0")


def test_large_record_leaves_a_debt(clock: HandClock) -> None:
    """A 4 MiB record passes on a rested shard and keeps it busy for the four seconds that it stands for."""
    engine = KinesisEngine(clock)
    engine.create_stream("s", 1, record_bytes_max=10 * MIB)
    engine.put_record("s", b"x" * (4 * MIB), "k")
    clock.turn(3.0)
    with pytest.raises(ApiError, match=THROTTLED):
        engine.put_record("s", b"x", "k")
    clock.turn(0.1)
    engine.put_record("s", b"x", "k")


def test_shard_answers_five_reads_a_second(engine: KinesisEngine, clock: HandClock) -> None:
    """The sixth GetRecords within a second is throttled, whoever calls."""
    iterator = engine.get_shard_iterator("s", SHARD, StartingPosition("LATEST"))
    for _ in range(5):
        engine.get_records(iterator)
    with pytest.raises(ApiError, match=THROTTLED):
        engine.get_records(iterator)
    clock.turn(0.2)
    engine.get_records(iterator)


def test_ten_mebibyte_answer_pauses_the_shard_for_five_seconds(clock: HandClock) -> None:
    """After 10 MiB nothing is answered for 5 s."""
    engine = KinesisEngine(clock)
    engine.create_stream("s", 1)
    for _ in range(11):
        engine.put_record("s", b"x" * (MIB - 1), "k")
        clock.turn(1.0)
    iterator = engine.get_shard_iterator("s", SHARD, StartingPosition("TRIM_HORIZON"))
    assert len(engine.get_records(iterator).records) == 10
    clock.turn(4.9)
    with pytest.raises(ApiError, match=THROTTLED):
        engine.get_records(iterator)
    clock.turn(0.1)
    engine.get_records(iterator)


def test_small_answers_share_two_mebibytes_a_second(clock: HandClock) -> None:
    """Three answers of 1 MiB within a second are too much, a second later there is room again."""
    engine = KinesisEngine(clock)
    engine.create_stream("s", 1)
    for _ in range(4):
        engine.put_record("s", b"x" * (MIB - 1), "k")
        clock.turn(1.0)
    iterator = engine.get_shard_iterator("s", SHARD, StartingPosition("TRIM_HORIZON"))
    engine.get_records(iterator, 1)
    engine.get_records(iterator, 1)
    with pytest.raises(ApiError, match=THROTTLED):
        engine.get_records(iterator, 1)
    clock.turn(1.0)
    engine.get_records(iterator, 1)


def test_clock_going_back_does_not_lock_a_shard(clock: HandClock) -> None:
    """A step back of the clock neither credits throughput nor keeps a shard paused for hours."""
    engine = KinesisEngine(clock)
    engine.create_stream("s", 1)
    for _ in range(3):
        engine.put_record("s", b"x" * (MIB - 1), "k")
        clock.turn(1.0)
    iterator = engine.get_shard_iterator("s", SHARD, StartingPosition("TRIM_HORIZON"))
    engine.get_records(iterator)
    clock.turn(-7_200)
    with pytest.raises(ApiError, match=THROTTLED):
        engine.get_records(iterator)
    with pytest.raises(ApiError, match=THROTTLED):
        engine.put_record("s", b"x" * (MIB - 1), "k")
    clock.turn(5.0)
    engine.get_records(iterator)
    engine.put_record("s", b"x" * (MIB - 1), "k")


def test_limits_can_be_switched_off(clock: HandClock) -> None:
    """Without limits nothing is throttled, in or out."""
    engine = KinesisEngine(clock, limits_enforced=False)
    engine.create_stream("s", 1)
    for _ in range(10):
        outcomes = engine.put_records("s", [PutEntry(b"x" * 10_000, "k")] * 500)
        assert {each.error_code for each in outcomes} == {None}
    iterator = engine.get_shard_iterator("s", SHARD, StartingPosition("TRIM_HORIZON"))
    for _ in range(20):
        engine.get_records(iterator)


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([], "ValidationException"),
        ([PutEntry(b"", "k")] * 501, "ValidationException"),
        ([PutEntry(b"", "")], "ValidationException"),
        ([PutEntry(b"", None)], "ValidationException"),
        ([PutEntry(b"", "k" * 257)], "ValidationException"),
        ([PutEntry(b"", "k", "-1")], "ValidationException"),
        ([PutEntry(b"", "k", "007")], "ValidationException"),
        ([PutEntry(b"", "k", "٣")], "ValidationException"),
        ([PutEntry(b"", "k", str(2**128))], "InvalidArgumentException"),
        ([PutEntry(b"x" * MIB, "k")], "InvalidArgumentException"),
        ([PutEntry(b"x" * (10 * MIB + 1), "k")], "ValidationException"),
        ([PutEntry(b"x" * 1_000_000, "k")] * 11, "InvalidArgumentException"),
    ],
)
def test_invalid_entry_refuses_the_whole_call(engine: KinesisEngine, entries: list[PutEntry], code: str) -> None:
    """An invalid entry refuses the call with AWS's error type, and nothing of the call is stored."""
    good = [PutEntry(b"good", "k")] if 0 < len(entries) < 500 else []
    with pytest.raises(ApiError) as caught:
        engine.put_records("s", good + entries)
    assert caught.value.code == code
    assert sum(len(each.log) for each in engine.list_shards("s").shards) == 0


def test_record_at_the_limit_passes(engine: KinesisEngine) -> None:
    """Exactly 1 MiB of data and key is taken, and 500 records are."""
    assert engine.put_record("s", b"x" * (MIB - 2), "é", "0").error_code is None
    assert len(engine.put_records("s", [PutEntry(b"", "k", str(2**128 - 1))] * 500)) == 500


def test_ordering_number_must_be_one_of_ours(engine: KinesisEngine) -> None:
    """SequenceNumberForOrdering takes a number that the service gave, and refuses others."""
    number = engine.put_record("s", b"", "k").sequence_number
    assert engine.put_record("s", b"", "k", None, number).error_code is None
    for wrong, code in (("12", "InvalidArgumentException"), ("x", "ValidationException")):
        with pytest.raises(ApiError) as caught:
            engine.put_record("s", b"", "k", None, wrong)
        assert caught.value.code == code


@pytest.mark.parametrize("name", ["", "a b", "a" * 129, "ü", "a/b", "arn:aws:kinesis:x"])
def test_bad_stream_name_fails_validation(engine: KinesisEngine, name: str) -> None:
    """Names have 1 to 128 letters, digits, dots, dashes and underscores."""
    with pytest.raises(ApiError, match="ValidationException"):
        engine.create_stream(name, 1)


@pytest.mark.parametrize("hours", [23, 8_761])
def test_retention_stays_between_a_day_and_a_year(engine: KinesisEngine, hours: int) -> None:
    """Retention is 24 to 8,760 hours, and the two calls go their own way only."""
    with pytest.raises(ApiError, match="InvalidArgumentException"):
        engine.settings.set_retention("s", hours, grow=hours > 24)
    engine.settings.set_retention("s", 48, grow=True)
    with pytest.raises(ApiError, match="InvalidArgumentException"):
        engine.settings.set_retention("s", 30, grow=True)
    engine.settings.set_retention("s", 30, grow=False)
    assert engine.describe_stream("s").retention_hours == 30
