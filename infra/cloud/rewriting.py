"""Changes single requests and answers the way a fault asks for, and writes the answers of refused calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from xml.sax.saxutils import escape

import orjson

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.faults import Refusal
from infra.cloud.core.token import ShardIterator
from infra.cloud.misbehaviour import Reply
from infra.cloud.service_request import ServiceRequest
from infra.cloud.wire import JSON_TYPE, dialect_of, error_answer

OK: Final = 200
_JSON_1_0: Final = "application/x-amz-json-1.0"
_XML: Final = "application/xml"


def refusal_of(request: ServiceRequest, refusal: Refusal) -> Reply:
    """An error answer in the form of the service that was asked."""
    service = request.call.service
    if service == "kinesis":
        dialect = dialect_of(request.header("content-type"))
        body = error_answer(dialect, ApiError(refusal.code, refusal.message))
        return Reply(refusal.status, body, [("Content-Type", dialect.content_type)])
    error = f"<Code>{escape(refusal.code)}</Code><Message>{escape(refusal.message)}</Message>"
    if service == "s3":
        body = b"" if request.method == "HEAD" else f"<Error>{error}</Error>".encode()
        return Reply(refusal.status, body, [("Content-Type", _XML)])
    if "x-www-form-urlencoded" in request.header("content-type"):
        text = f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error></ErrorResponse>"
        return Reply(refusal.status, text.encode(), [("Content-Type", "text/xml")])
    content_type = _JSON_1_0 if service == "dynamodb" else JSON_TYPE
    body = orjson.dumps({"__type": refusal.code, "message": refusal.message})
    return Reply(refusal.status, body, [("Content-Type", content_type)])


def without_records(request: ServiceRequest, positions: Mapping[int, Refusal]) -> ServiceRequest | None:
    """The PutRecords request without the refused records; None if none is left."""
    dialect = dialect_of(request.header("content-type"))
    values = dialect.decode(request.body)
    values["Records"] = [each for index, each in enumerate(values["Records"]) if index not in positions]
    return replace(request, body=dialect.encode(values)) if values["Records"] else None


def with_refusals(request: ServiceRequest, reply: Reply | None, refused: Mapping[int, Refusal]) -> Reply:
    """The answer to the whole PutRecords request: that of the records that were put, and the refusals in between."""
    if reply is not None and reply.status != OK:
        return reply
    dialect = dialect_of(request.header("content-type"))
    answer: dict[str, Any] = {"FailedRecordCount": 0, "Records": [], "EncryptionType": "NONE"}
    if reply is not None:
        answer = dialect.decode(reply.body)
    put = iter(answer["Records"])
    count = len(answer["Records"]) + len(refused)
    answer["Records"] = [
        {"ErrorCode": refused[index].code, "ErrorMessage": refused[index].message} if index in refused else next(put)
        for index in range(count)
    ]
    answer["FailedRecordCount"] += len(refused)
    return Reply(OK, dialect.encode(answer), [("Content-Type", dialect.content_type)])


def with_limit(request: ServiceRequest, records_max: int) -> ServiceRequest:
    """The GetRecords request, asking for no more than this many records."""
    dialect = dialect_of(request.header("content-type"))
    values = dialect.decode(request.body)
    limit = values.get("Limit")
    if limit is None or (isinstance(limit, int) and limit > records_max):
        values["Limit"] = records_max
    return replace(request, body=dialect.encode(values))


def without_page(request: ServiceRequest, iterator: str, reply: Reply, now: float) -> Reply:
    """The answer to GetRecords with nothing in it and an iterator at the same place; `now` in seconds since 1970."""
    position = ShardIterator.decode(iterator)
    if reply.status != OK or position is None:
        return reply
    dialect = dialect_of(request.header("content-type"))
    answer = dialect.decode(reply.body)
    held_back = bool(answer["Records"]) or "NextShardIterator" not in answer
    empty = {
        "Records": [],
        "NextShardIterator": replace(position, issued_at=now).encode(),
        "MillisBehindLatest": max(int(held_back), answer["MillisBehindLatest"]),
    }
    return replace(reply, body=dialect.encode(empty))
