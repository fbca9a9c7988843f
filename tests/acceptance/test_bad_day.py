"""The whole pipeline on a cloud that misbehaves: the verdict stays ok."""

from __future__ import annotations

import json
import signal
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.cloud.process import LocalCloudProcess
from infra.sample.generator import lines as sample_lines
from tests.acceptance.conftest import PATIENCE_SECONDS, Shell, clean_environment
from tests.acceptance.test_lab_session import names, provision

LINES = 2_000


@pytest.fixture(params=["lossy-network", "bad-day"])
def bad_shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """A shell whose AWS is a cloud of its own, misbehaving by a ready-made file."""
    with LocalCloudProcess(faults_path=request.param) as cloud:
        yield Shell(clean_environment() | cloud.environment(), tmp_path)


def audited(shell: Shell, named: dict[str, Any], receipts: Path) -> dict[str, Any]:
    """Audit until everything has arrived, or patience ends; the last report."""
    report: dict[str, Any] = {}
    for _ in range(PATIENCE_SECONDS):
        done = shell.run("headrace", "audit", "--app", named["app"], "--receipts", str(receipts), "--output", "json")
        assert "defect" not in done.err
        if done.out:
            report = json.loads(done.out.splitlines()[-1])
        if done.code == 0:
            break
        # What is still on its way needs time, and there is no event to wait for from outside.
        threading.Event().wait(0.5)
    return report


def hits_of_puts(shell: Shell) -> int:
    """How many PutRecords calls were answered by nothing or by an error, as the cloud counted them."""
    with urllib.request.urlopen(f"{shell.environment['AWS_ENDPOINT_URL']}/_headrace/faults") as answer:  # noqa: S310 (http to loopback)
        rules = json.load(answer)["rules"]
    return sum(each["hits"] for each in rules if "puts" in each["name"])


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_reordered_on_a_bad_day(bad_shell: Shell, tmp_path: Path) -> None:
    """Lost replies, late landings, throttles and reshards later, the audit of the whole journey says ok."""
    named = names("bad")
    provision(bad_shell, named)
    log, receipts = tmp_path / "access.log", tmp_path / "receipts.json"
    log.write_text("".join(f"{line}\n" for line in sample_lines(seed=3, count=LINES)), encoding="latin-1")

    # Small pages, early flushes and single records: many calls, so that many of them go wrong.
    consumer = bad_shell.start(
        "headrace", "consume", "--source_stream", named["source"], "--dest_streams", json.dumps(named["dests"]),
        "--bucket", named["bucket"], "--app", named["app"], "--http_port", "-1", "--flush_seconds", "0.3",
        HEADRACE_READ_RECORDS_MAX="20",
    )  # fmt: skip
    put = bad_shell.run(
        "producer_from_cli", "--stream", named["source"], "--file", str(log), "--format", "combined",
        "--rate", "200", "--no-aggregate", "--output", "json",
    )  # fmt: skip
    assert put.code == 0, put.err
    receipts.write_text(put.out)
    report = audited(bad_shell, named, receipts)
    consumer.send_signal(signal.SIGTERM)
    assert consumer.wait(timeout=PATIENCE_SECONDS) == 0
    assert report["verdict"] == "ok", report
    assert (report["lost"], report["duplicated_in_s3"], report["out_of_order"]) == (0, 0, 0)
    assert report["in_s3"] == report["acknowledged"] > 500
    assert hits_of_puts(bad_shell) >= 1
