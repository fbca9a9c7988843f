"""A Kinesis endpoint that does nothing: answers are made beforehand, so that a client's own cost is what is measured.

`python -m benchmarks.null_endpoint [--port N] [--shards N] [--write-page FILE]`; it prints its address and runs until
its standard input ends. Every GetRecords is answered with the same page, in JSON or in
CBOR as it was asked. With more than one shard (1,000 at most), the answer
to PutRecords names the shard that each record belongs to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import cbor2
import orjson

from benchmarks.sample import (
    AGGREGATES_ITERATOR,
    OWN_ITERATOR,
    PAGE_END,
    SEQUENCE_NUMBER,
    STREAM,
    make_page,
    make_records,
)
from shared.aggregation import encode_aggregate
from shared.event import EventId, with_event_id
from shared.hash_key import HashKeyRange, even_ranges, hash_key_of
from shared.lanes import lane_of

_SHARDS_MAX: Final = 1_000  # a page of ListShards
_ENTRIES_MAX: Final = 500
_CBOR_BODY: Final = b"\xa2"  # as it begins, where JSON has a brace
_EVENTS_PER_AGGREGATE: Final = 140
_SEQUENCE: Final = SEQUENCE_NUMBER.encode()
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nx-amzn-RequestId: c8a7c1d2-6d8e-d1a8-9c4e-0f3b6c1f2a11\r\n"
    b"Content-Type: application/x-amz-json-1.1\r\nContent-Length: %d\r\n\r\n"
)


def _answer(body: bytes) -> bytes:
    return _HEAD % len(body) + body


def _shard_id(index: int) -> str:
    return f"shardId-{index:012d}"


def _control_answers(ranges: Sequence[HashKeyRange]) -> dict[bytes, bytes]:
    shards = [
        {
            "ShardId": _shard_id(index),
            "HashKeyRange": {"StartingHashKey": str(each.start), "EndingHashKey": str(each.end)},
            "SequenceNumberRange": {"StartingSequenceNumber": SEQUENCE_NUMBER},
        }
        for index, each in enumerate(ranges)
    ]
    common: dict[str, Any] = {
        "StreamName": STREAM,
        "StreamARN": f"arn:aws:kinesis:us-east-1:123456789012:stream/{STREAM}",
        "StreamStatus": "ACTIVE",
        "RetentionPeriodHours": 24,
        "StreamCreationTimestamp": 1_700_000_000.0,
        "EnhancedMonitoring": [],
    }
    answers = {
        "DescribeStream": {"StreamDescription": {**common, "HasMoreShards": False, "Shards": shards}},
        "DescribeStreamSummary": {"StreamDescriptionSummary": {**common, "OpenShardCount": len(shards)}},
        "ListShards": {"Shards": shards},
        "GetShardIterator": {"ShardIterator": "AAA"},
        "PutRecord": {"ShardId": _shard_id(0), "SequenceNumber": _SEQUENCE.decode()},
    }
    return {name.encode(): _answer(json.dumps(answer).encode()) for name, answer in answers.items()}


def _put_answer(shards: Sequence[int]) -> bytes:
    entries = [b'{"SequenceNumber":"%b","ShardId":"%b"}' % (_SEQUENCE, _shard_id(each).encode()) for each in shards]
    return _answer(b'{"FailedRecordCount":0,"Records":[%b]}' % b",".join(entries))


def _answer_cbor(body: bytes) -> bytes:
    return _answer(body).replace(b"x-amz-json-1.1", b"x-amz-cbor-1.1", 1)


def _is_cbor(request: bytes) -> bool:
    return request.startswith(_CBOR_BODY, request.index(b"\r\n\r\n") + 4)


def _put_answer_cbor(count: int) -> bytes:
    """Return the answer for the one shard, to a request in CBOR."""
    entry = {"SequenceNumber": SEQUENCE_NUMBER, "ShardId": _shard_id(0)}
    return _answer_cbor(cbor2.dumps({"FailedRecordCount": 0, "Records": [entry] * count}))


def _make_page_cbor() -> bytes:
    arrival = "ApproximateArrivalTimestamp"
    records = [{**each, arrival: cbor2.CBORTag(1, round(each[arrival] * 1_000))} for each in make_records()]
    page: bytes = cbor2.dumps({"Records": records, **PAGE_END})
    return page


def _make_aggregates(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return records as a producer that aggregates would have put them, 50 KiB each."""
    groups = [records[at : at + _EVENTS_PER_AGGREGATE] for at in range(0, len(records), _EVENTS_PER_AGGREGATE)]
    entries = [
        encode_aggregate([each["Data"] for each in group], [each["PartitionKey"] for each in group]) for group in groups
    ]
    return [
        {**group[0], "Data": entry.data, "PartitionKey": entry.partition_key}
        for group, entry in zip(groups, entries, strict=True)
    ]


