"""What it costs to put a million events: `python -m benchmarks.producer [--endpoint URL] [--rounds N]`.

Each contender takes events of about 307 bytes as dictionaries (two of ours: lines of text) and is done when the last
one is acknowledged. headrace adds the event id, keeps the order per session, aggregates, signs, sends and books.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import itertools
import json
import os
import random
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import boto3
import orjson
from aiobotocore.session import get_session

from benchmarks.contest import Contender, Meter, hold, parser_of
from benchmarks.sample import EVENTS, STREAM, make_events
from producer.api import EventProducer
from producer.core.json_line import JsonLineParser
from producer.core.line import LineParser
from producer.core.site import DEFAULT
from producer.core.visit_line import VisitLineParser
from producer.crawler import is_crawler
from producer.dead_letters import DeadLetters
from producer.producer import Producer
from producer.source import Chunk
from producer.source_run import SourceRun
from shared.aws.session import open_aws
from shared.clock import SystemClock
from shared.collector import tune_collector
from shared.disk import LocalFiles
from shared.lifecycle import StopSignal
from shared.records import Wire
from shared.settings import ProducerSettings
from shared.telemetry import SilentTelemetry

_EVENTS_PER_RUN: Final = 200_000
_BATCH: Final = 500
_LINES_PER_CHUNK: Final = 200
_SAMPLE_LOG: Final = Path(__file__).parents[1] / "infra" / "sample" / "web-access.log.gz"

CONTENDERS: Final = (
    Contender("boto3_one", "boto3, put_record, json", share=0.01),
    Contender("default", "async-kinesis 3.0.1", share=0.015, is_foreign=True),
    Contender("unthrottled", "async-kinesis 3.0.1, its throttles taken out", share=0.25, is_foreign=True),
    Contender("boto3_batch", "boto3, put_records x 500, json", share=0.25),
    Contender("aiobotocore", "aiobotocore, put_records x 500, orjson", share=0.25),
    Contender("access_log", "headrace, from access-log lines (per line)", share=0.5),
    Contender("json_lines", "headrace, from JSON lines"),
    Contender("plain", "headrace, not aggregated, order `none`"),
    Contender("together_python", "headrace, `put_all` x 500, without the compiled part", like="together"),
    Contender("aggregated_python", "headrace, without the compiled part", like="aggregated"),
    Contender("cbor", "headrace, `put_all` x 500, aggregated, order per session, CBOR"),
    Contender("together", "headrace, `put_all` x 500, aggregated, order per session"),
    Contender("aggregated", "headrace, aggregated, order per session"),
)


class _Lines:
    """Lines in memory as a source."""

    name = "memory"

    def __init__(self, lines: list[bytes], count: int) -> None:
        self._lines = lines
        self._count = count

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        numbered = enumerate(itertools.islice(itertools.cycle(self._lines), self._count))
        while part := list(itertools.islice(numbered, _LINES_PER_CHUNK)):
            yield Chunk("bench", part, end=part[-1][0] + 1)

    def stop(self) -> None:
        pass


def _boto3(endpoint: str, count: int, *, size: int) -> None:
    client = boto3.client("kinesis", endpoint_url=endpoint)
    events, meter = make_events(), Meter()
    meter.start()
    for start in range(0, count, size):
        part = [events[number % EVENTS] for number in range(start, min(count, start + size))]
        if size == 1:
            client.put_record(StreamName=STREAM, Data=json.dumps(part[0]), PartitionKey=part[0]["session_id"])
        else:
            records = [{"Data": json.dumps(event), "PartitionKey": event["session_id"]} for event in part]
            client.put_records(StreamName=STREAM, Records=records)
    meter.report()


async def _aiobotocore(endpoint: str, count: int) -> None:
    events, meter = make_events(), Meter()
    async with get_session().create_client("kinesis", endpoint_url=endpoint) as client:
        meter.start()
        for start in range(0, count, _BATCH):
            part = [events[number % EVENTS] for number in range(start, min(count, start + _BATCH))]
            records = [{"Data": orjson.dumps(event), "PartitionKey": event["session_id"]} for event in part]
            await client.put_records(StreamName=STREAM, Records=records)
        meter.report()


def _settings(**changes: Any) -> ProducerSettings:
    # The null endpoint has one shard; to keep to its share of the service's limits would only take time.
    return ProducerSettings(shard_rate_percent=0, drain_timeout_seconds=60, **changes)


async def _with_producer(
    endpoint: str, settings: ProducerSettings, job: Callable[[Producer, Meter], Awaitable[None]]
) -> None:
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    async with open_aws() as aws:
        parts: dict[str, Any] = {"clock": SystemClock(), "random": random.Random(1), "telemetry": SilentTelemetry()}  # noqa: S311 - jitter
        async with Producer(STREAM, kinesis=await aws.kinesis(), settings=settings, **parts) as producer:
            meter = Meter()
            await job(producer, meter)
            meter.report()
            _check(producer)


def _check(producer: Producer | EventProducer) -> None:
    if producer.ledger.pending or producer.failure:
        raise RuntimeError(str(producer.failure or producer.ledger))


async def _headrace(endpoint: str, count: int, settings: ProducerSettings) -> None:
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    events, meter = make_events(), Meter()
    async with EventProducer(STREAM, settings=settings, telemetry=SilentTelemetry()) as producer:
        meter.start()
        for number in range(count):
            await producer.put(events[number % EVENTS])
        await producer.flush(60)
        meter.report()
        _check(producer)


async def _headrace_all(endpoint: str, count: int, settings: ProducerSettings) -> None:
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    events, meter = make_events(), Meter()
    async with EventProducer(STREAM, settings=settings, telemetry=SilentTelemetry()) as producer:
        meter.start()
        for start in range(0, count, _BATCH):
            await producer.put_all(events[number % EVENTS] for number in range(start, min(count, start + _BATCH)))
        await producer.flush(60)
        meter.report()
        _check(producer)


async def _headrace_lines(endpoint: str, count: int, lines: list[bytes], parser: LineParser) -> None:
    settings = _settings()

    async def job(producer: Producer, meter: Meter) -> None:
        clock = SystemClock()
        with tempfile.TemporaryDirectory() as folder:
            letters = DeadLetters(LocalFiles(), clock, folder, "memory")
            source = _Lines(lines, count)
            run = SourceRun(source, parser, producer, clock=clock, settings=settings, dead_letters=letters)
            tune_collector()  # as the command does
            meter.start()
            await run.run(StopSignal())

    await _with_producer(endpoint, settings, job)


def _run(options: argparse.Namespace) -> None:
    name, endpoint, count = options.run, options.endpoint, options.events
    if name in {"boto3_one", "boto3_batch"}:
        _boto3(endpoint, count, size=1 if name == "boto3_one" else _BATCH)
    elif name == "aiobotocore":
        asyncio.run(_aiobotocore(endpoint, count))
    elif name == "aggregated":
        asyncio.run(_headrace(endpoint, count, _settings()))
    elif name in {"together", "cbor"}:
        wire = Wire.CBOR if name == "cbor" else Wire.JSON
        asyncio.run(_headrace_all(endpoint, count, _settings(wire=wire)))
    elif name == "plain":
        asyncio.run(_headrace(endpoint, count, _settings(aggregate=False, ordering="none")))
    elif name == "json_lines":
        lines = [orjson.dumps(event) for event in make_events()]
        asyncio.run(_headrace_lines(endpoint, count, lines, JsonLineParser()))
    else:
        lines = gzip.decompress(_SAMPLE_LOG.read_bytes()).splitlines()
        parser = VisitLineParser(DEFAULT, b"k" * 32, is_crawler)
        asyncio.run(_headrace_lines(endpoint, count, lines, parser))


def main() -> None:
    """Hold the contest, or be one of its contenders."""
    options = parser_of(__doc__, _EVENTS_PER_RUN).parse_args()
    if options.run:
        _run(options)
    else:
        hold("benchmarks.producer", "produce", CONTENDERS, options)


if __name__ == "__main__":
    main()
