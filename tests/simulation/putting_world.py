"""A simulated world of the producer as a library: events put by several tasks, a spill, and events that are refused."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import orjson

from producer import Producer
from shared.aggregation import deaggregate
from shared.errors import DeliveryFailedError, DrainTimeoutError, InvalidRequestError, RecordRejectedError
from shared.event import EventId
from shared.lifecycle import StopSignal
from shared.ports import Delivered
from shared.records import Distribution, PutEntry, PutResult, Shard
from shared.settings import ProducerSettings
from tests.simulation.actor import Actor, Machine
from tests.simulation.allowance import Allowance
from tests.simulation.faults import STREAMS, FaultPlan, SimulatedNetwork
from tests.simulation.library_blows import reshard, strike
from tests.simulation.loop import PROCESS, WORLD_CONTEXT, SimulationError, SimulationLoop
from tests.simulation.putting_draw import PuttingUsage
from tests.simulation.story import Story, StoryTelemetry
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis, FakeStream

_STREAM: Final = "orders"
_CHAOS_SECONDS: Final = 40.0
_SETTLE_SECONDS_MAX: Final = 600.0
_SETTLE_SECONDS_MAX_WITH_REFUSALS: Final = 2_000.0  # two records of five, to be found one by one
_PUTTERS: Final = 3
_PUTS: Final = 60  # of one task, at most
_REFUSED: Final = b"@refused@"
_CUT_LANES_RESHARDINGS: Final = 5  # more of them: most fall on shards that share no lane
_BUFFER_BYTES: Final = 24_000  # far below what the settings allow, so that it is full often


class _PickyKinesis(FakeKinesis):
    """Refuses every request with a certain kind of record in it, as a service does that finds one of them invalid."""

    allowance: Allowance | None = None  # where it is known what may be sent

    async def list_shards(self, stream: str) -> Sequence[Shard]:
        """List the shards, and note who knows them now."""
        found = await super().list_shards(stream)
        process = PROCESS.get()
        if self.allowance is not None and process is not None:
            self.allowance.informed.add(process)
        return found

    async def put_records(self, stream: str, entries: Sequence[PutEntry]) -> Sequence[PutResult]:
        """Put a batch, and count it."""
        if self.allowance is not None:
            self.allowance.take(entries)
        return await super().put_records(stream, entries)

    def _check_entry(self, stream: FakeStream, entry: PutEntry) -> None:
        super()._check_entry(stream, entry)
        if _REFUSED in entry.data:
            raise InvalidRequestError("one of the records is not to its taste", code="InvalidArgumentException")


@dataclass(slots=True)
class _Life:
    """What one process promised its user."""

    put: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))  # key -> numbers in their order
    accepted: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)  # these have to arrive, whatever happens now


class PuttingWorld:
    """One seed's world; `run` returns what was broken.

    Promised is: what was delivered by its receipt, was accepted before a flush or an end that left nothing, or was
    written to the spill, arrives; a reader that drops duplicates by their marks sees it, each key in the order of its
    puts; what the service refuses does not arrive, and holds nothing up; the books balance. Where the stream
    distributes records itself, nothing is aggregated and the user is told; there, and where no order was asked for,
    what was promised arrives in any order, perhaps more than once.
    """

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(f"putting {seed}")
        self.loop = SimulationLoop()
        self.story = Story(self.loop)
        self.plan = FaultPlan.draw(chance)
        timeout_seconds = chance.uniform(2, 4)
        self.network = SimulatedNetwork(self.loop, chance, self.plan, self.story, timeout_seconds=timeout_seconds)
        self.kinesis = _PickyKinesis(self.network)
        usage = self.usage = PuttingUsage.draw(seed)
        few = chance.choice([1, 2, 3])
        self.stream = self.kinesis.create_stream(_STREAM, usage.shard_count or few, usage.distribution)
        self.refused_share = chance.choice([0.0, 0.01, 0.03])
        self.settings = ProducerSettings(
            aggregate=chance.random() < 0.75,
            aggregate_bytes_max=chance.choice([1_024, 4_096, 51_200]),
            batch_records_max=chance.choice([1, 3, 20, 500]),
            batch_linger_seconds=chance.choice([0, 0.05, 0.5]),
            inflight_requests_max=chance.choice([1, 2, 16]),
            call_timeout_seconds=chance.uniform(2, 5),
            retry_backoff_seconds_max=2,
            drain_timeout_seconds=chance.choice([0.5, 5, 25]),
            shard_map_refresh_seconds=chance.choice([1, 10]),
            spill_bytes_max=chance.choice([0, 200_000, 2_000_000]),
            state_dir="/var/lib/headrace",
            ordering=usage.ordering,
            shard_rate_percent=usage.shard_rate_percent,
            lanes_fine=usage.lanes_fine,
        )
        buffer_bytes = _BUFFER_BYTES
        if usage.refusals is not None:
            self.refused_share, buffer_bytes = usage.refusals.share, usage.refusals.buffer_bytes_max
        self.settings = self.settings.model_copy(update={"buffer_bytes_max": buffer_bytes})
        self.lives: list[_Life] = []
        self.refused: set[int] = set()
        self.violations: list[str] = []
        self._numbers = 0
        self._entered = 0  # producers that came up
        self._is_settling = False
        self._empty: set[str] = set()  # the shops that had nothing left at the end
        disks = [FakeFiles(self.network) for _ in range(chance.choice([1, 2]))]
        self.actors = [
            Actor(
                f"shop{number}",
                partial(self._live, f"shop{number}", disk),
                loop=self.loop,
                chance=chance,
                story=self.story,
                epoch=self.network.epoch,
            )
            for number, disk in enumerate(disks)
        ]
        self._disks = disks
        share = usage.shard_rate_percent / 100
        # The parts of a request that was refused for one record are sent at once: they leave a debt.
        if share and usage.distribution is not Distribution.AUTO and not self.refused_share:
            self.kinesis.allowance = Allowance(self.loop, self.stream, share)

    def run(self) -> list[str]:
        """Live, and return what was broken."""
        try:
            self.loop.run(self._main())
        except SimulationError as error:
            self.violations.append(f"{type(error).__name__}: {error}")
        for actor in self.actors:
            self.violations += actor.violations
        self.violations += [f"unhandled: {each}" for each in self.loop.failures]
        self.loop.close()
        return self.violations

    # A shop: one process with several tasks that put.

    async def _live(self, name: str, disk: FakeFiles, machine: Machine, stop: StopSignal) -> None:
        life = _Life()
        self.lives.append(life)
        producer = Producer(
            _STREAM,
            settings=self.settings,
            kinesis=self.kinesis,
            files=disk,
            clock=machine,
            chance=random.Random(self.chance.getrandbits(64)),
            telemetry=StoryTelemetry(self.story, name),
        )
        is_told = False
        try:
            async with producer:
                self._entered += 1
                self._watch_spill(producer, life)
                async with asyncio.TaskGroup() as tasks:
                    working = [tasks.create_task(self._look_and_flush(producer, life, name))]
                    names = [] if self._is_settling else [f"{name}-{number}" for number in range(_PUTTERS)]
                    working += [tasks.create_task(self._put_some(producer, life, each)) for each in names]
                    await stop.requested.wait()
                    for task in working:
                        task.cancel()
        except DrainTimeoutError:
            is_told = True
        self._check_books(producer)
        ledger = producer.ledger
        if is_told != (ledger.pending > ledger.spilled):
            self.violations.append(f"the close {'raised' if is_told else 'raised nothing'} with these books: {ledger}")
        if ledger.pending == ledger.spilled:
            life.kept |= life.accepted

    def _watch_spill(self, producer: Producer, life: _Life) -> None:
        """Note what the spill has taken: it is on disk then."""
        assert producer._inner is not None
        spill = producer._inner._spill
        if spill is None:
            return
        put = spill.put

        async def put_and_note(data: bytes, *rest: Any) -> bool:
            is_written = await put(data, *rest)
            if is_written:
                self.story.count("spilled")
                life.kept.add(orjson.loads(data)["n"])
            return is_written

        spill.put = put_and_note  # type: ignore[method-assign] # see above

    async def _put_some(self, producer: Producer, life: _Life, name: str) -> None:
        """Put events; the keys are this task's own, so that the order of its puts is the order to be kept."""
        chance = self.chance
        waiting: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_PUTS):
                await asyncio.sleep(chance.expovariate(8))
                way = chance.random()
                if way < 0.5:
                    await self._accept(producer, life, [self._event(life, name)])
                elif way < 0.8:
                    await self._accept(producer, life, [self._event(life, name) for _ in range(chance.randint(1, 40))])
                elif len(waiting) < 20:
                    # A key that no other task puts: between tasks there is no order to be kept.
                    event = self._event(life, f"{name}-{self._numbers}")
                    task = tasks.create_task(self._put_and_wait(producer, life, event))
                    waiting.add(task)
                    task.add_done_callback(waiting.discard)

    def _event(self, life: _Life, name: str, *, is_good: bool = False) -> dict[str, Any]:
        chance = self.chance
        self._numbers += 1
        number = chance.randrange(3)
        # A good one is what comes next from elsewhere: its lane is not behind a record that is refused.
        key = f"{name}-{number}" if is_good else self.usage.key(name, number)
        event: dict[str, Any] = {"session_id": key, "n": self._numbers, "padding": "." * chance.choice([0, 50, 900])}
        if not is_good and chance.random() < self.refused_share:
            event["taste"] = _REFUSED.decode()
            self.refused.add(self._numbers)
        life.put[key].append(self._numbers)
        return event

    async def _accept(self, producer: Producer, life: _Life, events: list[dict[str, Any]]) -> None:
        if len(events) > 1:
            await producer.put_all(events)
        else:
            await producer.put(events[0])
        life.accepted.update(event["n"] for event in events)

    async def _put_and_wait(self, producer: Producer, life: _Life, event: dict[str, Any]) -> None:
        number = event["n"]
        try:
            delivered = await producer.put_and_wait(event)
        except RecordRejectedError:
            if number not in self.refused:
                self.violations.append(f"{number} was rejected though nothing is wrong with it")
        except DeliveryFailedError:
            return
        else:
            life.kept.add(number)
            if number not in self._numbers_at(delivered):
                self.violations.append(f"{number} is not where its receipt says: {delivered}")

    def _numbers_at(self, delivered: Delivered) -> set[int]:
        shard = self.stream.shards[delivered.shard_id]
        there = [each for each in shard.records if each.sequence_number == int(delivered.sequence_number)]
        return {
            orjson.loads(user.data)["n"]
            for each in there
            for user in deaggregate(each, shard.shard.hash_key_range).records
        }

    async def _look_and_flush(self, producer: Producer, life: _Life, name: str) -> None:
        """Look at the books now and then, and flush at times; at the end of the world, until nothing is left."""
        while True:
            await asyncio.sleep(self.chance.uniform(0.1, 3))
            self._check_books(producer)
            if self._is_settling:
                # The last record of all is not condemned while the stream takes no other; a shop has a next event.
                await self._accept(producer, life, [self._event(life, name, is_good=True)])
            accepted = set(life.accepted)
            if (self._is_settling or self.chance.random() < 0.3) and not await producer.flush(5):
                life.kept |= accepted
                if self._is_settling:
                    self._empty.add(name)

    def _check_books(self, producer: Producer) -> None:
        if not producer.ledger.balances:
            self.violations.append(f"the books do not balance: {producer.ledger}")

    # The world.

    async def _main(self) -> None:
        chance = self.chance
        for actor in self.actors:
            self._at(chance.uniform(0, 2), actor.start)
        reshardings = chance.choice([0, 1, 3]) + (_CUT_LANES_RESHARDINGS if self.usage.has_cut_lanes else 0)
        if reshardings:
            self.kinesis.allowance = None  # a producer may not know yet which shard its records go to
        lanes = self.usage.lanes_used if self.usage.has_cut_lanes else ()
        for _ in range(reshardings):
            self._at(chance.uniform(1, _CHAOS_SECONDS), reshard, self.kinesis, self.stream, chance, lanes)
        for action in ("kill", "kill", "freeze", "stop", "stop", "power"):
            self._at(chance.uniform(0.5, _CHAOS_SECONDS * 1.5), self._strike, action)
        for begin, end in () if self.usage.refusals is None else self.usage.refusals.outages:
            self._at(begin * _CHAOS_SECONDS, self.network.take_away, STREAMS)
            self._at(end * _CHAOS_SECONDS, self.network.bring_back)
        await asyncio.sleep(_CHAOS_SECONDS)
        self.plan.end()
        await asyncio.sleep(_CHAOS_SECONDS)
        await self._settle()
        self._judge()

    async def _settle(self) -> None:
        """Let each shop start once more, and run until it has nothing left: what it spilled goes out, too."""
        self._is_settling = True
        seconds = _SETTLE_SECONDS_MAX if self.usage.refusals is None else _SETTLE_SECONDS_MAX_WITH_REFUSALS
        deadline = self.loop.time() + seconds
        for actor in self.actors:
            actor.restart_seconds_max = 1.0
            if self.usage.refusals is None:
                actor.stop()  # else it has to get out of what it is in without that
        while len(self._empty) < len(self.actors) and self.loop.time() < deadline:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1)
        for actor in self.actors:
            actor.is_over = True
            actor.stop()
        await asyncio.sleep(self.settings.drain_timeout_seconds + 10)
        missing = {actor.name for actor in self.actors} - self._empty
        if missing:
            self.violations.append(f"{sorted(missing)} still had something to send after {seconds:g} s")

    def _at(self, when: float, callback: Any, *args: object) -> None:
        self.loop.call_at(when, callback, *args, context=WORLD_CONTEXT)

    def _strike(self, action: str) -> None:
        number = self.chance.randrange(len(self.actors))
        if action == "power":
            self.actors[number].end("power loss")
            self._disks[number].lose_power()
        else:
            strike(self.actors[number], action, self.chance)

    # The verdict: what a reader sees that knows of each source and lane how far it has come.

    def _judge(self) -> None:
        self._judge_distribution()
        if self.kinesis.allowance is not None:
            self.violations += self.kinesis.allowance.violations[:1]
        seen = list(self._visible())
        refused = self.refused & set(seen)
        if refused:
            self.violations.append(f"refused events arrived: {sorted(refused)[:5]}")
        places = {number: place for place, number in enumerate(seen)}
        if len(places) < len(seen) and self.usage.is_ordered:
            self.violations.append(f"{len(seen) - len(places)} events were seen twice")
        for life in self.lives:
            lost = life.kept - self.refused - places.keys()
            if lost:
                self.violations.append(f"{len(lost)} events that had to arrive were not seen: {sorted(lost)[:5]}")
            for key, numbers in life.put.items() if self.usage.is_ordered else ():
                order = [places[number] for number in numbers if number in places]
                if order != sorted(order):
                    seen_as = sorted((number for number in numbers if number in places), key=places.__getitem__)
                    self.violations.append(f"out of order for {key}: {seen_as[:20]}")

    def _judge_distribution(self) -> None:
        is_auto, told = self.usage.distribution is Distribution.AUTO, self.story.counts["product: order_unavailable"]
        if told < self._entered if is_auto else told:
            self.violations.append(f"{told} of {self._entered} producers said that order is not to be had")
        wrapped = sum(
            len(deaggregate(record).records) > 1 for shard in self.stream.shards.values() for record in shard.records
        )
        if is_auto and wrapped:
            self.violations.append(f"{wrapped} aggregates on a stream that distributes records itself")

    def _visible(self) -> Iterator[int]:
        """Read the stream, each shard after its parents, and drop what lies at or below its lane's mark."""
        marks: dict[str, dict[tuple[str, int | None, int | None], int]] = {}
        for shard_id, shard in _parents_first(self.stream):
            mine = marks[shard_id] = {}
            for parent in shard.shard.parents:
                for lane, offset in marks.get(parent, {}).items():
                    mine[lane] = max(offset, mine.get(lane, -1))
            for record in shard.records:
                for user in deaggregate(record, shard.shard.hash_key_range).records:
                    event = orjson.loads(user.data)
                    event_id = EventId.parse(event["event_id"])
                    assert event_id is not None
                    lane = (event_id.source_id, event_id.lane, event_id.part)
                    if event_id.lane is None or event_id.offset > mine.get(lane, -1):
                        mine[lane] = event_id.offset
                        yield event["n"]


def _parents_first(stream: FakeStream) -> Iterable[tuple[str, Any]]:
    """Return the shards in the order of their making, which is that of their names."""
    return sorted(stream.shards.items())
