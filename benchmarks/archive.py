"""CPU seconds per million events written as objects of each format: `python -m benchmarks.archive [--events N]`.

Enriched events of about 600 bytes, as the consumer's batches hold them, in objects of 10,000. The yardstick is what a
script does that archives events by itself: `json.dumps` of each event, then gzip at level 6.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import resource
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
    rows = ((orjson.dumps(event), event, number, 0) for number, event in enumerate(events, 1))
    return enricher.enrich_all(rows, timestamp)[0]


def _measure(name: str, events: int, write: Callable[[], int]) -> None:
    write()  # imports and first allocations are not the format's
    used = resource.getrusage(resource.RUSAGE_SELF)
    before, size = used.ru_utime + used.ru_stime, 0
    for _ in range(events // _OBJECT_EVENTS):
        size = write()
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = (used.ru_utime + used.ru_stime - before) / (events // _OBJECT_EVENTS * _OBJECT_EVENTS) * 1e6
    print(f"{name:<22} {seconds:8.2f} CPU-s per million events {size / _OBJECT_EVENTS:8.1f} bytes per event")  # noqa: T201 - the result


def _by_hand(events: list[dict[str, Any]]) -> int:
    return len(gzip.compress(b"\n".join(json.dumps(event).encode() for event in events), 6))


def main() -> None:
    """Measure every format after the yardstick."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000, help="per format; default %(default)s")
    count: int = parser.parse_args().events
    lines = _lines()
    batch = b"".join(line + b"\n" for line in lines)
    schema = Schema.infer(lines[:1_000])
    decoded = [orjson.loads(line) for line in lines]
    _measure("json.dumps, gzip -6", count, lambda: _by_hand(decoded))
    for kind, codec in _FORMATS:
        described = ObjectFormat(kind, codec, schema if kind is not FormatKind.JSON else None)

        def write(described: ObjectFormat = described) -> int:
            found = asyncio.run(encode(bytearray(batch), described))
            if found.count != _OBJECT_EVENTS:
                message = f"{found.count:,} of {_OBJECT_EVENTS:,} events were written: {found.rejected[:1]}"
                raise RuntimeError(message)
            return len(found.body)

        _measure(f"{kind.value}, {codec.value}", count, write)


if __name__ == "__main__":
    main()
