"""The edges shared by all commands: back-off, clock, disk, signals, settings, telemetry and the terminal."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import random
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import structlog
import typer
from botocore import exceptions as botocore_errors
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from shared import errors
from shared.aws.error_map import aws_errors
from shared.clock import SystemClock
from shared.disk import LocalFiles
from shared.errors import ConfigurationError, HeadraceError, ThrottledError
from shared.lifecycle import ExitCode, StopSignal, stop_on_signals
from shared.retry import Backoff
from shared.settings import ConsumerSettings, Ordering, ProducerSettings, load_settings
from shared.telemetry import StructlogTelemetry, configure_logging
from shared.terminal import normalise_options, render_error, run_command, shows_progress

# Back-off and clock.


@given(st.floats(0.001, 10), st.floats(1, 1000), st.integers(0, 10_000), st.integers())
def test_a_delay_lies_under_its_ceiling(low: float, factor: float, attempt: int, seed: int) -> None:
    """A delay is never negative, never above the ceiling of its attempt, and the ceiling never above the maximum."""
    backoff = Backoff(low, low * factor)
    delay = backoff.delay(attempt, random.Random(seed))
    assert 0 <= delay <= backoff.ceiling(attempt) <= low * factor
    assert backoff.ceiling(attempt) <= backoff.ceiling(attempt + 1)
    assert backoff.ceiling(0) == low


@pytest.mark.parametrize(("low", "high"), [(0, 1), (2, 1), (-1, 1)])
def test_a_backoff_without_sense_is_refused(low: float, high: float) -> None:
    """The least delay is above zero and not above the greatest."""
    with pytest.raises(ValueError, match="0 < min <= max is needed"):
        Backoff(low, high)


def test_clocks_measure_and_name() -> None:
    """The monotonic clock does not go back; the wall clock counts from 1970."""
    clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.wall() > 1_700_000_000


# Disk.


async def test_a_file_stays_readable_after_rename_and_deletion(tmp_path: Path) -> None:
    """An open file is the same file under another name or none, and its size is the present one."""
    files, path = LocalFiles(), tmp_path / "log"
    path.write_bytes(b"0123456789")
    file = await files.open(str(path))
    identity = await file.identify()
    assert identity == await files.identify(str(path))
    path.rename(tmp_path / "log.1")
    assert await files.identify(str(path)) is None
    with (tmp_path / "log.1").open("ab") as grown:
        grown.write(b"ab")
    (tmp_path / "log.1").unlink()
    assert (await file.identify()).size == 12
    assert [await file.read_at(*each) for each in ((8, 100), (12, 1))] == [b"89ab", b""]
    await file.close()
    await file.close()
    with pytest.raises(OSError, match="closed") as failure:
        await file.read_at(0, 1)
    assert failure.value.errno == errno.EBADF


async def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A folder, a pipe and nothing at all are errors with their own number; none of them blocks."""
    files = LocalFiles()
    os.mkfifo(tmp_path / "pipe")
    for name, number in ((".", errno.EISDIR), ("pipe", errno.EINVAL), ("none", errno.ENOENT)):
        with pytest.raises(OSError, match=r".") as failure:
            await files.open(str(tmp_path / name))
        assert failure.value.errno == number


async def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    """Writing makes folders, replaces the content, keeps it private and leaves no temporary file."""
    files, path = LocalFiles(), tmp_path / "a" / "b" / "bookmark"
    for data in (b"old and longer", b"new"):
        await files.write_atomically(str(path), data)
        assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await files.list_folder(str(path.parent)) == ("bookmark",)


