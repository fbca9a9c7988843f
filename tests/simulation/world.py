"""A simulated world: web servers write, real producers tail, real workers consume, a seed deals misfortune."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import orjson

from infra.audit.core.report import AuditReport
from infra.audit.reading import AuditReader, AuditScope
from shared.aggregation import deaggregate
from shared.errors import HeadraceError
from shared.hash_key import hash_key_of
from shared.records import PutEntry, StreamRecord
from tests.simulation.actor import Actor
from tests.simulation.faults import PHASES, CallKill, FaultPlan, SimulatedNetwork
from tests.simulation.lives import ProducerLife, WorkerLife, draw_consumer_settings
from tests.simulation.loop import WORLD_CONTEXT, Process, SimulationError, SimulationLoop
from tests.simulation.story import Story
from tests.simulation.truth import audit_lines, missing_bad_lines
from tests.simulation.web_log import WebLog
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_leases import FakeLeases
from tests.support.fake_objects import FakeObjects

SOURCE: Final = "source"
DEST_STREAMS: Final = {"USA": "dest-usa", "International": "dest-international"}
DEAD_LETTERS: Final = "/var/lib/headrace/dead-letters.ndjson"
BOOKMARKS: Final = "/var/lib/headrace/bookmarks"
CHAOS_SECONDS: Final = 90.0
DRAIN_SECONDS_MAX: Final = 900.0
_LOOK_SECONDS: Final = 2.0
_EVENTS: Final = 160
_BURST_BYTES_MAX: Final = 10_000
_KILLABLE_CALLS: Final = {
    "worker": (
        "leases.update",
        "leases.update",
        "leases.create",
        "objects.put",
        "objects.put",
        "kinesis.put_records",
        "kinesis.get_records",
        "kinesis.list_shards",
    ),
    "producer": ("kinesis.put_records", "kinesis.put_records", "files.write_atomically"),
}


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
        self.chance = random.Random(seed)
        self.loop = SimulationLoop()
        self.story = Story(self.loop, lines_max=lines_max)
        self.plan = FaultPlan.draw(self.chance)
        self.network = SimulatedNetwork(
            self.loop, self.chance, self.plan, self.story, timeout_seconds=self.chance.uniform(2, 4)
        )
        self.network.kill = self._kill_process
        self.kinesis = FakeKinesis(self.network)
        self.leases = FakeLeases(self.network)
        self.objects = FakeObjects(self.network)
        self.logs: list[WebLog] = []
        self.producers: list[Actor] = []
        self.workers: list[Actor] = []
        self.violations: list[str] = []
        self.report: AuditReport | None = None
        self._index = _SourceIndex(self.kinesis)
        self._build()
        if plant is not None:
            plant(self)

    def _build(self) -> None:
        chance = self.chance
        self.consumer_settings = draw_consumer_settings(chance, DEST_STREAMS)
        self.kinesis.create_stream(SOURCE, chance.choice([1, 2, 2, 3]))
        for stream in DEST_STREAMS.values():
            self.kinesis.create_stream(stream, chance.choice([1, 2]))
        for number in range(chance.choice([1, 1, 2])):
            disk = FakeFiles(self.network)
            sessions = [f"session-{number}-{index}" for index in range(chance.randint(1, 12))]
            log = WebLog(disk, "/var/log/web.log", chance, sessions)
            log.create()
            self.logs.append(log)
            self.producers.append(self._actor(f"producer{number}", ProducerLife(self, log).live))
        for number in range(chance.choice([1, 2, 3])):
            self.workers.append(self._actor(f"worker{number}", WorkerLife(self, f"worker{number}").live))

    def _actor(self, name: str, life: Any) -> Actor:
        return Actor(name, life, loop=self.loop, chance=self.chance, story=self.story, epoch=self.network.epoch)

    @property
    def actors(self) -> list[Actor]:
        """All roles."""
        return [*self.producers, *self.workers]

    def _kill_process(self, process: Process, why: str) -> None:
        self.story.tell(process.name, f"is killed: {why}")
        self.loop.kill(process)

    def run(self) -> Outcome:
        """Live through chaos and calm, and judge."""
        # Collecting cycles would run finalisers at moments that depend on the memory of everything before.
        gc.collect(0)
        gc.disable()
        try:
            self.loop.run(self._main())
        except SimulationError as error:
            self.violations.append(f"{type(error).__name__}: {error}")
        finally:
            gc.enable()
        for actor in self.actors:
            self.violations += actor.violations
        if self.story.counts["product: shard_halted"]:
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
            self.at(self.chance.uniform(0, 3), actor.start)
        self._schedule_events()
        self._schedule_strangers()
        self._schedule_blows()
        await asyncio.sleep(CHAOS_SECONDS)
        self.story.tell("world", "the chaos ends")
        self.plan.end()
        self.network.call_kills.clear()
        for actor in self.actors:
            actor.restart_seconds_max = 1.0
        if await self._drained():
            await self._audit()

    def at(self, when: float, callback: Callable[..., Any], *args: Any) -> None:
        """Do something at a virtual time, in nobody's process."""
        self.loop.call_at(when, callback, *args, context=WORLD_CONTEXT)

    def _schedule_events(self) -> None:
        chance = self.chance
        for number, when in enumerate(sorted(chance.uniform(1, 0.9 * CHAOS_SECONDS) for _ in range(_EVENTS))):
            log = chance.choice(self.logs)
            self.at(when, log.write, number)
            self.at(when + chance.uniform(0, 1), log.finish_line)

    def _schedule_strangers(self) -> None:
        """Let other producers put records of theirs: without an id, no JSON at all, or an event that makes no sense."""
        chance = self.chance
        for index in range(chance.choice([0, 0, 0, 2, 6])):
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
            self.at(chance.uniform(1, CHAOS_SECONDS), self._put_stranger, PutEntry(data, key))

    def _put_stranger(self, entry: PutEntry) -> None:
        stream = self.kinesis.streams[SOURCE]
        self.kinesis.append(stream, stream.shard_for(hash_key_of(entry.partition_key)), entry)
        self.story.count("stranger")

    def _schedule_blows(self) -> None:
        chance, blows = self.chance, self.plan.blows
        actions: dict[str, Callable[[], None]] = {
            "reshard": self._reshard,
            "kill_worker": lambda: chance.choice(self.workers).kill("at random"),
            "kill_producer": lambda: chance.choice(self.producers).kill("at random"),
            "stop_worker": lambda: chance.choice(self.workers).stop(),
            "stop_producer": lambda: chance.choice(self.producers).stop(),
            "freeze_worker": lambda: chance.choice(self.workers).freeze(chance.uniform(1, 40)),
            "freeze_producer": lambda: chance.choice(self.producers).freeze(chance.uniform(1, 20)),
            "clock_jump": self._jump,
            "power_loss": self._lose_power,
            "log_rotated": self._rotate,
            "log_removed": self._remove_logs,
            "log_cut": self._cut_log,
        }
        for kind, action in actions.items():
            for _ in range(blows[kind]):
                # A quarter of the blows falls early: the first moments of a process are unlike all later ones.
                when = chance.uniform(0.5, 8) if chance.random() < 0.25 else chance.uniform(2, CHAOS_SECONDS)
                self.at(when, self._blow, kind, action)
        for _ in range(blows["kill_at_call"]):
            role = chance.choice(["worker", "worker", "producer"])
            kill = CallKill(role, chance.choice(_KILLABLE_CALLS[role]), chance.choice(PHASES), chance.randint(1, 12))
            self.at(chance.uniform(2, CHAOS_SECONDS), self.network.call_kills.append, kill)

    def _blow(self, kind: str, action: Callable[[], None]) -> None:
        self.story.count(kind)
        action()

    def _jump(self) -> None:
        actor = self.chance.choice(self.actors)
        seconds = self.chance.uniform(-90, 90)
        self.story.tell(actor.name, f"clock jumps by {seconds:.1f} s")
        actor.machine.wall_offset += seconds

    def _lose_power(self) -> None:
        number = self.chance.randrange(len(self.logs))
        actor = self.producers[number]
        if actor.process is not None and actor.process.alive:
            self._kill_process(actor.process, "power loss")
        self.logs[number].disk.lose_power()

    def _rotate(self) -> None:
        log = self.chance.choice(self.logs)
        if not log.disk.has_folder(BOOKMARKS):
            return  # what was rotated away before a producer first saw the log is nobody's promise
        log.rotate()
        self.story.tell("web", f"rotates {log.path}")
        self.at(self.loop.time() + self.chance.uniform(0, 0.4), log.reopen)

    def _cut_log(self) -> None:
        self._index.update()
        log = self.chance.choice(self.logs)
        size = log.size
        if missing_bad_lines(log, log.disk, DEAD_LETTERS) or not log.cut(self._index.numbers):
            return
        self.story.tell("web", f"cuts {log.path} of {size:,} bytes")
        if size < _BURST_BYTES_MAX and self.chance.random() < 0.5:
            # Grown past where a reader stands before it looks again: only the first bytes show that it was cut.
            while log.size <= size:
                log.write(_EVENTS + self.story.counts["burst"])
                self.story.count("burst")
            log.finish_line()

    def _remove_logs(self) -> None:
        self._index.update()
        for log in self.logs:
            if missing_bad_lines(log, log.disk, DEAD_LETTERS):
                continue  # they are not in the stream, and their file may be one of those
            bookmarks = [orjson.loads(log.disk.content(each) or b"{}") for each in log.disk.paths(BOOKMARKS)]
            held = {mark[2] for each in bookmarks for mark in each["files"]}
            if bookmarks and log.remove_read(self._index.numbers, held):
                self.story.tell("web", "removes rotated files that have arrived")

    def _reshard(self) -> None:
        chance = self.chance
        stream = chance.choice([SOURCE, SOURCE, SOURCE, *DEST_STREAMS.values()])
        shards = [each.shard for each in self.kinesis.streams[stream].open_shards()]
        pairs = list(pairwise(shards))
        if pairs and chance.random() < 0.5:
            low, high = chance.choice(pairs)
            first, second = chance.choice([(low, high), (high, low)])
            child = self.kinesis.merge_shards(stream, first.shard_id, second.shard_id)
            self.story.count("merge")
            self.story.tell("cloud", f"merges {first.shard_id} and {second.shard_id} of {stream} into {child}")
        else:
            parent = chance.choice(shards).shard_id
            children = self.kinesis.split_shard(stream, parent)
            self.story.count("split")
            self.story.tell("cloud", f"splits {parent} of {stream} into {' and '.join(children)}")

    async def _drained(self) -> bool:
        """Wait until everything written has arrived; tell what is stuck after a long while."""
        deadline = self.loop.time() + DRAIN_SECONDS_MAX
        while True:
            missing = self._missing()
            if not missing:
                return True
            if self.loop.time() > deadline:
                self.violations.append(f"stuck: {missing}")
                await self._audit()
                return False
            if any(actor.is_over for actor in self.actors):
                return False
            await asyncio.sleep(_LOOK_SECONDS)

    def _missing(self) -> str:
        self._index.update()
        written = {number for log in self.logs for number, _ in log.written}
        if absent := sorted(written - self._index.numbers):
            return f"{len(absent)} events are not in the source stream: {absent[:5]}"
        for shard_id, shard in self.kinesis.streams[SOURCE].shards.items():
            row = self.leases.rows.get(shard_id)
            if row is None:
                return f"{shard_id} has no lease row"
            if row.pending is not None:
                return f"{shard_id} has a pending flush"
            if not shard.shard.is_open and not row.checkpoint.is_shard_end:
                return f"{shard_id} is closed and not finished"
            last = self._index.last.get(shard_id)
            if shard.shard.is_open and last is not None and row.checkpoint.position < last:
                return f"{shard_id} is read up to {row.checkpoint} of {last}"
        return ""

    async def _audit(self) -> None:
        reader = AuditReader(kinesis=self.kinesis, objects=self.objects, random=self.chance, sleep=asyncio.sleep)
        try:
            self.report = await reader.audit(AuditScope(SOURCE, DEST_STREAMS))
        except HeadraceError as error:
            self.violations.append(f"the audit failed: {error}")
            return
        if not self.report.is_ok:
            self.violations.append(self.report.verdict)
        truth = audit_lines(self.logs, self.kinesis, self.objects, SOURCE, tuple(DEST_STREAMS.values()))
        if not truth.is_ok:
            self.violations.append(f"by line: {truth.verdict}")
            self.story.tell("world", f"by line: {truth.as_mapping()}")
        for log in self.logs:
            if missing := missing_bad_lines(log, log.disk, DEAD_LETTERS):
                self.violations.append(f"{len(missing)} bad lines are not in the dead letters, e.g. {missing[0]!r}")
        if self.objects.overwritten:
            self.violations.append(f"{len(self.objects.overwritten)} objects were overwritten")
        self.story.tell("world", f"audit: {self.report.as_mapping()}")


