"""What an event costs as its stream has more shards: `python -m benchmarks.shard_counts [--shards 1 8 64 256 1000]`.

The producer puts dictionaries, aggregated, order per session, against null endpoints that
name the right shard of each record.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from contextlib import ExitStack
from typing import Final

from benchmarks.contest import endpoint_of, run

_MILLION: Final = 1_000_000


def main() -> None:
    """Measure each number of shards in turns and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 8, 64, 256, 1_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--events", type=int, default=100_000, help="events per run")
    options = parser.parse_args()
    costs: dict[int, list[float]] = {shards: [] for shards in options.shards}
    with ExitStack() as stack:
        endpoints = {shards: stack.enter_context(endpoint_of(None, shards)) for shards in options.shards}
        for _ in range(options.rounds):
            for shards, endpoint in endpoints.items():
                command = [sys.executable, "-m", "benchmarks.producer", "--run", "aggregated", "--endpoint", endpoint]
                costs[shards].append(run([*command, "--events", str(options.events)]) / options.events * _MILLION)
    sys.stdout.write("| shards | CPU-s per million | min - max |\n|---:|---:|---:|\n")
    for shards, each in costs.items():
        sys.stdout.write(f"| {shards:,} | {statistics.median(each):.2f} | {min(each):.2f} - {max(each):.2f} |\n")


if __name__ == "__main__":
    main()
