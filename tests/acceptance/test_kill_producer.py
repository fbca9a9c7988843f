"""kill -9 of a following producer while its log grows and rotates, on a network that loses requests and replies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance.conftest import PATIENCE_SECONDS, Shell
from tests.support.lossy_proxy import LossyProxy
from tests.support.whole_stream import WholeStream, first_occurrences, out_of_order

KILLS = int(os.environ.get("KILLS", "15"))
STREAM = "kill-producer"
SESSIONS = 12
QUICK = {
    "HEADRACE_PRODUCER_ROTATE_WAIT_SECONDS": "0.3",
    "HEADRACE_PRODUCER_BOOKMARK_INTERVAL_SECONDS": "0.1",
    "HEADRACE_PRODUCER_BATCH_LINGER_SECONDS": "0.02",
    "HEADRACE_PRODUCER_BATCH_RECORDS_MAX": "20",
    "HEADRACE_PRODUCER_RETRY_BACKOFF_SECONDS_MAX": "0.2",
    "HEADRACE_PRODUCER_CALL_TIMEOUT_SECONDS": "2",
}


class WebServer:
    """Writes a log as a web server does, a line now and then in two halves, and rotates it by renames."""

    def __init__(self, path: Path, chance: random.Random) -> None:
        self._path = path
        self._chance = chance
        self._file = path.open("wb", buffering=0)
        self.written: list[bytes] = []
        self.rotations = 0

    def write(self, count: int) -> None:
        """Write some whole lines."""
        for _ in range(count):
            number = len(self.written)
            line = b'{"session_id":"s%d","n":%d,"pad":"%s"}' % (
                self._chance.randrange(SESSIONS), number, b"x" * self._chance.randrange(200),
            )  # fmt: skip
            cut = self._chance.randrange(len(line)) if self._chance.random() < 0.1 else 0
            if cut:
                self._file.write(line[:cut])
            self._file.write(line[cut:] + b"\n")
            self.written.append(line)

    def rotate(self) -> None:
        """Shift all numbers up, as logrotate does; the writer goes on in the renamed file until it is told."""
        for number in range(self.rotations, 0, -1):
            Path(f"{self._path}.{number}").rename(f"{self._path}.{number + 1}")
        self._path.rename(f"{self._path}.1")
        self.rotations += 1
        self.write(self._chance.randrange(4))
        self._file.close()
        self._file = self._path.open("wb", buffering=0)

    def close(self) -> None:
        """Close the log."""
        self._file.close()


def wait(seconds: float) -> None:
    """Let real time pass: the moments of kills and writes have nothing to wait for but time."""
    threading.Event().wait(seconds)


def wait_for_bookmark(folder: Path, producer: subprocess.Popen[bytes]) -> None:
    """Return once the producer has a bookmark; files rotated away before that are not its business."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not list(folder.glob(".headrace/bookmarks/*.json")):
        assert producer.poll() is None
        assert time.monotonic() < deadline
        wait(0.02)


def live(server: WebServer, chance: random.Random, proxy: LossyProxy) -> None:
    """Write and rotate until this producer is at work, and for a moment longer."""
    puts = proxy.requests["PutRecords"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    until = deadline
    while time.monotonic() < until:
        if until == deadline and proxy.requests["PutRecords"] > puts:
            until = time.monotonic() + chance.random() * 0.6
        server.write(chance.randrange(1, 6))
        if chance.random() < 0.04:
            server.rotate()
        wait(0.01 + chance.random() * 0.02)


@pytest.mark.slow
@pytest.mark.timeout(180 + 12 * KILLS)
def test_kill_9_of_the_producer_loses_nothing_and_keeps_order(shell: Shell) -> None:
    """Many kill -9 while lines are written and files renamed, and lost replies: every line is there, in order."""
    client = shell.client("kinesis")
    client.create_stream(StreamName=STREAM, ShardCount=3)
    client.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})
    chance = random.Random(5)
    log = shell.folder / "access.log"
    server = WebServer(log, chance)
    command = ("producer_from_cli", "--stream", STREAM, "--file", str(log), "--follow")
    with LossyProxy(
        shell.environment["AWS_ENDPOINT_URL"], seed=5, lose_request=0.15, lose_reply=0.2, hold_put=0.1
    ) as proxy:  # fmt: skip
        through = QUICK | {"AWS_ENDPOINT_URL": proxy.endpoint_url}
        server.write(50)
        for life in range(KILLS):
            producer = shell.start(*command, **through)
            if life == 0:
                wait_for_bookmark(shell.folder, producer)
            live(server, chance, proxy)
            assert producer.poll() is None  # it ends when it is killed, never before
            producer.send_signal(signal.SIGKILL)
            producer.wait(timeout=PATIENCE_SECONDS)
            if chance.random() < 0.5:
                server.rotate()  # while nobody looks
            server.write(chance.randrange(20))
        producer = shell.start(*command, **through)
        stream = WholeStream(client, STREAM)
        deadline = time.monotonic() + PATIENCE_SECONDS
        stream.read()
        while len({each.event["n"] for each in stream.seen}) < len(server.written) and time.monotonic() < deadline:
            wait(0.3)
            count = len(stream.seen)
            stream.read()
            if len(stream.seen) > count:
                deadline = time.monotonic() + PATIENCE_SECONDS  # from the last sign of life
        producer.send_signal(signal.SIGTERM)
        assert producer.wait(timeout=PATIENCE_SECONDS) == 0
        server.close()
        stream.read()

    firsts = first_occurrences(stream.seen)
    struck = [each["PutRecords"] for each in (proxy.lost_requests, proxy.held_requests, proxy.lost_replies)]
    counts = f"{len(server.written)} lines, {server.rotations} rotations, {len(stream.seen) - len(firsts)} repetitions"
    print(f"\n{KILLS} kills, {counts}; requests lost, held, replies lost: {struck}")  # noqa: T201 - what a long run is for (pytest -s)
    assert {each.event["n"] for each in firsts} == set(range(len(server.written)))
    # One id per line: a line that had come under two ids would be here twice.
    assert max(Counter(each.event["n"] for each in firsts).values()) == 1
    for each in firsts:
        line = server.written[each.event["n"]]
        assert each.data.startswith(line[:-1] + b',"event_id":"')
    assert out_of_order(firsts) == 0
    assert server.rotations >= 10
    assert min(struck) >= 2
    assert len(stream.seen) > len(firsts)  # there were repetitions to be recognised