def _make_own() -> list[dict[str, Any]]:
    """Return the records of a page with event ids, and by their lanes, as a producer of ours sends them."""
    records, events = make_records(), []
    for number, record in enumerate(records):
        key = record["PartitionKey"]
        lane = lane_of(hash_key_of(key))
        events.append((lane, with_event_id(record["Data"], str(EventId("web", lane, 400 * number))), key))
    events.sort(key=itemgetter(0))
    return [
        {**record, "Data": data, "PartitionKey": key} for record, (_, data, key) in zip(records, events, strict=True)
    ]


class PutAnswers:
    """Answers to PutRecords: made beforehand for one shard, with a look at each record's hash key for more."""

    def __init__(self, ranges: Sequence[HashKeyRange]) -> None:
        self._starts = [each.start for each in ranges]
        self._ready = [_put_answer([0] * count) for count in range(_ENTRIES_MAX + 1)]
        self._ready_cbor = [_put_answer_cbor(count) for count in range(_ENTRIES_MAX + 1)]

    def find(self, request: bytes) -> bytes:
        """Return the answer to a request."""
        if _is_cbor(request):
            return self._ready_cbor[min(request.count(b"PartitionKey"), _ENTRIES_MAX)]
        if len(self._starts) == 1:
            return self._ready[min(request.count(b'"PartitionKey"'), _ENTRIES_MAX)]
        records = orjson.loads(request[request.index(b"\r\n\r\n") + 4 :])["Records"]
        return _put_answer([self._shard_of(each) for each in records])

    def _shard_of(self, record: dict[str, str]) -> int:
        explicit = record.get("ExplicitHashKey")
        hash_key = hash_key_of(record["PartitionKey"]) if explicit is None else int(explicit)
        return bisect_right(self._starts, hash_key) - 1


class NullEndpoint(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self, answer: Callable[[bytes, bytes], bytes]) -> None:
        self._find = answer
        self._parts: list[bytes] = []
        self._missing = 0  # bytes of the request at hand; 0 if its head is not complete
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer once a request is whole."""
        if not self._missing:
            data = b"".join((*self._parts, data))
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._parts = [data]
                return
            self._parts = []
            at = data.lower().index(b"content-length:", 0, end)
            self._missing = end + 4 + int(data[at + 15 : data.index(b"\r\n", at)])
        self._parts.append(data)
        self._missing -= len(data)
        if not self._missing:
            request, self._parts = b"".join(self._parts), []
            at = request.index(b"Kinesis_20131202.") + 17
            self._transport.write(self._find(request[at : request.index(b"\r", at)], request))


async def _serve(port: int, shards: int) -> None:
    ranges = even_ranges(shards)
    answers = _control_answers(ranges)
    puts = PutAnswers(ranges)
    page, page_cbor = _answer(make_page()), _answer_cbor(_make_page_cbor())
    aggregated = {
        b'"%b"' % name.encode(): _answer(make_page(_make_aggregates(records)))
        for name, records in ((AGGREGATES_ITERATOR, make_records()), (OWN_ITERATOR, _make_own()))
    }

    def find(operation: bytes, request: bytes) -> bytes:
        if operation == b"PutRecords":
            return puts.find(request)
        if operation != b"GetRecords":
            return answers[operation]
        if _is_cbor(request):
            return page_cbor
        return next((each for iterator, each in aggregated.items() if iterator in request), page)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: NullEndpoint(find), "127.0.0.1", port)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve, or only write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1, choices=range(1, _SHARDS_MAX + 1), metavar="N")
    parser.add_argument("--write-page", type=Path)
    options = parser.parse_args()
    if options.write_page is not None:
        options.write_page.write_bytes(make_page())
    else:
        asyncio.run(_serve(options.port, options.shards))


if __name__ == "__main__":
    main()
