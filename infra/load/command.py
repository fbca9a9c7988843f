"""The load test: a ramp of events through the whole pipeline on a local cloud, measured and audited."""

from __future__ import annotations

import asyncio
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import orjson

from infra.audit.reading import AuditReader
from infra.cloud.fault_files import load_faults, read_faults
from infra.cloud.process import LocalCloudProcess
from infra.demo_screen import Screen
from infra.load.core.meter import LoadMeter
from infra.load.core.schedule import Step, arrivals, ramp
from infra.load.report import LoadResult, page_of, text_of
from infra.load.source import SOURCE_ID, ScheduledSource
from infra.local_run import audit_made, point_aws_to, result_of, wait_until_read
from infra.pipeline import new_random, open_worker
from infra.provision import Plan, Provisioned, provision
from producer.core.json_line import JsonLineParser
from producer.dead_letters import DeadLetters
from producer.producer import Producer
from producer.run_summary import RunSummary
from producer.source_run import SourceRun
from shared.aws.session import Aws, open_aws
from shared.clock import SystemClock
from shared.collector import tune_collector
from shared.disk import LocalFiles
from shared.errors import ConfigurationError
from shared.event import EventId, decode_event, event_id_of
from shared.lifecycle import ExitCode, StopSignal, run_work, stop_on_signals
from shared.ports import Delivered
from shared.settings import ConsumerSettings, ProducerSettings, load_settings
from shared.telemetry import SilentTelemetry
from shared.terminal import write_data

