"""PutRecords and GetRecords on the wire: bodies in one pass over the records, answers in one pass over the text.

The bodies are byte for byte those of botocore's serializer, which writes as `json.dumps` does.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Final

import orjson
from botocore.parsers import ResponseParserError

from shared.hash_key import FULL_RANGE, HashKeyRange
from shared.records import ChildShard, PutEntry, PutResult, RecordPage, StreamRecord

# Half the time of a NamedTuple's own constructor; one is made per record.
_new_tuple: Final[Any] = tuple.__new__


def put_records_body(stream: str, entries: Sequence[PutEntry]) -> bytes:
    """Return the body of a PutRecords request."""
    parts = [b'{"StreamName": %b, "Records": [' % _text(stream)]
    for data, partition_key, explicit_hash_key in entries:
        # One join at the end: an aggregate's text is tens of KiB, and each formatting would copy it.
        parts += (b'{"Data": "', b2a_base64(data, newline=False), b'", "PartitionKey": ', _text(partition_key))
        parts.append(b"}, " if explicit_hash_key is None else b', "ExplicitHashKey": "%d"}, ' % explicit_hash_key)
    if entries:
        parts[-1] = parts[-1][:-2]
    parts.append(b"]}")
    return b"".join(parts)


def get_records_body(iterator: str, limit: int) -> bytes:
    """Return the body of a GetRecords request."""
    return b'{"ShardIterator": %b, "Limit": %d}' % (_text(iterator), limit)


def parse_put_results(body: bytes) -> list[PutResult]:
    """Parse the answer to PutRecords, one result per entry; ResponseParserError for what is none."""
    try:
        return put_results(orjson.loads(body))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable("PutRecords", body, error) from None


def parse_record_page(body: bytes) -> RecordPage:
    """Parse the answer to GetRecords; ResponseParserError for what is none."""
    try:
        answer = orjson.loads(body)
        new, record = _new_tuple, StreamRecord
        records = tuple(
            [
                new(
                    record,
                    (
                        a2b_base64(each["Data"]),
                        each["PartitionKey"],
                        int(each["SequenceNumber"]),
                        float(each.get("ApproximateArrivalTimestamp", 0.0)),
                    ),
                )
                for each in answer["Records"]
            ]
        )
        return record_page(answer, records)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable("GetRecords", body, error) from None


def checked(answer: Any, operation: str) -> Any:
    """Return an answer that botocore parsed; it takes a page of HTML with status 200 for an empty answer."""
    if "Records" not in answer:
        raise ResponseParserError(f"The answer to {operation} has no records")
    return answer


def put_results(answer: Any) -> list[PutResult]:
    """Return the results of a PutRecords answer, one per entry."""
    new, result = _new_tuple, PutResult
    return [
        _refusal(each) if each.get("ErrorCode") else new(result, (each["ShardId"], int(each["SequenceNumber"]), "", ""))
        for each in answer["Records"]
    ]


def record_page(answer: Any, records: tuple[StreamRecord, ...]) -> RecordPage:
    """Return a GetRecords answer around records that are parsed."""
    return RecordPage(
        records=records,
        next_iterator=answer.get("NextShardIterator"),
        behind_milliseconds=answer.get("MillisBehindLatest") or 0,
        child_shards=tuple(
            ChildShard(each["ShardId"], tuple(each["ParentShards"]), hash_key_range(each["HashKeyRange"]))
            for each in answer.get("ChildShards") or ()
        ),
    )


def hash_key_range(wire: Any) -> HashKeyRange:
    """Return a HashKeyRange as the API writes it; none is the full one."""
    if not wire:
        return FULL_RANGE
    return HashKeyRange(int(wire["StartingHashKey"]), int(wire["EndingHashKey"]))


def _text(value: str) -> bytes:
    return encode_basestring_ascii(value).encode("ascii")


def _refusal(wire: Any) -> PutResult:
    return PutResult(error_code=wire["ErrorCode"], error_message=wire.get("ErrorMessage") or "")


def _unreadable(operation: str, body: bytes, error: Exception) -> ResponseParserError:
    # The cause is cut off on purpose: it carries the whole answer, which must not reach a log line.
    return ResponseParserError(
        f"The answer to {operation}, {len(body):,} bytes, is not readable: {type(error).__name__}"
    )
