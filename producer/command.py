"""What `producer_from_cli` does once its options are read."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from producer.core.line_format import LineFormat
from producer.open_source import STANDARD_INPUT
from producer.run import RunSummary, SourceOptions, load_api, load_site, lock_source, run_source
from shared.aws.session import open_aws
from shared.clock import SystemClock
from shared.collector import tune_collector
from shared.disk import LocalFiles
from shared.errors import (
    ConfigurationError,
    HeadraceError,
    MalformedEventError,
    OutputError,
    ServiceUnavailableError,
    ThrottledError,
)
from shared.event import decode_event
from shared.lifecycle import ExitCode, StopSignal, run_work, stop_on_signals
from shared.limits import PARTITION_KEY_CHARACTERS_MAX
from shared.ports import Delivered, Files, Kinesis, Random
from shared.records import PutEntry, PutResult
from shared.retry import Backoff
from shared.settings import ProducerSettings, load_settings
from shared.telemetry import StructlogTelemetry, configure_logging
from shared.terminal import drop_stdout, render_error, say, shows_progress, write_data

_KEY_VARIABLE: Final = "HEADRACE_PRODUCER_SESSION_KEY"
_KEY_BYTES_MIN: Final = 16
_KEY_BYTES_MAX: Final = 64
_ATTEMPTS_MAX: Final = 4
_PROGRESS_SECONDS: Final = 0.2
_REASONS_SHOWN_MAX: Final = 6


@dataclass(frozen=True, slots=True)
class Given:
    """The options as the user gave them; None where a setting or its default decides."""

    stream: str
    json_string: str | None
    path: str
    line_format: str
    http_source: str | None
    follow: bool
    ordering: str | None
    aggregate: bool | None
    events_per_second: float | None
    as_json: bool
    site: str
    countries: str | None
    source_id: str | None
    state_dir: str | None


def run_produce(given: Given) -> int:
    """Run the command; return its exit code."""
    configure_logging("warning")
    settings = load_settings(
        ProducerSettings, ordering=given.ordering, aggregate=given.aggregate, state_dir=given.state_dir
    )
    if given.json_string is not None:
        return run_work(_put_one(given, given.json_string, settings))
    if given.follow:
        given = replace(given, path=str(Path(given.path).absolute()))
    return run_work(_put_lines(given, settings))


async def _put_one(given: Given, json_string: str, settings: ProducerSettings) -> int:
    data = json_string.encode(errors="surrogateescape")
    session_id = _session_id_of(data)
    async with open_aws(call_timeout_seconds=settings.call_timeout_seconds) as aws:
        result = await _put_patiently(
            await aws.kinesis(), given.stream, PutEntry(data, session_id), settings, random.SystemRandom()
        )
    if given.as_json:
        write_data(orjson.dumps({"shard_id": result.shard_id, "sequence_number": str(result.sequence_number)}).decode())
    else:
        write_data(f"Produced record {result.sequence_number} to Shard {result.shard_id}")
    return ExitCode.DONE


def _session_id_of(data: bytes) -> str:
    example = """--json_string '{"session_id": "a1", "country": "USA", "browse_history": []}'"""
    try:
        event = decode_event(data)
    except MalformedEventError as error:
        raise ConfigurationError(f"--json_string is not usable: {error}", hint=error.hint or example) from error
    session_id = event.get("session_id")
    if not isinstance(session_id, str) or not 0 < len(session_id) <= PARTITION_KEY_CHARACTERS_MAX:
        message = f"--json_string has no session_id that is a text of 1 to {PARTITION_KEY_CHARACTERS_MAX} characters"
        raise ConfigurationError(message, hint=example)
    return session_id


async def _put_patiently(
    kinesis: Kinesis, stream: str, entry: PutEntry, settings: ProducerSettings, chance: Random
) -> PutResult:
    """Put one record; try again only where the call surely did not land, as a second record would be a mistake."""
    backoff = Backoff(settings.retry_backoff_seconds_min, settings.retry_backoff_seconds_max)
    attempt = 0
    while True:
        try:
            return await kinesis.put_record(stream, entry)
        except (ThrottledError, ServiceUnavailableError):
            attempt += 1
            if attempt >= _ATTEMPTS_MAX:
                raise
            await asyncio.sleep(backoff.delay(attempt, chance))


class _Receipts:
    """Writes one line per delivered event to stdout; where that fails, the run ends, not the delivery."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self.is_broken = False
        self.failure: OutputError | None = None

    def __call__(self, event_id: str, partition_key: str, delivered: Delivered, /) -> None:  # noqa: ARG002 - a session id is not for every log
        """Write a receipt."""
        if self.is_broken:
            return
        try:
            write_data(
                f'{{"event_id":{orjson.dumps(event_id).decode()},"shard_id":"{delivered.shard_id}",'
                f'"sequence_number":"{delivered.sequence_number}"}}'
            )
        except BrokenPipeError:
            self.is_broken = True
            drop_stdout()
            self._stop.notify(signal.SIGPIPE)
        except OutputError as error:
            self.is_broken = True
            self.failure = error
            self._stop.notify()


class _Progress:
    """Keeps the counts for the end, however that comes, and draws them on a terminal, a few times a second."""

    def __init__(self, *, draws: bool) -> None:
        self.summary = RunSummary()
        self._draws = draws
        self._drawn_at = 0.0
        self._is_drawn = False

    def __call__(self, summary: RunSummary) -> None:
        """Take the counts, and draw them if it is time."""
        self.summary = summary
        now = time.monotonic()
        if self._draws and now - self._drawn_at >= _PROGRESS_SECONDS:
            self._drawn_at = now
            self._is_drawn = True
            text = f"{summary.lines:,} lines, {summary.events:,} events, {summary.acknowledged:,} acknowledged"
            sys.stderr.write(f"\r{text}\x1b[K")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._is_drawn:
            sys.stderr.write("\r\x1b[K")
            self._is_drawn = False


