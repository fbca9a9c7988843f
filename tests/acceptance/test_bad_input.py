"""What bad input gets: one error line, a hint, the right exit code, and nothing half-done."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import BIN, PATIENCE_SECONDS, Finished, Shell

KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
ONE_EVENT = b'{"session_id": "a1"}\n'
STREAM = "refused-input"


@pytest.fixture(scope="module")
def stream(cloud_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """Provision one stream for all cases of this module."""
    shell = Shell(cloud_environment, tmp_path_factory.mktemp("provision"))
    dests = json.dumps({"USA": f"{STREAM}-usa", "International": f"{STREAM}-world"})
    done = shell.run(
        "headrace", "provision", "--source_stream", STREAM, "--dest_streams", dests,
        "--bucket", f"{STREAM}-archive", "--app", f"{STREAM}-app",
    )  # fmt: skip
    assert done.code == 0, done.err
    return STREAM


def assert_refused(done: Finished, code: int, *words: str) -> None:
    """Check that a command ended with `code`, an error with `words`, a hint, and no traceback."""
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.err
    for word in words:
        assert word in errors[0]
    assert "\n\nhint: " in done.err
    assert done.out == ""


def test_no_region_is_said(bare_shell: Shell) -> None:
    """Without any AWS settings the first thing missing is named."""
    done = bare_shell.run("producer_from_cli", "--stream", "x", "--json_string", '{"session_id": "a"}')
    assert_refused(done, 1, "No AWS region")


@pytest.mark.parametrize(
    "command",
    [
        ("producer_from_cli", "--stream", "x", "--json_string", '{"session_id": "a"}'),
        ("producer_from_cli", "--stream", "x", "-"),
        ("consumer_from_cli", "--stream", "x"),
        ("headrace", "audit"),
        ("headrace", "provision"),
    ],
    ids=lambda command: "-".join(command[:2]),
)
def test_no_credentials_are_said(bare_shell: Shell, command: tuple[str, ...]) -> None:
    """Every command says that credentials are missing, with AWS_REGION being enough of a region."""
    done = bare_shell.run(command[0], *command[1:], stdin=ONE_EVENT, AWS_REGION="us-east-1")
    assert_refused(done, 1, "credentials")


@pytest.mark.parametrize(
    "command",
    [
        ("producer_from_cli", "--stream", "x", "--json_string", '{"session_id": "a"}'),
        ("producer_from_cli", "--stream", "x", "-"),
        ("consumer_from_cli", "--stream", "x"),
    ],
    ids=["json_string", "lines", "consumer"],
)
def test_no_network_is_said(bare_shell: Shell, command: tuple[str, ...]) -> None:
    """An endpoint that nobody listens on is an error of its own, not a time-out without words."""
    done = bare_shell.run(command[0], *command[1:], stdin=ONE_EVENT, AWS_ENDPOINT_URL="http://127.0.0.1:1", **KEYS)
    assert_refused(done, 1, "connect")


@pytest.mark.parametrize(
    "command",
    [
        ("producer_from_cli", "--stream", "nowhere", "--json_string", '{"session_id": "a"}'),
        ("producer_from_cli", "--stream", "nowhere", "-"),
        ("consumer_from_cli", "--stream", "nowhere"),
        ("headrace", "consume", "--source_stream", "nowhere", "--bucket", "b", "--http_port", "-1"),
    ],
    ids=["json_string", "lines", "consumer", "consume"],
)
def test_an_unknown_stream_is_said(shell: Shell, stream: str, command: tuple[str, ...]) -> None:
    """A stream that does not exist is found at the start."""
    extra = ("--app", f"{stream}-app") if command[0] == "headrace" else ()
    assert_refused(shell.run(command[0], *command[1:], *extra, stdin=ONE_EVENT), 1, "`nowhere` does not exist")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "not an object"),
        ('{"a": 1}', "session_id"),
        ('{"session_id": 5}', "session_id"),
        ('{"session_id": ""}', "session_id"),
        ('{"session_id": "%s"}' % ("k" * 257), "256"),
    ],
)
def test_a_bad_json_string_is_a_usage_error(shell: Shell, stream: str, text: str, words: str) -> None:
    """What can't be the lab's record is refused before anything is sent."""
    assert_refused(shell.run("producer_from_cli", "--stream", stream, "--json_string", text), 2, words)


def test_an_empty_file_is_fine(shell: Shell, stream: str) -> None:
    """Nothing to send is no error."""
    (shell.folder / "empty").touch()
    done = shell.run("producer_from_cli", "--stream", stream, "--file", "empty")
    assert (done.code, done.out) == (0, "")
    assert "0 lines" in done.err


def test_a_binary_file_is_refused(shell: Shell, stream: str) -> None:
    """A file that is no text is refused whole."""
    (shell.folder / "image").write_bytes(bytes(range(256)) * 100)
    assert_refused(shell.run("producer_from_cli", "--stream", stream, "--file", "image"), 1, "not text")


def test_folders_and_missing_files_are_said(shell: Shell, stream: str) -> None:
    """A folder and a file that is not there are told apart."""
    assert_refused(shell.run("producer_from_cli", "--stream", stream, "--file", "."), 1, "folder")
    assert_refused(shell.run("producer_from_cli", "--stream", stream, "--file", "none.log"), 1, "does not exist")


def test_bad_lines_are_kept_and_counted(shell: Shell, stream: str) -> None:
    """Lines that can't be read go to the dead letters with file, offset and reason; the good ones are delivered."""
    log = shell.folder / "mixed.ndjson"
    long = b'{"session_id": "%s"}' % (b"x" * 2_000_000)
    log.write_bytes(ONE_EVENT + b"no json\n" + b'{"n": 1}\n' + long + b"\n\n" + ONE_EVENT)
    done = shell.run("producer_from_cli", "--stream", stream, "--file", "mixed.ndjson", "--format", "json")
    assert done.code == 0, done.err
    assert "6 lines, 2 of 2 events acknowledged" in done.err
    letters = [json.loads(line) for line in (shell.folder / ".headrace/dead-letters.ndjson").read_bytes().splitlines()]
    offsets = [letter["offset"] for letter in letters]
    assert offsets == [len(ONE_EVENT), len(ONE_EVENT) + 8, len(ONE_EVENT) + 8 + 9]
    assert [letter["error_code"] for letter in letters][:2] == ["malformed-event", "missing-session-id"]
    assert all(letter["file"].endswith("mixed.ndjson") for letter in letters)


