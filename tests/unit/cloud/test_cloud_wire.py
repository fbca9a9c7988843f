"""The wire: both dialects, refusals in the right form, and requests that mean no harm or do."""

from __future__ import annotations

import time
from typing import Any

import cbor2
import orjson
import pytest
from botocore.eventstream import EventStreamBuffer

from infra.cloud.core.engine import ACCOUNT_ID
from infra.cloud.event_stream import event_message
from infra.cloud.kinesis_service import KinesisService
from infra.cloud.operations import OPERATIONS
from infra.cloud.service_request import ServiceRequest
from infra.cloud.wire import CBOR_TYPE, JSON_TYPE


@pytest.fixture
def service() -> KinesisService:
    """A service with one stream of one shard."""
    service = KinesisService(limits_enforced=False, status_delay_seconds=0.0)
    ask(service, "CreateStream", StreamName="s", ShardCount=1)
    return service


def ask(service: KinesisService, operation: str, **members: Any) -> dict[str, Any]:
    """A call in JSON that has to succeed."""
    reply = service.answer(operation, "us-east-1", JSON_TYPE, orjson.dumps(members))
    assert reply.status == 200, reply.body
    answer: dict[str, Any] = orjson.loads(reply.body or b"{}")
    return answer


def ask_cbor(service: KinesisService, operation: str, **members: Any) -> Any:
    """A call in CBOR."""
    reply = service.answer(operation, "us-east-1", CBOR_TYPE, cbor2.dumps(members))
    assert dict(reply.headers)["Content-Type"] == CBOR_TYPE
    return cbor2.loads(reply.body, semantic_decoders={1: lambda value, _immutable: ("epoch", value)})


def test_cbor_carries_bytes_and_milliseconds(service: KinesisService) -> None:
    """Blobs are byte strings and timestamps milliseconds under tag 1, in and out."""
    put = ask_cbor(service, "PutRecords", StreamName="s", Records=[{"Data": b"\x00\xff", "PartitionKey": "k"}])
    assert put["FailedRecordCount"] == 0
    began_ms = int(time.time() * 1_000) - 60_000
    iterator = ask_cbor(
        service,
        "GetShardIterator",
        StreamName="s",
        ShardId="shardId-000000000000",
        ShardIteratorType="AT_TIMESTAMP",
        Timestamp=cbor2.CBORTag(1, began_ms),
    )["ShardIterator"]
    record = ask_cbor(service, "GetRecords", ShardIterator=iterator)["Records"][0]
    assert record["Data"] == b"\x00\xff"
    tag, arrival_ms = record["ApproximateArrivalTimestamp"]
    assert tag == "epoch"
    assert isinstance(arrival_ms, int)
    assert 0 <= arrival_ms - began_ms < 120_000


def test_dialects_read_each_others_records(service: KinesisService) -> None:
    """What came in as CBOR goes out as base64, and the other way round."""
    ask_cbor(service, "PutRecord", StreamName="s", Data=b"\xfe", PartitionKey="k")
    ask(service, "PutRecord", StreamName="s", Data="/w==", PartitionKey="k")
    place = {"StreamName": "s", "ShardId": "0", "ShardIteratorType": "TRIM_HORIZON"}
    iterator = ask(service, "GetShardIterator", **place)["ShardIterator"]
    assert [each["Data"] for each in ask(service, "GetRecords", ShardIterator=iterator)["Records"]] == ["/g==", "/w=="]
    records = ask_cbor(service, "GetRecords", ShardIterator=iterator)["Records"]
    assert [each["Data"] for each in records] == [b"\xfe", b"\xff"]


def test_refusal_comes_in_the_callers_dialect(service: KinesisService) -> None:
    """An error has __type and message, as CBOR to whoever spoke CBOR."""
    answer = ask_cbor(service, "DescribeStream", StreamName="nope")
    assert answer["__type"] == "ResourceNotFoundException"
    assert answer["message"] == f"Stream nope under account {ACCOUNT_ID} not found."


