"""The demo: the whole pipeline on an embedded local cloud with a real log, audited at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
import webbrowser
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumer.http_server import HttpServer
from consumer.status import WorkerStatus
from infra.cloud.process import LocalCloudProcess
from infra.demo_screen import PipelineResult, Screen, show
from infra.local_run import audit_made, point_aws_to, result_of, wait_until_read
from infra.pipeline import new_random, open_worker
from infra.provision import Plan, Provisioned, provision
from infra.sample.package import COUNTRIES_PATH, LOG_PATH
from producer.core.line_format import LineFormat
from producer.core.site import choose_site
from producer.run import RunSummary, SourceOptions, load_site, run_source
from shared.aws.session import Aws, open_aws
from shared.clock import SystemClock
from shared.disk import LocalFiles
from shared.errors import SourceError
from shared.lifecycle import ExitCode, run_work, stop_on_signals
from shared.limits import MIB
from shared.ports import Telemetry
from shared.settings import ConsumerSettings, ProducerSettings, load_settings
from shared.telemetry import SilentTelemetry

_HEAD_BYTES: Final = 1 * MIB  # of the log, looked at to find out which shop it is
_FLUSH_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line asks for."""

    log: Path
    countries: Path | None
    site: str | None
    lines_max: int | None
    opens_browser: bool


def run_demo(
    *,
    lines_max: int | None,
    log: Path | None,
    countries: Path | None,
    site: str | None,
    opens_browser: bool,
    as_json: bool,
) -> int:
    """Run the demo to its verdict; exit code 0 only if nothing was lost, duplicated in S3 or out of order."""
    options = DemoOptions(
        log=log or LOG_PATH,
        countries=countries or (COUNTRIES_PATH if log is None else None),
        site=site,
        lines_max=lines_max,
        opens_browser=opens_browser and sys.stderr.isatty() and "CI" not in os.environ,
    )
    result = run_work(_demo(options))
    if result is None:
        return int(ExitCode.DONE)
    show(result, as_json=as_json)
    return int(ExitCode.DONE if result.verdict == "ok" else ExitCode.FAILED)


async def _demo(options: DemoOptions) -> PipelineResult | None:
    """Run everything; None if the user ended it."""
    screen = Screen()
    _check_log(options.log)
    with tempfile.TemporaryDirectory(prefix="headrace-demo-") as folder:
        async with stop_on_signals() as stop:
            running = asyncio.ensure_future(_run(options, screen, Path(folder)))
            asking = asyncio.ensure_future(stop.requested.wait())
            await asyncio.wait((running, asking), return_when=asyncio.FIRST_COMPLETED)
            asking.cancel()
            if running.done():
                return running.result()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            screen.stage("Interrupted: nothing is left behind, the local cloud was in memory")
            return None


def _check_log(path: Path) -> None:
    """Complain about a log that can't be read before anything is started."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise SourceError(
            f"`{path}` can't be read: {error.strerror}", hint="Check the path and its permissions"
        ) from error


async def _run(options: DemoOptions, screen: Screen, folder: Path) -> PipelineResult:
    started_at = time.monotonic()
    screen.stage("Starting the local cloud ...")
    async with LocalCloudProcess() as cloud:
        point_aws_to(cloud)
        made = await provision(Plan(), report=lambda _line: None)
        screen.stage(f"Local cloud: {cloud.endpoint_url}, stream `{made.source_stream}`, bucket `{made.bucket}`")
        async with open_aws() as aws:
            with screen.bars():
                summary, status = await _pump(aws, made, options, screen, folder)
            screen.stage("Auditing ...")
            report = await audit_made(aws, made)
    return result_of(summary, status, report, time.monotonic() - started_at)


async def _pump(
    aws: Aws, made: Provisioned, options: DemoOptions, screen: Screen, folder: Path
) -> tuple[RunSummary, WorkerStatus]:
    """Produce the log into the source stream while a worker consumes it; drain both."""
    settings = load_settings(
        ConsumerSettings,
        app=made.table,
        source_stream=made.source_stream,
        dest_streams=dict(made.dest_streams),
        bucket=made.bucket,
        flush_seconds=_FLUSH_SECONDS,
        http_port=0,
    )
    telemetry = SilentTelemetry()
    stop = asyncio.Event()
    async with (
        open_worker(aws, settings, telemetry) as worker,
        HttpServer(worker.status, telemetry, host=settings.http_host, port=settings.http_port) as page,
        asyncio.TaskGroup() as tasks,
    ):
        screen.stage(f"Live page: {page.url}")
        if options.opens_browser:
            await asyncio.to_thread(webbrowser.open, page.url)
        consuming = tasks.create_task(worker.run(stop))
        summary = await _produce(aws, made, options, screen, folder, telemetry)
        await wait_until_read(worker, summary.acknowledged, screen, consuming)
        stop.set()
        await consuming
        status = worker.status()
    return summary, status


async def _produce(
    aws: Aws, made: Provisioned, options: DemoOptions, screen: Screen, folder: Path, telemetry: Telemetry
) -> RunSummary:
    files = LocalFiles()
    site = await load_site(files, options.site) if options.site else choose_site(_head(options.log))
    screen.stage(f"Reading {options.log.name} with the URL patterns of `{site.name}`")
    source = SourceOptions(
        path=str(options.log.absolute()),
        line_format=LineFormat.AUTO,
        site=site,
        countries_path=str(options.countries) if options.countries else None,
        lines_max=options.lines_max,
    )
    return await run_source(
        source,
        stream=made.source_stream,
        kinesis=await aws.kinesis(),
        files=files,
        clock=SystemClock(),
        random=new_random(),
        telemetry=telemetry,
        settings=load_settings(ProducerSettings, state_dir=str(folder)),
        on_progress=lambda summary: screen.advance("lines", summary.lines, options.lines_max),
    )


def _head(path: Path) -> list[bytes]:
    """Return the first lines of a log, plain or gzip."""
    with path.open("rb") as file:
        data = file.read(_HEAD_BYTES)
    if data.startswith(b"\x1f\x8b"):
        with contextlib.suppress(zlib.error):  # a damaged file is the reader's to report, with its place
            data = zlib.decompressobj(wbits=31).decompress(data, _HEAD_BYTES)
    return data.split(b"\n")[:-1]