class _SourceIndex:
    """What is in the source stream so far, read directly, each record once."""

    def __init__(self, kinesis: FakeKinesis) -> None:
        self.numbers: set[int] = set()
        self.last: dict[str, tuple[int, int]] = {}
        self._kinesis = kinesis
        self._seen: Counter[str] = Counter()

    def update(self) -> None:
        """Take in what is new."""
        for shard_id, shard in self._kinesis.streams[SOURCE].shards.items():
            for record in shard.records[self._seen[shard_id] :]:
                self._take(shard_id, shard.shard.hash_key_range, record)
            self._seen[shard_id] = len(shard.records)

    def _take(self, shard_id: str, hash_key_range: Any, record: StreamRecord) -> None:
        users = deaggregate(record, hash_key_range).records
        for each in users:
            if each.data.startswith(b"{"):
                self.numbers.add(orjson.loads(each.data).get("n"))
        if users:
            self.last[shard_id] = users[-1].position


def run_seed(seed: int, *, plant: Callable[[World], None] | None = None, lines_max: int = 400) -> Outcome:
    """Run one world."""
    return World(seed, plant=plant, lines_max=lines_max).run()


def run_seeds(seeds: Sequence[int], *, plant: Callable[[World], None] | None = None) -> list[Outcome]:
    """Run many worlds, one after another."""
    return [run_seed(each, plant=plant) for each in seeds]
