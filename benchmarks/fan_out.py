"""Polling beside enhanced fan-out on the local cloud: latency of single records, CPU per million records of a backlog.

Run as `python -m benchmarks.fan_out`. What AWS adds is not in the figures: its own push takes some 70 ms.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from typing import Final

from consumer.budget import Budget
from consumer.fan_out_reader import Reader, open_reader
from consumer.registration import Registration
from consumer.retrier import Retrier
from consumer.shard_reader import ReadPorts, ReadSettings
from infra.cloud.process import LocalCloudProcess
from shared.aggregation import deaggregate, encode_aggregate
from shared.aws.control import open_control
from shared.aws.session import Aws, open_aws
from shared.clock import SystemClock
from shared.limits import GET_RECORDS_COUNT_MAX, MIB
from shared.records import LATEST, TRIM_HORIZON, PutEntry, Start
from shared.retry import Backoff
from shared.telemetry import SilentTelemetry
from shared.terminal import say

_SHARD: Final = "shardId-000000000000"
_LATENCIES: Final = 100
_ROUNDS: Final = 3
_EVENT: Final = b'{"session_id":"a1","pad":"' + b"x" * 279 + b'"}'  # 307 bytes, as in docs/explanation/performance.md
_PLAIN: Final = 60_000
_MEMBERS: Final = 150


async def _reader(aws: Aws, stream: str, start: Start, *, by_fan_out: bool) -> Reader:
    kinesis, telemetry, chance, backoff = (
        await aws.kinesis(),
        SilentTelemetry(),
        random.SystemRandom(),
        Backoff(0.05, 1),
    )
    retrier = Retrier(backoff, chance, telemetry)
    name = f"bench-{time.monotonic_ns()}"
    registration = (
        Registration(await aws.fan_out(stream), kinesis, retrier, stream=stream, name=name) if by_fan_out else None
    )
    return open_reader(
        _SHARD,
        start,
        settings=ReadSettings(stream, GET_RECORDS_COUNT_MAX, pause_seconds=0.2, idle_seconds=1, start_timestamp=0),
        ports=ReadPorts(kinesis, retrier, SystemClock(), chance, telemetry, backoff, registration),
        account=Budget(64 * MIB).open(lambda: None),
    )


async def _latencies(aws: Aws, *, by_fan_out: bool) -> list[float]:
    """Return the milliseconds from put to read of single records that come at random times."""
    kinesis, chance = await aws.kinesis(), random.SystemRandom()
    reader = await _reader(aws, "latency", LATEST, by_fan_out=by_fan_out)
    await reader.read()
    found: list[float] = []

    async def put() -> None:
        for _ in range(_LATENCIES):
            await asyncio.sleep(chance.uniform(0.05, 0.35))
            await kinesis.put_record("latency", PutEntry(b"%r" % time.monotonic(), "k"))

    async with asyncio.TaskGroup() as group:
        group.create_task(put())
        while len(found) < _LATENCIES:
            records = (await reader.read()).records
            now = time.monotonic()
            found += [1000 * (now - float(record.data)) for record in records]
    await reader.aclose()
    return found


async def _cpu_seconds(aws: Aws, stream: str, *, by_fan_out: bool) -> float:
    """Return the CPU-seconds per million user records of reading and de-aggregating a backlog."""
    reader = await _reader(aws, stream, TRIM_HORIZON, by_fan_out=by_fan_out)
    seen, began = 0, time.process_time()
    while seen < _PLAIN:
        for record in (await reader.read()).records:
            seen += len(deaggregate(record, None).records)
    used = time.process_time() - began
    await reader.aclose()
    return used / _PLAIN * 1e6


async def _fill(aws: Aws) -> None:
    """Put a backlog of plain records and one of aggregates."""
    kinesis = await aws.kinesis()
    data = encode_aggregate([_EVENT] * _MEMBERS, ["k"] * _MEMBERS)
    for stream, entry, count in (("plain", PutEntry(_EVENT, "k"), _PLAIN), ("aggregated", data, _PLAIN // _MEMBERS)):
        for first in range(0, count, 200):
            await kinesis.put_records(stream, [entry] * min(200, count - first))


async def _measure() -> None:
    async with open_control() as control, open_aws() as aws:
        for stream in ("latency", "plain", "aggregated"):
            await control.create_stream(stream, shards=1, tags={})
        await asyncio.sleep(1)
        await _fill(aws)
        for by_fan_out in (False, True):
            name = "fan-out" if by_fan_out else "polling"
            latencies = await _latencies(aws, by_fan_out=by_fan_out)
            say(f"{name}: {statistics.median(latencies):.1f} ms median, {max(latencies):.1f} ms at most")
            for stream in ("plain", "aggregated"):
                rounds = [await _cpu_seconds(aws, stream, by_fan_out=by_fan_out) for _ in range(_ROUNDS)]
                say(f"{name}, {stream}: {statistics.median(rounds):.2f} CPU-s per million records")


def main() -> None:
    """Measure against a local cloud without limits, in a process of its own."""
    with LocalCloudProcess(limits_enforced=False) as cloud:
        os.environ |= cloud.environment()
        asyncio.run(_measure())


if __name__ == "__main__":
    main()
