"""What it costs to read, enrich and re-encode a million events: `python -m benchmarks.consumer [--endpoint URL]`.

Pages of 10,000 events of about 307 bytes. headrace goes the worker's way: records are de-aggregated and cut into
chunks, decoded, checked for duplicates, enriched, routed, added to the objects to be, and their positions tracked;
left out is what waits on purpose (pacing, leases, the flush to S3). In the rows that put, the enriched events go to a
stream instead: with headrace in order per session, aggregated, until the last one is acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
from contextlib import AsyncExitStack
from typing import Any, Final

import boto3
import orjson
from aiobotocore.session import get_session

from benchmarks.contest import Contender, Meter, hold, parser_of
from benchmarks.sample import AGGREGATES_ITERATOR, OWN_ITERATOR, STREAM
from consumer.budget import Budget
from consumer.core.batch import Batch
from consumer.core.chunk import cut
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.enrichment import Enricher, timestamp_text
from consumer.core.route import Router
from consumer.core.transform import Transform
from consumer.delivery import Delivery
from consumer.status import Counters
from infra.pipeline import destination_settings
from producer.producer import Producer
from shared.allocator import tune_allocator
from shared.aws.session import open_aws
from shared.clock import SystemClock
from shared.collector import tune_collector
from shared.hash_key import FULL_RANGE
from shared.limits import MIB, PUT_RECORDS_COUNT_MAX
from shared.ports import Kinesis, RecordSink
from shared.records import Wire
from shared.telemetry import SilentTelemetry

_EVENTS_PER_RUN: Final = 100_000
_PAGE: Final = 10_000
_SHARD_ID: Final = "shardId-000000000000"
_ITERATORS: Final = {"headrace_kpl": AGGREGATES_ITERATOR, "headrace_own": OWN_ITERATOR}

CONTENDERS: Final = (
    Contender("default", "async-kinesis 3.0.1", share=0.5, is_foreign=True),
    Contender("boto3", "boto3, json", share=0.5),
    Contender("aiobotocore", "aiobotocore, orjson", share=0.5),
    Contender("boto3_put", "boto3, json, then put_records x 500", share=0.5),
    Contender(
        "headrace_put_python", "headrace, then its producer, without the compiled part", share=2, like="headrace_put"
    ),
    Contender("headrace_put", "headrace, then its producer", share=2),
    Contender("headrace_cbor_put", "headrace, then its producer, both in CBOR", share=2),
    Contender("headrace_python", "headrace, without the compiled part", share=3, like="headrace"),
    Contender("headrace_cbor", "headrace, CBOR", share=3),
    Contender("headrace_kpl", "headrace, records that a producer has aggregated (50 KiB)", share=3),
    Contender("headrace_own", "headrace, records of its own producer: aggregated, with event ids", share=3),
    Contender("headrace", "headrace", share=3),
)


def _enrich(event: dict[str, Any]) -> dict[str, Any]:
    """Do what the lab does to an event: a time stamp and three sums."""
    history = event["browse_history"]
    event["processing_timestamp"] = timestamp_text(SystemClock().wall())
    event["overall_product_quantity"] = sum(item["quantity"] for item in history)
    event["overall_in_shopping_cart"] = sum(item["in_shopping_cart"] for item in history)
    event["total_different_products"] = len(history)
    return event


def _boto3(endpoint: str, count: int, *, puts: bool) -> None:
    client = boto3.client("kinesis", endpoint_url=endpoint)
    client.get_records(ShardIterator="A", Limit=_PAGE)
    meter = Meter()
    meter.start()
    for _ in range(count // _PAGE):
        entries = []
        for record in client.get_records(ShardIterator="A", Limit=_PAGE)["Records"]:
            event = _enrich(json.loads(record["Data"]))
            entries.append({"Data": json.dumps(event).encode(), "PartitionKey": event["session_id"]})
        for at in range(0, len(entries) if puts else 0, PUT_RECORDS_COUNT_MAX):
            client.put_records(StreamName=STREAM, Records=entries[at : at + PUT_RECORDS_COUNT_MAX])
    meter.report()


async def _aiobotocore(endpoint: str, count: int) -> None:
    async with get_session().create_client("kinesis", endpoint_url=endpoint) as client:
        await client.get_records(ShardIterator="A", Limit=_PAGE)
        meter = Meter()
        meter.start()
        for _ in range(count // _PAGE):
            for record in (await client.get_records(ShardIterator="A", Limit=_PAGE))["Records"]:
                orjson.dumps(_enrich(orjson.loads(record["Data"])))
        meter.report()


async def _headrace(endpoint: str, count: int, *, puts: bool, wire: Wire, iterator: str = "A") -> None:
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    async with open_aws() as aws, AsyncExitStack() as stack:
        kinesis = await aws.kinesis(wire, wire)
        sinks: dict[str, RecordSink] = {}
        if puts:
            producer = await stack.enter_async_context(_producer(kinesis))
            sinks = {"USA": producer, "International": producer}
        await kinesis.get_records(STREAM, "A", _PAGE)  # the first call of a process goes the ordinary way
        tune_allocator()
        tune_collector()
        meter = Meter()
        meter.start()
        for _ in range(count // _PAGE):
            await _process_page(kinesis, sinks, iterator)
        meter.report()


def _producer(kinesis: Kinesis) -> Producer:
    # The endpoint's stream has one shard, whose rate would be the measure.
    settings = destination_settings({"USA": STREAM}).model_copy(update={"shard_rate_percent": 0})
    return Producer(
        STREAM,
        kinesis=kinesis,
        clock=SystemClock(),
        random=random.Random(),  # noqa: S311 - jitter
        telemetry=SilentTelemetry(),
        settings=settings,
    )


async def _process_page(kinesis: Kinesis, sinks: dict[str, RecordSink], iterator: str) -> None:
    """Read a page, until everything in it is delivered. The endpoint repeats its page: so the books start anew."""
    clock, done = SystemClock(), asyncio.Event()
    delivery = Delivery(
        _SHARD_ID,
        sinks,
        keeps_dead_letters=True,
        account=Budget(1024 * MIB).open(lambda: None),
        counters=Counters(),
        clock=clock,
        telemetry=SilentTelemetry(),
        on_progress=done.set,
    )
    batch = Batch(clock.monotonic(), keeps_lines=not sinks)
    transform = Transform(Enricher(STREAM, _SHARD_ID), Router(["USA", "International"]), DuplicateMarks({}))
    page = await kinesis.get_records(STREAM, iterator, _PAGE)
    timestamp = timestamp_text(clock.wall()).encode()
    for chunk in cut(page.records, FULL_RANGE):
        await delivery.take(chunk, batch, transform, timestamp=timestamp)
    while not delivery.tracker.covers(chunk.last):
        done.clear()
        await done.wait()
    if batch.records != _PAGE or (batch.count != _PAGE and not sinks):
        message = f"{batch.count} of {_PAGE} events came through"
        raise RuntimeError(message)


def _run(options: argparse.Namespace) -> None:
    puts = options.run.endswith("_put")
    if options.run.startswith("boto3"):
        _boto3(options.endpoint, options.events, puts=puts)
    elif options.run == "aiobotocore":
        asyncio.run(_aiobotocore(options.endpoint, options.events))
    else:
        wire = Wire.CBOR if "_cbor" in options.run else Wire.JSON
        iterator = _ITERATORS.get(options.run, "A")
        asyncio.run(_headrace(options.endpoint, options.events, puts=puts, wire=wire, iterator=iterator))


def main() -> None:
    """Hold the contest, or be one of its contenders."""
    options = parser_of(__doc__, _EVENTS_PER_RUN).parse_args()
    if options.run:
        _run(options)
    else:
        hold("benchmarks.consumer", "consume", CONTENDERS, options)


if __name__ == "__main__":
    main()
