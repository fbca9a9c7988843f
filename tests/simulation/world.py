"""A simulated world: web servers write, real producers tail, real workers consume, a seed deals misfortune."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from consumer.core.manifest import COMPLETE_NAME
from consumer.core.object_key import GAP_FOLDER
from infra.audit.core.report import AuditReport
from infra.audit.reading import AuditReader, AuditScope
from shared.errors import HeadraceError
from shared.hash_key import hash_key_of
from shared.lease import Lease
from shared.records import PutEntry
from tests.simulation.absence import Absence
from tests.simulation.actor import Actor
from tests.simulation.archive_draws import draw_archive, draw_uploads, partition_fields
from tests.simulation.arrival import SourceIndex
from tests.simulation.bad_luck import BadLuck
from tests.simulation.blows import Blows
from tests.simulation.crash_sites import CrashSites, NamedLeases
from tests.simulation.draw import SOURCE, Usage, chaos_seconds, draw_consumer_settings
from tests.simulation.early_hours import EarlyHours
from tests.simulation.faults import FAN_OUT_RATES_MAX, FaultPlan, SimulatedNetwork
from tests.simulation.fleet import Fleet
from tests.simulation.halts import Halts
from tests.simulation.handovers import Handovers
from tests.simulation.hours import Hours
from tests.simulation.killers import Killers
from tests.simulation.ledgers import Ledgers
from tests.simulation.lives import ProducerLife, WorkerLife
from tests.simulation.loop import WORLD_CONTEXT, SimulationError, SimulationLoop
from tests.simulation.operator import Operator
from tests.simulation.outage import Outage
from tests.simulation.promises import Promises
from tests.simulation.service_outage import ServiceOutage
from tests.simulation.story import Story
from tests.simulation.table_damage import TableDamage
from tests.simulation.truth import audit_lines, delivered_numbers
from tests.simulation.web_log import WebLog, missing_lines
from tests.support.fake_fan_out import FakeFanOut
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_objects import FakeObjects
from tests.support.fake_uploads import UploadClient

DRAIN_SECONDS_MAX: Final = 900.0
_LOOK_SECONDS: Final = 2.0
_EVENTS_PER_SECOND: Final = 16 / 9
_FAN_OUT_SHARE: Final = 0.3

_CHECK_CROSSES: Final = 0.25


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a world ended; `violations` is empty if every promise was kept."""

    seed: int
    violations: tuple[str, ...]
    trace: str
    counts: Counter[str]
    virtual_seconds: float
    steps: int
    report: AuditReport | None
    story: tuple[str, ...]