async def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, the old content is still there, whole."""
    files, path = LocalFiles(), tmp_path / "bookmark"
    await files.write_atomically(str(path), b"old")

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="no space"):
        await files.write_atomically(str(path), b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("durable", [True, False])
async def test_append_adds_to_the_end(tmp_path: Path, durable: bool) -> None:
    """Appending creates the file, private to the user, and adds."""
    files, path = LocalFiles(), tmp_path / "d" / "letters"
    for data in (b"1\n", b"2\n"):
        await files.append(str(path), data, durable=durable)
    assert path.read_bytes() == b"1\n2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes three bytes at a time still gets all of them."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:3])))
    await LocalFiles().write_atomically(str(tmp_path / "f"), b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


async def test_a_small_file_is_read_within_its_bound(tmp_path: Path) -> None:
    """A file up to the bound is read whole, a larger one is refused, a missing one is None."""
    files, path = LocalFiles(), tmp_path / "f"
    path.write_bytes(b"12345")
    assert await files.read_all(str(path), 5) == b"12345"
    assert await files.read_all(str(tmp_path / "none"), 5) is None
    with pytest.raises(OSError, match="larger than 4 bytes") as failure:
        await files.read_all(str(path), 4)
    assert failure.value.errno == errno.EFBIG


# Signals.


async def test_the_first_signal_asks_and_the_second_hurries() -> None:
    """SIGTERM asks for a drain, a second signal hurries it; one more is passed over when it is done, not two."""
    before = signal.getsignal(signal.SIGINT)
    async with stop_on_signals() as stop:
        assert not stop.requested.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(5):
            await stop.requested.wait()
        assert not stop.hurried.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(5):
            await stop.hurried.wait()
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        for each in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGINT, before)


async def test_a_terminal_that_closes_asks_for_a_drain_unless_that_is_ignored() -> None:
    """SIGHUP asks as SIGTERM does; under `nohup` it stays ignored."""
    async with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        async with asyncio.timeout(5):
            await stop.requested.wait()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
            await asyncio.sleep(0)
            assert not stop.requested.is_set()
    finally:
        for each in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_exit_codes_are_the_promised_ones() -> None:
    """0 done, 1 failed, 2 usage, 3 undelivered; an interrupt and a closed pipe as shells tell them."""
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 130, 141]
    assert not StopSignal().requested.is_set()


# Settings.


def test_settings_come_from_the_environment_and_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option overrides the environment, the environment the default; None is no option."""
    monkeypatch.setenv("HEADRACE_APP", "from-environment")
    monkeypatch.setenv("HEADRACE_DEST_STREAMS", '{"USA": "u", "International": "i"}')
    monkeypatch.setenv("HEADRACE_PRODUCER_ORDERING", "none")
    loaded = load_settings(ConsumerSettings, app=None, bucket="given")
    assert (loaded.app, loaded.bucket, loaded.http_host) == ("from-environment", "given", "127.0.0.1")
    assert loaded.dest_streams == {"USA": "u", "International": "i"}
    assert load_settings(ConsumerSettings, app="given").app == "given"
    assert load_settings(ProducerSettings).ordering is Ordering.NONE


@pytest.mark.parametrize(
    ("given_values", "name"),
    [
        ({"app": "a b"}, "app"),
        ({"dest_streams": "{'USA': 1}"}, "dest_streams"),
        ({"dest_streams": '["a"]'}, "dest_streams"),
        ({"flush_seconds": -1}, "flush_seconds"),
        ({"http_port": 70_000}, "http_port"),
        ({"flush_seconds": float("nan")}, "flush_seconds"),
        ({"compression": "zip"}, "compression"),
        ({"object_tags": '{"a": 1}'}, "object_tags"),
        ({"object_tags": '{"": "b"}'}, "object_tags"),
        ({"object_tags": '{"aws:a": "b"}'}, "object_tags"),
        ({"object_tags": {"a": "b" * 257}}, "object_tags"),
        ({"object_tags": {"a": "b;c"}}, "object_tags"),
    ],
)
def test_a_bad_setting_is_named_with_its_variable(given_values: dict[str, object], name: str) -> None:
    """The first unusable setting is named in the message, and the hint has its environment variable."""
    with pytest.raises(ConfigurationError, match=f"setting `{name}[.`]") as failure:
        load_settings(ConsumerSettings, **given_values)
    assert failure.value.hint.endswith(f" HEADRACE_{name.upper()}")
    assert failure.value.exit_code == 2


# Telemetry.


def test_log_lines_are_json_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal each event is one JSON object on stderr, and stdout stays empty."""
    configure_logging()
    telemetry = StructlogTelemetry()
    telemetry.info("batch_sent", records=3)
    telemetry.warning("lease_lost", shard_id="s")
    telemetry.error("records_dropped", count=1)
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("batch_sent", "info"),
        ("lease_lost", "warning"),
        ("records_dropped", "error"),
    ]
    assert lines[0]["records"] == 3
    assert captured.out == ""


def test_a_library_leaves_stdout_to_its_application(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody has configured structlog its lines go to stderr; where the application has, they go its way."""
    was = structlog.get_config()
    structlog.reset_defaults()
    try:
        telemetry = StructlogTelemetry()
        telemetry.warning("records_refused", stream="s")
        captured = capsys.readouterr()
        assert captured.out == ""
        assert json.loads(captured.err)["event"] == "records_refused"
        seen: list[Any] = []
        structlog.configure(processors=[lambda _logger, _name, event: seen.append(event) or ""])
        telemetry.error("records_dropped", count=1)
        assert [event["event"] for event in seen] == ["records_dropped"]
    finally:
        structlog.configure(**was)


