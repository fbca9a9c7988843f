"""The small cores as tables: shard graph, planner, tracker, pacer, roll policy, breaker, chunks, marks."""

from __future__ import annotations

import gc
import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.batch import Batch
from consumer.core.checkpoint_tracker import CheckpointTracker
from consumer.core.chunk import CHUNK_BYTES_MAX, cut
from consumer.core.circuit_breaker import CircuitBreaker
from consumer.core.compression_ratio import CompressionRatios
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.lease_planner import LeasePlanner
from consumer.core.read_pacer import ReadPacer
from consumer.core.roll_policy import RollPolicy
from consumer.core.shard_graph import may_start, merge_marks, of_former_stream, rows_to_create
from shared.hash_key import even_ranges
from shared.lease import AT_LATEST, AT_TRIM_HORIZON, SHARD_END, Checkpoint, CheckpointKind, Lease, Presence, TableRows
from shared.limits import GET_RECORDS_BYTES_MAX
from shared.records import Position, Shard, StreamRecord
from tests.support.aggregate import Aggregate

AT_TIME = Checkpoint(CheckpointKind.AT_TIMESTAMP)
OPEN, CLOSED = None, 99


def shard(name: str, ending: int | None = OPEN, parent: str | None = None, adjacent: str | None = None) -> Shard:
    """Return a shard."""
    return Shard(name, parent_shard_id=parent, adjacent_parent_shard_id=adjacent, ending_sequence_number=ending)


def row(name: str, checkpoint: Checkpoint = AT_TRIM_HORIZON, **fields: object) -> Lease:
    """Return a lease row."""
    return Lease(name, checkpoint=checkpoint, **fields)  # type: ignore[arg-type]  # a table's short form


SPLIT = (shard("a", CLOSED), shard("b", OPEN, "a"), shard("c", OPEN, "a"))
MERGE = (shard("a", CLOSED), shard("b", CLOSED), shard("c", OPEN, "a", "b"))


@pytest.mark.parametrize(
    ("shards", "rows", "initial", "expected"),
    [
        # A fresh start: roots only, children wait.
        (SPLIT, (), AT_TRIM_HORIZON, [("a", AT_TRIM_HORIZON)]),
        (SPLIT, (row("a"),), AT_TRIM_HORIZON, []),
        (SPLIT, (row("a", SHARD_END),), AT_TRIM_HORIZON, [("b", AT_TRIM_HORIZON), ("c", AT_TRIM_HORIZON)]),
        # A merge waits for both parents.
        (MERGE, (row("a", SHARD_END), row("b")), AT_TRIM_HORIZON, []),
        (MERGE, (row("a", SHARD_END),), AT_TRIM_HORIZON, [("b", AT_TRIM_HORIZON)]),
        (MERGE, (row("a", SHARD_END), row("b", SHARD_END)), AT_TRIM_HORIZON, [("c", AT_TRIM_HORIZON)]),
        # A parent that was trimmed (neither listed nor known) blocks nothing; one with an unfinished row does.
        (MERGE[1:], (row("b", SHARD_END),), AT_TRIM_HORIZON, [("c", AT_TRIM_HORIZON)]),
        (SPLIT[1:], (), AT_TRIM_HORIZON, [("b", AT_TRIM_HORIZON), ("c", AT_TRIM_HORIZON)]),
        (SPLIT[1:], (row("a"),), AT_TRIM_HORIZON, []),
        # LATEST: open shards without a followed ancestor; children of followed ones at TRIM_HORIZON.
        (SPLIT, (), AT_LATEST, [("b", AT_LATEST), ("c", AT_LATEST)]),
        (SPLIT, (row("a", SHARD_END),), AT_LATEST, [("b", AT_TRIM_HORIZON), ("c", AT_TRIM_HORIZON)]),
        (SPLIT, (row("b"),), AT_LATEST, [("c", AT_LATEST)]),
        # A first look that died after one row: the other parent was closed before it got any, and holds nobody up.
        (MERGE, (row("a"),), AT_LATEST, []),
        (MERGE, (row("a", SHARD_END),), AT_LATEST, [("c", AT_TRIM_HORIZON)]),
        # A time is a constant of the application: children keep it.
        (SPLIT, (row("a", SHARD_END),), AT_TIME, [("b", AT_TIME), ("c", AT_TIME)]),
    ],
)
def test_rows_are_made_parents_first(
    shards: tuple[Shard, ...], rows: tuple[Lease, ...], initial: Checkpoint, expected: list[tuple[str, Checkpoint]]
) -> None:
    """A child gets its row when all its parents are finished or trimmed, at the start that loses nothing."""
    created = rows_to_create(shards, {each.shard_id: each for each in rows}, initial)
    assert [(each.shard_id, each.checkpoint) for each in created] == expected