class World:
    """One seed's world. `plant` may wrap product objects, to prove that a broken rule is found."""

    def __init__(self, seed: int, *, plant: Callable[[World], None] | None = None, lines_max: int = 400) -> None:
        self.seed = seed
        self.chaos_seconds = chaos_seconds(seed)
        self.chance = random.Random(seed)
        self.loop = SimulationLoop()
        self.story = Story(self.loop, lines_max=lines_max)
        self.plan = FaultPlan.draw(self.chance)
        self.network = SimulatedNetwork(
            self.loop, self.chance, self.plan, self.story, timeout_seconds=self.chance.uniform(2, 4)
        )
        self.network.epoch = Hours.epoch(seed, self.network.epoch)
        self.usage = Usage.draw(seed, self.network.epoch)
        self.hours = Hours(self)
        self.handovers = Handovers(self)
        self.crash_sites = CrashSites(self.story)
        self.promises = Promises(self)
        self.ledgers = Ledgers(self.story)
        self.kinesis = FakeKinesis(self.network)
        self.fan_out = self._draw_fan_out()
        self.leases = NamedLeases(self.network, self.network.name_call, self._lease_written)
        self.objects = FakeObjects(self.network)
        # In some worlds only: the others are what they were before, and seeds that once failed mean the same in them.
        self.objects.checks_cross = random.Random(f"check of the bucket {seed}").random() < _CHECK_CROSSES
        self.write_options = draw_uploads(seed)
        self.uploads = UploadClient(self.objects)
        self.logs: list[WebLog] = []
        self.producers: list[Actor] = []
        self.workers: list[Actor] = []
        self.violations: list[str] = []
        self.report: AuditReport | None = None
        self._build()
        self.operator = Operator(self, SOURCE)
        self.killers = Killers(self)
        self.fleet = Fleet(self)
        self.damage = TableDamage(self)
        self.outage = Outage(self)
        self.service_outage = ServiceOutage(self)
        self.halts = Halts(self)
        self.bad_luck = BadLuck(self)
        self.early_hours = EarlyHours(self)
        self.absence = Absence(self)
        if plant is not None:
            plant(self)

    def _draw_fan_out(self) -> FakeFanOut | None:
        """Draw whether workers read by fan-out, from a chance of its own: the other worlds stay as they were."""
        chance = random.Random(f"fan-out {self.seed}")
        if chance.random() >= _FAN_OUT_SHARE:
            return None
        self.plan.rates |= {kind: chance.uniform(0, highest) for kind, highest in FAN_OUT_RATES_MAX.items()}
        return FakeFanOut(self.kinesis, creating_seconds=chance.uniform(0, 3))

    def _build(self) -> None:
        chance = self.chance
        drawn = draw_archive(self.seed, draw_consumer_settings(chance, self.usage))
        self.consumer_settings = self.handovers.consumer_settings(self.hours.draw(drawn))
        distributions = self.usage.distributions
        source = self.kinesis.create_stream(SOURCE, chance.choice([1, 2, 2, 3]), distributions[SOURCE])
        self.index = SourceIndex(source, self._tell_repetition)
        for stream in dict.fromkeys(self.usage.dest_streams.values()):
            self.kinesis.create_stream(stream, chance.choice([1, 2]), distributions[stream])
        for number in range(chance.choice([1, 1, 2])):
            disk = FakeFiles(self.network)
            sessions = [f"session-{number}-{index}" for index in range(chance.randint(1, 12))]
            log = WebLog(disk, "/var/log/web.log", chance, sessions, self.usage.line_format)
            log.create()
            self.logs.append(log)
            life = ProducerLife(self, log)
            self.producers.append(self._actor(f"producer{number}", life.live, chance))
            self.producers[-1].stop_seconds_max = life.stop_seconds_max
        for _ in range(chance.choice([1, 2, 3])):
            self.add_worker(chance)

    def add_worker(self, chance: random.Random) -> Actor:
        """Make one more worker, which is not started."""
        name = f"worker{len(self.workers)}"
        life = WorkerLife(self, name, chance)
        actor = self._actor(name, life.live, chance)
        actor.stop_seconds_max = life.stop_seconds_max
        self.workers.append(actor)
        return actor

    def _lease_written(self, before: Lease, after: Lease) -> None:
        self.crash_sites.lease_written(before, after)
        self.promises.lease_written(before, after)
        self.damage.lease_written(before, after)
        self.bad_luck.lease_written(before, after)
        self.absence.lease_written(before, after)

    def _tell_repetition(self, number: int) -> None:
        for index, log in enumerate(self.logs):
            if number in log.numbers:
                self.crash_sites.put(f"producer{index}", number)

    def _actor(self, name: str, life: Any, chance: random.Random) -> Actor:
        actor = Actor(name, life, loop=self.loop, chance=chance, story=self.story, epoch=self.network.epoch)
        actor.on_start = self._started
        return actor

    def _started(self, name: str) -> None:
        self.crash_sites.started(name)
        self.damage.started(name)

    @property
    def actors(self) -> list[Actor]:
        """All roles."""
        return [*self.producers, *self.workers]

    def run(self) -> Outcome:
        """Live through chaos and calm, and judge."""
        try:
            with self.ledgers.watching(), self.killers.watching():
                self.loop.run(self._main())
        except SimulationError as error:
            self.violations.append(f"{type(error).__name__}: {error}")
        for actor in self.actors:
            actor.look_at_stop()
            self.violations += actor.violations
        self.violations += self.ledgers.violations
        if self.story.counts["product: shard_halted"] and not self.halts.is_there:
            self.violations.append("a shard was halted")
        self.violations += [f"unhandled: {each}" for each in self.loop.failures]
        outcome = Outcome(
            seed=self.seed,
            violations=tuple(self.violations),
            trace=self.story.trace,
            counts=self.story.counts,
            virtual_seconds=self.loop.time(),
            steps=self.loop.steps,
            report=self.report,
            story=tuple(self.story.lines),
        )
        self.loop.close()
        return outcome

    async def _main(self) -> None:
        for actor in self.actors:
            late = self.usage.consumers_start_seconds if actor in self.workers else 0.0
            self.at(late + self.chance.uniform(0, 3), actor.start)
        self.at(_LOOK_SECONDS, self._look)
        self._schedule_events()
        self._schedule_strangers()
        Blows(self).schedule()
        self.operator.schedule()
        self.killers.schedule()
        self.fleet.schedule()
        self.damage.schedule()
        self.outage.schedule()
        self.service_outage.schedule()
        self.halts.schedule()
        self.bad_luck.schedule()
        await asyncio.sleep(self.chaos_seconds)
        self.story.tell("world", "the chaos ends")
        self.plan.end()
        self.network.call_blows.clear()
        for actor in self.actors:
            actor.restart_seconds_max = 1.0
        await self.service_outage.settle()
        await self.operator.settle()
        await self.bad_luck.settle()
        if await self._drained():
            await self.fleet.settle()
            await self.outage.settle()
            await self.handovers.settle()
            await self.early_hours.settle()
            await self.absence.settle()
            await self.hours.settle()
            await self._audit()

    def at(self, when: float, callback: Callable[..., Any], *args: Any) -> None:
        """Do something at a virtual time, in nobody's process."""
        self.loop.call_at(when, callback, *args, context=WORLD_CONTEXT)

    def _schedule_events(self) -> None:
        chance, count = self.chance, round(self.chaos_seconds * _EVENTS_PER_SECOND)
        for number, when in enumerate(sorted(chance.uniform(1, 0.9 * self.chaos_seconds) for _ in range(count))):
            log = chance.choice(self.logs)
            self.at(when, log.write, number)
            self.at(when + chance.uniform(0, 1), log.finish_line)

    def _schedule_strangers(self) -> None:
        """Let other producers put records of theirs: without an id, no JSON at all, or an event that makes no sense."""
        chance = self.chance
        # Without a bucket, what can't be processed is only logged with its place.
        count = chance.choice([0, 0, 0, 2, 6])
        for index in range(count if self.usage.has_bucket else 0):
            key = f"stranger-{chance.randint(0, 5)}"
            event = {"session_id": key, "country": chance.choice(["USA", "Peru"]), "stranger": index}
            data = chance.choice(
                [
                    orjson.dumps(event),
                    b"not json",
                    orjson.dumps(event | {"browse_history": 7}),
                    orjson.dumps(event | {"event_id": f"stranger-{index}", "browse_history": [{"quantity": "x"}]}),
                ]
            )
            self.at(chance.uniform(1, self.chaos_seconds), self.put_stranger, PutEntry(data, key))

    def put_stranger(self, entry: PutEntry) -> None:
        """Put a record of nobody's log into the source stream."""
        stream = self.kinesis.streams[SOURCE]
        self.kinesis.append(stream, stream.shard_for(hash_key_of(entry.partition_key)), entry)
        self.story.count("stranger")

    async def _drained(self) -> bool:
        """Wait until everything written has arrived; tell what is stuck after a long while."""
        deadline = self.loop.time() + DRAIN_SECONDS_MAX
        while True:
            missing = self.promises.missing()
            if not missing:
                return True
            if self.loop.time() > deadline:
                self.violations.append(f"stuck: {missing}")
                self._judge(await self._read_report())
                return False
            if any(actor.is_over for actor in self.actors):
                return False
            await asyncio.sleep(_LOOK_SECONDS)

    def _look(self) -> None:
        """Look at what has to hold at every instant, and look again a little later."""
        self.ledgers.look()
        self.at(self.loop.time() + _LOOK_SECONDS, self._look)

    async def _audit(self) -> None:
        """Judge what stands still: while an audit reads, a shard at LATEST may begin, and then has more to be read."""
        while await self._drained():
            fixed = self.promises.starts_fixed
            report = await self._read_report()
            if self.promises.starts_fixed == fixed:
                self._judge(report)
                return

    async def _read_report(self) -> AuditReport | None:
        has_bucket, prefix = self.usage.has_bucket, self.consumer_settings.archive_prefix
        objects = self.objects if has_bucket else None
        reader = AuditReader(kinesis=self.kinesis, objects=objects, random=self.chance, sleep=asyncio.sleep)
        scope = AuditScope(SOURCE, self.usage.dest_streams, has_bucket=has_bucket, archive_prefix=prefix)
        try:
            return await reader.audit(scope)
        except HeadraceError as error:
            self.violations.append(f"the audit failed: {error}")
            return None

    def _judge(self, report: AuditReport | None) -> None:
        if report is None:
            return
        self.report = report
        self.violations += self.promises.broken(report, by_line=False)
        fields = partition_fields(self.consumer_settings.archive_prefix)
        objects = self.objects if self.usage.has_bucket else None
        written = [number for log in self.logs for number, _ in log.written]
        names = tuple(dict.fromkeys(self.usage.dest_streams.values()))
        found = delivered_numbers(self.kinesis, objects, SOURCE, names)
        promised, forbidden = self.promises.delivered(found), self.promises.before_start()
        self.violations += self.outage.violations()
        adrift = set[int]().union(*(log.adrift for log in self.logs))
        truth = audit_lines(written, promised, forbidden, adrift, self.kinesis, objects, SOURCE, names, fields)
        self.violations += [f"by line: {each}" for each in self.promises.broken(truth, by_line=True)]
        self.story.tell("world", f"by line: {truth.as_mapping()}")
        for log in self.logs:
            if missing := missing_lines(log.disk, log.bad_lines):
                self.violations.append(f"{len(missing)} bad lines are not in the dead letters, e.g. {missing[0]!r}")
        self.violations += self.operator.violations()
        self.violations += self.killers.violations()
        self.violations += self.halts.violations()
        self.violations += self.hours.violations()
        if self.objects.overwritten:
            self.violations.append(f"{len(self.objects.overwritten)} objects were overwritten")
        self.violations += self._uploads_left()
        self.story.tell("world", f"audit: {report.as_mapping()}")

    def _uploads_left(self) -> list[str]:
        """Say which uploads of flushes their worker, or the next owner of the shard, could have aborted."""
        others = (f"/{GAP_FOLDER}", COMPLETE_NAME)
        left = [key for key in self.uploads.left_open if not any(each in key for each in others)]
        return [f"an upload to {key} was left open" for key in left if not self.damage.is_there]


def run_seed(seed: int, *, plant: Callable[[World], None] | None = None, lines_max: int = 400) -> Outcome:
    """Run one world; what it leaves is collected at once, which takes less time than a bit now and then."""
    gc.disable()
    try:
        return World(seed, plant=plant, lines_max=lines_max).run()
    finally:
        gc.enable()
        gc.collect(0)


def run_seeds(seeds: Sequence[int], *, plant: Callable[[World], None] | None = None) -> list[Outcome]:
    """Run many worlds, one after another."""
    return [run_seed(each, plant=plant) for each in seeds]
