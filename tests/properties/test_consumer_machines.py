"""Any order of events leaves the consumer's cores consistent: shard graph, tracker, marks, batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumer.core.batch import Batch
from consumer.core.checkpoint_tracker import CheckpointTracker, Unit
from consumer.core.chunk import cut
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.roll_policy import RollPolicy
from consumer.core.shard_graph import may_start, rows_to_create
from shared.event import EventId
from shared.lease import AT_LATEST, AT_TRIM_HORIZON, SHARD_END, Checkpoint, Lease
from shared.records import Position, Shard, StreamRecord
from tests.support.aggregate import Aggregate


class ShardGraphMachine(RuleBasedStateMachine):
    """A stream that splits, merges and trims while a consumer creates rows and finishes shards."""

    def __init__(self) -> None:
        super().__init__()
        self.shards: dict[str, Shard] = {}
        self.rows: dict[str, Lease] = {}
        self.names: Iterator[int] = count()
        self.initial: Checkpoint = AT_TRIM_HORIZON
        self.since_start: set[str] = set()  # shards made after the first listing
        self.started = False

    def add(self, *parents: str) -> None:
        """Open a shard."""
        name = f"shard-{next(self.names):03d}"
        first, second = (*parents, None, None)[:2]
        self.shards[name] = Shard(name, parent_shard_id=first, adjacent_parent_shard_id=second)
        if self.started:
            self.since_start.add(name)

    def close(self, name: str) -> None:
        """Close a shard."""
        self.shards[name] = replace(self.shards[name], ending_sequence_number=1)

    @property
    def open(self) -> list[str]:
        """Open shards."""
        return [name for name, each in self.shards.items() if each.is_open]

    @initialize(latest=st.booleans(), shards=st.integers(1, 3))
    def begin(self, latest: bool, shards: int) -> None:
        """Make the stream."""
        self.initial = AT_LATEST if latest else AT_TRIM_HORIZON
        for _ in range(shards):
            self.add()

    @rule(data=st.data())
    def split(self, data: st.DataObject) -> None:
        """Split a shard."""
        name = data.draw(st.sampled_from(self.open))
        self.close(name)
        self.add(name)
        self.add(name)

    @precondition(lambda self: len(self.open) > 1)
    @rule(data=st.data())
    def merge(self, data: st.DataObject) -> None:
        """Merge two shards."""
        first, second = data.draw(st.permutations(self.open))[:2]
        self.close(first)
        self.close(second)
        self.add(first, second)

    @rule()
    def sync(self) -> None:
        """List shards and create rows; a second look finds nothing to do."""
        created = rows_to_create(self.shards.values(), self.rows, self.initial)
        for each in created:
            for parent in each.parents:
                if parent in self.rows:
                    assert self.rows[parent].checkpoint.is_shard_end
            if each.shard_id in self.since_start:
                assert each.checkpoint == AT_TRIM_HORIZON
            self.rows[each.shard_id] = each
        self.started = True
        assert rows_to_create(self.shards.values(), self.rows, self.initial) == ()

    @precondition(lambda self: any(not self.shards[name].is_open for name in self.rows if name in self.shards))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """Read a closed shard to its end."""
        ended = [name for name in self.rows if name in self.shards and not self.shards[name].is_open]
        name = data.draw(st.sampled_from(ended))
        if may_start(self.rows[name], self.rows):
            self.rows[name] = replace(self.rows[name], checkpoint=SHARD_END)

    @precondition(lambda self: any(row.checkpoint.is_shard_end for row in self.rows.values()))
    @rule(data=st.data())
    def trim(self, data: st.DataObject) -> None:
        """Let a finished shard fall out of retention, and with it its row, as a tombstone does."""
        ended = sorted(name for name, row in self.rows.items() if row.checkpoint.is_shard_end)
        name = data.draw(st.sampled_from(ended))
        children = [each for each in self.shards.values() if name in each.parents]
        if all(child.shard_id in self.rows for child in children):
            self.shards.pop(name, None)
            del self.rows[name]

    @invariant()
    def every_open_shard_is_reached(self) -> None:
        """Reading on for long enough gives every open shard a row: nothing is blocked for ever."""
        rows = dict(self.rows)
        for _ in range(len(self.shards) + 1):
            for each in rows_to_create(self.shards.values(), rows, self.initial):
                rows[each.shard_id] = each
            for name, row in rows.items():
                if name in self.shards and not self.shards[name].is_open and may_start(row, rows):
                    rows[name] = replace(row, checkpoint=SHARD_END)
        assert set(self.open) <= set(rows)


TestShardGraph = ShardGraphMachine.TestCase


class TrackerMachine(RuleBasedStateMachine):
    """Units are sealed in order and acknowledged in any."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = CheckpointTracker()
        self.units: list[tuple[Unit, Position | None]] = []
        self.next = count(1)

    @rule(receipts=st.integers(0, 3), sub=st.integers(0, 5))
    def read(self, receipts: int, sub: int) -> None:
        """Read a unit."""
        unit = self.tracker.begin()
        for _ in range(receipts):
            self.tracker.expect(unit)
        last = Position(next(self.next), sub)
        self.tracker.seal(unit, last)
        self.units.append((unit, last))

    @precondition(lambda self: self.units and not self.units[-1][0].is_done)
    @rule(receipts=st.integers(0, 3), data=st.data())
    def read_more(self, receipts: int, data: st.DataObject) -> None:
        """Let more records join the newest unit; receipts that come meanwhile finish nothing behind its old end."""
        unit, last = self.units[-1]
        before = self.tracker.watermark
        self.tracker.reopen(unit)
        self.tracker.expect(unit, receipts)
        received = data.draw(st.integers(0, unit.outstanding))
        assert not (received and self.tracker.acknowledge(unit, received))
        assert self.tracker.watermark == before
        last = Position(next(self.next), 0)
        self.tracker.seal(unit, last)
        self.units[-1] = (unit, last)

    @precondition(lambda self: any(unit.outstanding for unit, _ in self.units))
    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        """Take a receipt."""
        waiting = [unit for unit, _ in self.units if unit.outstanding]
        self.tracker.acknowledge(waiting[data.draw(st.integers(0, len(waiting) - 1))])

    @invariant()
    def watermark_is_the_end_of_the_prefix(self) -> None:
        """The watermark is the last of the leading units that have all their receipts."""
        expected = None
        for unit, last in self.units:
            if unit.outstanding:
                break
            expected = last
        assert expected == self.tracker.watermark


