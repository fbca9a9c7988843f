"""SIGTERM while the oldest batch that settings allow is open: it is stored before the process ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.acceptance.conftest import PATIENCE_SECONDS, Shell
from tests.acceptance.test_kill_consumer import count_lines
from tests.acceptance.test_lab_session import names, provision

EVENTS = 300


@pytest.mark.slow
def test_sigterm_stores_the_batch_that_is_open(shell: Shell, tmp_path: Path) -> None:
    """All events are delivered, none is in S3; after SIGTERM each is in one line of one object, and the exit code 0."""
    named = names("stop")
    provision(shell, named)
    events = tmp_path / "events.json"
    events.write_text("".join(f'{{"session_id": "s{n % 7}", "country": "USA", "n": {n}}}\n' for n in range(EVENTS)))
    consumer = shell.start(
        "headrace", "consume", "--source_stream", named["source"], "--dest_streams", json.dumps(named["dests"]),
        "--bucket", named["bucket"], "--app", named["app"], "--http_port", "-1", "--flush_seconds", "900",
    )  # fmt: skip
    assert shell.run("producer_from_cli", "--stream", named["source"], "--file", str(events)).code == 0
    delivered = ("--stream", named["dests"]["USA"], "--limit", str(EVENTS))
    assert shell.run("consumer_from_cli", *delivered).code == 0
    assert not count_lines(shell, named["bucket"])
    consumer.send_signal(signal.SIGTERM)
    assert consumer.wait(timeout=PATIENCE_SECONDS) == 0
    found = count_lines(shell, named["bucket"])
    assert (len(found), set(found.values())) == (EVENTS, {1})
