"""The demo: one command, a verdict, and counts that add up."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest

from infra.sample.package import LOG_PATH
from tests.acceptance.conftest import BIN, PATIENCE_SECONDS, Shell

KEYS = {
    "lines", "filtered", "rejected", "events", "acknowledged", "dead_lettered", "in_s3", "in_destinations", "lost",
    "duplicated_in_s3", "duplicated_in_streams", "out_of_order", "verdict",
}  # fmt: skip


@pytest.mark.slow
def test_the_demo_ends_with_a_verdict_and_counts_that_add_up(bare_shell: Shell) -> None:
    """On a machine without AWS settings the demo ends with 0, and every line and every event is accounted for."""
    done = bare_shell.run("headrace", "demo", "--events", "4000", "--output", "json", timeout=2 * PATIENCE_SECONDS)
    assert done.code == 0, done.err
    report = json.loads(done.out.splitlines()[-1])
    assert report.keys() >= KEYS
    assert report["verdict"] == "ok"
    assert report["lines"] == 4000
    assert report["lines"] == report["events"] + report["filtered"] + report["rejected"]
    assert report["events"] == report["acknowledged"] == report["in_s3"] == report["in_destinations"] > 1000
    assert sum(report["per_destination"].values()) == report["events"]
    assert min(report["per_destination"].values()) > 100
    assert (report["lost"], report["duplicated_in_s3"], report["out_of_order"]) == (0, 0, 0)
    assert re.search(r"^Live page: http://127\.0\.0\.1:\d+/$", done.err, re.MULTILINE)
    # Progress is for terminals only.
    assert "\x1b[" not in done.err


@pytest.mark.slow
def test_the_demo_tells_a_damaged_log(bare_shell: Shell) -> None:
    """A gzip file that is cut off is an error with its name, not a shorter log."""
    (bare_shell.folder / "cut.log.gz").write_bytes(LOG_PATH.read_bytes()[:50_000])
    done = bare_shell.run("headrace", "demo", "--log", "cut.log.gz", timeout=2 * PATIENCE_SECONDS)
    assert done.code == 1, done.err
    assert "error: " in done.err
    assert "cut.log.gz" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_and_its_cloud(bare_shell: Shell) -> None:
    """Ctrl-C in the middle leaves neither a traceback nor a process."""
    process = subprocess.Popen(
        [str(BIN / "headrace"), "demo"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=bare_shell.environment,
        cwd=bare_shell.folder,
        text=True,
    )
    with process:
        assert process.stderr is not None
        endpoint = ""
        for line in process.stderr:
            if line.startswith("Local cloud: "):
                endpoint = line.split()[2].rstrip(",")
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert "Traceback" not in err
    gone = bare_shell.run("headrace", "audit", AWS_ENDPOINT_URL=endpoint, AWS_REGION="us-east-1",
                          AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")  # fmt: skip
    assert (gone.code, "connect" in gone.err) == (1, True)
