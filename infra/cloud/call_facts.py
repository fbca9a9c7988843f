"""Finds out what a request is about - stream, shard, records, table, object - so that rules can be matched to it."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs, unquote

import orjson

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.core.faults import Facts, RecordFacts
from infra.cloud.core.names import shard_id_of
from infra.cloud.core.stream import AUTO, Stream
from infra.cloud.core.token import ShardIterator
from infra.cloud.core.writing import parse_hash_key
from infra.cloud.kinesis_service import KinesisService
from infra.cloud.service_request import ServiceRequest
from infra.cloud.wire import dialect_of
from shared.hash_key import hash_key_of
from shared.limits import PUT_RECORDS_COUNT_MAX

_CONDITIONS: Final = ("ConditionExpression", "Expected")
_CONDITION_HEADERS: Final = ("if-none-match", "if-match")
_TABLE_IN_ITEMS: Final = ("Put", "Update", "Delete", "ConditionCheck", "Get")
_LOCAL_HOST: Final = ".localhost"
_OBJECT_OPERATIONS: Final = {
    "GET": "GetObject",
    "PUT": "PutObject",
    "HEAD": "HeadObject",
    "DELETE": "DeleteObject",
    "POST": "PostObject",
}
_BUCKET_OPERATIONS: Final = {"PUT": "CreateBucket", "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}
_VERBS: Final = {"GET": "Get", "PUT": "Put", "DELETE": "Delete", "POST": "Post", "HEAD": "Head"}


def facts_of(request: ServiceRequest, kinesis: KinesisService, *, with_places: bool) -> Facts:
    """What the request is about; what can't be read is left empty, since the service itself will refuse it.

    `with_places` finds the shard of each record of a put, which costs a hash per record.
    """
    call = request.call
    if call.service == "kinesis":
        return _kinesis_facts(request, kinesis.engine(call.region), with_places=with_places)
    if call.service == "s3":
        return _object_facts(request)
    if call.service == "dynamodb":
        return _table_facts(request)
    return Facts(call.service, call.operation)


# Kinesis.


def _kinesis_facts(request: ServiceRequest, engine: KinesisEngine, *, with_places: bool) -> Facts:
    operation = request.call.operation
    try:
        values = dialect_of(request.header("content-type")).decode(request.body)
    except ApiError:
        values = {}
    stream, shard_id, iterator = _stream_name(values), _text(values, "ShardId"), _text(values, "ShardIterator")
    position = ShardIterator.decode(iterator) if iterator else None
    if position is not None:
        shard_id = shard_id_of(position.shard_index)
        try:
            stream = engine.streams.by_uid(position.stream_uid).name
        except ApiError:
            stream = ""
    puts = [values] if operation == "PutRecord" else values.get("Records") if operation == "PutRecords" else None
    target = _readable(engine, stream) if with_places and puts else None
    records = [_record(each, target) for each in puts[:PUT_RECORDS_COUNT_MAX]] if isinstance(puts, list) else []
    return Facts("kinesis", operation, stream=stream, shard_id=shard_id, iterator=iterator, records=tuple(records))


def _stream_name(values: dict[str, Any]) -> str:
    arn = _text(values, "StreamARN") or _text(values, "ConsumerARN")
    name = arn.partition(":stream/")[2].partition("/")[0]
    return name or _text(values, "StreamName")


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _readable(engine: KinesisEngine, name: str) -> Stream | None:
    try:
        return engine.streams.readable(name)
    except ApiError:
        return None


def _record(values: object, stream: Stream | None) -> RecordFacts:
    if not isinstance(values, dict):
        return RecordFacts("")
    key = _text(values, "PartitionKey")
    if stream is None or stream.distribution == AUTO or not key:
        return RecordFacts(key)
    explicit = _text(values, "ExplicitHashKey")
    try:
        hash_key = parse_hash_key(explicit, "explicitHashKey") if explicit else hash_key_of(key)
    except (ApiError, UnicodeEncodeError):
        return RecordFacts(key)
    return RecordFacts(key, hash_key, stream.shard_for(hash_key).shard_id)


# DynamoDB.


def _table_facts(request: ServiceRequest) -> Facts:
    try:
        values = orjson.loads(request.body or b"{}")
    except orjson.JSONDecodeError:
        values = {}
    if not isinstance(values, dict):
        values = {}
    items = values.get("TransactItems")
    actions = [
        action
        for item in (items if isinstance(items, list) else [])
        if isinstance(item, dict)
        for name in _TABLE_IN_ITEMS
        if isinstance(action := item.get(name), dict)
    ]
    table = _text(values, "TableName") or next((_text(each, "TableName") for each in actions), "")
    batch = values.get("RequestItems")
    if not table and isinstance(batch, dict):
        table = next(iter(batch), "")
    return Facts(
        "dynamodb",
        request.call.operation,
        table=table.rpartition("/")[2],
        conditional=any(each.get(name) for each in (values, *actions) for name in _CONDITIONS),
    )


# S3.


def _object_facts(request: ServiceRequest) -> Facts:
    """S3 has no operation in its requests: method, path and query tell it."""
    path, _, query_text = request.target.partition("?")
    host = request.header("host").rpartition(":")[0] or request.header("host")
    segments = path.lstrip("/")
    if host.endswith(_LOCAL_HOST):
        bucket, key = host.removesuffix(_LOCAL_HOST), segments
    else:
        bucket, _, key = segments.partition("/")
    query = parse_qs(query_text, keep_blank_values=True, max_num_fields=100) if len(query_text) < 1 << 14 else {}
    return Facts(
        "s3",
        _object_operation(request, bucket, key, query),
        bucket=unquote(bucket),
        key=unquote(key),
        conditional=any(request.header(each) for each in _CONDITION_HEADERS),
    )


def _object_operation(request: ServiceRequest, bucket: str, key: str, query: dict[str, list[str]]) -> str:
    method = request.method
    if not bucket:
        return "ListBuckets"
    upload = _upload_operation(method, query)
    if upload:
        return upload
    if not key:
        return _bucket_operation(method, query)
    if method == "PUT" and request.header("x-amz-copy-source"):
        return "CopyObject"
    name = next((each for each in ("tagging", "acl", "retention", "attributes") if each in query), "")
    return f"{_VERBS.get(method, method)}Object{name.title()}" if name else _OBJECT_OPERATIONS.get(method, method)


def _bucket_operation(method: str, query: dict[str, list[str]]) -> str:
    if method == "POST" and "delete" in query:
        return "DeleteObjects"
    if method == "GET":
        return _listing_operation(query)
    name = next((each for each in query if not each.startswith("x-")), "")
    return f"{_VERBS.get(method, method)}Bucket{name.title()}" if name else _BUCKET_OPERATIONS.get(method, method)


def _upload_operation(method: str, query: dict[str, list[str]]) -> str:
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if "uploadId" not in query:
        return ""
    names = {
        "PUT": "UploadPart",
        "POST": "CompleteMultipartUpload",
        "DELETE": "AbortMultipartUpload",
        "GET": "ListParts",
    }
    return names.get(method, "")


def _listing_operation(query: dict[str, list[str]]) -> str:
    if query.get("list-type") == ["2"]:
        return "ListObjectsV2"
    if "versions" in query:
        return "ListObjectVersions"
    name = next((each for each in query if each in {"versioning", "location", "policy", "tagging", "acl"}), "")
    return f"GetBucket{name.title()}" if name else "ListObjects"
