"""What it costs to read, enrich and re-encode a million events: `python -m benchmarks.consumer [--endpoint URL]`.

Pages of 10,000 events of about 307 bytes. headrace goes the worker's way: records are de-aggregated and cut into
chunks, decoded, checked for duplicates, enriched, routed, added to the objects to be, and their positions tracked;
left out is what waits on purpose (pacing, leases, the flush to S3).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from typing import Any, Final

import boto3
import orjson
from aiobotocore.session import get_session

from benchmarks.contest import Contender, Meter, hold, parser_of
from benchmarks.sample import STREAM
from consumer.budget import Budget
from consumer.core.batch import Batch
from consumer.core.chunk import cut
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.enrichment import Enricher, timestamp_text
from consumer.core.route import Router
from consumer.core.transform import Transform
from consumer.delivery import Delivery
from consumer.status import Counters
from shared.aws.session import open_aws
from shared.clock import SystemClock
from shared.hash_key import FULL_RANGE
from shared.limits import MIB
from shared.telemetry import SilentTelemetry

_EVENTS_PER_RUN: Final = 100_000
_PAGE: Final = 10_000
_SHARD_ID: Final = "shardId-000000000000"

CONTENDERS: Final = (
    Contender("default", "async-kinesis 3.0.1", share=0.5, is_foreign=True),
    Contender("boto3", "boto3, json", share=0.5),
    Contender("aiobotocore", "aiobotocore, orjson", share=0.5),
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


def _boto3(endpoint: str, count: int) -> None:
    client = boto3.client("kinesis", endpoint_url=endpoint)
    client.get_records(ShardIterator="A", Limit=_PAGE)
    meter = Meter()
    meter.start()
    for _ in range(count // _PAGE):
        for record in client.get_records(ShardIterator="A", Limit=_PAGE)["Records"]:
            json.dumps(_enrich(json.loads(record["Data"])))
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


async def _headrace(endpoint: str, count: int) -> None:
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    clock = SystemClock()
    enricher, router = Enricher(STREAM, _SHARD_ID), Router(["USA", "International"])
    async with open_aws() as aws:
        kinesis = await aws.kinesis()
        await kinesis.get_records(STREAM, "A", _PAGE)  # the first call of a process goes the ordinary way
        meter = Meter()
        meter.start()
        for _ in range(count // _PAGE):
            # The endpoint repeats its page: positions start anew, so do the books.
            delivery = Delivery(
                _SHARD_ID,
                {},
                keeps_dead_letters=True,
                account=Budget(1024 * MIB).open(lambda: None),
                counters=Counters(),
                clock=clock,
                telemetry=SilentTelemetry(),
                on_progress=lambda: None,
            )
            batch = Batch(clock.monotonic(), keeps_lines=True)
            transform = Transform(enricher, router, DuplicateMarks({}))
            page = await kinesis.get_records(STREAM, "A", _PAGE)
            timestamp = timestamp_text(clock.wall()).encode()
            for chunk in cut(page.records, FULL_RANGE):
                await delivery.take(chunk, batch, transform, timestamp=timestamp)
            if batch.count != _PAGE:
                message = f"{batch.count} of {_PAGE} events came through"
                raise RuntimeError(message)
        meter.report()


def _run(options: argparse.Namespace) -> None:
    if options.run == "boto3":
        _boto3(options.endpoint, options.events)
    elif options.run == "aiobotocore":
        asyncio.run(_aiobotocore(options.endpoint, options.events))
    else:
        asyncio.run(_headrace(options.endpoint, options.events))


def main() -> None:
    """Hold the contest, or be one of its contenders."""
    options = parser_of(__doc__, _EVENTS_PER_RUN).parse_args()
    if options.run:
        _run(options)
    else:
        hold("benchmarks.consumer", "consume", CONTENDERS, options)


if __name__ == "__main__":
    main()