def test_metrics_are_counted_under_the_product_name() -> None:
    """Counters and gauges appear in the registry with their labels."""
    telemetry = StructlogTelemetry()
    telemetry.count("records_delivered", 2, stream="a")
    telemetry.count("records_delivered", stream="a")
    telemetry.count("wakeups")
    telemetry.gauge("leases_held", 4)
    page = generate_latest(telemetry.registry).decode()
    assert 'headrace_records_delivered_total{stream="a"} 3.0' in page
    assert "headrace_wakeups_total 1.0" in page
    assert "headrace_leases_held 4.0" in page


def test_label_values_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound new label values are not kept, and known ones go on counting."""
    monkeypatch.setattr("shared.telemetry._LABEL_SETS_MAX", 2)
    telemetry = StructlogTelemetry()
    for name in ("a", "b", "c", "a"):
        telemetry.count("seen", name=name)
    page = generate_latest(telemetry.registry).decode()
    assert 'name="a"} 2.0' in page
    assert 'name="c"' not in page


# The terminal.


@given(st.lists(st.text(max_size=10)))
def test_only_option_names_are_normalised(arguments: list[str]) -> None:
    """Values, positional arguments and all after `--` stay as they are; names lose their underscores."""
    normalised = normalise_options(arguments)
    assert len(normalised) == len(arguments)
    for given_text, text in zip(arguments, normalised, strict=True):
        if not given_text.startswith("--"):
            assert text == given_text
    assert normalise_options(['--json_string={"a_b": 1}', "--x_y", "a_b", "--", "--p_q"]) == [
        '--json-string={"a_b": 1}',
        "--x-y",
        "a_b",
        "--",
        "--p_q",
    ]


def test_an_error_is_a_line_and_a_hint() -> None:
    """The hint stands after an empty line, and is left out where there is none."""
    assert render_error(HeadraceError("Broken", hint="Mend it")) == "error: Broken\n\nhint: Mend it"
    assert render_error(HeadraceError("Broken")) == "error: Broken"


def test_a_terminal_obeys_nothing_that_an_error_quotes() -> None:
    """Keys of objects hold what whoever writes to the bucket likes, escapes of terminals, too."""
    assert render_error(HeadraceError("Côte `a\x1b[2J\r\t`")) == "error: Côte `a\\x1b[2J\\r\\t`"


def _fails(error: BaseException) -> int:
    raise error


def _exit_code(error: BaseException) -> int:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(lambda: _fails(error))
    with pytest.raises(SystemExit) as end:
        run_command(app, [])
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HeadraceError("Broken"), 1),
        (ConfigurationError("Broken"), 2),
        (errors.DeliveryFailedError("Broken"), 3),
        (errors.CredentialsError("Broken"), 1),
        (ExceptionGroup("", [ExceptionGroup("", [ConfigurationError("Broken")]), ValueError("other")]), 2),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130),
        (ValueError("secret payload"), 1),
        (ExceptionGroup("", [ValueError("secret payload")]), 1),
    ],
)
def test_every_end_has_its_code_and_no_traceback(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever ends a command, its exit code is the promised one and nobody sees a traceback or a payload."""
    assert _exit_code(error) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert "secret payload" not in captured.err
    assert captured.out == ""
    assert captured.err.startswith("error: ") or not isinstance(error, Exception)


def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown option exits 2 and names the command's help."""
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(lambda: 0)
    with pytest.raises(SystemExit) as end:
        run_command(app, ["--strem"])
    assert end.value.code == 2
    assert "error: No such option: --strem" in capsys.readouterr().err


def test_the_exit_code_of_a_command_is_its_result() -> None:
    """A command that returns a number exits with it."""
    app = typer.Typer(rich_markup_mode=None)
    app.command()(lambda: 3)
    with pytest.raises(SystemExit) as end:
        run_command(app, [])
    assert end.value.code == 3


