"""The load test as a command: it ends by itself with a verdict, figures that fit each other, and a page."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from tests.acceptance.conftest import BIN, PATIENCE_SECONDS, Shell
from tests.acceptance.test_demo import KEYS


@pytest.mark.slow
def test_a_short_ramp_is_measured_and_audited(bare_shell: Shell) -> None:
    """Every event that was due is acknowledged, stored and delivered, and has its latencies, also under faults."""
    done = bare_shell.run(
        "headrace", "loadtest", "--rate-min", "50", "--rate-max", "150", "--seconds", "3", "--steps", "3",
        "--faults", "throttled", "--output", "json", timeout=2 * PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.code == 0, done.err
    report = json.loads(done.out.splitlines()[-1])
    assert report.keys() >= KEYS
    assert report["verdict"] == "ok"
    assert report["offered"] == report["events"] == report["acknowledged"] == report["in_s3"] > 150
    assert report["not_accepted"] == 0
    for kind in ("acknowledged", "delivered"):
        latency = report["latency_seconds"][kind]
        assert latency["count"] >= report["events"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99_9"] <= latency["max"]
    assert report["latency_seconds"]["delivered"]["p50"] > report["latency_seconds"]["acknowledged"]["p50"]
    assert [each["end_seconds"] for each in report["steps"]] == [1, 2, 3]
    page = (bare_shell.folder / "loadtest.html").read_text()
    assert page.startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--html", "missing/page.html"), "missing/page.html"),
        (("--faults", "none-such"), "none-such"),
        (("--seconds", "3600", "--rate-max", "100000"), "500,000"),
    ],
)
def test_what_can_not_work_is_told_before_anything_starts(
    bare_shell: Shell, arguments: tuple[str, ...], words: str
) -> None:
    """A place for the page, faults or a ramp that is not usable is a usage error with a hint."""
    done = bare_shell.run("headrace", "loadtest", *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert words in done.err
    assert "\n\nhint: " in done.err


@pytest.mark.slow
def test_ctrl_c_ends_the_ramp_and_what_was_sent_is_audited(bare_shell: Shell) -> None:
    """The first Ctrl-C ends the load early, with the figures so far and the exit code of an interrupted command."""
    process = subprocess.Popen(
        [str(BIN / "headrace"), "loadtest", "--seconds", "600", "--rate-max", "100", "--output", "json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=bare_shell.environment,
        cwd=bare_shell.folder,
        text=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if "events in 600 s" in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, err
    report = json.loads(out.splitlines()[-1])
    assert report["verdict"] == "ok"
    assert report["events"] == report["acknowledged"] < report["offered"]