_PATIENCE_SECONDS: Final = 10  # after the ramp, events that found no room in the producer's buffer are given up
_FLUSH_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the command line asks for."""

    steps: tuple[Step, ...]
    shards: int
    faults: str | None


def run_loadtest(
    *,
    rate_min: float,
    rate_max: float,
    seconds: float,
    steps: int,
    shards: int,
    faults: str | None,
    page: Path,
    as_json: bool,
) -> int:
    """Run the load test to its verdict; exit code 0 only if nothing was lost, duplicated in S3 or out of order."""
    options = LoadOptions(ramp(rate_min, rate_max, seconds, steps), shards, faults)
    if faults is not None:
        load_faults(faults)  # a mistake in them is told before anything is started
    if not page.parent.is_dir() or page.is_dir():
        raise _no_page(page, "its folder is not there, or it is one")
    result, cause = run_work(_load(options))
    if result is None:
        return ExitCode.INTERRUPTED
    write_data(orjson.dumps(result.as_mapping()).decode() if as_json else text_of(result))
    try:
        page.write_text(page_of(result), encoding="utf-8")
    except OSError as error:
        raise _no_page(page, error.strerror or str(error)) from error
    Screen().stage(f"Page: {page}")
    if result.pipeline.verdict != "ok":
        return ExitCode.FAILED
    return ExitCode.INTERRUPTED if cause is signal.SIGINT else ExitCode.DONE


def _no_page(page: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"the page `{page}` can't be written: {reason}", hint="Name another place with --html")


async def _load(options: LoadOptions) -> tuple[LoadResult | None, signal.Signals | None]:
    """Run everything; the first signal ends the load, the second everything, without a result.

    Before there is any load, the first does what the second does.
    """
    began = asyncio.Event()
    async with stop_on_signals() as stop:
        running = asyncio.ensure_future(_run(options, stop, began))
        asking = asyncio.ensure_future(_asked_to_end(stop, began))
        await asyncio.wait((running, asking), return_when=asyncio.FIRST_COMPLETED)
        asking.cancel()
        if running.done():
            return running.result(), stop.cause
        running.cancel()
        await asyncio.wait((running,))
        what = "nothing was audited" if began.is_set() else "no event was sent"
        Screen().stage(f"Interrupted: {what}; nothing is left behind, the local cloud was in memory")
        return None, stop.cause


async def _asked_to_end(stop: StopSignal, began: asyncio.Event) -> None:
    await stop.requested.wait()
    if began.is_set():
        await stop.hurried.wait()


async def _run(options: LoadOptions, stop: StopSignal, began: asyncio.Event) -> LoadResult:
    started_at = time.monotonic()
    screen = Screen()
    screen.stage("Starting the local cloud ...")
    async with LocalCloudProcess() as cloud:
        point_aws_to(cloud)
        made = await provision(Plan(shards=options.shards), report=lambda _line: None)
        due = arrivals(options.steps, new_random())
        meter = LoadMeter(options.steps, due)
        source = ScheduledSource(due, clock=SystemClock(), random=new_random())
        async with open_aws() as aws:
            telemetry = SilentTelemetry()
            settings = load_settings(
                ConsumerSettings,
                app=made.table,
                source_stream=made.source_stream,
                dest_streams=dict(made.dest_streams),
                bucket=made.bucket,
                flush_seconds=_FLUSH_SECONDS,
            )
            done = asyncio.Event()
            async with open_worker(aws, settings, telemetry) as worker, asyncio.TaskGroup() as tasks:
                consuming = tasks.create_task(worker.run(done))
                tune_collector()
                seconds = options.steps[-1].end
                began.set()
                screen.stage(f"{len(due):,} events in {seconds:g} s, {options.shards} shards ...")
                with screen.bars():
                    async with _misbehaving(cloud, options.faults):
                        summary = await _produce(aws, made, source, meter, seconds, stop)
                        ended_at = time.monotonic()
                        await wait_until_read(worker, summary.acknowledged, screen, consuming)
                        caught_up = time.monotonic() - ended_at
                        done.set()
                        await consuming
                status = worker.status()
            screen.stage("Auditing ...")
            report = await audit_made(aws, made)
            await _measure_arrivals(aws, made, source, meter)
    return LoadResult(
        pipeline=result_of(summary, status, report, time.monotonic() - started_at),
        offered=len(due),
        steps=meter.figures(),
        acknowledged=meter.acknowledged,
        delivered=meter.delivered,
        caught_up_seconds=caught_up,
        shards=options.shards,
        faults=options.faults or "",
    )


@asynccontextmanager
async def _misbehaving(cloud: LocalCloudProcess, faults: str | None) -> AsyncIterator[None]:
    """Let faults strike for as long as the block runs: they are for the load, not for provisioning and audit."""
    if faults is None:
        yield
        return
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        address = f"{cloud.endpoint_url}/_headrace/faults"
        await session.put(address, data=read_faults(faults))
        try:
            yield
        finally:
            await session.delete(address)


async def _produce(
    aws: Aws, made: Provisioned, source: ScheduledSource, meter: LoadMeter, seconds: float, stop: StopSignal
) -> RunSummary:
    """Put all events when they are due; end a little after the last one, come what may."""
    clock = SystemClock()

    def take(event_id: str, _key: str, _delivered: Delivered, /) -> None:
        meter.acknowledge(int(event_id.rpartition(".")[2]), clock.monotonic() - source.began_at)

    with tempfile.TemporaryDirectory(prefix="headrace-load-") as folder:
        settings = load_settings(ProducerSettings, state_dir=folder)
        producer = Producer(
            made.source_stream,
            kinesis=await aws.kinesis(),
            clock=clock,
            random=new_random(),
            telemetry=SilentTelemetry(),
            settings=settings,
        )
        async with producer, _ended_after(seconds + _PATIENCE_SECONDS, stop) as end:
            run = SourceRun(
                source,
                JsonLineParser(),
                producer,
                clock=clock,
                settings=settings,
                dead_letters=DeadLetters(LocalFiles(), clock, folder, SOURCE_ID),
                on_receipt=take,
            )
            summary = await run.run(end)
            await producer.close(0)  # the run has drained; what is left now is left
    return summary


@asynccontextmanager
async def _ended_after(seconds: float, stop: StopSignal) -> AsyncIterator[StopSignal]:
    """Give a stop signal that comes after a time, or with the user's."""
    end = StopSignal()

    async def wait() -> None:
        with suppress(TimeoutError):  # the time is over, which is the ordinary case
            async with asyncio.timeout(seconds):
                await stop.requested.wait()
        end.notify()

    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(wait())
        yield end
        waiting.cancel()


async def _measure_arrivals(aws: Aws, made: Provisioned, source: ScheduledSource, meter: LoadMeter) -> None:
    """Read the destination streams once more, for the times at which each event arrived."""
    reader = AuditReader(kinesis=await aws.kinesis(), objects=None, random=new_random(), sleep=asyncio.sleep)
    for stream in dict.fromkeys(made.dest_streams.values()):
        async for _, record in reader.read_stream(stream, {}):
            event_id = EventId.parse(event_id_of(decode_event(record.data)) or "")
            if event_id is not None and event_id.source_id == SOURCE_ID:
                meter.deliver(event_id.offset, record.arrival_timestamp - source.began_wall)