def test_marks_are_inherited_as_the_maximum_over_parents() -> None:
    """A merge takes the higher mark of each lane."""
    parents = (row("a", SHARD_END, marks={"s.01": 5, "s.02": 9}), row("b", SHARD_END, marks={"s.02": 7, "s.03": 1}))
    (child,) = rows_to_create(MERGE, {each.shard_id: each for each in parents})
    assert child.marks == {"s.01": 5, "s.02": 9, "s.03": 1} == merge_marks(parents)
    assert child.parents == ("a", "b")


def test_a_child_may_start_only_behind_its_parents() -> None:
    """A row may be read when every parent that has a row is at SHARD_END."""
    child = row("c", parents=("a", "b"))
    assert not may_start(child, {"a": row("a", SHARD_END), "b": row("b"), "c": child})
    assert may_start(child, {"a": row("a", SHARD_END), "c": child})
    assert not may_start(row("a", SHARD_END), {})


def test_planner_takes_what_nobody_owns() -> None:
    """Rows without an owner are taken at once, in the order of their ids, up to the even share."""
    planner = LeasePlanner("me", 10)
    rows = [row("c"), row("a"), row("b", owner="other"), row("d", owner="other")]
    assert [each.shard_id for each in planner.plan(TableRows(tuple(rows)), {}, 0.0).take] == ["a", "c"]
    assert [each.shard_id for each in planner.plan(TableRows(tuple(rows)), {"x": 1}, 0.0).take] == ["a"]
    assert planner.plan(TableRows(tuple(rows)), {}, 0.0, avoid=["a", "c"]).take == ()


def test_planner_judges_expiry_by_a_heartbeat_that_stands_still() -> None:
    """A lease is free once its heartbeat has not moved for longer than the duration on our own clock."""
    planner = LeasePlanner("me", 10)
    assert planner.plan(TableRows((row("a", owner="dead", heartbeat=1),)), {}, 100.0).take == ()
    assert planner.plan(TableRows((row("a", owner="dead", heartbeat=2),)), {}, 105.0).take == ()
    assert planner.plan(TableRows((row("a", owner="dead", heartbeat=2),)), {}, 115.0).take == ()
    assert [
        each.shard_id for each in planner.plan(TableRows((row("a", owner="dead", heartbeat=2),)), {}, 115.1).take
    ] == ["a"]


def test_dead_owners_do_not_count_when_balancing() -> None:
    """The share is over live owners: with one of two dead, the survivor takes all its shards."""
    planner = LeasePlanner("me", 10)
    rows = [row(name, owner="dead", heartbeat=1) for name in "abcd"]
    planner.plan(TableRows(tuple(rows)), {}, 0.0)
    assert len(planner.plan(TableRows(tuple(rows)), {}, 11.0).take) == 4
    halves = [row(name, owner="dead", heartbeat=1) for name in "abcd"] + [row(n, owner="alive") for n in "ef"]
    planner = LeasePlanner("me", 10)
    planner.plan(TableRows(tuple(halves)), {}, 0.0)
    moved = halves[:4] + [row(n, owner="alive", heartbeat=9) for n in "ef"]
    assert len(planner.plan(TableRows(tuple(moved)), {}, 11.0).take) == 3


def test_a_newcomer_leaves_nothing_of_who_leaves_to_the_dead() -> None:
    """A presence that may be a dead worker's takes no part of the shards that wait to be asked for, until it moves."""
    rows = [row(name, owner="leaves") for name in "abcdef"] + [row(name, owner="stays") for name in "ghijkl"]

    def asked(planner: LeasePlanner, now: float, heartbeat: int, *names: str) -> int:
        presences = [Presence(name, heartbeat) for name in names] + [Presence("leaves", 1, is_leaving=True)]
        plan = planner.plan(TableRows(tuple(rows), tuple(presences)), {}, now)
        return sum(each.owner == "leaves" for each in plan.ask)

    assert asked(LeasePlanner("me", 15), 0, 1) == 6
    assert asked(LeasePlanner("me", 15), 0, 1, "dead") == 6
    planner = LeasePlanner("me", 15)
    assert asked(planner, 0, 1, "alive") == 6
    assert asked(planner, 1, 2, "alive") == 4, "its presence has moved"
    assert asked(planner, 2, 2, "alive", "newcomer") == 3, "it was not there before"


