"""PutRecords on the wire: the body in one pass over the records, the answer in one pass over the text.

The body is byte for byte that of botocore's serializer, which writes as `json.dumps` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any, Final, TypeVar

import orjson
from botocore.parsers import ResponseParserError
from pybase64 import b64encode

from shared.aws.cbor import decode_cbor
from shared.aws.record_page import plain_numbers
from shared.compiled import COLUMNS
from shared.records import PutEntry, PutResult, PutResults

T = TypeVar("T")
_SHORT_BYTES: Final = 4096


def put_records_body(stream: str, entries: Sequence[PutEntry]) -> bytes:
    """Return the body of a PutRecords request."""
    head = b'{"StreamName": %b, "Records": [' % _text(stream)
    body = COLUMNS.put_body(head, list(entries), b64encode) if COLUMNS is not None else None
    return _body(head, entries) if body is None else body


def _body(head: bytes, entries: Sequence[PutEntry]) -> bytes:
    parts = [head]
    for data, partition_key, explicit_hash_key in entries:
        text, key = b64encode(data), _text(partition_key)
        if explicit_hash_key is None and len(text) < _SHORT_BYTES:
            parts.append(b'{"Data": "%b", "PartitionKey": %b}, ' % (text, key))  # a third of the time
            continue
        # One join at the end: an aggregate's text is tens of KiB, and each formatting would copy it.
        parts += (b'{"Data": "', text, b'", "PartitionKey": ', key)
        parts.append(b"}, " if explicit_hash_key is None else b', "ExplicitHashKey": "%d"}, ' % explicit_hash_key)
    if entries:
        parts[-1] = parts[-1][:-2]
    parts.append(b"]}")
    return b"".join(parts)


def parse_put_results(body: bytes) -> Sequence[PutResult]:
    """Parse the answer to PutRecords, one result per entry; ResponseParserError for what is none."""
    try:
        return put_results(orjson.loads(body))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable("PutRecords", body, error) from None


def parse_put_results_cbor(body: bytes) -> Sequence[PutResult]:
    """Parse the answer to PutRecords in CBOR; errors as in `parse_put_results`."""
    try:
        return put_results(decode_cbor(body))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unreadable("PutRecords", body, error) from None


def understand(read: Callable[[Any], T], answer: Any, operation: str) -> T:
    """Read an answer that botocore parsed; it takes a page of HTML with status 200 for an empty answer."""
    try:
        return read(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResponseParserError(f"The answer to {operation} is not readable: {type(error).__name__}") from None


def put_results(answer: Any) -> Sequence[PutResult]:
    """Return the results of a PutRecords answer, one per entry."""
    records = answer["Records"]
    if not any(each.get("ErrorCode") for each in records):
        numbers = plain_numbers([each["SequenceNumber"] for each in records])
        return PutResults([each["ShardId"] for each in records], numbers)
    return [
        _refusal(each) if each.get("ErrorCode") else PutResult(each["ShardId"], int(each["SequenceNumber"]))
        for each in records
    ]


def _text(value: str) -> bytes:
    return encode_basestring_ascii(value).encode("ascii")


def _refusal(wire: Any) -> PutResult:
    return PutResult(error_code=wire["ErrorCode"], error_message=wire.get("ErrorMessage") or "")


def _unreadable(operation: str, body: bytes, error: Exception) -> ResponseParserError:
    # The cause is cut off on purpose: it carries the whole answer, which must not reach a log line.
    return ResponseParserError(
        f"The answer to {operation}, {len(body):,} bytes, is not readable: {type(error).__name__}"
    )
