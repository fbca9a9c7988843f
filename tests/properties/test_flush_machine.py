"""Shard workers that die between any two steps of a flush: each event ends up in exactly one S3 object."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumer.archive import Archive
from consumer.budget import Budget
from consumer.core.object_format import Codec, ObjectFormat
from consumer.core.object_key import ObjectNames
from consumer.core.roll_policy import RollPolicy
from consumer.core.route import Router
from consumer.lease_table import LeaseTable
from consumer.retention import Retention
from consumer.retrier import Retrier
from consumer.shard_consumer import ShardConsumer
from consumer.shard_parts import ShardParts, ShardSettings
from consumer.shard_reader import ReadPorts, ReadSettings
from consumer.status import Counters
from shared.errors import LeaseLostError
from shared.lease import CheckpointKind, Lease
from shared.limits import MIB
from shared.records import Position, PutEntry
from shared.retry import Backoff
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import Process, SimulationLoop
from tests.support.aggregate import Aggregate
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_leases import FakeLeases
from tests.support.fake_objects import FakeObjects
from tests.support.held_network import AUTHOR, HeldCall, HeldNetwork
from tests.support.network import PerfectNetwork

STREAM = "source"
WORKERS = 2
WALL = 1_795_000_000.0
EVENTS_MAX = 60
DESTINATIONS = ("USA", "International")
SETTINGS = ShardSettings(
    roll=RollPolicy(bytes_max=10_000, records_max=3, seconds_max=5.0),
    chunk_records_max=256,
    breaker_window_records=1000,
    breaker_failed_percent=50.0,
    progress_timeout_seconds=300.0,
    read=ReadSettings(stream=STREAM, records_max=4, pause_seconds=0.2, idle_seconds=1.0, start_timestamp=0.0),
)


class LoopClock:
    """The loop's virtual time."""

    def __init__(self, loop: SimulationLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        """Return virtual seconds."""
        return self._loop.time()

    def wall(self) -> float:
        """Return virtual seconds after a fixed day."""
        return WALL + self._loop.time()


class Life:
    """One process at work on the shard: it takes the lease, processes, and gives the lease back when stopped."""

    def __init__(self, parts: ShardParts, table: LeaseTable) -> None:
        self.process = Process("worker")
        self.consumer: ShardConsumer | None = None
        self.epoch = 0
        self.task: Any = None
        self._parts = parts
        self._table = table

    async def run(self, seen: Lease) -> None:
        """Live; LeaseLostError if another one took over."""
        AUTHOR.set(self)
        held = await self._table.take(seen)
        if held is None:
            return
        self.epoch = held.epoch
        self.consumer = ShardConsumer(held, SETTINGS, self._parts)
        await self.consumer.run()
        await held.release()


class FlushMachine(RuleBasedStateMachine):
    """The real shard consumer over a lease row and a bucket whose every call is held until a rule decides on it."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SimulationLoop()
        self.network = HeldNetwork(wall=WALL)
        self.leases = FakeLeases(self.network)
        self.objects = FakeObjects(self.network)
        self.kinesis = FakeKinesis(PerfectNetwork(wall=WALL))
        self.kinesis.create_stream(STREAM)
        self.shard_id = next(iter(self.kinesis.streams[STREAM].shards))
        self.leases.rows[self.shard_id] = Lease(self.shard_id)
        self.lives: list[Life | None] = [None] * WORKERS
        self.telemetry = SilentTelemetry()
        self.events: list[tuple[Position, int]] = []  # in stream order, repetitions too
        self.count = 0
        self.made = 0
        self.stored: dict[str, bytes] = {}
        self.numbers: Counter[int] = Counter()  # event -> in how many objects it is

    @initialize(count=st.integers(0, 6))
    def start(self, count: int) -> None:
        """Begin with some events, and one worker that has the lease."""
        if count:
            self.put(count, aggregated=True, country="Spain")
        self.take(0)
        self.answer(0, "answer")

    # The stream.

    def _event(self, number: int, country: str) -> bytes:
        event_id = f"source-0.00.{number}"
        return orjson.dumps({"session_id": "a", "n": number, "country": country, "event_id": event_id})

    @precondition(lambda self: self.count < EVENTS_MAX)
    @rule(count=st.integers(1, 7), aggregated=st.booleans(), country=st.sampled_from(["USA", "Spain"]))
    def put(self, count: int, aggregated: bool, country: str) -> None:
        """Put new events: one stream record each, or together in one."""
        numbers = range(self.count, self.count + count)
        self.count += count
        self._put([(number, self._event(number, country)) for number in numbers], aggregated=aggregated)

    @precondition(lambda self: 0 < self.count < EVENTS_MAX)
    @rule(back=st.integers(1, 5), country=st.sampled_from(["USA", "Spain"]))
    def repeat(self, back: int, country: str) -> None:
        """Put the newest events again, as a producer does whose answer got lost."""
        numbers = range(max(0, self.count - back), self.count)
        self._put([(number, self._event(number, country)) for number in numbers], aggregated=True)

    def _put(self, events: list[tuple[int, bytes]], *, aggregated: bool) -> None:
        if not aggregated:
            for event in events:
                self._put([event], aggregated=True)
            return
        data = events[0][1]
        if len(events) > 1:
            aggregate = Aggregate()
            for _, each in events:
                aggregate.append(each, "a")
            data = aggregate.encode().data
        result = self.loop.run(self.kinesis.put_record(STREAM, PutEntry(data, "a")))
        for index, (number, _) in enumerate(events):
            self.events.append((Position(result.sequence_number, index), number))

    # The workers.

    @property
    def row(self) -> Lease:
        """The lease row as it is stored."""
        return self.leases.rows[self.shard_id]

    def _settle(self) -> None:
        self.loop.run(asyncio.sleep(2.0))
        self.network.sort()
        for number, life in enumerate(self.lives):
            if life is not None and life.task.done():
                self.lives[number] = None
                error = life.task.exception()
                assert error is None or (isinstance(error, LeaseLostError) and self.row.epoch > life.epoch), error

    @precondition(lambda self: None in self.lives)
    @rule(number=st.integers(0, WORKERS - 1))
    def take(self, number: int) -> None:
        """Start a worker that takes the lease, whoever has it."""
        if self.lives[number] is not None:
            number = self.lives.index(None)
        self.made += 1
        chance = random.Random(self.made)
        backoff = Backoff(0.1, 0.1)
        retrier = Retrier(backoff, chance, self.telemetry)
        names = ObjectNames(
            archive_prefix="archive/!{destination}/",
            error_prefix="errors/!{firehose:error-output-type}/",
            destinations=DESTINATIONS,
            extension=".json",
        )
        clock = LoopClock(self.loop)
        archive = Archive(
            objects=self.objects,
            names=names,
            retrier=retrier,
            clock=clock,
            telemetry=self.telemetry,
            hold_schema=self.leases.hold_schema,
            destinations=DESTINATIONS,
            format=ObjectFormat(codec=Codec.NONE),
        )
        parts = ShardParts(
            ports=ReadPorts(self.kinesis, retrier, clock, chance, self.telemetry, backoff),
            sinks={},
            archive=archive,
            router=Router(DESTINATIONS),
            budget=Budget(64 * MIB),
            counters=Counters(),
            retention=Retention(self.objects, "errors/", retrier=retrier, clock=clock, telemetry=self.telemetry),
        )
        life = Life(parts, LeaseTable(self.leases, retrier, worker_id=f"worker-{number}", random=chance))
        seen = self.row
        life.task = self.loop.spawn(life.process, lambda: life.run(seen))
        self.lives[number] = life
        self._settle()

    @precondition(lambda self: any(self.lives))
    @rule(number=st.integers(0, WORKERS - 1))
    def kill(self, number: int) -> None:
        """Kill a worker where it stands; what it had sent may still land."""
        life = self.lives[number]
        if life is not None:
            self.loop.kill(life.process)
            self.lives[number] = None
            self.network.sort()

    @precondition(lambda self: any(each is not None and each.consumer is not None for each in self.lives))
    @rule(number=st.integers(0, WORKERS - 1))
    def stop(self, number: int) -> None:
        """Ask a worker to stop."""
        life = self.lives[number]
        if life is not None and life.consumer is not None:
            life.consumer.stop()
            self._settle()

    @rule()
    def wait(self) -> None:
        """Let batches become old."""
        self.loop.run(asyncio.sleep(6.0))
        self._settle()

    # The network.

    @precondition(lambda self: self.network.waiting)
    @rule(number=st.integers(0, 9), fate=st.sampled_from(["answer", "answer", "answer", "lose", "delay", "refuse"]))
    def answer(self, number: int, fate: str) -> None:
        """Let a request land and be answered, land unheard, be given up before it lands, or fail."""
        call = self.network.waiting.pop(number % len(self.network.waiting))
        if fate in ("answer", "lose"):
            self._land(call, is_answered=fate == "answer")
        elif fate == "delay":
            call.lose()
            self.network.late.append(call)
        else:
            call.refuse()
        self._settle()

    @precondition(lambda self: self.network.late)
    @rule(number=st.integers(0, 9))
    def land_late(self, number: int) -> None:
        """Let a request land that its author gave up, or did not live to see."""
        self._land(self.network.late.pop(number % len(self.network.late)), is_answered=False)

    def _land(self, call: HeldCall, *, is_answered: bool) -> None:
        before = self.row
        call.land(is_answered=is_answered)
        assert self.row.checkpoint >= before.checkpoint
        for key, stored in self.objects.objects.items():
            if key in self.stored:
                assert stored.body == self.stored[key], "an object changes"
                continue
            pending = self.row.pending
            assert pending is not None or call.author.epoch < self.row.epoch or self.row.owner is None
            self.stored[key] = stored.body
            self.numbers.update(orjson.loads(line)["n"] for line in stored.body.splitlines())
        assert [number for number, times in self.numbers.items() if times > 1] == [], "events are stored twice"

    # What must hold.

    @invariant()
    def what_is_checkpointed_is_stored(self) -> None:
        """Everything up to the checkpoint is in an object."""
        checkpoint = self.row.checkpoint
        if checkpoint.kind is CheckpointKind.NUMBER:
            done = {number for position, number in self.events if position <= checkpoint.position}
            assert done <= set(self.numbers)

    def teardown(self) -> None:
        """With services that answer, one worker more stores all the rest, once."""
        try:
            self._finish()
        finally:
            self.loop.close()

    def _finish(self) -> None:
        for number in range(WORKERS):
            self.kill(number)
        while self.network.late:
            self._land(self.network.late.pop(), is_answered=False)
        self.take(0)
        for _ in range(300):
            if self.network.waiting:
                self.answer(0, "answer")
            elif self._is_done():
                break
            else:
                self.wait()
        assert self._is_done()
        assert sorted(self.numbers.elements()) == list(range(self.count))
        assert self.loop.failures == []

    def _is_done(self) -> bool:
        row = self.row
        last = self.events[-1][0] if self.events else None
        return row.pending is None and (last is None or row.checkpoint.position == last)


def walk(seed: int) -> None:
    """Take a long random walk through the machine's rules, in a mix of faults of its own per seed."""
    chance = random.Random(seed)
    machine = FlushMachine()
    machine.start(chance.randint(0, 6))
    fates = ["answer"] * chance.randint(2, 8) + ["lose", "delay", "refuse"]
    rules: dict[Callable[[], None], float] = {
        lambda: machine.put(chance.randint(1, 7), chance.random() < 0.5, chance.choice(["USA", "Spain"])): 0.2,
        lambda: machine.repeat(chance.randint(1, 5), "Spain"): 0.1,
        lambda: machine.kill(chance.randrange(WORKERS)): chance.choice((0.02, 0.2)),
        lambda: machine.stop(chance.randrange(WORKERS)): 0.02,
        machine.wait: 0.1,
    }
    for _ in range(80):
        draw = chance.random()
        if machine.network.waiting and draw < 0.6:
            machine.answer(chance.randrange(10), chance.choice(fates))
        elif machine.network.late and draw < 0.65:
            machine.land_late(chance.randrange(10))
        elif None in machine.lives and (draw < 0.7 or not any(machine.lives)):
            machine.take(chance.randrange(WORKERS))
        elif machine.count and (machine.count < EVENTS_MAX or draw < 0.75):
            chance.choices([*rules], [*rules.values()])[0]()
        else:
            machine.put(3, aggregated=True, country="USA")
        machine.what_is_checkpointed_is_stored()
    machine.teardown()


def test_long_walks_store_each_event_once() -> None:
    """In many seeded walks of 80 steps, whatever dies in between, each event is in exactly one object."""
    for seed in range(100):
        try:
            walk(seed)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


TestFlush = FlushMachine.TestCase
TestFlush.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
