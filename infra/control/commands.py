"""What the commands that look at a group and steer it do, each from its options to its exit code."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import orjson

from consumer.retrier import Retrier
from infra.control.dead_letters import DeadLetterFolder, check_type, count_letters, letter_lines
from infra.control.forget import Forgetting
from infra.control.group import open_group
from infra.control.hot_shards import sample_lines, sample_stream
from infra.control.kcl import KclPorts, apply_export, apply_import, plan_export, plan_import, row_lines
from infra.control.kcl_item import row_from_item
from infra.control.pause import set_pause
from infra.control.redrive import Redrive, Redriven
from infra.control.seek import apply_seek, parse_target, plan_lines, plan_seek
from infra.control.status import HeartbeatWatch, look_at_group, status_lines
from infra.pipeline import new_random
from shared.aws.session import open_aws
from shared.clock import SystemClock
from shared.errors import ConfigurationError
from shared.lease import Lease
from shared.lifecycle import ExitCode, run_work, stop_on_signals
from shared.retry import Backoff
from shared.settings import STREAM_NAME_PATTERN, ConsumerSettings, load_settings
from shared.telemetry import SilentTelemetry
from shared.terminal import flush_data, say, write_data

_CLEAR: Final = "\x1b[H\x1b[2J"

# One look: its JSON object and its lines.
_Look = Callable[[], Awaitable[tuple[Mapping[str, Any], list[str]]]]


def run_status(app: str | None, *, is_quick: bool, watch_seconds: float | None, as_json: bool) -> int:
    """Show a group, once or again and again."""

    async def run() -> None:
        async with open_group(app) as group:
            watch = HeartbeatWatch()

            async def look() -> tuple[Mapping[str, Any], list[str]]:
                status = await look_at_group(group, watch, is_quick=is_quick)
                return status.as_mapping(), status_lines(status)

            await _show(look, watch_seconds, as_json=as_json)

    run_work(run())
    return int(ExitCode.DONE)


def run_hot_shards(stream: str, *, watch_seconds: float | None, as_json: bool) -> int:
    """Show which partition keys load each shard of a stream."""
    if not re.fullmatch(STREAM_NAME_PATTERN, stream):
        raise ConfigurationError(
            f"`{stream[:128]}` is no stream name", hint="1 to 128 letters, digits, dots, dashes and underscores"
        )

    async def run() -> None:
        random = new_random()
        retrier = Retrier(Backoff(0.05, 2), random, SilentTelemetry())
        async with open_aws() as aws:
            kinesis = await aws.kinesis()

            async def look() -> tuple[Mapping[str, Any], list[str]]:
                samples = await sample_stream(kinesis, retrier, SystemClock(), stream)
                found = {"stream": stream, "shards": [each.as_mapping() for each in samples]}
                return found, sample_lines(stream, samples)

            await _show(look, watch_seconds, as_json=as_json)

    run_work(run())
    return int(ExitCode.DONE)


def run_seek(app: str | None, *, to: str, shards: Sequence[str], is_dry: bool, is_sure: bool, as_json: bool) -> int:
    """Move a group, after saying what that means and asking."""

    async def run() -> bool:
        async with open_group(app) as group:
            plan = await plan_seek(group, parse_target(to, group.clock.wall()), shards)
            for line in plan_lines(plan):
                (say if as_json or not is_dry else write_data)(line)
            is_wanted = bool(plan.moves) and not is_dry
            is_done = is_wanted and (is_sure or confirm(f"Move {len(plan.moves):,} shards of `{group.app}`?"))
            if is_done:
                await apply_seek(group, plan)
                say(f"Moved {len(plan.moves):,} shards; their next owners start there within seconds")
            if as_json:
                write_data(orjson.dumps({**plan.as_mapping(), "applied": is_done}).decode())
            return is_done or not is_wanted

    return int(ExitCode.DONE if run_work(run()) else ExitCode.FAILED)


def run_pause(app: str | None, *, shards: Sequence[str], is_paused: bool, as_json: bool) -> int:
    """Pause or resume a group, or some of its shards."""

    async def run() -> int:
        async with open_group(app) as group:
            return await set_pause(group, shards, is_paused=is_paused)

    changed = run_work(run())
    if as_json:
        write_data(orjson.dumps({"paused" if is_paused else "resumed": changed}).decode())
    else:
        say(_changed_text(changed, is_paused=is_paused))
    return int(ExitCode.DONE)


def _changed_text(changed: int, *, is_paused: bool) -> str:
    if not changed:
        return "Nothing to pause: all are paused" if is_paused else "Nothing to resume: none is paused or halted"
    shards = "1 shard; its owner sees" if changed == 1 else f"{changed:,} shards; their owners see"
    return f"{'Paused' if is_paused else 'Resumed'} {shards} it within seconds"


def run_forget(app: str | None, *, is_sure: bool, as_json: bool) -> int:
    """Forget an application, after asking and after looking whether a worker is alive."""
    settings = load_settings(ConsumerSettings, app=app)

    async def run() -> bool:
        async with open_aws(call_timeout_seconds=settings.call_timeout_seconds) as aws:
            leases = await aws.leases(settings.app)
            retrier = Retrier(Backoff(0.05, 2), new_random(), SilentTelemetry())
            forgetting = Forgetting(settings.app, leases, retrier)
            described, seen = await leases.read_application() or {}, await forgetting.look()
            stream, shards = str(described.get("source_stream", "")), len(seen.leases) + len(seen.damaged)
            of_stream = f" of stream `{stream}`" if stream else ""
            is_done = is_sure or confirm(
                f"Forget {shards:,} shards{of_stream} in `{settings.app}`?",
                hint="Give --yes; `headrace status` shows them",
            )
            if is_done:
                say("Looking whether a worker is alive ...")
                lease_seconds = float(described.get("lease_duration_seconds", 0))
                await forgetting.check_stopped(seen, max(lease_seconds, settings.lease_duration_seconds))
                await forgetting.forget(seen)
                say(f"Forgot {shards:,} shards{of_stream}; the next worker of `{settings.app}` begins anew")
            if as_json:
                found = {"application": settings.app, "source_stream": stream, "shards": shards, "forgotten": is_done}
                write_data(orjson.dumps(found).decode())
            return is_done

    return int(ExitCode.DONE if run_work(run()) else ExitCode.FAILED)


def run_list_letters(app: str | None, *, error_type: str | None, lists_keys: bool, as_json: bool) -> int:
    """List dead letters: counts, or the keys of their objects."""

    async def run() -> None:
        async with open_group(app) as group:
            folder = DeadLetterFolder(group)
            if lists_keys:
                keys = await folder.keys(error_type)
                lines = [orjson.dumps({"keys": keys}).decode()] if as_json else keys
            else:
                counts, objects = await count_letters(folder, error_type)
                found = {"objects": objects, "letters": sum(each.letters for each in counts), "counts": counts}
                lines = [orjson.dumps(found).decode()] if as_json else letter_lines(counts)
            for line in lines:
                write_data(line)

    run_work(run())
    return int(ExitCode.DONE)


def run_show_letters(app: str | None, *, key: str, limit: int, as_json: bool) -> int:
    """Show the letters of one object."""

    async def run() -> None:
        async with open_group(app) as group:
            letters = await DeadLetterFolder(group).letters(key)
            for number, letter in enumerate(letters[:limit]):
                if as_json:
                    write_data(orjson.dumps(letter.as_mapping()).decode())
                else:
                    write_data("\n".join([*([""] if number else []), *letter.lines()]))
            if len(letters) > limit:
                say(f"{len(letters) - limit:,} more; --limit {len(letters)} shows all")

    run_work(run())
    return int(ExitCode.DONE)


def run_redrive(
    app: str | None,
    *,
    error_type: str,
    keys: Sequence[str],
    rate: float,
    again: bool,
    is_dry: bool,
    is_sure: bool,
    as_json: bool,
) -> int:
    """Put dead letters back; exit code 3 if the stream will never take some of them."""
    check_type(error_type)

    async def run() -> Redriven:
        async with open_group(app) as group:
            if not (is_dry or is_sure or confirm(f"Put dead letters back into `{group.source_stream}`?")):
                return Redriven()
            return await Redrive(group, rate=rate, again=again).run(keys, error_type=error_type, is_dry=is_dry)

    done = run_work(run())
    if as_json:
        write_data(orjson.dumps({**done.as_mapping(), "dry_run": is_dry}).decode())
    verb = "Would put back" if is_dry else "Put back"
    say(
        f"{verb} {done.records:,} records of {done.objects:,} objects; {done.objects_done_before:,} objects were put"
        f" back before; {done.refused:,} records can't be put"
        + (f"; {done.sent_again:,} left out: their producers sent them again" if done.sent_again else "")
    )
    return int(ExitCode.UNDELIVERED if done.refused else ExitCode.DONE)


def run_kcl(app: str | None, *, table: str, is_import: bool, is_dry: bool, as_json: bool) -> int:
    """Import checkpoints from a KCL table, or export them into it."""
    settings = load_settings(ConsumerSettings, app=app)
    if table == settings.app:
        raise ConfigurationError(
            f"`{table[:128]}` is the application's own lease table", hint="Give the application another name with --app"
        )

    async def run() -> tuple[tuple[Lease, ...], int]:
        async with open_aws(call_timeout_seconds=settings.call_timeout_seconds) as aws:
            ports = KclPorts(await aws.kcl_table(table), await aws.leases(settings.app), SystemClock(), new_random())
            if is_import:
                rows = await plan_import(ports)
                return rows, 0 if is_dry else await apply_import(ports, rows)
            items = await plan_export(ports)
            rows = tuple(row_from_item(item, 0.0) for item in items)
            return rows, 0 if is_dry else await apply_export(ports, items)

    rows, written = run_work(run())
    if as_json:
        shards = [{"shard_id": row.shard_id, "checkpoint": row.checkpoint.text} for row in rows]
        write_data(orjson.dumps({"shards": shards, "written": written}).decode())
    else:
        for line in row_lines(rows):
            write_data(line)
    say(f"{written:,} of {len(rows):,} leases written")
    return int(ExitCode.DONE)


def confirm(question: str, *, hint: str = "Give --yes, or --dry-run to look") -> bool:
    """Ask on the terminal; ConfigurationError where nobody can answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigurationError("Nobody is there to ask: stdin is no terminal", hint=hint)
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


async def _show(look: _Look, watch_seconds: float | None, *, as_json: bool) -> None:
    """Write what one look finds; with `watch_seconds` again and again, one JSON object a line, until Ctrl-C."""
    async with stop_on_signals() as stop:
        while not stop.requested.is_set():
            found, lines = await look()
            if as_json:
                write_data(orjson.dumps(found).decode())
            else:
                if watch_seconds is not None and sys.stdout.isatty():
                    sys.stdout.write(_CLEAR)
                write_data("\n".join(lines))
            flush_data()
            if watch_seconds is None:
                return
            try:
                async with asyncio.timeout(watch_seconds):
                    await stop.requested.wait()
            except TimeoutError:
                continue