TestTracker = TrackerMachine.TestCase

EVENTS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3), st.integers(0, 30)), max_size=80)


def event_id_of(source: str, lane: int, offset: int) -> str:
    """Return an id; some sources have their lanes in parts."""
    return str(EventId(source, lane, offset, lane % 3 if source > "c" else None))


@given(EVENTS)
def test_marks_drop_exactly_what_does_not_rise(events: list[tuple[str, int, int]]) -> None:
    """Without a bound, an event is a duplicate if and only if its offset is not above all before it in its lane."""
    marks = DuplicateMarks({})
    highest: dict[tuple[str, int], int] = {}
    for source, lane, offset in events:
        expected = offset <= highest.get((source, lane), -1)
        assert expected == marks.is_duplicate(event_id_of(source, lane, offset))
        highest[source, lane] = max(offset, highest.get((source, lane), -1))
    assert marks.snapshot() == {
        event_id_of(source, lane, 0).removesuffix(".0"): mark for (source, lane), mark in highest.items()
    }


@given(EVENTS, EVENTS)
def test_marks_continue_from_their_stored_form(
    before: list[tuple[str, int, int]], after: list[tuple[str, int, int]]
) -> None:
    """A new owner decides on every event as the old one would have, even where sources were forgotten."""
    old = DuplicateMarks({}, bytes_max=150)
    for each in before:
        old.is_duplicate(event_id_of(*each))
    new = DuplicateMarks(old.snapshot(), bytes_max=150)
    for each in after:
        event_id = event_id_of(*each)
        assert old.is_duplicate(event_id) == new.is_duplicate(event_id)
    assert list(old.snapshot().items()) == list(new.snapshot().items())


_NO_IDS = st.sampled_from(
    (None, 7, "", ".", "a.00.", "a.00.x", "a.00.07", "a.00.\u0663", "order-17", "a.-.3", "a.00.1.2")
)
_ANY_IDS = st.builds(
    "{}.{:02x}.{}".format,
    st.sampled_from("abc"),
    st.integers(0, 2),
    st.integers(0, 30) | st.sampled_from((10**18 - 1, 10**18, 2**63 - 1, 2**63)),
)


_LIKE_OURS = st.builds(
    "{}.{}.{}".format, st.sampled_from("ab"), st.sampled_from(("00", "01", "-", "x")), st.integers(1, 30)
)


@given(st.lists(st.lists(_NO_IDS | _ANY_IDS, max_size=12) | st.lists(_LIKE_OURS, max_size=12), max_size=4))
def test_marks_judge_a_chunk_as_they_judge_one_by_one(chunks: list[list[object]]) -> None:
    """Which events are duplicates, and what is forgotten, does not depend on how they are cut into chunks."""
    one_by_one, together = (DuplicateMarks({}, bytes_max=120) for _ in range(2))
    for chunk in chunks:
        expected = {
            index for index, each in enumerate(chunk) if isinstance(each, str) and one_by_one.is_duplicate(each)
        }
        assert expected == together.repeated(chunk)
        assert list(one_by_one.snapshot().items()) == list(together.snapshot().items())
        assert one_by_one.forgotten == together.forgotten


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(1, 7), st.data())
def test_a_page_cut_anywhere_loses_and_repeats_nothing(
    sizes: list[int], chunk_records: int, data: st.DataObject
) -> None:
    """What lies up to a position and what lies after it are together the whole page, in order."""
    page = []
    for number, size in enumerate(sizes, 1):
        aggregate = Aggregate()
        for index in range(size):
            aggregate.append(b"%d" % index, "k")
        page.append(StreamRecord(aggregate.encode().data, "k", number, 1.0))
    whole = [Position(number, index) for number, size in enumerate(sizes, 1) for index in range(size)]
    at = data.draw(st.sampled_from(whole))
    first, rest = (
        [
            each.position(index)
            for each in cut(page, None, **bound, records_max=chunk_records)
            for index in range(len(each))
        ]
        for bound in ({"through": at}, {"after": at})
    )
    assert first + rest == whole
    assert first[-1] == at


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 20)), max_size=40))
def test_no_batch_outgrows_its_bounds(steps: list[tuple[int, float]]) -> None:
    """Adding only while a batch is not due keeps it within records and age, give or take its last step."""
    policy = RollPolicy(bytes_max=200, records_max=5, seconds_max=30)
    now = 0.0
    batch = Batch(now, keeps_lines=True)
    for number, (added, wait) in enumerate(steps, 1):
        if not batch.records:
            batch.open(Position(number), now)
        batch.append("USA", b"x" * added, 1, now)
        batch.extend(Position(number), 1, 1.0)
        assert batch.records <= 5
        assert batch.size - added < 200
        due = policy.is_due(batch, now=now)
        assert due == (batch.size >= 200 or batch.records >= 5 or now >= policy.next_deadline(batch.opened_at))
        if due:
            batch = Batch(now, keeps_lines=True)
        now += wait