def test_planner_knows_what_is_lost() -> None:
    """A row that is gone, at a higher epoch, or somebody else's is lost; one we have just finished is not."""
    planner = LeasePlanner("me", 10)
    rows = [
        row("mine", owner="me", epoch=2),
        row("taken", owner="other", epoch=3),
        row("ours", owner="other", epoch=2),
        row("ended", SHARD_END, epoch=2),
    ]
    running = {"mine": 2, "taken": 2, "ours": 2, "gone": 1, "ended": 2}
    assert planner.plan(TableRows(tuple(rows)), running, 0.0).lost == ("taken", "ours", "gone")


def test_tracker_follows_the_contiguous_prefix() -> None:
    """The watermark stops before the first unit that waits for a receipt, whatever came after it."""
    tracker = CheckpointTracker()
    units = []
    for number in (1, 2, 3):
        unit = tracker.begin()
        tracker.expect(unit)
        assert not tracker.seal(unit, Position(number, number))
        units.append(unit)
    assert not tracker.acknowledge(units[2])
    assert not tracker.acknowledge(units[1])
    assert tracker.watermark is None
    assert tracker.acknowledge(units[0])
    assert tracker.watermark == Position(3, 3)
    assert tracker.covers(Position(3, 3))
    assert not tracker.covers(Position(3, 4))
    assert tracker.in_flight == 0


def test_an_open_unit_holds_the_watermark() -> None:
    """A unit that may still grow is not done, even if all its receipts so far have come."""
    tracker = CheckpointTracker()
    unit = tracker.begin()
    tracker.expect(unit)
    assert not tracker.acknowledge(unit)
    assert tracker.watermark is None
    assert tracker.seal(unit, Position(1))


def test_pacer_keeps_the_services_limits() -> None:
    """Five calls a second, 2 MiB a second after big answers, longer and longer pauses where nothing comes."""
    pacer = ReadPacer(pause_seconds=0.2, idle_seconds=1.0)
    assert pacer.next_deadline() <= 0
    pacer.take_page(10.0, page_bytes=1000, record_count=5, behind_milliseconds=0)
    assert pacer.next_deadline() == pytest.approx(10.2)
    pacer.take_page(10.0, page_bytes=GET_RECORDS_BYTES_MAX, record_count=5, behind_milliseconds=9)
    assert pacer.next_deadline() == pytest.approx(15.0)
    pauses = []
    for _ in range(5):
        pacer.take_page(20.0, page_bytes=0, record_count=0, behind_milliseconds=0)
        pauses.append(pacer.next_deadline() - 20.0)
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0])
    pacer.take_page(20.0, page_bytes=0, record_count=0, behind_milliseconds=7)
    assert pacer.next_deadline() == pytest.approx(20.2)
    pacer.take_throttle(30.0, 0.01)
    assert pacer.next_deadline() == pytest.approx(30.2)


def test_a_probe_and_the_call_behind_it_are_two_of_five_a_second() -> None:
    """The service counts both, so that the pause behind them is that of two calls."""
    pacer = ReadPacer(pause_seconds=0.2, idle_seconds=1.0)
    pauses = []
    for is_probe in (True, False, False):
        pacer.take_page(10.0, page_bytes=0, record_count=1, behind_milliseconds=0, is_probe=is_probe)
        pauses.append(pacer.next_deadline() - 10.0)
    assert pauses == pytest.approx([0.0, 0.4, 0.2])


def test_a_hurry_ends_the_idle_pause_under_way_and_no_other() -> None:
    """A shard whose hand-over is called off is idle again, and leaves others their calls; so does a throttled one."""
    pacer = ReadPacer(pause_seconds=0.2, idle_seconds=1.0)
    for _ in range(4):
        pacer.take_page(10.0, page_bytes=0, record_count=0, behind_milliseconds=0)
    pacer.hurry()
    assert pacer.next_deadline() == pytest.approx(10.2)
    pauses = []
    for _ in range(4):
        pacer.take_page(20.0, page_bytes=0, record_count=0, behind_milliseconds=0)
        pauses.append(pacer.next_deadline() - 20.0)
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.0])
    pacer.take_throttle(30.0, 0.5)
    pacer.hurry()
    assert pacer.next_deadline() == pytest.approx(30.5)


def batch_of(size: int, records: int) -> Batch:
    """Return a batch opened at 0 with `size` bytes of lines."""
    batch = Batch(0.0, keeps_lines=True)
    if records:
        batch.open(Position(1), 0.0)
        batch.extend(Position(records), records, 1.0)
    if size:
        batch.append("USA", b"x" * size, 1, 1.0)
    return batch


