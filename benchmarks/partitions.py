"""Memory of a real consumer with many open partitions: `python -m benchmarks.partitions [--partitions N]`.

On a local cloud, a consumer partitions by session with nothing but its memory budget to close a batch. Told are the
partitions that were open at once, and the highest resident memory beyond that of the idle process, beside the budget.
Fails where it is more than the budget, or where the audit finds an event missing or doubled.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import boto3
import orjson

from infra.cloud.process import LocalCloudProcess

_BIN: Final = Path(sys.executable).parent
_NAME: Final = "partitions"
_STREAMS: Final = ("--source-stream", _NAME, "--bucket", _NAME, "--app", _NAME)
_SHARDS: Final = 8  # what the names of a flush take in the lease row bounds the partitions of one shard
_EVENT_BYTES: Final = 700
_WAIT_SECONDS_MAX: Final = 900.0
_OBJECT: Final = re.compile(r"(shardId-\d+)-(\d+)(?:\.\d+)?-[^/]*$")


def _memory(pid: int, name: str) -> int:
    """Return a field of /proc/PID/status, bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found is not None else 0


def _run(environment: dict[str, str], script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603 - our own commands, no shell
        [str(_BIN / script), *arguments],
        env=environment,
        capture_output=True,
        timeout=_WAIT_SECONDS_MAX,
        check=False,
    )


def _write_events(path: Path, partitions: int, events: int) -> None:
    """Write round after round of one event per partition, so that all of them are open after the first."""
    with path.open("wb") as file:
        for number in range(events):
            event = {"session_id": f"customer-{number % partitions}", "n": number, "padding": "x" * _EVENT_BYTES}
            file.write(orjson.dumps(event) + b"\n")


def _open_at_once(store: Any) -> int:
    """Return how many objects the first flush of each shard made, together."""
    objects: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    for page in store.get_paginator("list_objects_v2").paginate(Bucket=_NAME, Prefix="archive/"):
        for each in page.get("Contents", ()):
            if (named := _OBJECT.search(each["Key"])) is not None:
                objects[named[1]][int(named[2])] += 1
    return sum(flushes[min(flushes)] for flushes in objects.values())


def _measure(options: argparse.Namespace, folder: Path) -> tuple[int, int, dict[str, Any]]:
    """Return the partitions that were open at once, the bytes of memory they took, and the audit."""
    with LocalCloudProcess() as cloud:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "HEADRACE_"))}
        environment = kept | cloud.environment() | {
            "HEADRACE_ARCHIVE_PREFIX": "archive/!{destination}/!{event:session_id}/",
            "HEADRACE_BUDGET_BYTES_MAX": str(options.budget),
            "HEADRACE_READ_RECORDS_MAX": str(options.read_records),
            "HEADRACE_FLUSH_SECONDS": "900",
            "HEADRACE_FLUSH_BYTES_MAX": str(128 << 20),
            "HEADRACE_FLUSH_RECORDS_MAX": "10000000",
        }  # fmt: skip
        _run(environment, "headrace", "provision", *_STREAMS, "--shards", str(_SHARDS)).check_returncode()
        events = folder / "events.json"
        _write_events(events, options.partitions, options.events)
        consumer = subprocess.Popen(  # noqa: S603 - our own command, no shell
            [str(_BIN / "headrace"), "consume", *_STREAMS, "--http-port", "-1"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            time.sleep(15)  # leases of all shards, connections, the first reads
            idle = _memory(consumer.pid, "VmRSS")
            source = ("--stream", _NAME, "--file", str(events), "--state-dir", str(folder))
            _run(environment, "producer_from_cli", *source).check_returncode()
            time.sleep(15)
            consumer.send_signal(signal.SIGTERM)
            highest = _memory(consumer.pid, "VmHWM")
            while consumer.poll() is None:
                highest = _memory(consumer.pid, "VmHWM") or highest
                time.sleep(0.1)
        finally:
            consumer.kill()
            consumer.wait(timeout=60)
        report = _finish(environment)
        store = boto3.client(
            "s3",
            endpoint_url=cloud.endpoint_url,
            region_name=environment["AWS_REGION"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )
        return _open_at_once(store), highest - idle, report


def _finish(environment: dict[str, str]) -> dict[str, Any]:
    """Let a second consumer store what the first could not within its drain, and audit."""
    consumer = subprocess.Popen(  # noqa: S603 - our own command, no shell
        [str(_BIN / "headrace"), "consume", *_STREAMS, "--http-port", "-1"],
        env=environment | {"HEADRACE_FLUSH_SECONDS": "5"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + _WAIT_SECONDS_MAX
    try:
        while True:
            done = _run(environment, "headrace", "audit", "--app", _NAME, "--output", "json")
            report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            if report["verdict"] == "ok" or time.monotonic() > deadline:
                return report
            time.sleep(2)
    finally:
        consumer.send_signal(signal.SIGTERM)
        consumer.wait(timeout=60)


def main() -> int:
    """Measure once; 1 if memory or audit are not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--partitions", type=int, default=10_000, help="default %(default)s")
    parser.add_argument("--events", type=int, default=60_000, help="default %(default)s")
    parser.add_argument("--budget", type=int, default=64 << 20, help="budget_bytes_max; default %(default)s")
    parser.add_argument("--read-records", type=int, default=10_000, help="read_records_max; default %(default)s")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        opened, taken, report = _measure(options, Path(folder))
    print(  # noqa: T201 - the result
        f"{opened:,} partitions open at once took {taken / (1 << 20):.0f} MiB beyond the idle process, of a budget of "
        f"{options.budget / (1 << 20):.0f} MiB; {report['in_s3']:,} events in S3, audit: {report['verdict']}"
    )
    return 0 if report["verdict"] == "ok" and taken <= options.budget else 1


if __name__ == "__main__":
    sys.exit(main())
