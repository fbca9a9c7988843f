"""The memory of a process whose producer is fed as fast as it takes while the stream refuses everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shared.limits import MIB

ROOT = Path(__file__).parents[3]
BUFFER = 32 * MIB
CONSTANT = 16 * MIB  # requests in the making, keys that are remembered, the allocator's own

PROGRAM = f"""
import asyncio, json, random, resource, sys
from collections.abc import Sequence
from producer.producer import Producer
from shared.clock import SystemClock
from shared.errors import ThrottledError
from shared.records import PutEntry, PutResult, Shard, StreamSummary
from shared.settings import ProducerSettings
from shared.telemetry import SilentTelemetry

class Refusing:
    calls = 0
    async def describe_stream(self, stream): return StreamSummary(stream, "arn", "ACTIVE", 1, 24, 1 << 20)
    async def list_shards(self, stream): return (Shard("shardId-000000000000"),)
    async def put_records(self, stream, entries):
        self.calls += 1
        if sys.argv[1] == "call":
            raise ThrottledError("no")
        return [PutResult(error_code="ProvisionedThroughputExceededException") for _ in entries]

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

async def main():
    kinesis, chance, count, calls_when_full = Refusing(), random.Random(1), 0, None
    settings = ProducerSettings(
        buffer_bytes_max={BUFFER}, drain_timeout_seconds=0.01, batch_linger_seconds=0,
        retry_backoff_seconds_min=0.001, retry_backoff_seconds_max=0.01, shard_rate_percent=0,
    )
    producer = Producer(
        "s", kinesis=kinesis, clock=SystemClock(), random=chance, telemetry=SilentTelemetry(), settings=settings
    )
    async with producer:
        before = peak()
        # A rejecting stream is asked for long after the buffer is full.
        while calls_when_full is None or kinesis.calls < calls_when_full + 40:
            data = b"%0300d" % count
            if producer.intake.try_put(data, "session-%d" % chance.getrandbits(20)):
                count += 1
                if producer.intake.is_busy:
                    await producer.intake.give_way()
            else:
                calls_when_full = calls_when_full or kinesis.calls
                await asyncio.sleep(0.001)
        print(json.dumps({{"count": count, "pending": producer.ledger.pending, "grown": peak() - before}}))

asyncio.run(main())
"""


@pytest.mark.parametrize("refused", ["call", "records"])
def test_memory_stays_within_the_buffer_and_a_constant(refused: str) -> None:
    """However long nothing is taken, the process grows by `buffer_bytes_max` and a constant at most."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, refused], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    report = json.loads(done.stdout)
    assert report["pending"] == report["count"]
    assert report["count"] > BUFFER // 600, "the buffer was filled"
    assert report["grown"] <= BUFFER + CONSTANT, f"{report['grown'] / MIB:.1f} MiB"
