"""A producer as a process in front of a stream that refuses everything: few calls, bounded memory, a quick recovery."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from infra.cloud.process import LocalCloudProcess
from shared.limits import MIB
from tests.acceptance.conftest import PATIENCE_SECONDS, Shell, clean_environment
from tests.support.whole_stream import WholeStream, first_occurrences, out_of_order

OUTAGE_SECONDS: Final = float(os.environ.get("OUTAGE_SECONDS", "5"))  # 600 in a long run
RECOVERY_SECONDS_MAX: Final = 5
BUFFER_BYTES: Final = 4 * MIB
GROWTH_BYTES_MAX: Final = BUFFER_BYTES + 24 * MIB  # requests in the making, a chunk of the log, the allocator's own
LINES: Final = 16_000
STREAM: Final = "refusing"
CALL: Final = """
[[rule]]
name = "calls"
operation = "PutRecords"
effect = "delay"
seconds = 0.001
"""
REFUSALS: Final = {
    "calls": 'effect = "error"\ncode = "ProvisionedThroughputExceededException"',
    "records": 'effect = "fail_records"',
}


def faults(endpoint_url: str, method: str, plan: str = "") -> dict[str, Any]:
    """Ask the cloud for its faults, begin others, or end them."""
    request = urllib.request.Request(f"{endpoint_url}/_headrace/faults", plan.encode() or None, method=method)  # noqa: S310 (http to loopback)
    with urllib.request.urlopen(request) as answer:  # noqa: S310 (as above)
        return dict(json.load(answer))


def calls(endpoint_url: str) -> int:
    """Return how many PutRecords calls came since the refusal began."""
    rules = faults(endpoint_url, "GET")["rules"]
    return next(int(each["hits"]) for each in rules if each["name"] == "calls")


def memory(pid: int, field: str) -> int:
    """Return a process's memory in bytes: VmRSS now, VmHWM at its highest."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def line(number: int) -> bytes:
    """Return an event of about 300 bytes."""
    return b'{"session_id":"s%d","n":%d,"pad":"%s"}\n' % (number % 97, number, b"x" * 250)


@pytest.mark.slow
@pytest.mark.timeout(OUTAGE_SECONDS + 4 * PATIENCE_SECONDS)
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusing_stream_costs_few_calls_and_no_memory_and_is_taken_up_within_five_seconds(
    tmp_path: Path, kind: str
) -> None:
    """While all is refused, calls and memory are bounded; when it ends, all arrives, once and in order, and soon."""
    log = tmp_path / "events.json"
    log.write_bytes(line(0))
    with LocalCloudProcess(limits_enforced=False, status_delay_seconds=0.05) as cloud:
        shell = Shell(clean_environment() | cloud.environment(), tmp_path)
        client = shell.client("kinesis")
        client.create_stream(StreamName=STREAM, ShardCount=2)
        client.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})
        started = shell.start(
            "producer_from_cli", "--stream", STREAM, "--file", str(log), "--follow",
            HEADRACE_PRODUCER_BUFFER_BYTES_MAX=str(BUFFER_BYTES), HEADRACE_PRODUCER_SHARD_RATE_PERCENT="0",
        )  # fmt: skip
        with killed_at_last(started) as producer:
            stream = WholeStream(client, STREAM)
            wait_for(stream, 1)
            before = memory(producer.pid, "VmRSS")
            faults(cloud.endpoint_url, "PUT", f'{CALL}\n[[rule]]\noperation = "PutRecords"\n{REFUSALS[kind]}\n')
            with log.open("ab") as file:
                file.write(b"".join(line(number) for number in range(1, LINES)))

            counts = [0]
            until = time.monotonic() + OUTAGE_SECONDS
            while time.monotonic() < until:
                threading.Event().wait(1)
                counts.append(calls(cloud.endpoint_url))
            faults(cloud.endpoint_url, "DELETE")
            ended = time.monotonic()
            wait_for(stream, 2)
            recovery = time.monotonic() - ended
            grown = memory(producer.pid, "VmHWM") - before
            wait_for(stream, LINES)
            producer.send_signal(signal.SIGTERM)
            assert producer.wait(timeout=PATIENCE_SECONDS) == 0
            stream.read()
    steps = [after - earlier for earlier, after in itertools.pairwise(counts)]
    figures = f"{counts[-1]} calls, {max(steps[2:])} in a second, {grown / MIB:.1f} MiB, again after {recovery:.2f} s"
    print(f"\n{kind}, {OUTAGE_SECONDS:g} s: {figures}")  # noqa: T201 - what the long run is for (pytest -s)
    assert counts[-1] >= 3, "it went on trying"
    assert max(steps[2:]) <= 10
    assert grown <= GROWTH_BYTES_MAX
    assert recovery <= RECOVERY_SECONDS_MAX
    firsts = first_occurrences(stream.seen)
    assert sorted(each.event["n"] for each in firsts) == list(range(LINES))
    assert out_of_order(firsts) == 0


@contextmanager
def killed_at_last(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Leave no process behind, however the test ends."""
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=PATIENCE_SECONDS)


def wait_for(stream: WholeStream, count: int) -> None:
    """Read until there are this many events."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    stream.read()
    while len(stream.seen) < count:
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
        stream.read()
