"""Several workers over one lease row: whatever lands, late or unheard, no update is lost and no zombie writes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consumer.lease_table import HeldLease, LeaseTable
from consumer.retrier import Retrier
from shared.errors import LeaseLostError
from shared.lease import Checkpoint, Lease, LeaseChange
from shared.records import Position
from shared.retry import Backoff
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import Process, SimulationLoop
from tests.support.fake_leases import FakeLeases
from tests.support.held_network import AUTHOR, HeldCall, HeldNetwork

SHARD = "shard"
WORKERS = 3
TAKE, WRITE, FINISH, RENEW, RELEASE, CREATE = "take", "write", "finish", "renew", "release", "create"


@dataclass
class Operation:
    """One call of the product, which may send many requests; `effects` are the rows it left behind."""

    kind: str
    worker: Worker
    epoch: int  # the one at which its author holds the row, or would after its take
    checkpoint: int = 0
    heartbeat: int = 0  # the one that a taker saw
    effects: list[Lease] = field(default_factory=list)
    task: Any = None

    @property
    def is_over(self) -> bool:
        """Whether the caller knows how it ended."""
        return bool(self.task.done())


@dataclass
class Worker:
    """A process that works on the row, as consumer.worker does: data writes one after the other, renewals beside."""

    name: str
    table: LeaseTable
    process: Process
    seen: Lease | None = None
    held: HeldLease | None = None
    checkpoint: int = 0
    data: Operation | None = None  # the take, data write or release under way
    renewal: Operation | None = None
    gave_up: bool = False  # a data write was cancelled: nothing but a release may follow

    @property
    def is_idle(self) -> bool:
        """Whether no data call is under way."""
        return self.data is None


class LeaseTableMachine(RuleBasedStateMachine):
    """Each request is held; the rules decide when it lands and what its author hears."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SimulationLoop()
        self.network = HeldNetwork(wall=0.0)
        self.store = FakeLeases(self.network)
        self.workers: list[Worker] = []
        self.pulses: set[tuple[int, int]] = set()  # every (epoch, heartbeat) that the row has had
        self.takes: dict[int, Operation] = {}  # epoch -> the take that began it
        self.creates = 0
        self.made = 0
        self.share_name = False

    @initialize(share_name=st.booleans())
    def start(self, share_name: bool) -> None:
        """Start the workers, perhaps all under one worker id, which must not matter."""
        self.share_name = share_name
        self.workers = [self._boot(f"worker-{number}") for number in range(WORKERS)]
        if not share_name:  # most examples start where it gets interesting
            self.create(0)
            self.answer(0, "answer")
            self.observe(0)
            self.take(0)
            self.answer(0, "answer")

    def _boot(self, name: str) -> Worker:
        self.made += 1
        chance = random.Random(self.made)
        retrier = Retrier(Backoff(0.1, 0.1), chance, SilentTelemetry())
        worker_id = "worker" if self.share_name else name
        table = LeaseTable(self.store, retrier, worker_id=worker_id, random=chance)
        return Worker(name, table, Process(name))

    def _spawn(self, operation: Operation, call: Callable[[], Awaitable[Any]]) -> Operation:
        async def main() -> Any:
            AUTHOR.set(operation)
            return await call()

        operation.task = self.loop.spawn(operation.worker.process, main)
        self._settle()
        return operation

    def _settle(self) -> None:
        """Let everybody go on until all wait for the network, and judge what ended."""
        self.loop.run(asyncio.sleep(1.0))
        self.network.sort()
        for worker in self.workers:
            if worker.data is not None and worker.data.is_over:
                operation, worker.data = worker.data, None
                self._judge(worker, operation)
            if worker.renewal is not None and worker.renewal.is_over:
                operation, worker.renewal = worker.renewal, None
                if isinstance(operation.task.exception(), LeaseLostError):
                    self._lose(worker, operation)

    # What workers do.

    @property
    def row(self) -> Lease | None:
        """The row as it is stored."""
        return self.store.rows.get(SHARD)

    def _pick(self, number: int, fits: Callable[[Worker], bool]) -> Worker | None:
        found = [worker for worker in self.workers if fits(worker)]
        return found[number % len(found)] if found else None

    @precondition(lambda self: self.row is None)
    @rule(number=st.integers(0, 2))
    def create(self, number: int) -> None:
        """Make the row, together with others."""
        worker = self._pick(number, lambda each: each.is_idle and each.held is None)
        if worker is not None:
            worker.data = self._spawn(Operation(CREATE, worker, 0), lambda: worker.table.create(Lease(SHARD)))

    @precondition(lambda self: self.row is not None)
    @rule(number=st.integers(0, 2))
    def observe(self, number: int) -> None:
        """Look at the row; what is seen may be old by the time of the take."""
        self.workers[number].seen = self.row

    @precondition(
        lambda self: any(each.is_idle and each.held is None and each.seen is not None for each in self.workers)
    )
    @rule(number=st.integers(0, 2))
    def take(self, number: int) -> None:
        """Take the row as it was seen."""
        worker = self._pick(number, lambda each: each.is_idle and each.held is None and each.seen is not None)
        if worker is not None and (seen := worker.seen) is not None:
            operation = Operation(TAKE, worker, seen.epoch + 1, heartbeat=seen.heartbeat)
            worker.data = self._spawn(operation, lambda: worker.table.take(seen))

    @precondition(
        lambda self: any(each.is_idle and each.held is not None and not each.gave_up for each in self.workers)
    )
    @rule(number=st.integers(0, 2), step=st.integers(0, 3), ends=st.sampled_from([False, False, False, True]))
    def write(self, number: int, step: int, ends: bool) -> None:
        """Write a checkpoint, or the last one, which gives the lease up in the same breath."""
        worker = self._pick(number, lambda each: each.is_idle and each.held is not None and not each.gave_up)
        if worker is None or (held := worker.held) is None:
            return
        worker.checkpoint += step
        change = LeaseChange(checkpoint=Checkpoint.at(Position(worker.checkpoint)))
        if ends:
            change = LeaseChange(checkpoint=change.checkpoint, owner=None)
        operation = Operation(FINISH if ends else WRITE, worker, held.epoch, worker.checkpoint)
        worker.data = self._spawn(operation, lambda: held.write(change))

    @precondition(lambda self: any(each.renewal is None and each.held is not None for each in self.workers))
    @rule(number=st.integers(0, 2))
    def renew(self, number: int) -> None:
        """Renew, also while data is being written."""
        worker = self._pick(number, lambda each: each.renewal is None and each.held is not None)
        if worker is not None and (held := worker.held) is not None:
            worker.renewal = self._spawn(Operation(RENEW, worker, held.epoch), held.renew)

    @precondition(
        lambda self: any(each.data is not None and each.data.kind in (WRITE, FINISH) for each in self.workers)
    )
    @rule(number=st.integers(0, 2))
    def give_up(self, number: int) -> None:
        """Cancel a data write under way, as a worker does that is being stopped."""
        worker = self._pick(number, lambda each: each.data is not None and each.data.kind in (WRITE, FINISH))
        if worker is not None and worker.data is not None:
            worker.data.task.cancel()
            worker.gave_up = True
            self._settle()

    @precondition(
        lambda self: any(each.is_idle and each.held is not None and each.renewal is None for each in self.workers)
    )
    @rule(number=st.integers(0, 2))
    def release(self, number: int) -> None:
        """Give the lease back."""
        worker = self._pick(number, lambda each: each.is_idle and each.held is not None and each.renewal is None)
        if worker is not None and (held := worker.held) is not None:
            worker.data = self._spawn(Operation(RELEASE, worker, held.epoch), held.release)

    @rule(number=st.integers(0, 2))
    def kill(self, number: int) -> None:
        """Kill a worker; what it had sent may still land. Another one starts under its name."""
        self.loop.kill(self.workers[number].process)
        self.workers[number] = self._boot(self.workers[number].name)
        self._settle()

    # What the network does.

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
        if self.row is not before:
            assert self.row is not None
            self._check_effect(call.author, before, self.row)

    # What must hold.

    def _check_effect(self, operation: Operation, before: Lease | None, after: Lease) -> None:
        """A request changed the row: its author had the right to, for the first time, and changed only its own part."""
        if operation.kind == CREATE:
            self.creates += 1
            assert before is None, "a row is created over another"
            return
        assert before is not None
        assert not operation.effects, f"a {operation.kind} takes effect twice"
        operation.effects.append(after)
        if operation.kind == TAKE:
            assert after.epoch == before.epoch + 1 == operation.epoch
            assert before.heartbeat == operation.heartbeat, "a lease is taken whose owner was awake"
            assert after.epoch not in self.takes
            self.takes[after.epoch] = operation
        else:
            assert before.epoch == after.epoch == operation.epoch, f"a zombie's {operation.kind} changes the row"
            assert before.owner is not None, f"a {operation.kind} changes a row that was given back"
            assert self.takes[after.epoch].worker is operation.worker, "another worker's epoch is written to"
        assert after.checkpoint >= before.checkpoint, "the checkpoint goes back"
        is_data = operation.kind in (WRITE, FINISH)
        assert after.version == before.version + is_data
        assert is_data or after.checkpoint == before.checkpoint
        pulse = (after.epoch, after.heartbeat)
        if operation.kind in (TAKE, RENEW):
            # Somebody who watches would else take an owner that is awake for a silent one.
            assert pulse not in self.pulses, "a heartbeat comes back"
            self.pulses.add(pulse)
        else:
            assert before.heartbeat == after.heartbeat

    def _judge(self, worker: Worker, operation: Operation) -> None:
        """A call is over: what it told its author is true."""
        if operation.task.cancelled():
            return
        error = operation.task.exception()
        if isinstance(error, LeaseLostError):
            self._lose(worker, operation)
            return
        assert error is None, error
        if operation.kind == CREATE:
            assert self.row is not None
        elif operation.kind == TAKE:
            self._begin(worker, operation)
        else:
            # An earlier release that was given up may have landed: then there is nothing left to change.
            is_free = operation.kind == RELEASE and self.row is not None and self.row.owner is None
            assert len(operation.effects) == 1 or is_free, f"a {operation.kind} is reported done and changed nothing"
            if operation.kind == WRITE:
                assert worker.held is not None
                assert worker.held.row.version == operation.effects[0].version
                assert worker.held.row.checkpoint == Checkpoint.at(Position(operation.checkpoint))
            else:
                worker.held = None

    def _begin(self, worker: Worker, operation: Operation) -> None:
        worker.held = operation.task.result()
        worker.gave_up = False
        if worker.held is None:
            # Refused for good: not even an attempt that was not answered made it the owner at this moment.
            winner = self.takes.get(self.row.epoch) if self.row is not None else None
            assert winner is not operation, "a worker does not know the lease that it has"
            return
        assert len(operation.effects) == 1
        assert worker.held.epoch == operation.epoch == operation.effects[0].epoch
        worker.checkpoint = worker.held.row.checkpoint.position.sequence_number

    def _lose(self, worker: Worker, operation: Operation) -> None:
        """Told that the lease is lost: it is, or it was given up by a write of this worker that it did not wait for."""
        assert self.row is not None
        assert self.row.epoch > operation.epoch or self.row.owner is None, "a lease is held and called lost"
        if worker.held is not None and worker.held.epoch == operation.epoch:
            worker.held = None
            for other in (worker.data, worker.renewal):
                if other is not None:
                    other.task.cancel()
            worker.data = worker.renewal = None
            self.loop.run(asyncio.sleep(0.01))
            self.network.sort()

    @invariant()
    def holders_agree(self) -> None:
        """At most one worker holds the newest epoch; a hold that is still good, and idle, knows the row exactly."""
        holders = [each for each in self.workers if each.held is not None and self.row is not None]
        assert len({each.held.epoch for each in holders if each.held is not None}) == len(holders)
        for worker in holders:
            assert worker.held is not None
            assert self.row is not None
            is_good = worker.held.epoch == self.row.epoch
            if is_good and worker.is_idle and not worker.gave_up:
                assert worker.held.row.version == self.row.version
                assert worker.held.row.checkpoint == self.row.checkpoint

    def teardown(self) -> None:
        """With a service that answers, all that is under way ends, and the row can be taken by whoever comes."""
        try:
            if self.workers:
                self._finish()
        finally:
            self.loop.close()

    def _finish(self) -> None:
        for _ in range(100):
            if not self.network.waiting and not self.network.late:
                break
            if self.network.late:
                self._land(self.network.late.pop(), is_answered=False)
            else:
                self._land(self.network.waiting.pop(), is_answered=True)
            self._settle()
        assert not self.network.waiting
        assert all(each.data is None and each.renewal is None for each in self.workers)
        self.holders_agree()
        if self.row is None:
            return
        self.observe(0)
        self.workers[0].held = None
        self.take(0)
        while self.network.waiting:
            self._land(self.network.waiting.pop(), is_answered=True)
            self._settle()
        assert self.workers[0].held is not None
        assert self.loop.failures == []