@pytest.mark.parametrize("redirection", ["/dev/null", "events"])
def test_redirected_stdin_is_read(shell: Shell, stream: str, redirection: str) -> None:
    """Standard input may be a file or a device as well as a pipe."""
    (shell.folder / "events").write_bytes(ONE_EVENT)
    with Path(shell.folder / redirection).open("rb") as stdin:
        done = subprocess.run(
            [str(BIN / "producer_from_cli"), "--stream", stream, "-"],
            stdin=stdin,
            capture_output=True,
            env=shell.environment,
            cwd=shell.folder,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b""), done.stderr


def test_a_reader_that_goes_away_ends_the_consumer_quietly(shell: Shell, stream: str) -> None:
    """`consumer_from_cli | head -1` ends with 0 on both sides and without a word about pipes."""
    lines = b"".join(b'{"session_id": "s%d"}\n' % index for index in range(200))
    assert shell.run("producer_from_cli", "--stream", stream, "-", stdin=lines).code == 0
    process = subprocess.Popen(
        [str(BIN / "consumer_from_cli"), "--stream", stream],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=shell.environment,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"Consumed record ")
        process.stdout.close()
        # More records make it write again, into the closed pipe.
        assert shell.run("producer_from_cli", "--stream", stream, "-", stdin=lines).code == 0
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_producer_that_waits(shell: Shell, stream: str, which: signal.Signals) -> None:
    """Ctrl-C while the producer waits for input: what was accepted is acknowledged, and the exit code is 0."""
    process = subprocess.Popen(
        [str(BIN / "producer_from_cli"), "--stream", stream, "--output", "json", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=shell.environment,
        cwd=shell.folder,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(ONE_EVENT)
        process.stdin.flush()
        receipt = json.loads(process.stdout.readline())
        process.send_signal(which)
        assert process.wait(timeout=PATIENCE_SECONDS) == 0
        summary = json.loads(process.stdout.readline())
    assert receipt["shard_id"].startswith("shardId-")
    assert (summary["events"], summary["acknowledged"]) == (1, 1)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Listen on a port, so that nobody else can."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_a_port_in_use_is_said(shell: Shell, stream: str, taken_port: int) -> None:
    """The local cloud and the live page say that their port is taken."""
    assert_refused(shell.run("headrace", "local", "--port", str(taken_port)), 1, str(taken_port), "in use")
    done = shell.run(
        "headrace", "consume", "--source_stream", stream, "--bucket", f"{STREAM}-archive",
        "--app", f"{STREAM}-app", "--http_port", str(taken_port),
    )  # fmt: skip
    assert done.code in {1, 2}
    assert str(taken_port) in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("consume",), "No source stream"),
        (("consume", "--source_stream", "a"), "go nowhere"),
        (("consume", "--source_stream", "a", "--dest_streams", "xx"), "not JSON"),
        (
            ("consume", "--source_stream", "a", "--dest_streams", '{"USA": "a", "International": "b"}'),
            "source and dest",
        ),
        (("consume", "--source_stream", "a b", "--bucket", "c"), "no stream name"),
        (("demo", "--evnts", "5"), "No such option: --evnts"),
        (("local", "--port", "70000"), "65535"),
    ],
)
def test_wrong_usage_is_exit_code_2(bare_shell: Shell, arguments: tuple[str, ...], words: str) -> None:
    """Wrong options and settings end with 2 before anything is started."""
    assert_refused(bare_shell.run("headrace", *arguments), 2, words)


@pytest.mark.parametrize("script", ["headrace", "producer_from_cli", "consumer_from_cli"])
def test_help_imports_nothing_heavy(bare_shell: Shell, script: str) -> None:
    """`--help` answers quickly because it imports neither botocore nor what takes as long."""
    done = bare_shell.run(script, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.code == 0
    assert done.out.startswith("Usage: ")
    imported = {line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")}
    assert imported.isdisjoint({"botocore", "aiobotocore", "aiohttp", "pydantic", "moto", "rich.console", "structlog"})
