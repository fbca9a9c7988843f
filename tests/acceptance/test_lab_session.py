"""The lab's session, verbatim: its commands and its record work as they did there."""

from __future__ import annotations

import gzip
import json
import re
import signal
from typing import Any

from tests.acceptance.conftest import PATIENCE_SECONDS, Shell

RECORD = {
    "session_id": "a1",
    "customer_number": 100,
    "city": "Washington",
    "country": "USA",
    "credit_limit": 1000,
    "browse_history": [
        {"product_code": "Product1", "quantity": "2", "in_shopping_cart": True},
        {"product_code": "Product2", "quantity": 1, "in_shopping_cart": False},
    ],
}
EVENT = json.dumps(RECORD)


def names(prefix: str) -> dict[str, Any]:
    """Return the names of one test's own streams, bucket and table."""
    return {
        "source": f"{prefix}-source",
        "dests": {"USA": f"{prefix}-usa", "International": f"{prefix}-world"},
        "bucket": f"{prefix}-archive",
        "app": f"{prefix}-app",
    }


def provision(shell: Shell, named: dict[str, Any], *options: str) -> None:
    """Make what `named` names through the command."""
    done = shell.run(
        "headrace", "provision", "--source_stream", named["source"], "--dest_streams", json.dumps(named["dests"]),
        "--bucket", named["bucket"], "--app", named["app"], *options,
    )  # fmt: skip
    assert (done.code, done.err.count("Traceback")) == (0, 0), done.err


def archived(shell: Shell, bucket: str) -> list[tuple[str, dict[str, Any]]]:
    """Return every event of the archive with the key of its object."""
    store = shell.client("s3")
    found = []
    for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="archive/"):
        for item in page.get("Contents", ()):
            body = store.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            # botocore does not undo Content-Encoding, so the body is as it was put.
            found += [(item["Key"], json.loads(line)) for line in gzip.decompress(body).splitlines()]
    return found


def test_lab_session_end_to_end(shell: Shell) -> None:
    """The lab's record, put with the lab's command, is enriched into the right stream and into S3."""
    named = names("lab")
    provision(shell, named)

    put = shell.run("producer_from_cli", "--stream", named["source"], "--json_string", EVENT)
    assert put.code == 0, put.err
    printed = re.fullmatch(r"Produced record (\d{56}) to Shard (shardId-\d{12})\n", put.out)
    assert printed is not None, put.out

    read = shell.run("consumer_from_cli", "--stream", named["source"], "--limit", "1", "--output", "json")
    assert read.code == 0, read.err
    record = json.loads(read.out)
    assert record["data"] == RECORD
    assert (record["sequence_number"], record["shard_id"]) == (printed[1], printed[2])
    assert record["partition_key"] == "a1"

    consumer = shell.start(
        "headrace", "consume", "--source_stream", named["source"], "--dest_streams", json.dumps(named["dests"]),
        "--bucket", named["bucket"], "--app", named["app"], "--http_port", "-1", "--flush_seconds", "1",
    )  # fmt: skip
    usa = shell.run("consumer_from_cli", "--stream", named["dests"]["USA"], "--limit", "1", "--output", "json")
    assert usa.code == 0, usa.err
    consumer.send_signal(signal.SIGTERM)
    assert consumer.wait(timeout=PATIENCE_SECONDS) == 0

    enriched = json.loads(usa.out)["data"]
    assert {name: enriched[name] for name in RECORD} == RECORD
    assert enriched["overall_product_quantity"] == 3
    assert enriched["overall_in_shopping_cart"] == 2
    assert enriched["total_different_products"] == 2
    assert enriched["processing_timestamp"].endswith(("+00:00", "Z"))
    assert enriched["recommendations"] == []
    assert enriched["source"]["sequence_number"] == printed[1]

    stored = archived(shell, named["bucket"])
    assert [event for _, event in stored] == [enriched]
    assert stored[0][0].startswith("archive/destination=USA/dt=")

    verdict = shell.run("headrace", "audit", "--app", named["app"], "--output", "json")
    assert verdict.code == 0, verdict.err
    report = json.loads(verdict.out.splitlines()[-1])
    assert (report["verdict"], report["in_s3"], report["in_destinations"]) == ("ok", 1, 1)


def test_other_countries_go_international(shell: Shell) -> None:
    """A record of another country, or of none, goes to the International stream."""
    named = names("world")
    provision(shell, named)
    lines = [
        json.dumps({**RECORD, "session_id": f"s{index}", "country": country})
        for index, country in enumerate(["France", "USA"])
    ]
    lines.append(json.dumps({"session_id": "s2", "browse_history": []}))
    put = shell.run("producer_from_cli", "--stream", named["source"], "-", stdin="\n".join(lines).encode())
    assert put.code == 0, put.err
    consumer = shell.start(
        "headrace", "consume", "--source_stream", named["source"], "--dest_streams", json.dumps(named["dests"]),
        "--bucket", named["bucket"], "--app", named["app"], "--http_port", "-1",
    )  # fmt: skip
    world = shell.run(
        "consumer_from_cli", "--stream", named["dests"]["International"], "--limit", "2", "--output", "json"
    )
    consumer.send_signal(signal.SIGTERM)
    assert consumer.wait(timeout=PATIENCE_SECONDS) == 0
    assert {json.loads(line)["data"]["session_id"] for line in world.out.splitlines()} == {"s0", "s2"}
    # SIGTERM drained: the archive holds all three although no batch was due yet.
    assert sorted(event["session_id"] for _, event in archived(shell, named["bucket"])) == ["s0", "s1", "s2"]
