"""Where a process is struck (a call and a phase of it), what became of it, and which pairs of both were seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from shared.lease import SHARD_END, UNSET, Lease, LeaseChange, LeaseExpectation
from tests.simulation.loop import Process
from tests.simulation.story import Story
from tests.support.fake_leases import FakeLeases

PHASES: Final = ("sent", "landed", "answered")

# Role -> call -> at which of its next calls at most the blow falls: rare calls are struck at the first.
SITES: Final = {
    "worker": {
        "leases.create": 2,
        "leases.take": 2,
        "leases.renew": 12,
        "leases.prepare": 8,
        "leases.commit": 8,
        "leases.finish": 1,
        "leases.release": 1,
        "objects.put": 12,
        "kinesis.put_records": 12,
        "kinesis.get_shard_iterator": 2,
        "kinesis.get_records": 12,
        "kinesis.list_shards": 4,
    },
    "producer": {
        "kinesis.put_records": 12,
        "kinesis.list_shards": 2,
        "files.write_atomically": 8,
        "files.append": 1,
    },
}
# Calls that are made only after something else has happened -> the blow that brings it about.
PROVOKED_BY: Final = {"leases.create": "reshard", "leases.finish": "reshard", "leases.release": "stop_worker"}
# Role -> how a blow ends the process for now -> what may follow.
ENDINGS: Final = {
    "worker": {
        "kill": ("restarted", "taken over", "replayed"),
        "freeze": ("woke in time", "woke as a zombie"),
    },
    "producer": {
        "kill": ("restarted", "sent again"),
        "power": ("restarted after a power loss",),
        "freeze": ("woke",),
    },
}
# (call, recovery) -> why it can't occur, at whatever phase.
IMPOSSIBLE: Final[dict[tuple[str, str], str]] = {}


@dataclass(slots=True)
class CallBlow:
    """A blow to whoever makes the n-th call from now on, at a phase of that call."""

    role: str
    call: str
    phase: str
    ending: str
    countdown: int
    seconds: float  # of a freeze

    @property
    def site(self) -> str:
        """Call and phase."""
        return f"{self.call} {self.phase}"


def pair(site: str, recovery: str) -> str:
    """Return the name under which a pair is counted."""
    return f"crash: {site} -> {recovery}"


def possible_pairs() -> Iterator[str]:
    """Yield the names of all pairs that a run over the default seeds has to see."""
    for role, calls in SITES.items():
        recoveries = [each for those in ENDINGS[role].values() for each in those]
        for call in calls:
            for recovery in recoveries:
                if (call, recovery) not in IMPOSSIBLE:
                    yield from (pair(f"{call} {phase}", recovery) for phase in PHASES)


@dataclass(slots=True)
class _Crash:
    blow: CallBlow
    shards: set[str]  # owned then, and by nobody else since
    events: frozenset[int] = frozenset()  # in the stream then
    is_over: bool = False  # restarted or awake
    lost: set[str] = field(default_factory=set)  # to other workers
    pending: set[str] = field(default_factory=set)  # taken with a pending flush


class CrashSites:
    """Watches what becomes of processes that were struck at a call; each pair is counted once per crash."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._crashes: dict[str, list[_Crash]] = {}  # by actor

    def struck(self, process: Process, blow: CallBlow, *, shards: set[str], events: frozenset[int]) -> None:
        """Take a blow that falls; `shards` are those the process owns, `events` those of its log that are sent."""
        self._story.count(f"{blow.ending}_at_call")
        self._crashes.setdefault(_actor(process.name), []).append(_Crash(blow, shards, events))

    def started(self, name: str) -> None:
        """Take the start of a process."""
        for crash in self._crashes.get(_actor(name), ()):
            if crash.blow.ending != "freeze" and not crash.is_over:
                crash.is_over = True
                self._count(crash, "restarted" if crash.blow.ending == "kill" else "restarted after a power loss")

    def woke(self, process: Process, blow: CallBlow) -> None:
        """Take the end of a freeze."""
        crash = next(each for each in self._crashes[_actor(process.name)] if each.blow is blow)
        crash.is_over = True
        if process.alive:
            zombie = "woke as a zombie" if crash.lost else "woke in time"
            self._count(crash, "woke" if blow.role == "producer" else zombie)

    def put(self, actor: str, number: int) -> None:
        """Take an event that arrived in the source stream once more."""
        for crash in self._crashes.get(actor, ()):
            if crash.blow.ending == "kill" and crash.is_over and number in crash.events:
                crash.events = frozenset()
                self._count(crash, "sent again")

    def lease_written(self, before: Lease, after: Lease) -> None:
        """Take a write to a lease row."""
        shard_id = after.shard_id
        for actor, crashes in self._crashes.items():
            for crash in crashes:
                if after.epoch > before.epoch and shard_id in crash.shards:
                    self._taken(crash, after, is_other=_actor(after.owner or "") != actor)
                elif before.pending is not None and after.pending is None and shard_id in crash.pending:
                    crash.pending.clear()
                    self._count(crash, "replayed")

    def _taken(self, crash: _Crash, row: Lease, *, is_other: bool) -> None:
        crash.shards.discard(row.shard_id)
        if is_other and crash.blow.ending == "kill" and not crash.lost:
            self._count(crash, "taken over")
        if is_other:
            crash.lost.add(row.shard_id)
        if row.pending is not None and crash.blow.ending == "kill":
            crash.pending.add(row.shard_id)

    def _count(self, crash: _Crash, recovery: str) -> None:
        self._story.count(pair(crash.blow.site, recovery))


def _actor(process_name: str) -> str:
    return process_name.partition(".")[0]


class NamedLeases(FakeLeases):
    """The lease table of a world: tells the network what each update is for, and the world what it changed."""

    def __init__(
        self, network: object, name_call: Callable[[str], None], on_write: Callable[[Lease, Lease], None]
    ) -> None:
        super().__init__(network)  # type: ignore[arg-type] - the simulated one
        self._name_call = name_call
        self.on_write = on_write

    async def update_lease(self, shard_id: str, expectation: LeaseExpectation, change: LeaseChange) -> Lease:
        """Name the call, and make it."""
        self._name_call(f"leases.{_purpose(change)}")
        return await super().update_lease(shard_id, expectation, change)


def _purpose(change: LeaseChange) -> str:
    if change.epoch is not UNSET:
        return "take"
    if change.checkpoint == SHARD_END:
        return "finish"
    if change.checkpoint is not UNSET:
        return "commit"
    if change.pending is not UNSET:
        return "prepare"
    return "renew" if change.owner is UNSET else "release"
