"""Workers as processes over one application, a steady load for them, and a watch over how long shards stand still."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from tests.acceptance.conftest import PATIENCE_SECONDS, Shell
from tests.acceptance.test_lab_session import archived, names, provision

LEASE_SECONDS: Final = int(os.environ.get("FLEET_LEASE_SECONDS", "1"))
SHARDS: Final = 4
_SESSIONS: Final = 200
_EVENTS_PER_SECOND: Final = 100
_LOOK_SECONDS: Final = 0.1


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again, for a bounded time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"it did not come to be: {what}")
        threading.Event().wait(_LOOK_SECONDS)


@dataclass(slots=True)
class _Sight:
    """A lease row as the watch saw it last."""

    owner: str
    place: tuple[str, str]
    advanced_at: float
    is_finished: bool = False


@dataclass(frozen=True, slots=True)
class Standstill:
    """A shard whose checkpoint did not move; times in monotonic seconds."""

    shard_id: str
    began_at: float
    ended_at: float

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.ended_at - self.began_at


class Watch:
    """Looks at the lease table ten times a second and measures the pauses between two checkpoints of each shard.

    The first pause of a child begins when its last parent is seen at its end.
    """

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._sights: dict[str, _Sight] = {}
        self.standstills: list[Standstill] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch in a thread of its own."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(_LOOK_SECONDS):
            # The table of these tests fits one page.
            items = self._client.scan(TableName=self._table, ConsistentRead=True)["Items"]
            self._look([each for each in items if each["entityType"]["S"] == "LEASE"], time.monotonic())

    def _look(self, items: list[Any], now: float) -> None:
        with self._lock:
            for item in sorted(items, key=lambda each: str(each["leaseKey"]["S"])):
                shard_id = item["leaseKey"]["S"]
                place = (item["checkpoint"]["S"], item["checkpointSubSequenceNumber"]["N"])
                owner = item.get("leaseOwner", {}).get("S", "")
                seen = self._sights.get(shard_id)
                if seen is None:
                    parents = [self._sights[each] for each in item.get("parentShardId", {}).get("SS", ())]
                    began_at = max((each.advanced_at for each in parents if each.is_finished), default=now)
                    self._sights[shard_id] = _Sight(owner, place, began_at)
                    continue
                seen.owner = owner
                if place != seen.place:
                    self.standstills.append(Standstill(shard_id, seen.advanced_at, now))
                    seen.place, seen.advanced_at, seen.is_finished = place, now, place[0] == "SHARD_END"

    def owners(self) -> list[str]:
        """Return the owner of each unfinished shard."""
        with self._lock:
            return [each.owner for each in self._sights.values() if not each.is_finished]

    def has_advanced_since(self, moment: float) -> bool:
        """Whether every shard has stored something since, children of those that were finished included."""
        with self._lock:
            unfinished = [each for each in self._sights.values() if not each.is_finished]
            return len(unfinished) >= SHARDS - 1 and all(each.advanced_at > moment for each in unfinished)

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing was stored for some time."""
        with self._lock:
            return max(each.advanced_at for each in self._sights.values()) < time.monotonic() - seconds

    def longest(self, since: float, until: float) -> dict[str, float]:
        """Return the longest standstill of each shard that ended in an interval, in seconds."""
        with self._lock:
            found: dict[str, float] = {}
            for each in self.standstills:
                if since <= each.ended_at <= until:
                    found[each.shard_id] = max(each.seconds, found.get(each.shard_id, 0.0))
            return {name: round(seconds, 2) for name, seconds in sorted(found.items())}


