"""CPU seconds per million events written as objects of each format: `python -m benchmarks.archive [--rounds N]`.

Enriched events of about 600 bytes, as the consumer's batches hold them, in objects of 10,000. The yardstick is what a
script does that archives events by itself: `json.dumps` of each event, then gzip at level 6.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import orjson

from benchmarks.sample import STREAM, make_events
from consumer.core.enrichment import Enricher, timestamp_text
from consumer.core.object_format import Codec, FormatKind, ObjectFormat
from consumer.core.schema import Schema
from consumer.encoding import encode

_OBJECT_EVENTS: Final = 10_000
_FORMATS: Final = (
    (FormatKind.JSON, Codec.NONE),
    (FormatKind.JSON, Codec.GZIP),
    (FormatKind.JSON, Codec.ZSTD),
    (FormatKind.CSV, Codec.GZIP),
    (FormatKind.CSV, Codec.ZSTD),
    (FormatKind.PARQUET, Codec.SNAPPY),
    (FormatKind.PARQUET, Codec.GZIP),
    (FormatKind.PARQUET, Codec.ZSTD),
)


def _lines() -> list[bytes]:
    enricher, timestamp = Enricher(STREAM, "shardId-000000000000"), timestamp_text(time.time()).encode()
    events = make_events(_OBJECT_EVENTS)
    numbers = list(map(str, range(1, len(events) + 1)))
    columns = (list(map(orjson.dumps, events)), events, numbers, [0] * len(events))
    return enricher.enrich_all(columns, timestamp)[0].each()


def _measure(events: int, write: Callable[[], int]) -> tuple[float, int]:
    """Return the CPU seconds per million events, and the bytes of the last object."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    before, size, objects = used.ru_utime + used.ru_stime, 0, max(1, events // _OBJECT_EVENTS)
    for _ in range(objects):
        size = write()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return (used.ru_utime + used.ru_stime - before) / (objects * _OBJECT_EVENTS) * 1e6, size


def _tell(ways: dict[str, Callable[[], int]], events: int, rounds: int) -> None:
    """Print medians over rounds; each round has every way in it, so that a busy moment falls on all."""
    for write in ways.values():
        write()  # imports and first allocations are not the format's
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, int] = {}
    for _ in range(rounds):
        for name, write in ways.items():
            taken, sizes[name] = _measure(events, write)
            seconds[name].append(taken)
    print("| format | CPU-s per million events | min - max | bytes per event |\n|---|---:|---:|---:|")  # noqa: T201 - the result
    for name, each in seconds.items():
        spread = f"{min(each):.2f} - {max(each):.2f}"
        print(f"| {name} | {statistics.median(each):.2f} | {spread} | {sizes[name] / _OBJECT_EVENTS:.1f} |")  # noqa: T201 - the result


def _by_hand(events: list[dict[str, Any]]) -> int:
    return len(gzip.compress(b"\n".join(json.dumps(event).encode() for event in events), 6))


def main() -> None:
    """Measure every format after the yardstick."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="per format and round; default %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    options = parser.parse_args()
    lines = _lines()
    batch = b"".join(line + b"\n" for line in lines)
    schema = Schema.infer(lines[:1_000])
    decoded = [orjson.loads(line) for line in lines]
    ways: dict[str, Callable[[], int]] = {"json.dumps, gzip -6": lambda: _by_hand(decoded)}
    for kind, codec in _FORMATS:
        described = ObjectFormat(kind, codec, schema if kind is not FormatKind.JSON else None)

        def write(described: ObjectFormat = described) -> int:
            found = asyncio.run(encode(bytearray(batch), described))
            if found.count != _OBJECT_EVENTS:
                message = f"{found.count:,} of {_OBJECT_EVENTS:,} events were written: {found.rejected[:1]}"
                raise RuntimeError(message)
            return len(found.body)

        ways[f"{kind.value}, {codec.value}"] = write
    _tell(ways, options.events, options.rounds)


if __name__ == "__main__":
    main()
