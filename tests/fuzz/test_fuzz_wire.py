"""Fuzzers of what arrives over the network: aggregates, events and lease rows."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any, Final

import cbor2
import orjson
from botocore.parsers import ResponseParserError
from hypothesis import given
from hypothesis import strategies as st

from shared.aggregation import MAGIC, deaggregate
from shared.aws.cbor import decode_cbor
from shared.aws.cbor_page import parse_record_page_cbor
from shared.aws.lease_item import item_from_lease, lease_from_item
from shared.errors import InvalidRequestError, MalformedEventError
from shared.event import EVENT_BYTES_MAX, EventId, decode_event
from shared.hash_key import HASH_KEY_MAX, HashKeyRange
from shared.lease import Checkpoint, Lease, PendingFlush
from shared.records import Position, StreamRecord
from tests.fuzz.mutation import check_short, damaged, fuzzed, mutated

# Protobuf messages by hand: two keys, an explicit hash key, three members; unknown fields, a group, long varints.
AGGREGATES: Final = (
    b"\x0a\x01a\x0a\x02bb\x12\x01\x37\x1a\x07\x08\x00\x1a\x03one\x1a\x09\x08\x01\x10\x00\x1a\x03two\x1a\x04\x08\x00\x1a\x00",
    b"\x0a\x01a\x1a\x05\x08\x00\x1a\x01x\x1a\x05\x08\x05\x1a\x01y",
    b"\x0a\x01a\x1a\x0b\x08\x00\x1a\x01x\x22\x04\x0a\x00\x12\x00\x28\x07\x33\x08\x01\x34",
    b"\x0a\x01a\x0a\x01a\x12\x2740282366920938463463374607431768211455\x1a\x07\x08\x01\x10\x00\x1a\x01z",
    b"\x0a\x81\x80\x80\x80\x00a\x1a\x06\x08\x80\x00\x1a\x01x",
    b"\x0a\x01a" + (b"\x1a\xcd\x01\x08\x00\x1a\xc8\x01" + b"x" * 200) * 2,  # lengths of two bytes, as nearly all have
    b"",
)
EVENTS: Final = (
    b'{"session_id":"a1","country":"USA","browse_history":[{"product_code":"P1","quantity":2}]}',
    b'{"session_id":"\\ud83d\\ude00","n":-0.0,"deep":[[[[{}]]]],"big":18446744073709551615,"event_id":"web.00.5"}',
    b'  {"a":1e308,"b":"\\"{[","c":null,"a":2}\r\n',
    b"[1]",
    b"{}",
)
LEASE: Final = item_from_lease(
    Lease(
        shard_id="shardId-000000000001",
        owner="worker",
        epoch=3,
        heartbeat=9,
        version=4,
        write_id="w1",
        checkpoint=Checkpoint.parse("49590338271490256608559692538361571095921575989136588898", 2),
        parents=("shardId-000000000000",),
        children=("shardId-000000000002", "shardId-000000000003"),
        hash_key_range=HashKeyRange(0, HASH_KEY_MAX),
        pending=PendingFlush(("a", "b"), Position(1, 0), Position(2, 3), 7, "1"),
        marks={"web.00": 5},
        attempts=1,
        finished_at=12.5,
    )
)
MARKS: Final = (b"", b"{}", b"[]", b"1", b'{"a":1e308}', b'{"a":"x"}', b'{"a":[1]}', b'{"a":null}', b'{"a":' * 500)
PAGES: Final = tuple(
    cbor2.dumps(
        {
            "Records": [
                {
                    "SequenceNumber": str(10**55 + at),
                    "ApproximateArrivalTimestamp": cbor2.CBORTag(1, 1_700_000_000_123 + at),
                    "Data": b"d" * size,
                    "PartitionKey": f"key-{at}",
                }
                for at in range(12)
            ],
            "NextShardIterator": "AAA",
            "MillisBehindLatest": 5,
        }
    )
    for size in (2, 30, 300)
)
RANGES: Final = st.none() | st.sampled_from([HashKeyRange(0, HASH_KEY_MAX), HashKeyRange(0, HASH_KEY_MAX // 2)])


@fuzzed
@given(mutated(AGGREGATES), RANGES, st.booleans())
def test_any_bytes_are_deaggregated_within_bounds(body: bytes, keys: HashKeyRange | None, has_digest: bool) -> None:
    """Whatever stands between magic and digest: no exception, no byte made of nothing, the last one marked as such."""
    digest = hashlib.md5(body, usedforsecurity=False).digest() if has_digest else b"0" * 16
    record = StreamRecord(MAGIC + body + digest, "key", 7, 1.0)
    result = deaggregate(record, keys)
    assert sum(len(each.data) for each in result.records) <= len(record.data)
    assert len(result.records) + result.dropped_count <= max(1, len(record.data))
    assert [each.position.sub_sequence_number for each in result.records] == list(range(len(result.records)))
    assert [each.is_last for each in result.records] == [False] * (len(result.records) - 1) + [True] * bool(
        result.records
    )
    if not has_digest:
        assert [each.data for each in result.records] == [record.data]


@fuzzed
@given(mutated(EVENTS))
def test_any_bytes_are_an_event_or_malformed(data: bytes) -> None:
    """What is decoded can be written again; anything else is a MalformedEventError that holds none of it."""
    try:
        event = decode_event(data)
    except MalformedEventError as error:
        check_short(error, 200)
        return
    assert len(data) <= EVENT_BYTES_MAX
    assert decode_event(orjson.dumps(event)) == event


@fuzzed
@given(mutated(PAGES))
def test_any_bytes_are_a_page_in_cbor_or_unreadable(body: bytes) -> None:
    """What is read of a run of records is what is read of each by itself; else it is an error that holds none of it."""
    try:
        page = parse_record_page_cbor(body)
    except ResponseParserError as error:
        check_short(error, 200)
        return
    assert [
        (each["Data"], each["PartitionKey"], int(each["SequenceNumber"]), each.get("ApproximateArrivalTimestamp", 0))
        for each in decode_cbor(body)["Records"]
    ] == [(*record[:3], round(record.arrival_timestamp * 1_000)) for record in page.records]


@fuzzed
@given(mutated([b"web-1.00.17", b"w.-.0", b"a.ff.9223372036854775807"]))
def test_any_text_is_an_event_id_or_none(data: bytes) -> None:
    """Text is one of our ids, to the letter, or a foreign one."""
    text = data.decode("utf-8", "replace")
    event_id = EventId.parse(text)
    assert event_id is None or str(event_id) == text


@fuzzed
@given(damaged(LEASE))
def test_any_row_is_a_lease_or_damaged(item: Any) -> None:
    """A damaged row is InvalidRequestError, whatever is damaged about it, with a short message."""
    _read(item)


@fuzzed
@given(mutated(MARKS), mutated([LEASE["pendingFlush"]["S"].encode()]))
def test_any_marks_and_any_flush_are_read_or_damaged(marks: bytes, pending: bytes) -> None:
    """The packed parts of a row are as hostile as the row."""
    _read({**LEASE, "marks": {"B": zlib.compress(marks)}})
    _read({**LEASE, "marks": {"B": marks}})
    _read({**LEASE, "pendingFlush": {"S": pending.decode("utf-8", "replace")}})


def _read(item: Any) -> None:
    try:
        lease = lease_from_item(item)
    except InvalidRequestError as error:
        check_short(error, 300)
        return
    assert isinstance(lease.marks, Mapping)