def test_roll_policy_aims_at_a_size_after_compression() -> None:
    """The largest object closes the batch once its bytes times the learned ratio reach the target."""
    policy = RollPolicy(bytes_max=10_000, records_max=10, seconds_max=60, object_bytes_target=100)
    assert policy.is_due(batch_of(100, 1), now=0)
    assert not policy.is_due(batch_of(199, 1), now=0, ratio=0.5)
    assert policy.is_due(batch_of(200, 1), now=0, ratio=0.5)


def test_roll_policy_closes_before_the_names_outgrow_the_lease_row() -> None:
    """However many objects a batch has, their names fit into the row that pins them."""
    policy = RollPolicy(bytes_max=10**9, records_max=10**9, seconds_max=60)
    batch = batch_of(1, 1)
    while not policy.is_due(batch, now=0):
        batch.append(f"USA/{len(batch.slots):064}", b"{}\n", 1, 1.0)
        assert len(batch.slots) < 10_000
    assert len(batch.slots) > 500


def test_ratios_are_learned_per_destination() -> None:
    """Partitions share what their destination taught; tiny objects and other destinations teach nothing."""
    ratios = CompressionRatios()
    ratios.learn("USA/a", 100, 90)
    assert ratios.of("USA/b") == 1.0
    ratios.learn("USA/a", 10_000, 1_000)
    assert ratios.of("USA/b") == pytest.approx(0.1)
    ratios.learn("USA/b", 10_000, 2_000)
    assert ratios.of("USA") == pytest.approx(0.13)
    assert ratios.of("International") == 1.0


def test_roll_policy_closes_by_the_first_bound() -> None:
    """Bytes, records or age close a batch; an empty one is never due."""
    policy = RollPolicy(bytes_max=100, records_max=10, seconds_max=60)
    assert policy.is_due(batch_of(100, 1), now=0)
    assert policy.is_due(batch_of(0, 10), now=0)
    assert policy.is_due(batch_of(0, 1), now=60)
    assert not policy.is_due(batch_of(99, 9), now=59.9)
    assert not policy.is_due(batch_of(0, 0), now=1e9)
    assert (policy.room(3), policy.next_deadline(5)) == (7, 65)


def test_breaker_opens_above_the_share_and_the_minimum() -> None:
    """50 of 1,000 are 5 % and pass; 51 open it; 49 failures alone say nothing."""
    breaker = CircuitBreaker(window_records=1000, failed_percent=5)
    for _ in range(49):
        breaker.fail()
    assert not breaker.is_open
    breaker = CircuitBreaker(window_records=1000, failed_percent=5)
    breaker.succeed(949)
    for _ in range(50):
        breaker.fail()
    assert breaker.is_open
    breaker.succeed(1)
    assert not breaker.is_open
    breaker.fail()
    assert breaker.is_open
    breaker.succeed(1000)
    assert (breaker.is_open, breaker.failed, breaker.counted) == (False, 0, 1000)


def stream_record(number: int, data: bytes) -> StreamRecord:
    """Return a stream record."""
    return StreamRecord(data, "k", number, 1.0)


def aggregate(count: int, size: int = 2) -> bytes:
    """Return an aggregate of `count` records of `size` bytes."""
    made = Aggregate()
    for _ in range(count):
        made.append(b"x" * size, "k")
    return made.encode().data


def test_chunks_are_bounded_and_complete() -> None:
    """Chunks hold every record once, in order, within count and (but for the last record) bytes."""
    page = [stream_record(1, aggregate(600)), stream_record(2, b"x"), stream_record(3, aggregate(40, 20_000))]
    chunks = list(cut(page, None))
    positions = [chunk.position(index) for chunk in chunks for index in range(len(chunk))]
    assert positions == [Position(1, n) for n in range(600)] + [Position(2)] + [Position(3, n) for n in range(40)]
    assert all(len(chunk) <= 256 for chunk in chunks)
    assert all(sum(map(len, chunk.datas)) < CHUNK_BYTES_MAX + 20_000 for chunk in chunks)
    assert [chunk.last for chunk in chunks] == [chunk.position(len(chunk) - 1) for chunk in chunks]


def test_chunks_leave_out_what_is_done_and_what_is_beyond() -> None:
    """Bounds are positions: an aggregate is cut inside."""
    page = [stream_record(1, b"x"), stream_record(2, aggregate(5)), stream_record(3, b"y"), stream_record(4, b"z")]
    found = [
        chunk.position(index)
        for chunk in cut(page, None, after=Position(2, 1), through=Position(3), records_max=2)
        for index in range(len(chunk))
    ]
    assert found == [Position(2, 2), Position(2, 3), Position(2, 4), Position(3)]
    assert list(cut(page, None, after=Position(4))) == []


