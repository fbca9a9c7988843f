"""Order on a stream that throttles single records and is split and merged while the producer is at it."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from infra.cloud.process import LocalCloudProcess
from tests.acceptance.conftest import PATIENCE_SECONDS, Shell, clean_environment
from tests.support.whole_stream import WholeStream, first_occurrences, out_of_order

SESSIONS = 40
FAULTS = """
seed = 3

[[rule]]
name = "some records are throttled"
effect = "fail_records"
probability = 0.25

[[rule]]
name = "puts land, their replies are lost"
operation = "PutRecords"
probability = 0.05
effect = "lose_reply"
"""


def write_log(path: Path, count: int) -> None:
    """Write `count` events of `SESSIONS` sessions, `n` rising."""
    chance = random.Random(1)
    path.write_bytes(
        b"".join(b'{"session_id":"s%d","n":%d}\n' % (chance.randrange(SESSIONS), number) for number in range(count))
    )


def wait_until_active(client: Any, stream: str) -> list[dict[str, Any]]:
    """Wait until a stream has settled; return its open shards in hash key order."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        summary = client.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
        if summary["StreamStatus"] == "ACTIVE":
            break
        assert time.monotonic() < deadline
        threading.Event().wait(0.05)
    shards = client.list_shards(StreamName=stream)["Shards"]
    shards = [each for each in shards if "EndingSequenceNumber" not in each["SequenceNumberRange"]]
    return sorted(shards, key=lambda each: int(each["HashKeyRange"]["StartingHashKey"]))


def split(client: Any, stream: str, shard: dict[str, Any]) -> None:
    """Split a shard in the middle."""
    keys = shard["HashKeyRange"]
    middle = (int(keys["StartingHashKey"]) + int(keys["EndingHashKey"])) // 2
    client.split_shard(StreamName=stream, ShardToSplit=shard["ShardId"], NewStartingHashKey=str(middle))


def reshard_while_written(client: Any, stream: str, running: Any) -> int:
    """Split the first and merge the last two shards in turn, as long as the producer runs; return how often."""
    reader = WholeStream(client, stream)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reader.seen:  # it is at work
        assert running.poll() is None
        assert time.monotonic() < deadline
        reader.read()
    reshards = 0
    while running.poll() is None and time.monotonic() < deadline:
        shards = wait_until_active(client, stream)
        if reshards % 2:
            client.merge_shards(
                StreamName=stream, ShardToMerge=shards[-2]["ShardId"], AdjacentShardToMerge=shards[-1]["ShardId"]
            )
        else:
            split(client, stream, shards[0])
        reshards += 1
        threading.Event().wait(0.2)  # records are to land between two reshards
    return reshards


def hits(endpoint_url: str) -> dict[str, int]:
    """Ask the cloud how often each rule struck."""
    with urllib.request.urlopen(f"{endpoint_url}/_headrace/faults") as answer:  # noqa: S310 (http to loopback)
        return {each["name"]: each["hits"] for each in json.load(answer)["rules"]}


@pytest.mark.slow
@pytest.mark.parametrize(("packing", "count", "rate"), [("--aggregate", 8_000, 1600), ("--no-aggregate", 2_000, 400)])
def test_order_holds_through_throttled_records_splits_and_merges(
    tmp_path: Path, packing: str, count: int, rate: int
) -> None:
    """With a quarter of the records throttled, and shards split and merged, no session is out of order or lacks one."""
    faults, log = tmp_path / "faults.toml", tmp_path / "events.json"
    faults.write_text(FAULTS)
    write_log(log, count)
    with LocalCloudProcess(faults_path=faults, status_delay_seconds=0.1) as cloud:
        shell = Shell(clean_environment() | cloud.environment(), tmp_path)
        client = shell.client("kinesis")
        client.create_stream(StreamName="order", ShardCount=3)
        wait_until_active(client, "order")
        producer = shell.start(
            "producer_from_cli", "--stream", "order", "--file", str(log), packing, "--rate", str(rate),
            HEADRACE_PRODUCER_BATCH_LINGER_SECONDS="0.02", HEADRACE_PRODUCER_RETRY_BACKOFF_SECONDS_MAX="0.5",
            HEADRACE_PRODUCER_AGGREGATE_BYTES_MAX="1024",
        )  # fmt: skip
        reshards = reshard_while_written(client, "order", producer)
        assert producer.wait(timeout=PATIENCE_SECONDS) == 0
        stream = WholeStream(client, "order")
        stream.read()
        struck = hits(cloud.endpoint_url)
    firsts = first_occurrences(stream.seen)
    assert sorted(each.event["n"] for each in firsts) == list(range(count))
    assert out_of_order(firsts) == 0
    assert reshards >= 4
    assert len({each.shard_id for each in firsts}) >= 5
    assert struck["some records are throttled"] >= 20
    assert struck["puts land, their replies are lost"] >= 1
