"""kill -9 of the consumer at random moments: what it left half-done is finished once, by whoever comes next."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from infra.cloud.process import LocalCloudProcess
from infra.sample.generator import lines as sample_lines
from tests.acceptance.conftest import PATIENCE_SECONDS, Shell, clean_environment
from tests.acceptance.test_lab_session import names, provision
from tests.support.lossy_proxy import LossyProxy, Message

KILLS = int(os.environ.get("KILLS", "4"))
LINES = 1_500  # of log, before each kill
# Where the first lives end, each at its second call of the kind: before it is carried out, or before its answer.
SITES: Final = (("commit", "done"), ("put", "coming"), ("prepare", "done"), ("put", "done"))
AT_CALL: Final = 2


# So that kills fall between two writes of a flush: before an object is there, and before its answer.
SLOW_BUCKET = """
[[rule]]
operation = "PutObject"
key_prefix = "archive/"
effect = "delay"
seconds_min = 0.1
seconds_max = 0.6

[[rule]]
operation = "PutObject"
key_prefix = "archive/"
effect = "delay"
where = "after"
seconds_min = 0.0
seconds_max = 0.4
"""


@dataclass
class Executioner:
    """Kills a worker at a certain call of its flushes, as the proxy sees them; then no call of its comes through."""

    site: tuple[str, str] = ("", "")
    process: subprocess.Popen[bytes] | None = None
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    has_struck: threading.Event = field(default_factory=threading.Event)

    def aim(self, site: tuple[str, str]) -> None:
        """Count anew, for the next worker."""
        self.site, self.process = site, None
        self.counts.clear()
        self.has_struck.clear()

    def strike(self, request: Message, phase: str) -> bool:
        """Look at a call; see LossyProxy."""
        site = (_kind_of(request), phase)
        self.counts[site] += 1
        if self.process is not None and site == self.site and self.counts[site] >= AT_CALL:
            self.process.send_signal(signal.SIGKILL)
            self.has_struck.set()
        return self.has_struck.is_set()


def _kind_of(request: Message) -> str:
    """Return which step of a flush a request is; empty if it is none."""
    if request.raw.startswith(b"PUT ") and b"/archive/" in request.raw.partition(b"\r\n")[0]:
        return "put"
    if request.target != "UpdateItem":
        return ""
    return "commit" if b'"checkpoint"' in request.raw else "prepare" if b'"pendingFlush"' in request.raw else ""


@pytest.fixture
def slow_shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell whose AWS is a cloud of its own, with a slow bucket."""
    faults = tmp_path / "faults.toml"
    faults.write_text(SLOW_BUCKET)
    with LocalCloudProcess(faults_path=faults) as cloud:
        yield Shell(clean_environment() | cloud.environment(), tmp_path)


def put(shell: Shell, stream: str, log: Path, round_number: int) -> int:
    """Put the events of another stretch of log; return how many were acknowledged."""
    log.write_text("".join(f"{line}\n" for line in sample_lines(seed=7 + round_number, count=LINES)))
    options = ("--stream", stream, "--file", str(log), "--format", "combined", "--output", "json")
    done = shell.run("producer_from_cli", *options)
    assert done.code == 0, done.err
    acknowledged: int = json.loads(done.out.splitlines()[-1])["acknowledged"]
    return acknowledged


def count_lines(shell: Shell, bucket: str) -> Counter[str]:
    """Count the lines of all archive objects by event id, with nothing of the product."""
    store = shell.client("s3")
    found: Counter[str] = Counter()
    for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="archive/"):
        for each in page.get("Contents", ()):
            body = store.get_object(Bucket=bucket, Key=each["Key"])["Body"].read()
            found.update(json.loads(line)["event_id"] for line in gzip.decompress(body).splitlines())
    return found


def compare_indexes(shell: Shell, bucket: str) -> None:
    """Assert that the indexes list every object of the bucket, each once, with the right number of events."""
    store = shell.client("s3")
    pages = store.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [each["Key"] for page in pages for each in page.get("Contents", ())]
    indexes = [key for key in keys if key.startswith("manifests/") and not key.endswith("_COMPLETE.json")]
    bodies = [json.loads(store.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in indexes]
    listed = Counter(each["key"] for body in bodies for each in (*body["objects"], *body["dead_letters"]))
    assert listed == Counter(key for key in keys if not key.startswith("manifests/"))
    assert sum(body["records"] for body in bodies) == count_lines(shell, bucket).total()


@pytest.mark.slow
@pytest.mark.timeout(180 + 20 * KILLS)
def test_kill_9_of_the_consumer_loses_and_doubles_nothing(slow_shell: Shell, tmp_path: Path) -> None:
    """After many kill -9 under load and a restart, each event is in one line of one object, and the audit agrees.

    The first ones strike at each step of a flush; what a bug leaves undone there is not made up for by anybody.
    """
    shell = slow_shell
    named = names("kill")
    provision(shell, named)
    acknowledged = 0
    chance = random.Random(11)
    options = (
        "consume", "--source_stream", named["source"], "--dest_streams", json.dumps(named["dests"]),
        "--bucket", named["bucket"], "--app", named["app"], "--http_port", "-1", "--flush_seconds", "0.3",
    )  # fmt: skip
    # Small pages and a short lease, so that each life is cut in the middle of its work and the next begins soon.
    quick = {"HEADRACE_LEASE_DURATION_SECONDS": "1", "HEADRACE_MANIFEST_PREFIX": "manifests/"}
    paced = quick | {"HEADRACE_READ_RECORDS_MAX": "20"}
    executioner = Executioner()
    with LossyProxy(shell.environment["AWS_ENDPOINT_URL"], seed=11, strike=executioner.strike) as proxy:
        for round_number in range(KILLS):
            acknowledged += put(shell, named["source"], tmp_path / f"{round_number}.log", round_number)
            if round_number < len(SITES):
                executioner.aim(SITES[round_number])
                consumer = shell.start("headrace", *options, **paced, AWS_ENDPOINT_URL=proxy.endpoint_url)
                executioner.process = consumer
                assert executioner.has_struck.wait(PATIENCE_SECONDS), executioner
            else:
                consumer = shell.start("headrace", *options, **paced)
                # The moment of the kill is a real one: there is nothing to wait for but time.
                threading.Event().wait(1.5 + chance.random() * 2)
                consumer.send_signal(signal.SIGKILL)
            consumer.wait(timeout=PATIENCE_SECONDS)

    consumer = shell.start("headrace", *options, **quick)
    verdict, deadline = None, time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        verdict = shell.run("headrace", "audit", "--app", named["app"], "--output", "json")
        if verdict.code == 0:
            break
        threading.Event().wait(1)
    consumer.send_signal(signal.SIGTERM)
    assert consumer.wait(timeout=PATIENCE_SECONDS) == 0
    assert verdict is not None
    report = json.loads(verdict.out.splitlines()[-1])
    assert report["verdict"] == "ok", report
    assert (report["lost"], report["duplicated_in_s3"], report["out_of_order"]) == (0, 0, 0)
    assert report["in_s3"] == report["acknowledged"] == acknowledged > 500
    found = count_lines(shell, named["bucket"])
    assert [event_id for event_id, times in found.items() if times > 1] == []
    assert len(found) == acknowledged
    compare_indexes(shell, named["bucket"])
