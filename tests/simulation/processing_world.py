"""A simulated world of the library: real consumers hand records to a function, under kills, freezes and reshardings."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import orjson

from consumer import Consumer, DeadLetter, Outcome, Record, Reject, Retry
from shared.hash_key import hash_key_of
from shared.lease import CheckpointKind
from shared.lifecycle import StopSignal
from shared.records import PutEntry
from shared.settings import ConsumerSettings
from tests.simulation.actor import Actor, Machine
from tests.simulation.faults import FaultPlan, SimulatedNetwork
from tests.simulation.library_blows import reshard, strike
from tests.simulation.loop import WORLD_CONTEXT, SimulationError, SimulationLoop, process_name
from tests.simulation.story import Story, StoryTelemetry
from tests.support.fake_fan_out import FakeFanOut
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_leases import FakeLeases

T = TypeVar("T")
_SOURCE: Final = "source"
_CHAOS_SECONDS: Final = 60.0
_DRAIN_SECONDS_MAX: Final = 600.0
_RECORDS: Final = 300


class _CheckedNetwork(SimulatedNetwork):
    """Looks at the lease table after every request that landed there."""

    check: Callable[[], None] = staticmethod(lambda: None)

    async def call(self, operation: str, land: Callable[[], T]) -> T:
        """Carry a request, and look."""
        if not operation.startswith("leases."):
            return await super().call(operation, land)

        def land_and_look() -> T:
            result = land()
            self.check()
            return result

        return await super().call(operation, land_and_look)


class ProcessingWorld:
    """One seed's world; `violations` is empty if each record was handled, in order, before it was checkpointed."""

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(f"processing {seed}")
        self.loop = SimulationLoop()
        self.story = Story(self.loop)
        self.plan = FaultPlan.draw(chance)
        self.network = _CheckedNetwork(self.loop, chance, self.plan, self.story, timeout_seconds=chance.uniform(2, 4))
        self.network.check = self._check_positions  # type: ignore[method-assign] # it looks at this world
        self.kinesis = FakeKinesis(self.network)
        self.stream = self.kinesis.create_stream(_SOURCE, chance.choice([1, 2, 3]))
        self.fan_out = FakeFanOut(self.kinesis) if chance.random() < 0.3 else None
        self.leases = FakeLeases(self.network)
        self.settings = ConsumerSettings(
            checkpoint_interval_seconds=chance.uniform(0.1, 3),
            lease_duration_seconds=chance.uniform(4, 10),
            shard_sync_seconds=chance.uniform(1, 4),
            read_records_max=chance.choice([1, 7, 10_000]),
            call_timeout_seconds=chance.uniform(2, 5),
            retry_backoff_seconds_max=2,
            drain_timeout_seconds=chance.choice([1, 25]),
        )
        self.concurrency_max = chance.choice([1, 2, 8])
        self.is_poisonous = chance.random() < 0.5
        self.failing = chance.choice([0.0, 0.05, 0.2])
        self.put: dict[str, list[int]] = defaultdict(list)  # key -> numbers in the order of their puts
        self.handled: dict[str, list[int]] = defaultdict(list)  # key -> numbers in the order in which they were done
        self.done: set[int] = set()
        self.kept: set[int] = set()
        self._checked: dict[str, int] = defaultdict(int)  # shard -> records that a checkpoint has passed
        self.violations: list[str] = []
        self.actors = [
            Actor(
                f"worker{number}", self._life, loop=self.loop, chance=chance, story=self.story, epoch=self.network.epoch
            )
            for number in range(chance.choice([1, 2, 3]))
        ]

    def run(self) -> list[str]:
        """Live, and return what was broken."""
        try:
            self.loop.run(self._main())
        except SimulationError as error:
            self.violations.append(f"{type(error).__name__}: {error}")
        for actor in self.actors:
            self.violations += actor.violations
        self.violations += [f"unhandled: {each}" for each in self.loop.failures]
        if self.story.counts["product: shard_halted"]:
            self.violations.append("a shard was halted")
        self.loop.close()
        return self.violations

    async def _life(self, machine: Machine, stop: StopSignal) -> None:
        consumer = Consumer(
            _SOURCE,
            app="simulated",
            on_dead_letter=self._keep,
            concurrency_max=self.concurrency_max,
            # By itself, a consumer draws its id from the system: another story in every run.
            settings=self.settings.model_copy(update={"worker_id": process_name()}),
            kinesis=self.kinesis,
            leases=self.leases,
            fan_out=self.fan_out,
            clock=machine,
            chance=random.Random(self.chance.getrandbits(64)),
            telemetry=StoryTelemetry(self.story, process_name()),
        )
        async with consumer, asyncio.TaskGroup() as group:
            group.create_task(_forward(stop.requested, consumer))
            await consumer.run(self._handle)

    # The function of this world's user.

    async def _handle(self, batch: Sequence[Record]) -> Sequence[Outcome] | None:
        chance = self.chance
        await asyncio.sleep(chance.expovariate(10))
        if any(record.event is not None and record.event.get("poison") for record in batch):
            raise (ValueError if chance.random() < 0.7 else Reject)("poison")
        if chance.random() < self.failing:
            raise Retry("the database is down")
        outcomes: list[Outcome] = []
        held_back: set[str] = set()
        for record in batch:
            if record.partition_key in held_back or chance.random() < self.failing:
                held_back.add(record.partition_key)
                outcomes.append(Retry("locked"))
                continue
            assert record.event is not None
            if chance.random() < self.failing / 4:
                raise Retry("lost in the middle")
            number = record.event["n"]
            if number not in self.done:
                self.handled[record.partition_key].append(number)
                self.done.add(number)
            outcomes.append(None)
        return outcomes if held_back or chance.random() < 0.5 else None

    async def _keep(self, letter: DeadLetter) -> None:
        await asyncio.sleep(self.chance.expovariate(10))
        if self.chance.random() < self.failing:
            raise OSError("disk full")
        self.kept.add(orjson.loads(letter.data)["n"])

    # The world.

    async def _main(self) -> None:
        chance = self.chance
        for actor in self.actors:
            self._at(chance.uniform(0, 2), actor.start)
        for number, when in enumerate(sorted(chance.uniform(0, 0.9 * _CHAOS_SECONDS) for _ in range(_RECORDS))):
            self._at(when, self._put, number)
        for _ in range(chance.choice([0, 1, 3])):
            self._at(chance.uniform(1, _CHAOS_SECONDS), reshard, self.kinesis, self.stream, chance)
        for action in ("kill", "kill", "kill", "freeze", "freeze", "stop", "stop"):
            self._at(chance.uniform(0.5, _CHAOS_SECONDS * 1.5), self._strike, action)
        await asyncio.sleep(_CHAOS_SECONDS)
        self.plan.end()
        self.failing = 0.0
        for actor in self.actors:
            actor.restart_seconds_max = 1.0
        deadline = self.loop.time() + _DRAIN_SECONDS_MAX
        while (missing := self._missing()) and self.loop.time() < deadline:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1)
        if missing:
            self.violations.append(missing)
        for key, numbers in self.handled.items():
            if numbers != sorted(numbers):
                self.violations.append(f"out of order for {key}: {numbers}")

    def _at(self, when: float, callback: Callable[..., object], *args: object) -> None:
        self.loop.call_at(when, callback, *args, context=WORLD_CONTEXT)

    def _put(self, number: int) -> None:
        key = f"session-{self.chance.randrange(12)}"
        event: dict[str, object] = {"session_id": key, "n": number}
        if self.is_poisonous and self.chance.random() < 0.03:
            event["poison"] = True
        shard = self.stream.shard_for(hash_key_of(key))
        self.kinesis.append(self.stream, shard, PutEntry(orjson.dumps(event), key))

    def _strike(self, action: str) -> None:
        strike(self.chance.choice(self.actors), action, self.chance)

    def _missing(self) -> str:
        for shard_id, shard in self.stream.shards.items():
            row = self.leases.rows.get(shard_id)
            last = shard.numbers[-1] if shard.numbers else 0
            if row is None or (not shard.shard.is_open and not row.checkpoint.is_shard_end):
                return f"{shard_id} is not finished"
            if shard.shard.is_open and last and row.checkpoint.position.sequence_number < last:
                return f"{shard_id} is at {row.checkpoint}, its last record is {last}"
        lost = set(range(_RECORDS)) - self.done - self.kept
        return f"{len(lost)} records were not handled: {sorted(lost)[:5]}" if lost else ""

    def _check_positions(self) -> None:
        """Find records in front of a checkpoint that nobody has handled."""
        for shard_id, row in self.leases.rows.items():
            if row.checkpoint.kind not in {CheckpointKind.NUMBER, CheckpointKind.SHARD_END}:
                continue
            shard = self.stream.shards[shard_id]
            for record in shard.records[self._checked[shard_id] :]:
                if not row.checkpoint.is_shard_end and record.sequence_number > row.checkpoint.position.sequence_number:
                    break
                number = orjson.loads(record.data)["n"]
                if number not in self.done and number not in self.kept:
                    self.violations.append(f"{number} of {shard_id} was checkpointed before it was handled")
                self._checked[shard_id] += 1


async def _forward(stop: asyncio.Event, consumer: Consumer) -> None:
    await stop.wait()
    consumer.stop()