class Load:
    """Numbered events of many sessions, put at a steady rate by the producer's command until `finish`."""

    def __init__(self, shell: Shell, stream: str) -> None:
        self._printed = shell.folder / "producer.out"
        with self._printed.open("wb") as stdout:
            self._producer = shell.start(
                "producer_from_cli", "--stream", stream, "-", "--output", "json", stdin=subprocess.PIPE, stdout=stdout
            )
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._feed)
        self.count = 0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Put events in a thread of its own."""
        self._thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            self._thread.join()
            self._producer.kill()
            self._producer.wait()

    def _feed(self) -> None:
        assert self._producer.stdin is not None
        began_at = time.monotonic()
        number = 0
        while not self._is_over.wait(0.02):
            due = int((time.monotonic() - began_at) * _EVENTS_PER_SECOND)
            lines = [
                b'{"session_id":"s%d","n":%d,"country":"%s"}\n' % (n % _SESSIONS, n, b"USA" if n % 3 else b"Spain")
                for n in range(number, due)
            ]
            self._producer.stdin.write(b"".join(lines))
            self._producer.stdin.flush()
            number = due
        self._producer.stdin.close()
        self.count = number

    def finish(self) -> int:
        """Put no more; return how many events were put, each of which was acknowledged."""
        self._is_over.set()
        self._thread.join()
        assert self._producer.wait(timeout=PATIENCE_SECONDS) == 0
        summary = json.loads(self._printed.read_bytes().splitlines()[-1])
        assert summary["acknowledged"] == self.count
        return self.count


@dataclass(slots=True)
class Member:
    """One worker process."""

    worker_id: str
    process: subprocess.Popen[bytes]
    log: Path

    def events(self) -> list[str]:
        """Return the names of what it has logged, in order."""
        lines = self.log.read_bytes().splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith(b"{") and line.endswith(b"}")]


@dataclass(slots=True)
class Fleet:
    """The worker processes of one application, the living and the dead."""

    shell: Shell
    folder: Path
    named: dict[str, Any] = field(default_factory=lambda: names("fleet"))
    members: list[Member] = field(default_factory=list)
    former: list[Member] = field(default_factory=list)

    def provision(self) -> None:
        """Make streams, bucket and table."""
        provision(self.shell, self.named, "--shards", str(SHARDS))

    def add(self) -> Member:
        """Start one more worker."""
        worker_id = f"w{len(self.members) + len(self.former)}"
        log = self.folder / f"{worker_id}.log"
        with log.open("wb") as stderr:
            process = self.shell.start(
                "headrace", "consume", "--source_stream", self.named["source"],
                "--dest_streams", json.dumps(self.named["dests"]), "--bucket", self.named["bucket"],
                "--app", self.named["app"], "--http_port", "-1", "--flush_seconds", "0.5", "--worker_id", worker_id,
                stderr=stderr, HEADRACE_LEASE_DURATION_SECONDS=str(LEASE_SECONDS), HEADRACE_READ_IDLE_SECONDS="0.2",
            )  # fmt: skip
        member = Member(worker_id, process, log)
        self.members.append(member)
        return member

    def end(self, member: Member, number: signal.Signals) -> int:
        """End a worker by a signal; return its exit code."""
        member.process.send_signal(number)
        self.members.remove(member)
        self.former.append(member)
        return member.process.wait(timeout=PATIENCE_SECONDS)

    def end_all(self) -> None:
        """End what still runs, after a failure, too."""
        for member in list(self.members):
            member.process.send_signal(signal.SIGCONT)
            self.end(member, signal.SIGKILL)

    def logged(self, event: str) -> int:
        """Count what all workers ever logged of one kind."""
        return sum(each.events().count(event) for each in (*self.members, *self.former))

    def has_settled(self, watch: Watch, since: float) -> bool:
        """Whether every shard has gone on since then, and every worker that runs has a part."""
        everybody = {each.worker_id for each in self.members}
        return watch.has_advanced_since(since) and everybody == set(watch.owners())

    def gaps(self, since: float, until: float) -> dict[str, float]:
        """Return the longest pause of each shard between two events that were processed in an interval.

        By the workers' own wall clocks: unlike a standstill of the checkpoint, it is what an event may have waited for.
        """
        moments: dict[str, list[float]] = {}
        for _, event in archived(self.shell, self.named["bucket"]):
            moment = datetime.fromisoformat(event["processing_timestamp"]).timestamp()
            if since <= moment <= until:
                moments.setdefault(event["source"]["shard_id"], []).append(moment)
        return {
            name: round(max(after - before for before, after in itertools.pairwise(sorted(each))), 2)
            for name, each in sorted(moments.items())
            if len(each) > 1
        }

    def audit(self) -> dict[str, Any]:
        """Audit until nothing is missing, for a bounded time; return the last report."""
        report: dict[str, Any] = {}

        def is_ok() -> bool:
            done = self.shell.run("headrace", "audit", "--app", self.named["app"], "--output", "json", timeout=600)
            report.update(json.loads(done.out.splitlines()[-1]))
            return done.code == 0

        wait_until(is_ok, f"an audit without complaint: {report}")
        return report
