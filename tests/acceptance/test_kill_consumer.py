"""kill -9 of the consumer at random moments: what it left half-done is finished once, by whoever comes next."""

from __future__ import annotations

import json
import random
import signal
import threading
from pathlib import Path

import pytest

from infra.sample.generator import lines as sample_lines
from tests.acceptance.conftest import PATIENCE_SECONDS, Shell
from tests.acceptance.test_lab_session import names, provision

KILLS = 4


@pytest.mark.slow
def test_kill_9_of_the_consumer_loses_and_doubles_nothing(shell: Shell, tmp_path: Path) -> None:
    """After several kill -9 in the middle of a run and a restart, the audit finds nothing lost or doubled in S3."""
    named = names("kill")
    provision(shell, named)
    log = tmp_path / "access.log"
    log.write_text("".join(f"{line}\n" for line in sample_lines(seed=7, count=6_000)))
    put = shell.run("producer_from_cli", "--stream", named["source"], "--file", str(log), "--format", "combined")
    assert put.code == 0, put.err

    chance = random.Random(11)
    options = (
        "consume", "--source_stream", named["source"], "--dest_streams", json.dumps(named["dests"]),
        "--bucket", named["bucket"], "--app", named["app"], "--http_port", "-1", "--flush_seconds", "0.3",
    )  # fmt: skip
    # Small pages and a short lease, so that each life is cut in the middle of its work and the next begins soon.
    paced = {"HEADRACE_READ_RECORDS_MAX": "40", "HEADRACE_LEASE_DURATION_SECONDS": "1"}
    for _ in range(KILLS):
        consumer = shell.start("headrace", *options, **paced)
        # The moment of the kill is a real one: there is nothing to wait for but time.
        threading.Event().wait(1.5 + chance.random() * 2)
        consumer.send_signal(signal.SIGKILL)
        consumer.wait(timeout=PATIENCE_SECONDS)

    consumer = shell.start("headrace", *options, HEADRACE_LEASE_DURATION_SECONDS="1")
    verdict = None
    for _ in range(PATIENCE_SECONDS):
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
    assert report["in_s3"] == report["acknowledged"] > 500