def test_an_aggregate_of_another_shard_is_one_dead_letter() -> None:
    """Members outside the shard are not delivered one by one."""
    low, high = even_ranges(2)
    found = [next(iter(cut([stream_record(1, aggregate(3))], each))) for each in (low, high)]
    assert sorted((len(chunk), len(chunk.refused)) for chunk in found) == [(1, 1), (3, 0)]
    refused = next(chunk for chunk in found if chunk.refused)
    assert refused.refused[0][0] == "member-outside-shard"
    assert refused.datas == [aggregate(3)]


def test_marks_drop_repetitions_per_lane() -> None:
    """An offset at or below the mark of its (source, lane) is a duplicate; other lanes and foreign ids are not."""
    marks = DuplicateMarks({})
    assert not marks.is_duplicate("web.07.100")
    assert marks.is_duplicate("web.07.100")
    assert marks.is_duplicate("web.07.0")
    assert not marks.is_duplicate("web.08.50")
    assert not marks.is_duplicate("web.07.101")
    for foreign in (
        "order-17",
        "web.-.5",
        "web.07.x",
        "web.07.",
        "web.07.007",
        "Web.07.1",
        "web.7.1",
        "web.07.9" + "9" * 18,
    ):
        assert not marks.is_duplicate(foreign)
        assert not marks.is_duplicate(foreign)
    assert marks.snapshot() == {"web.07": 101, "web.08": 50}


def test_marks_forget_the_source_that_was_silent_longest() -> None:
    """The stored mapping is bounded; a source is forgotten whole, and the order survives storing."""
    marks = DuplicateMarks({}, bytes_max=300)
    for source in ("a", "b", "c"):
        for lane in range(3):
            marks.is_duplicate(f"{source}.{lane:02x}.5")
    marks.is_duplicate("a.00.6")
    restored = DuplicateMarks(orjson.loads(orjson.dumps(dict(marks.snapshot()))), bytes_max=300)
    for each in (marks, restored):
        each.is_duplicate("d.00.1")
        each.is_duplicate("d.01.1")
    assert marks.snapshot() == restored.snapshot()
    assert list(marks.snapshot()) == list(restored.snapshot())
    assert "b.00" not in marks.snapshot()
    assert marks.snapshot()["a.00"] == 6
    assert marks.forgotten == 1


@given(st.lists(st.integers(1, 70_000), max_size=8))
def test_a_batch_keeps_long_and_short_texts_in_their_order(sizes: list[int]) -> None:
    """What an object gets is what was added, whatever the length of its parts; then the batch has forgotten it."""
    batch = Batch(0.0, keeps_lines=True)
    texts = [bytes([65 + number]) * (size - 1) + b"\n" for number, size in enumerate(sizes)]
    for text in [b"first\n", *texts]:
        batch.append("USA", text, 1, 1.0)
    expected = b"".join([b"first\n", *texts])
    assert batch.size == len(expected) == batch.largest[1]
    assert b"".join(batch.blocks_of("USA")) == expected
    assert all(bytes(block[-1:]) in {b"\n", b""} for block in batch.blocks_of("USA"))
    assert (batch.take_lines("USA"), batch.take_lines("USA")) == (expected, b"")


def test_a_batch_is_charged_at_least_what_its_partitions_take() -> None:
    """Ten thousand open partitions hold no more memory than the budget is told."""
    gc.collect()
    tracemalloc.start()
    try:
        batch = Batch(0.0, keeps_lines=True)
        for number in range(10_000):
            for _ in range(3):
                batch.append(f"International/customer-{number}", b"x" * 301, 1, 1.0)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(batch.slots) == 10_000
    assert used <= batch.held_bytes
    assert batch.held_bytes <= 2 * used


def test_rows_of_a_former_stream_are_recognised() -> None:
    """Other hash keys, or an end that was stored long before the shard was closed, are not of this stream."""
    low, high = even_ranges(2)
    shards = [Shard("a", low), Shard("b", high), Shard("c", low), Shard("d", high), Shard("e", high)]
    leases = {
        "a": Lease("a", hash_key_range=low),
        "b": Lease("b", hash_key_range=low),
        "c": Lease("c", checkpoint=SHARD_END, hash_key_range=low, finished_at=99.0),
        "d": Lease("d", checkpoint=SHARD_END, hash_key_range=high, finished_at=100.0),
    }
    assert of_former_stream(shards, leases, finished_before=100.0) == ["b", "c"]