def walk(seed: int) -> None:
    """Take a long random walk through the machine's rules, in a mix of faults of its own per seed."""
    chance = random.Random(seed)
    machine = LeaseTableMachine()
    machine.start(seed % 3 == 0)
    fates = ["answer"] * chance.randint(2, 8) + ["lose", "delay", "refuse"]
    kills = chance.choice((0.0, 0.02, 0.1))
    rules: dict[Callable[[int], None], float] = {
        machine.observe: 0.1,
        machine.take: 0.1,
        machine.renew: 0.1,
        machine.release: 0.04,
        machine.give_up: 0.03,
        machine.kill: kills,
        lambda number: machine.write(number, chance.randrange(4), chance.random() < 0.1): 0.15,
    }
    for _ in range(150):
        draw = chance.random()
        if machine.network.waiting and draw < 0.4:
            machine.answer(chance.randrange(10), chance.choice(fates))
        elif machine.network.late and draw < 0.5:
            machine.land_late(chance.randrange(10))
        else:
            chosen = machine.create if machine.row is None else chance.choices([*rules], [*rules.values()])[0]
            chosen(chance.randrange(WORKERS))
        machine.holders_agree()
    machine.teardown()


def test_long_walks_keep_the_fence() -> None:
    """In many seeded walks of 150 steps no update is lost, no checkpoint goes back and no zombie writes."""
    for seed in range(300):
        try:
            walk(seed)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


TestLeaseTable = LeaseTableMachine.TestCase
TestLeaseTable.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
