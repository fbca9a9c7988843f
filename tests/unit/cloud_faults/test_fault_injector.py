"""The injector between a request and its service: both dialects, bounds, and requests that nobody can read."""

from __future__ import annotations

import asyncio
from typing import Any

import cbor2
import orjson
import pytest

from infra.cloud import fault_injector
from infra.cloud.call_facts import facts_of
from infra.cloud.core.fault_file import plan_of
from infra.cloud.fault_injector import FaultInjector
from infra.cloud.kinesis_service import KinesisService
from infra.cloud.misbehaviour import Reply
from infra.cloud.service_request import ServiceRequest
from infra.cloud.wire import CBOR_TYPE, JSON_TYPE


def kinesis_request(operation: str, body: bytes, content_type: str = JSON_TYPE) -> ServiceRequest:
    """A call to Kinesis."""
    headers = (("X-Amz-Target", f"Kinesis_20131202.{operation}"), ("Content-Type", content_type))
    return ServiceRequest("POST", "/", headers, body)


def service_with_stream() -> KinesisService:
    """A Kinesis with the stream `s` of one shard."""
    service = KinesisService(limits_enforced=False, status_delay_seconds=0.0)
    service.engine("us-east-1").create_stream("s", 1)
    return service


def injector_of(service: KinesisService, *rules: dict[str, Any]) -> FaultInjector:
    """An injector with these rules."""
    return FaultInjector(service, plan_of({"rule": list(rules)}))


async def carry_out_nothing(_request: ServiceRequest) -> Reply:
    """Stand for a service."""
    return Reply(200, b"{}")


async def test_records_are_refused_in_cbor_as_well() -> None:
    """A put in CBOR keeps its blobs when one of its records is taken out."""
    service = service_with_stream()
    injector = injector_of(service, {"effect": "fail_records", "partition_key": "b", "code": "Invented"})
    body = cbor2.dumps(
        {"StreamName": "s", "Records": [{"Data": each.encode(), "PartitionKey": each} for each in "abc"]}
    )

    async def carry_out(request: ServiceRequest) -> Reply:
        call = request.call
        return service.answer(call.operation, call.region, request.header("content-type"), request.body)

    reply = await injector.answer(kinesis_request("PutRecords", body, CBOR_TYPE), carry_out)
    assert reply is not None
    answer = cbor2.loads(reply.body)
    assert [each.get("ErrorCode") for each in answer["Records"]] == [None, "Invented", None]
    assert answer["FailedRecordCount"] == 1
    log = service.engine("us-east-1").describe_stream("s").open_shards[0].log
    assert [log.record(counter)[0] for counter in range(log.first, log.next)] == [b"a", b"c"]


async def test_late_landings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bounds in number and in bytes a request is lost, and that is counted."""
    monkeypatch.setattr(fault_injector, "LATE_COUNT_MAX", 2)
    monkeypatch.setattr(fault_injector, "LATE_BYTES_MAX", 100)
    injector = injector_of(service_with_stream(), {"effect": "land_late", "seconds": 600})
    for size in (10, 91, 90, 0):
        assert await injector.answer(kinesis_request("PutRecords", b" " * size), carry_out_nothing) is None
    assert injector.state()["late_landings"] == {"outstanding": 2, "landed": 0, "not_taken": 2}


async def test_a_defect_does_not_end_later_landings() -> None:
    """A late landing that fails in an unforeseen way is logged, and the next one lands."""
    landed = asyncio.Event()

    async def carry_out(request: ServiceRequest) -> Reply:
        if request.call.operation == "PutRecord":
            raise RuntimeError
        landed.set()
        return Reply(200, b"{}")

    injector = injector_of(service_with_stream(), {"effect": "land_late", "seconds": 0})
    for operation in ("PutRecord", "PutRecords"):
        await injector.answer(kinesis_request(operation, b"{}"), carry_out)
    runner = asyncio.create_task(injector.run())
    async with asyncio.timeout(10):
        await landed.wait()
    runner.cancel()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'{"Records": 5}', b'{"StreamName": 5, "Records": [5, {}, {"PartitionKey": 1}]}',
        b'{"StreamARN": ":stream/", "Records": null}', b'{"ShardIterator": "x"}', b'{"ShardIterator": 1}',
        b'{"StreamName": "none", "Records": [{"PartitionKey": "k"}]}', b'{"StreamName": "\\ud83d"}',
        b'{"StreamName": "s", "Records": [{"PartitionKey": "k", "ExplicitHashKey": "-1"}]}',
    ],
)  # fmt: skip
def test_unreadable_requests_have_no_facts(body: bytes) -> None:
    """What the service will refuse anyway is no reason to fail while looking for rules."""
    service = service_with_stream()
    for operation in ("PutRecords", "PutRecord", "GetRecords", "", "X" * 100):
        facts = facts_of(kinesis_request(operation, body), service, with_places=True)
        assert facts.service == "kinesis"
        assert all(each.hash_key is None for each in facts.records)
    target = (("X-Amz-Target", "DynamoDB_20120810.PutItem"),)
    assert facts_of(ServiceRequest("POST", "/", target, body), service, with_places=True).table == ""


def test_items_of_a_transaction_tell_table_and_condition() -> None:
    """A transaction is about the table of its first item, and conditional if one of its items is."""
    body = orjson.dumps(
        {"TransactItems": [{"Put": {"TableName": "t"}}, {"Update": {"TableName": "t", "ConditionExpression": "a"}}]}
    )
    target = (("X-Amz-Target", "DynamoDB_20120810.TransactWriteItems"),)
    facts = facts_of(ServiceRequest("POST", "/", target, body), service_with_stream(), with_places=False)
    assert (facts.table, facts.conditional) == ("t", True)


@pytest.mark.parametrize(
    ("host", "target", "bucket", "key"),
    [
        ("127.0.0.1:4566", "/b/a%20b/c", "b", "a b/c"),
        ("b.localhost:4566", "/a/b", "b", "a/b"),
        ("localhost:4566", "/b", "b", ""),
    ],
)
def test_bucket_and_key_by_path_and_by_host(host: str, target: str, bucket: str, key: str) -> None:
    """Both styles in which S3 clients name a bucket are understood."""
    request = ServiceRequest("GET", target, (("Host", host),), b"")
    facts = facts_of(request, service_with_stream(), with_places=False)
    assert (facts.bucket, facts.key) == (bucket, key)
