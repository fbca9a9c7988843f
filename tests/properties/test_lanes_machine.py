"""The lane queues under any puts, takes and answers: order per key, one flight per lane, bounded bytes."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from producer.core.lane import Lane
from producer.core.lanes import RECORD_OVERHEAD_BYTES, LaneQueues
from producer.core.record_columns import RecordColumns, Ticket
from shared.errors import PartitionKeyError, RecordTooLargeError
from shared.event import event_id_heads
from shared.hash_key import hash_key_of
from shared.lanes import WHOLE, LaneDivision
from shared.limits import HASH_KEY_MAX, KIB
from tests.support.ways import way  # noqa: F401 - each test is run both ways

KEYS = [f"key-{number}" for number in range(200)]
CUT = LaneDivision.along(range(1, 2**128, 2**116))  # sixteen parts in each lane
LANES_OF = {division: {key: division.index_of(hash_key_of(key)) for key in KEYS} for division in (WHOLE, CUT)}
# Lanes with several keys, so that keys meet in one lane; and some with one.
SHARED = [key for key in KEYS if list(LANES_OF[WHOLE].values()).count(LANES_OF[WHOLE][key]) > 1][:8]
CHOSEN = [*SHARED, *[key for key in KEYS if key not in SHARED][:4]]
RECORD_BYTES_MAX = 4 * KIB
HEADS = {division: event_id_heads("machine", division, has_lanes=True) for division in (WHOLE, CUT)}
TOGETHER = (print, "together"), (print, "together")


@dataclass
class Flight:
    """Records of one lane that were sent together."""

    lane: Lane
    records: RecordColumns

    @property
    def numbers(self) -> list[int]:
        """The numbers of its records."""
        return numbers_of(self.records)


def numbers_of(records: RecordColumns) -> list[int]:
    """Return the numbers that records were put with."""
    return [int(data.partition(b":")[0]) for data in records.datas]


class LanesMachine(RuleBasedStateMachine):
    """The rules play the batcher: they take lanes, send a part of each, and tell the outcomes in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.count = 0
        self.waiting: dict[int, deque[int]] = {}  # lane -> numbers accepted and not delivered, in order
        self.sizes: dict[int, int] = {}
        self.tickets: list[Ticket | None] = []  # of each number
        self.flights: list[Flight] = []
        self.queues = LaneQueues(buffer_bytes_max=0, record_bytes_max=RECORD_BYTES_MAX)
        self.used: list[Lane] = []

    @initialize(room=st.sampled_from([1, 4 * KIB, 64 * KIB]), lanes=st.sampled_from([WHOLE, CUT]))
    def start(self, room: int, lanes: LaneDivision) -> None:
        """Make the queues."""
        self.room = room
        self.lanes = lanes
        self.lane_of = LANES_OF[lanes]
        self.queues = LaneQueues(buffer_bytes_max=room, record_bytes_max=RECORD_BYTES_MAX)
        self.queues.divide(lanes)
        # A record in any other lane would be missing in these; to look at 4,096 after each step takes most of the time.
        self.used = [self.queues.lanes[index] for index in sorted({self.lane_of[key] for key in CHOSEN})]

    @rule(
        key=st.sampled_from(CHOSEN),
        size=st.sampled_from([0, 10, 300, 3000]),
        count=st.integers(1, 5),
        spread=st.booleans(),
        asks=st.booleans(),
    )
    def put(self, key: str, size: int, count: int, spread: bool, asks: bool) -> None:
        """Put records of a key; an explicit hash key leaves them in the lane of the partition key."""
        for _ in range(count):
            data = b"%d:" % self.count + bytes(size)
            explicit = HASH_KEY_MAX - self.count if spread else None
            ticket = (print, self.count) if asks else None
            is_accepted = self.queues.accept(data, key, ticket, explicit)
            self.queues.stamp(self.now)
            assert is_accepted == self.has_room(len(data) + len(key))
            if is_accepted:
                self.note(key, len(data) + len(key), ticket)

    def has_room(self, size: int) -> bool:
        """Whether a record fits into the buffer."""
        cost = sum(self.sizes.values()) + size + len(self.sizes) * RECORD_OVERHEAD_BYTES
        return not self.sizes or cost <= self.room

    def note(self, key: str, size: int, ticket: Ticket | None) -> None:
        """Take down the record that was accepted just now."""
        self.tickets.append(ticket)
        self.waiting.setdefault(self.lane_of[key], deque()).append(self.count)
        self.sizes[self.count] = size
        self.count += 1

    @rule(
        keys=st.lists(st.sampled_from(CHOSEN), max_size=40),
        size=st.sampled_from([0, 10, 300, 3000, RECORD_BYTES_MAX]),
        first=st.sampled_from([None, 0, 7, 990, 123_998]),
        asks=st.booleans(),
        is_range=st.booleans(),
        wrong=st.integers(0, 200),
    )
    def put_all(self, keys: list[str], size: int, first: int | None, asks: bool, is_range: bool, wrong: int) -> None:
        """Put records together, perhaps as events that get their ids now, perhaps with a key that is none."""
        datas = [b"%d:" % (self.count + index) + bytes(size) for index in range(len(keys))]
        keys = [*keys[:wrong], "", *keys[wrong + 1 :]] if wrong < len(keys) else keys
        numbers = range(first or 0, (first or 0) + len(keys))
        numbering = None if first is None else (HEADS[self.lanes], numbers if is_range else list(numbers))
        ticket = TOGETHER[self.count % 2] if asks else None
        accepted = self.queues.accept_all(datas, keys, ticket, numbering)
        self.queues.stamp(self.now)
        for data, key, number in zip(datas, keys, numbers, strict=True):
            if not key:
                break
            extra = 0 if first is None else len(HEADS[self.lanes][self.lane_of[key]]) + len(str(number)) + 2
            bytes_now = len(data) + extra + len(key)
            if bytes_now > RECORD_BYTES_MAX or not self.has_room(bytes_now):
                break
            self.note(key, bytes_now, ticket)
            accepted -= 1
        assert accepted == 0, "more or fewer were accepted than one by one"

    @rule(kind=st.sampled_from(["large", "no key", "long key", "surrogate", "hash key"]))
    def put_wrong(self, kind: str) -> None:
        """Put what no stream takes: refused, and nothing changes."""
        data = bytes(RECORD_BYTES_MAX) if kind == "large" else b"x"
        key = {"no key": "", "long key": "k" * 257, "surrogate": "\ud800"}.get(kind, CHOSEN[0])
        explicit = HASH_KEY_MAX + 1 if kind == "hash key" else None
        with pytest.raises(RecordTooLargeError if kind == "large" else PartitionKeyError):
            self.queues.accept(data, key, None, explicit)

    @rule(seconds=st.sampled_from([0.01, 1.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @precondition(lambda self: self.queues.ready)
    @rule(most=st.integers(1, 4), skipped=st.integers(0, 3))
    def send(self, most: int, skipped: int) -> None:
        """Send the first records of each ready lane, except for some lanes for which there is no room."""
        untouched = []
        for index, lane in enumerate(self.queues.take_ready()):
            assert not lane.is_blocked, "a lane in flight is sent from"
            assert len(lane.records), "an empty lane is ready"
            if index < skipped:
                untouched.append(lane)
                continue
            records = RecordColumns()
            lane.move_to(records, min(most, len(lane.records)))
            lane.is_blocked = True
            self.flights.append(Flight(lane, records))
            # What is sent is the oldest that was not delivered: nothing of the lane was passed by, nothing is lost.
            oldest = list(self.waiting[lane.index])[: len(records)]
            assert numbers_of(records) == oldest
            told = [records.ticket(index) for index in range(len(records))]
            assert told == [self.tickets[number] for number in oldest], "a ticket went to another record"
        for lane in untouched:
            self.queues.make_ready(lane)

    @precondition(lambda self: self.flights)
    @rule(number=st.integers(0, 20))
    def deliver(self, number: int) -> None:
        """Everything of a flight arrived."""
        flight = self.flights.pop(number % len(self.flights))
        for each in flight.numbers:
            assert self.waiting[flight.lane.index].popleft() == each
        self.queues.settle(len(flight.records), sum(self.sizes.pop(each) for each in flight.numbers))
        self.queues.release([flight.lane])

    @precondition(lambda self: self.flights)
    @rule(number=st.integers(0, 20), released_first=st.booleans())
    def return_all(self, number: int, released_first: bool) -> None:
        """A flight is given up to be grouped anew, in front of what was put since."""
        flight = self.flights.pop(number % len(self.flights))
        if released_first:  # as it is where no order is kept: lanes are not blocked then
            self.queues.release([flight.lane])
        self.queues.return_to_front(flight.records)
        self.queues.release([flight.lane])

    @invariant()
    def books_balance(self) -> None:
        """Counts, bytes and the ready lanes are what the records themselves say."""
        queues, used = self.queues, self.used
        ready = [lane for lane in used if len(lane.records) and not lane.is_blocked]
        assert sorted(lane.index for lane in queues.ready) == [lane.index for lane in ready]
        assert queues.ready_count == sum(len(lane.records) for lane in ready)
        assert queues.ready_bytes == sum(lane.records.size for lane in ready)
        assert queues.ready_since == min((lane.ready_since for lane in queues.ready), default=float("inf"))
        assert queues.pending_count == len(self.sizes)
        assert queues.pending_bytes == sum(self.sizes.values())
        assert queues.accepted == self.count
        assert queues.queued == sum(len(lane.records) for lane in used)
        assert len({flight.lane.index for flight in self.flights}) == len(self.flights)

    @invariant()
    def every_record_waits_in_its_place(self) -> None:
        """In flight first, then queued: together all that was accepted and not delivered, in the order of the puts."""
        found: dict[int, list[int]] = {}
        for flight in self.flights:
            found[flight.lane.index] = flight.numbers
        for lane in self.used:
            if len(lane.records):
                waiting = numbers_of(lane.records)
                found.setdefault(lane.index, []).extend(waiting)
                assert lane.records.size == sum(self.sizes[number] for number in waiting)
        assert found == {lane: list(numbers) for lane, numbers in self.waiting.items() if numbers}

    def teardown(self) -> None:
        """Whatever happened, all that was accepted can be delivered."""
        for _ in range(2 * self.count + 2):
            while self.flights:
                self.deliver(0)
            if not self.queues.ready:
                break
            self.send(4, 0)
        assert self.sizes == {}
        assert not any(len(lane.records) for lane in self.queues.lanes)
        assert (self.queues.pending_count, self.queues.pending_bytes, self.queues.queued) == (0, 0, 0)
        assert self.queues.ready_since == float("inf")


def walk(seed: int) -> None:
    """Take a long random walk through the machine's rules."""
    chance = random.Random(seed)
    machine = LanesMachine()
    machine.start((1, 4 * KIB, 64 * KIB)[seed % 3], CUT if seed % 5 == 0 else WHOLE)
    for _ in range(60):
        if chance.random() < 0.5:
            machine.put(
                chance.choice(CHOSEN),
                chance.choice((0, 10, 300, 3000)),
                chance.randint(1, 5),
                chance.random() < 0.1,
                chance.random() < 0.5,
            )
        else:
            machine.put_all(
                chance.choices(CHOSEN, k=chance.randrange(30)),
                chance.choice((0, 10, 300, RECORD_BYTES_MAX)),
                chance.choice((None, 0, 7, 990, 123_998)),
                chance.random() < 0.3,
                chance.random() < 0.7,
                chance.randrange(200),
            )
        if machine.queues.ready and chance.random() < 0.6:
            machine.send(chance.randint(1, 4), chance.randint(0, 2))
        while machine.flights and chance.random() < 0.5:
            if chance.random() < 0.7:
                machine.deliver(chance.randrange(20))
            else:
                machine.return_all(chance.randrange(20), chance.random() < 0.5)
        machine.books_balance()
        machine.every_record_waits_in_its_place()
    machine.teardown()


def test_long_walks_keep_order_and_bounds() -> None:
    """In many seeded walks of 60 rounds no record is lost, passed by or held beyond the bound."""
    for seed in range(100):
        try:
            walk(seed)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


def test_any_steps_keep_order_and_bounds() -> None:
    """Whatever hypothesis comes upon."""
    run_state_machine_as_test(LanesMachine, settings=settings(max_examples=300, stateful_step_count=40, deadline=None))  # type: ignore[no-untyped-call]