@pytest.mark.parametrize(("variable", "shown"), [("", True), ("CI", False), ("NO_COLOR", False)])
def test_progress_is_for_terminals(variable: str, shown: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is drawn on a terminal only, and never under CI or NO_COLOR."""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    if variable:
        monkeypatch.setenv(variable, "1")
    assert shows_progress() is shown


# The map of AWS errors.


def _answer(code: str, status: int, message: str = "m") -> botocore_errors.ClientError:
    return botocore_errors.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Op"
    )


@pytest.mark.parametrize(
    ("service", "error", "kind", "retryable"),
    [
        ("kinesis", _answer("ProvisionedThroughputExceededException", 400), ThrottledError, True),
        ("s3", _answer("SlowDown", 503), ThrottledError, True),
        ("s3", _answer("ConditionalRequestConflict", 409), ThrottledError, True),
        ("kinesis", _answer("InternalFailure", 500), errors.AmbiguousCallError, True),
        ("kinesis", _answer("SomethingNew", 502), errors.AmbiguousCallError, True),
        ("kinesis", _answer("SomethingNew", 400), errors.InvalidRequestError, False),
        ("kinesis", _answer("ExpiredIteratorException", 400), errors.IteratorExpiredError, True),
        ("kinesis", _answer("ResourceNotFoundException", 400), errors.StreamNotFoundError, False),
        ("dynamodb", _answer("ResourceNotFoundException", 400), errors.TableNotFoundError, False),
        ("s3", _answer("NoSuchBucket", 404), errors.BucketNotFoundError, False),
        ("s3", _answer("404", 404), errors.BucketNotFoundError, False),
        ("s3", _answer("403", 403), errors.AccessDeniedError, False),
        ("sts", _answer("ExpiredToken", 403), errors.AccessDeniedError, False),
        ("kinesis", botocore_errors.ReadTimeoutError(endpoint_url="u"), errors.AmbiguousCallError, True),
        ("kinesis", botocore_errors.ConnectionClosedError(endpoint_url="u"), errors.AmbiguousCallError, True),
        (
            "kinesis",
            botocore_errors.EndpointConnectionError(endpoint_url="u", error="refused"),
            errors.ServiceUnavailableError,
            True,
        ),
        (
            "kinesis",
            _answer("InvalidArgumentException", 400, "5 is invalid because it did not come from this stream."),
            errors.ForeignPositionError,
            False,
        ),
        ("kinesis", ConnectionResetError(), errors.AmbiguousCallError, True),
        ("kinesis", TimeoutError(), errors.AmbiguousCallError, True),
        ("kinesis", botocore_errors.NoCredentialsError(), errors.CredentialsError, False),
        ("kinesis", botocore_errors.NoRegionError(), errors.CredentialsError, False),
        ("kinesis", botocore_errors.ProfileNotFound(profile="p"), errors.CredentialsError, False),
    ],
)
def test_each_refusal_of_aws_is_one_of_ours(
    service: str, error: Exception, kind: type[HeadraceError], retryable: bool
) -> None:
    """Each error of the SDK becomes ours, with the question of trying again answered and the cause kept."""
    with pytest.raises(kind) as failure, aws_errors(service, "Op", "name"):
        raise error
    assert type(failure.value) is kind
    assert failure.value.retryable is retryable
    assert failure.value.__cause__ is error
    assert "\n" not in str(failure.value)


def test_what_is_not_of_aws_passes() -> None:
    """An error of ours, and a defect, pass through the map unchanged."""
    for error in (ThrottledError("t"), KeyError("k")):
        with pytest.raises(type(error)) as failure, aws_errors("s3", "Op", "name"):
            raise error
        assert failure.value is error


def test_a_closed_stderr_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log lines follow stderr as it is now, and one that was closed loses lines, not records."""
    was = structlog.get_config()
    closed = io.StringIO()
    closed.close()
    try:
        configure_logging()
        log = structlog.get_logger()
        monkeypatch.setattr(sys, "stderr", closed)
        log.warning("unheard")
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        log.warning("heard")
        assert isinstance(sys.stderr, io.StringIO)
        assert '"heard"' in sys.stderr.getvalue()
    finally:
        structlog.configure(**was)
