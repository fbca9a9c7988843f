"""`producer_from_cli` as its users run it: every form, bad input of every kind, pipes and signals."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
from typing import Any

import pytest

from tests.acceptance.conftest import BIN, PATIENCE_SECONDS, Shell
from tests.support.whole_stream import WholeStream

EVENT = b'{"session_id":"a1","country":"USA"}\n'
KEY_DIGITS = "7" * 63  # one too few

pytestmark = pytest.mark.slow


def make_stream(shell: Shell, name: str) -> Any:
    """Make a stream of two shards and return a client."""
    client = shell.client("kinesis")
    client.create_stream(StreamName=name, ShardCount=2)
    client.get_waiter("stream_exists").wait(StreamName=name, WaiterConfig={"Delay": 1})
    return client


def test_bad_input_gets_one_line_a_hint_and_its_exit_code(shell: Shell) -> None:
    """What can't be used is told in one line with a remedy, without a traceback, and nothing goes to stdout."""
    make_stream(shell, "bad-input")
    folder = shell.folder
    (folder / "binary").write_bytes(b"\x7fELF\0\0")
    (folder / "cut.gz").write_bytes(gzip.compress(EVENT * 1000)[:-10])
    cases: list[tuple[int, str, tuple[str, ...], dict[str, str]]] = [
        (1, "does not exist", ("--stream", "nope", "--json_string", '{"session_id":"a"}'), {}),
        (1, "does not exist", ("--stream", "nope", "-"), {}),
        (2, "not JSON", ("--stream", "bad-input", "--json_string", "nonsense"), {}),
        (2, "no session_id", ("--stream", "bad-input", "--json_string", "{}"), {}),
        (1, "does not exist", ("--stream", "bad-input", "--file", "missing"), {}),
        (1, "is a folder", ("--stream", "bad-input", "--file", "."), {}),
        (1, "NUL byte", ("--stream", "bad-input", "--file", "binary"), {}),
        (2, "site profile", ("--stream", "bad-input", "--site", "other"), {}),
        (2, "1 to 28", ("--stream", "bad-input", "--source-id", "No!"), {}),
        (2, "--follow needs", ("--stream", "bad-input", "--follow"), {}),
        (2, "can't be followed", ("--stream", "bad-input", "--follow", "--file", "cut.gz"), {}),
        (2, "Missing option", ("--file", "binary"), {}),
        (
            2,
            "hex digits",
            (
                "--stream",
                "bad-input",
            ),
            {"HEADRACE_PRODUCER_SESSION_KEY": KEY_DIGITS},
        ),
        (1, "connect", ("--stream", "bad-input", "-"), {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
    ]
    for code, words, arguments, environment in cases:
        done = shell.run("producer_from_cli", *arguments, **environment)
        assert (done.code, done.out) == (code, ""), (arguments, done)
        assert words in done.err.splitlines()[0], (arguments, done.err)
        assert done.err.startswith("error: ")
        assert "\n\nhint: " in done.err, (arguments, done.err)
        assert "Traceback" not in done.err
        assert KEY_DIGITS not in done.err


def test_lines_of_a_pipe_arrive_and_receipts_name_them(shell: Shell) -> None:
    """With --output json stdout has a receipt per event and the counts last; a rejected line does not fail the run."""
    make_stream(shell, "pipe")
    done = shell.run("producer_from_cli", "--stream", "pipe", "--output", "json", stdin=EVENT * 20 + b"{broken\n")
    assert done.code == 0, done.err
    *receipts, summary = [json.loads(line) for line in done.out.splitlines()]
    assert len({receipt["event_id"] for receipt in receipts}) == 20
    assert {"event_id", "shard_id", "sequence_number"} == set(receipts[0])
    assert (summary["lines"], summary["events"], summary["rejected"], summary["acknowledged"]) == (21, 20, 1, 20)
    assert summary["verdict"] == "ok"
    assert summary["rejected_by_reason"] == {"malformed-event": 1}
    assert "21 lines, 20 of 20 events acknowledged, 1 rejected (malformed-event 1; kept in " in done.err
    read = shell.run("consumer_from_cli", "--stream", "pipe", "--limit", "20", "--output", "json")
    ids = [json.loads(line)["data"]["event_id"] for line in read.out.splitlines()]
    assert sorted(ids) == sorted(receipt["event_id"] for receipt in receipts)


@pytest.mark.parametrize(("data", "code"), [(b"", 0), (b"x\ny\n", 3)])
def test_nothing_is_fine_and_nothing_but_rejects_is_not(shell: Shell, data: bytes, code: int) -> None:
    """An empty source is done; one whose every line was rejected says so."""
    name = f"rejects-{code}"
    make_stream(shell, name)
    assert shell.run("producer_from_cli", "--stream", name, stdin=data).code == code


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGPIPE, 141)])
def test_a_file_left_in_the_middle_is_told(shell: Shell, which: signal.Signals, code: int) -> None:
    """Ctrl-C and a closed stdout before the end of a file are no success; what was accepted arrives all the same."""
    name = f"left-{code}"
    client = make_stream(shell, name)
    log = shell.folder / "events.json"
    log.write_bytes(EVENT * 5000)
    process = subprocess.Popen(
        [str(BIN / "producer_from_cli"), "--stream", name, "--file", str(log), "--rate", "200", "--output", "json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=shell.environment,
        cwd=shell.folder,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert b"event_id" in process.stdout.readline()
        if which is signal.SIGPIPE:
            process.stdout.close()
        else:
            process.send_signal(which)
        assert process.wait(timeout=PATIENCE_SECONDS) == code
        told = process.stderr.read().decode()
    assert "stopped before the end" in told
    lines, acknowledged, events = re.findall(r"([0-9,]+) (?:lines|of|events)", told)
    assert lines == acknowledged == events
    assert 1 <= int(lines.replace(",", "")) < 5000
    stream = WholeStream(client, name)
    stream.read()
    assert len(stream.seen) == int(lines.replace(",", ""))


def test_following_survives_rotation_sigkill_and_ends_on_sigterm(shell: Shell) -> None:
    """A followed log goes on over a kill and a rotation without loss; SIGTERM drains and exits 0."""
    make_stream(shell, "follow")
    log = shell.folder / "access.log"
    log.write_bytes(b"".join(b'{"session_id":"s%d","n":%d}\n' % (index % 5, index) for index in range(200)))
    quick = {"HEADRACE_PRODUCER_ROTATE_WAIT_SECONDS": "0.2", "HEADRACE_PRODUCER_BOOKMARK_INTERVAL_SECONDS": "0.05"}
    command = ("producer_from_cli", "--stream", "follow", "--file", str(log), "--follow")
    first = shell.start(*command, **quick)
    shell.run("consumer_from_cli", "--stream", "follow", "--limit", "200")  # returns once they have arrived
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=PATIENCE_SECONDS)
    log.rename(shell.folder / "access.log.1")
    log.write_bytes(b"".join(b'{"session_id":"s%d","n":%d}\n' % (index % 5, index) for index in range(200, 400)))
    second = shell.start(*command, **quick)
    seen = _numbers_until(shell, 400)
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=PATIENCE_SECONDS) == 0
    assert seen == set(range(400))


