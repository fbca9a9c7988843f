"""How full the producer makes each shard: `python -m benchmarks.shard_fill [--shards N] [--seconds S] [--percent P]`.

The local cloud is a process of its own, with its limits on. Reported: MiB/s per shard after warm-up, the share of
stream records that were throttled, and the client's CPU seconds per million events.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from typing import Any, Final

from infra.cloud.process import LocalCloudProcess
from producer.producer import Producer
from shared.aws.session import open_aws
from shared.clock import SystemClock
from shared.limits import SHARD_WRITE_BYTES_PER_SECOND
from shared.ports import Kinesis
from shared.records import PutEntry, PutResult
from shared.settings import ProducerSettings
from shared.telemetry import SilentTelemetry

_STREAM: Final = "benchmark"
_EVENT_BYTES: Final = 307
_KEYS: Final = 20_000
_WARM_UP_SECONDS: Final = 3.0


class _Meter:
    """Counts, per shard, the bytes that landed and the entries that were refused; passes every call on."""

    def __init__(self, inner: Kinesis) -> None:
        self._inner = inner
        self.reset()

    def reset(self) -> None:
        self.landed: dict[str, int] = {}
        self.refused = 0
        self.entries = 0
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def put_records(self, stream: str, entries: list[PutEntry]) -> list[PutResult]:
        results = list(await self._inner.put_records(stream, entries))
        self.calls += 1
        self.entries += len(entries)
        for entry, result in zip(entries, results, strict=True):
            if result.error_code:
                self.refused += 1
            else:
                size = len(entry.data) + len(entry.partition_key)
                self.landed[result.shard_id] = self.landed.get(result.shard_id, 0) + size
        return results


async def _fill(producer: Producer, until: float) -> int:
    count = 0
    data = os.urandom(_EVENT_BYTES - 20).hex()[: _EVENT_BYTES - 20].encode()
    keys = [f"session-{index}" for index in range(_KEYS)]
    chance = random.Random(1)  # noqa: S311 - repeatable keys, no secret
    while time.monotonic() < until:
        for _ in range(100):
            await producer.put(data, keys[int(chance.random() * _KEYS)])
        count += 100
    return count


async def _measure(options: argparse.Namespace) -> None:
    async with open_aws() as aws:
        client = await aws.kinesis()
        await client._client.create_stream(StreamName=_STREAM, ShardCount=options.shards)  # noqa: SLF001 - no port makes streams
        await asyncio.sleep(1)
        meter = _Meter(client)
        producer = Producer(
            _STREAM,
            kinesis=meter,  # type: ignore[arg-type]  # it passes on what it does not define
            clock=SystemClock(),
            random=random.Random(7),  # noqa: S311 - back-off, no secret
            telemetry=SilentTelemetry(),
            settings=ProducerSettings(
                shard_rate_percent=options.percent, aggregate=options.aggregate, drain_timeout_seconds=0.1
            ),
        )
        async with producer:
            await _fill(producer, time.monotonic() + _WARM_UP_SECONDS)
            meter.reset()
            began, cpu = time.monotonic(), time.process_time()
            count = await _fill(producer, began + options.seconds)
            seconds, burnt = time.monotonic() - began, time.process_time() - cpu
            _report(meter, seconds, burnt, count, options.shards)


def _report(meter: _Meter, seconds: float, burnt: float, count: int, shards: int) -> None:
    shares = sorted(size / seconds / SHARD_WRITE_BYTES_PER_SECOND for size in meter.landed.values())
    refused = meter.refused / max(1, meter.entries)
    sys.stdout.write(
        f"{len(shares)} of {shards} shards, filled to {min(shares):.1%} .. {max(shares):.1%} of 1 MiB/s, "
        f"mean {sum(shares) / shards:.1%}\n"
        f"{meter.refused:,} of {meter.entries:,} stream records throttled ({refused:.2%}), "
        f"{meter.calls / seconds:.1f} calls/s, {count / seconds:,.0f} events/s, "
        f"{burnt / max(1, count) * 1e6:.1f} CPU-s per million events\n"
    )


def main() -> None:
    """Run the benchmark; the server is started and ended here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--percent", type=int, default=100, help="shard_rate_percent; 0 shows what the limits do alone")
    parser.add_argument("--no-aggregate", dest="aggregate", action="store_false")
    options = parser.parse_args()
    with LocalCloudProcess() as cloud:
        os.environ.update(cloud.environment())
        asyncio.run(_measure(options))


if __name__ == "__main__":
    main()