@pytest.mark.parametrize(
    ("operation", "content_type", "body", "code"),
    [
        ("ListChannels", JSON_TYPE, b"{}", "UnknownOperationException"),
        ("NoSuchThing", CBOR_TYPE, b"\xa0", "UnknownOperationException"),
        ("PutRecord", JSON_TYPE, b"{", "SerializationException"),
        ("PutRecord", JSON_TYPE, b"[]", "SerializationException"),
        ("PutRecord", JSON_TYPE, b"\xff\xfe", "SerializationException"),
        ("PutRecord", JSON_TYPE, b"[" * 100_000, "SerializationException"),
        ("PutRecord", CBOR_TYPE, b"\x81" * 100_000, "SerializationException"),
        ("PutRecord", CBOR_TYPE, b"\xff", "SerializationException"),
        ("PutRecord", CBOR_TYPE, b"\x01", "SerializationException"),
        ("PutRecord", JSON_TYPE, b'{"StreamName":1}', "SerializationException"),
        ("PutRecord", JSON_TYPE, b'{"PartitionKey":"k"}', "InvalidArgumentException"),
        ("PutRecord", JSON_TYPE, b'{"StreamName":"s","PartitionKey":"k"}', "ValidationException"),
        ("PutRecord", JSON_TYPE, b'{"StreamName":"s","PartitionKey":"k","Data":"*"}', "SerializationException"),
        ("PutRecord", JSON_TYPE, b'{"StreamName":"s","PartitionKey":1,"Data":""}', "SerializationException"),
        ("PutRecords", JSON_TYPE, b'{"StreamName":"s","Records":{}}', "SerializationException"),
        ("PutRecords", JSON_TYPE, b'{"StreamName":"s","Records":[1]}', "SerializationException"),
        ("GetRecords", JSON_TYPE, b'{"ShardIterator":"x","Limit":true}', "SerializationException"),
        ("ListShards", JSON_TYPE, b'{"StreamName":"s","NextToken":"x"}', "InvalidArgumentException"),
        ("ListShards", JSON_TYPE, b'{"StreamName":"s","ShardFilter":{"Type":"X"}}', "ValidationException"),
        ("TagResource", JSON_TYPE, b'{"ResourceARN":"arn:x","Tags":{"a":"b"}}', "ValidationException"),
        (
            "GetShardIterator",
            JSON_TYPE,
            b'{"StreamName":"s","ShardId":"0","ShardIteratorType":"AT_TIMESTAMP","Timestamp":1e400}',
            "SerializationException",
        ),
    ],
)
def test_bad_request_is_a_400_with_a_type(
    service: KinesisService, operation: str, content_type: str, body: bytes, code: str
) -> None:
    """Whatever is wrong with a request, the answer is a typed 400 that an SDK can read."""
    reply = service.answer(operation, "us-east-1", content_type, body)
    answer = (cbor2 if "cbor" in content_type else orjson).loads(reply.body)
    assert (reply.status, answer["__type"]) == (400, code)


def test_every_operation_survives_an_empty_and_a_wrong_request(service: KinesisService) -> None:
    """No operation answers an empty request, or one with members of the wrong type, with an exception."""
    names = ["StreamName", "StreamARN", "ShardId", "ShardIterator", "NextToken", "Tags", "ResourceARN", "ConsumerARN"]
    for operation in OPERATIONS:
        for wrong in (None, 7, "x" * 40_000, [], {}, [1], {"a": 1}, True):
            reply = service.answer(operation, "us-east-1", JSON_TYPE, orjson.dumps(dict.fromkeys(names, wrong)))
            assert reply.status in {200, 400}


def test_region_has_its_own_streams(service: KinesisService) -> None:
    """A stream lives in the region in which it was made, and its ARN says so."""
    service.answer("CreateStream", "eu-central-1", JSON_TYPE, b'{"StreamName":"e","ShardCount":1}')
    assert ask(service, "ListStreams")["StreamNames"] == ["s"]
    reply = service.answer("ListStreams", "eu-central-1", JSON_TYPE, b"{}")
    arn = orjson.loads(reply.body)["StreamSummaries"][0]["StreamARN"]
    assert arn == f"arn:aws:kinesis:eu-central-1:{ACCOUNT_ID}:stream/e"


def test_event_message_is_read_by_botocore() -> None:
    """The frame is what botocore's own parser expects, also when it comes byte by byte."""
    message = event_message("SubscribeToShardEvent", JSON_TYPE, b'{"a":1}')
    buffer = EventStreamBuffer()
    for index in range(len(message)):
        buffer.add_data(message[index : index + 1])
    events = list(buffer)
    assert [(each.headers[":event-type"], each.payload) for each in events] == [("SubscribeToShardEvent", b'{"a":1}')]


def request(method: str = "POST", target: str = "/", body: bytes = b"", **headers: str) -> ServiceRequest:
    """A request with headers."""
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return ServiceRequest(method, target, named, body)


def scope(service: str) -> str:
    """An Authorization header of a service."""
    return (
        f"AWS4-HMAC-SHA256 Credential=local/20261121/eu-west-1/{service}/aws4_request, SignedHeaders=host, Signature=0"
    )


@pytest.mark.parametrize(
    ("received", "service", "operation", "changes"),
    [
        (request(X_Amz_Target="DynamoDB_20120810.PutItem"), "dynamodb", "PutItem", True),
        (request(X_Amz_Target="DynamoDB_20120810.GetItem"), "dynamodb", "GetItem", False),
        (request(X_Amz_Target="DynamoDB_20120810.TransactWriteItems"), "dynamodb", "TransactWriteItems", True),
        (request("GET", "/bucket/key", Authorization=scope("s3")), "s3", "", False),
        (request("PUT", "/bucket/key", Authorization=scope("s3")), "s3", "", True),
        (request("PUT", "/bucket/key"), "s3", "", True),
        (
            request(
                body=b"Action=CreateStack&Version=1",
                Content_Type="application/x-www-form-urlencoded",
                Authorization=scope("cloudformation"),
            ),
            "cloudformation",
            "CreateStack",
            True,
        ),
    ],
)
def test_request_names_its_service(received: ServiceRequest, service: str, operation: str, changes: bool) -> None:
    """Service and operation come from the target, the credential scope or the form, and reads are told from writes."""
    call = received.call
    assert (call.service, call.operation, received.changes_something()) == (service, operation, changes)