async def _put_lines(given: Given, settings: ProducerSettings) -> int:
    files = LocalFiles()
    options = SourceOptions(
        path=given.path,
        line_format=LineFormat(given.line_format),
        is_followed=given.follow,
        site=await load_site(files, given.site),
        countries_path=given.countries,
        source_id=given.source_id,
        session_key=_session_key(),
        events_per_second=given.events_per_second,
        api=None if given.http_source is None else await load_api(files, given.http_source),
    )
    with lock_source(options, given.stream, settings, StructlogTelemetry()):
        return await _send_lines(given, options, settings, files)


async def _send_lines(given: Given, options: SourceOptions, settings: ProducerSettings, files: Files) -> int:
    progress = _Progress(draws=shows_progress())
    started_at = time.monotonic()
    async with (
        stop_on_signals() as stop,
        open_aws(
            call_timeout_seconds=settings.call_timeout_seconds, connections_max=settings.inflight_requests_max + 2
        ) as aws,
    ):
        receipts = _Receipts(stop) if given.as_json else None
        tune_collector()
        try:
            summary = await run_source(
                options,
                stream=given.stream,
                kinesis=await aws.kinesis(settings.wire),
                files=files,
                clock=SystemClock(),
                random=random.SystemRandom(),
                telemetry=StructlogTelemetry(),
                settings=settings,
                stop=stop,
                on_receipt=receipts,
                on_progress=progress,
            )
        except HeadraceError:
            if progress.summary.lines:
                progress.clear()
                failed = replace(progress.summary, undelivered=progress.summary.events - progress.summary.acknowledged)
                _tell(given, settings, failed, time.monotonic() - started_at, receipts, verdict="failed")
            raise
        finally:
            progress.clear()
    verdict = "undelivered" if summary.undelivered else "ok"
    _tell(given, settings, summary, time.monotonic() - started_at, receipts, verdict=verdict)
    if receipts is not None and receipts.failure is not None:
        raise receipts.failure
    return _exit_code(given, summary, stop.cause)


def _session_key() -> bytes | None:
    text = os.environ.get(_KEY_VARIABLE)
    if not text:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if not _KEY_BYTES_MIN <= len(key) <= _KEY_BYTES_MAX:
        # The value is a secret: the message must not show it.
        message = f"{_KEY_VARIABLE} is not usable: {2 * _KEY_BYTES_MIN} to {2 * _KEY_BYTES_MAX} hex digits are needed"
        raise ConfigurationError(message, hint="openssl rand -hex 32")
    return key


def _tell(
    given: Given,
    settings: ProducerSettings,
    summary: RunSummary,
    seconds: float,
    receipts: _Receipts | None,
    *,
    verdict: str,
) -> None:
    if receipts is not None and not receipts.is_broken:
        write_data(orjson.dumps(_as_mapping(summary, seconds) | {"verdict": verdict}).decode())
    say(_summary_line(given, settings, summary, seconds))


def _as_mapping(summary: RunSummary, seconds: float) -> dict[str, Any]:
    return {
        "lines": summary.lines,
        "filtered": summary.filtered.total(),
        "filtered_by_reason": dict(sorted(summary.filtered.items())),
        "rejected": summary.rejected,
        "rejected_by_reason": dict(sorted(summary.rejections.items())),
        "events": summary.events,
        "acknowledged": summary.acknowledged,
        "dead_lettered": summary.dead_lettered,
        "undelivered": summary.undelivered,
        "bytes": summary.bytes_read,
        "is_stopped": summary.is_stopped,
        "seconds": round(seconds, 3),
    }


def _summary_line(given: Given, settings: ProducerSettings, summary: RunSummary, seconds: float) -> str:
    parts = [f"{summary.lines:,} lines", f"{summary.acknowledged:,} of {summary.events:,} events acknowledged"]
    if summary.filtered:
        parts.append(f"{summary.filtered.total():,} filtered ({_reasons(summary.filtered)})")
    if summary.rejected:
        place = f"{settings.state_dir}/dead-letters.ndjson"
        parts.append(f"{summary.rejected:,} rejected ({_reasons(summary.rejections)}; kept in {place})")
    if summary.is_stopped and _has_end(given):
        parts.append("stopped before the end")
    return f"{given.stream}: {', '.join(parts)}, {seconds:.1f} s"


def _reasons(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common(_REASONS_SHOWN_MAX))


def _has_end(given: Given) -> bool:
    """Whether there is an end that a stop came before: who ends a pipe or a growing log by a signal means just that."""
    return not given.follow and (given.http_source is not None or given.path != STANDARD_INPUT)


def _exit_code(given: Given, summary: RunSummary, cause: signal.Signals | None) -> int:
    error: HeadraceError | None = None
    if summary.undelivered:
        error = HeadraceError(
            f"{summary.undelivered:,} of {summary.events:,} events were not delivered: {summary.last_error}",
            hint="With --follow they are sent again at the next start; a file that is read once has to be sent again",
        )
    elif summary.rejected == summary.lines > 0:
        error = HeadraceError(
            f"all {summary.lines:,} lines were rejected", hint="Is --format right? The dead letters name each reason"
        )
    if error is None:
        if summary.is_stopped and cause is signal.SIGPIPE:
            return ExitCode.PIPE_CLOSED
        is_interrupted = summary.is_stopped and cause is signal.SIGINT and _has_end(given)
        return ExitCode.INTERRUPTED if is_interrupted else ExitCode.DONE
    say(render_error(error))
    return ExitCode.UNDELIVERED