def _numbers_until(shell: Shell, count: int) -> set[int]:
    """Read the stream with growing limits until it has this many different events."""
    limit = count
    while True:
        read = shell.run("consumer_from_cli", "--stream", "follow", "--limit", str(limit), "--output", "json")
        seen = {json.loads(line)["data"]["n"] for line in read.out.splitlines()}
        if len(seen) >= count:
            return seen
        limit += count - len(seen)
        assert limit < 10 * count


def test_a_log_is_followed_by_one_producer_at_a_time(shell: Shell) -> None:
    """A second one with the same state folder is refused: it would send every event again, under other ids."""
    make_stream(shell, "followed-twice")
    (shell.folder / "twice.log").write_bytes(EVENT * 10)
    command = ("producer_from_cli", "--stream", "followed-twice", "--file", "twice.log", "--follow")
    first = shell.start(*command)
    shell.run("consumer_from_cli", "--stream", "followed-twice", "--limit", "10")  # returns once they have arrived
    second = shell.run(*command)
    assert (second.code, second.out) == (2, "")
    assert "is in use by another producer" in second.err.splitlines()[0]
    assert "\n\nhint: " in second.err
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=PATIENCE_SECONDS)
    third = shell.start(*command)
    (shell.folder / "twice.log").write_bytes(EVENT * 11)
    shell.run("consumer_from_cli", "--stream", "followed-twice", "--limit", "11")
    third.send_signal(signal.SIGTERM)
    assert third.wait(timeout=PATIENCE_SECONDS) == 0


def test_what_was_delivered_before_a_failure_is_told(shell: Shell) -> None:
    """A source that breaks in the middle ends with an error, behind the summary of what came before it."""
    make_stream(shell, "broken-source")
    packed = gzip.compress(b"".join(b'{"session_id": "s%d"}\n' % (number % 999_983) for number in range(50_000)))
    (shell.folder / "half.json.gz").write_bytes(packed[: len(packed) // 2])
    done = shell.run("producer_from_cli", "--stream", "broken-source", "--file", "half.json.gz", "--output", "json")
    *receipts, last = map(json.loads, done.out.splitlines())
    assert done.code == 1
    assert last["verdict"] == "failed"
    assert last["acknowledged"] == last["events"] == len(receipts) > 0
    told = f"{len(receipts):,} of {len(receipts):,} events acknowledged"
    assert done.err.index(told) < done.err.index("error: half.json.gz is cut off")


def test_a_closed_or_full_stdout_is_no_defect(shell: Shell) -> None:
    """Started without a stdout, a command does its work; where nothing more can be written, it says so and fails."""
    make_stream(shell, "no-stdout")
    for place, code in ((">&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0), (">/dev/full", 1)):
        for program in (
            'producer_from_cli --stream no-stdout --json_string \'{"session_id":"a"}\'',
            "consumer_from_cli --stream no-stdout --limit 1",
        ):
            done = subprocess.run(
                ["/bin/sh", "-c", f"exec {BIN / program.split()[0]} {program.partition(' ')[2]} {place}"],
                env=shell.environment,
                cwd=shell.folder,
                capture_output=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
            assert done.returncode == code, (place, program, done.stderr)
            assert b"defect" not in done.stderr
            assert b"Traceback" not in done.stderr
            if code:
                assert b"stdout can't be written: No space left on device" in done.stderr
