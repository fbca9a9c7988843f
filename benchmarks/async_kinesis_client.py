"""async-kinesis, run by the benchmarks in an environment of its own: `SCRIPT produce|consume NAME ENDPOINT EVENTS`."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import resource
import sys
from pathlib import Path
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).parents[1]))

from kinesis import Consumer, Producer  # type: ignore[import-not-found] # it lives in another environment

from benchmarks.sample import EVENTS, STREAM, make_events


class _NoThrottle:
    """Both of its throttles in one, without effect: the kindest figure it can have."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> Self:
        return self


def _report(before: resource.struct_rusage) -> None:
    after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    sys.stdout.write(json.dumps({"cpu_seconds": used}) + "\n")


async def _produce(name: str, endpoint: str, count: int) -> None:
    events = make_events()
    async with Producer(stream_name=STREAM, endpoint_url=endpoint, region_name="us-east-1") as producer:
        if name == "unthrottled":
            producer.put_rate_throttle = producer.put_bandwidth_throttle = _NoThrottle()
        before = resource.getrusage(resource.RUSAGE_SELF)
        for number in range(count):
            await producer.put(events[number % EVENTS])
        await producer.flush()
        _report(before)


async def _consume(endpoint: str, count: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    left = count
    async with Consumer(
        stream_name=STREAM, endpoint_url=endpoint, region_name="us-east-1", max_queue_size=20_000
    ) as consumer:
        while left:
            async for event in consumer:
                enrich(event)
                left -= 1
                if not left:
                    break
        _report(before)


def enrich(event: dict[str, Any]) -> bytes:
    """Do what the lab does to an event: a time stamp and three sums."""
    history = event["browse_history"]
    event["processing_timestamp"] = dt.datetime.now(dt.UTC).isoformat()
    event["overall_product_quantity"] = sum(item["quantity"] for item in history)
    event["overall_in_shopping_cart"] = sum(item["in_shopping_cart"] for item in history)
    event["total_different_products"] = len(history)
    return json.dumps(event).encode()


if __name__ == "__main__":
    direction, contender, address, events_count = sys.argv[1:]
    with contextlib.suppress(KeyboardInterrupt):
        if direction == "produce":
            asyncio.run(_produce(contender, address, int(events_count)))
        else:
            asyncio.run(_consume(address, int(events_count)))
