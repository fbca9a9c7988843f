"""Workers over a small cloud in virtual time, a steady load for them, and a record of who read and stored when."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from consumer.worker import Worker
from shared.lease import Lease
from shared.records import RecordPage
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import PROCESS, Process
from tests.unit.consumer.small_cloud import SmallCloud


class NotingTelemetry(SilentTelemetry):
    """Keeps the events of each level, with the shard that they name."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, str, str]] = []  # level, event, shard id
        self.moments: dict[tuple[str, str], list[float]] = {}  # event and shard id -> when it was said

    def info(self, event: str, **fields: Any) -> None:
        """Keep the event."""
        said_at = asyncio.get_running_loop().time()
        self.moments.setdefault((event, str(fields.get("shard_id", ""))), []).append(said_at)
        self.events.append(("info", event, str(fields.get("shard_id", ""))))

    def warning(self, event: str, **fields: Any) -> None:
        """Keep the event."""
        self.events.append(("warning", event, str(fields.get("shard_id", ""))))

    def error(self, event: str, **fields: Any) -> None:
        """Keep the event."""
        self.events.append(("error", event, str(fields.get("shard_id", ""))))

    def count_of(self, event: str) -> int:
        """Return how often something was said."""
        return sum(each[1] == event for each in self.events)


@dataclass
class Member:
    """A worker that runs as a process of its own."""

    worker: Worker
    stop: asyncio.Event
    hurry: asyncio.Event
    task: Any
    process: Process

    @property
    def name(self) -> str:
        """The worker's id."""
        return self.worker.worker_id

    async def leave(self) -> None:
        """Stop, and wait for the end."""
        self.stop.set()
        await self.task


@dataclass(frozen=True, slots=True)
class Change:
    """A shard that went from one worker to another."""

    shard_id: str
    before: str
    after: str
    seconds: float  # between the last checkpoint of the one and the first page of the other


@dataclass(frozen=True, slots=True)
class Gap:
    """What passed between the last record that one worker read of a shard and the first that the next one did."""

    shard_id: str
    before: str
    after: str
    giving: float  # seconds from the last record until the lease was given: the rest stored, checkpoint, release
    noticing: float  # until the successor saw it
    reading: float  # until its first record

    @property
    def seconds(self) -> float:
        """The whole of it."""
        return self.giving + self.noticing + self.reading


@dataclass
class SmallFleet:
    """Members over one cloud; `telemetry` is that of all."""

    cloud: SmallCloud
    telemetry: NotingTelemetry = field(default_factory=NotingTelemetry)
    commits: dict[str, list[tuple[float, str]]] = field(default_factory=dict)  # shard -> time and owner
    reads: dict[str, list[tuple[float, str]]] = field(default_factory=dict)  # shard -> time and worker
    news: dict[str, list[tuple[float, str]]] = field(default_factory=dict)  # those that brought records, new ones
    per_put: int = 5
    written: int = 0

    @classmethod
    def make(cls, shards: int) -> SmallFleet:
        """Make a cloud whose calls are looked at."""
        fleet = cls(SmallCloud.make(shards))
        fleet.cloud.telemetry = fleet.telemetry
        fleet.cloud.leases.on_write = fleet._note_write
        get_records = fleet.cloud.kinesis.get_records
        last: dict[str, int] = {}

        async def noted(stream: str, iterator: str, limit: int) -> RecordPage:
            page = await get_records(stream, iterator, limit)
            process = PROCESS.get()
            assert process is not None
            shard_id = iterator.rsplit(":", 2)[0]
            read = (fleet.cloud.loop.time(), process.name)
            fleet.reads.setdefault(shard_id, []).append(read)
            if page.records and page.records[-1].sequence_number > last.get(shard_id, 0):
                last[shard_id] = page.records[-1].sequence_number
                fleet.news.setdefault(shard_id, []).append(read)
            return page

        fleet.cloud.kinesis.get_records = noted  # type: ignore[method-assign]  # the same, noted
        return fleet

    def _note_write(self, before: Lease, after: Lease) -> None:
        if before.checkpoint != after.checkpoint and before.owner is not None:
            self.commits.setdefault(after.shard_id, []).append((self.cloud.loop.time(), before.owner))

    def add(self, **settings: Any) -> Member:
        """Start one more worker."""
        stop, hurry = asyncio.Event(), asyncio.Event()
        worker = self.cloud.worker(**{"flush_seconds": 0.5, **settings})
        process = Process(worker.worker_id)
        task = self.cloud.loop.spawn(process, lambda: worker.run(stop, hurry))
        return Member(worker, stop, hurry, task, process)

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Put some events ten times a second, each of another session, so that every shard has some."""
        is_over = False

        async def put() -> None:
            while not is_over:
                events = ({"session_id": f"s{n}", "n": n} for n in range(self.written, self.written + self.per_put))
                self.written += self.per_put
                await self.cloud.put(*events)
                await asyncio.sleep(0.1)

        task = asyncio.get_running_loop().create_task(put())
        try:
            yield
        finally:
            is_over = True
            await task
            await asyncio.sleep(3)  # everything is read

    def owners(self) -> Counter[str]:
        """Count unfinished rows by owner."""
        rows = self.cloud.leases.rows.values()
        return Counter(row.owner or "" for row in rows if not row.checkpoint.is_shard_end)

    def changes(self) -> list[Change]:
        """Return how long each shard stood still as it changed hands."""
        found: list[Change] = []
        for shard_id, reads in self.reads.items():
            for (_, before), (moment, after) in itertools.pairwise(reads):
                stored = [at for at, owner in self.commits.get(shard_id, ()) if owner == before and at <= moment]
                if before != after and stored:
                    found.append(Change(shard_id, before, after, moment - stored[-1]))
        return found

    def gaps(self) -> list[Gap]:
        """Return what passed without a record as shards were handed over, in its parts."""
        found: list[Gap] = []
        for shard_id, news in self.news.items():
            for (ended_at, before), (began_at, after) in itertools.pairwise(news):
                if before == after:
                    continue
                given = [at for at in self.telemetry.moments.get(("lease_handed_over", shard_id), ()) if at >= ended_at]
                seen = [at for at in self.telemetry.moments.get(("lease_adopted", shard_id), ()) if at >= ended_at]
                given_at = min(given[0], seen[0])  # the answer to who gives may come later than the look
                found.append(Gap(shard_id, before, after, given_at - ended_at, seen[0] - given_at, began_at - seen[0]))
        return found

    def check_whole(self) -> None:
        """Every event that was put is in one line of one object."""
        numbers = Counter(event["n"] for event in self.cloud.stored())
        missing = set(range(self.written)) - numbers.keys()
        assert (missing, [n for n, times in numbers.items() if times > 1]) == (set(), [])
