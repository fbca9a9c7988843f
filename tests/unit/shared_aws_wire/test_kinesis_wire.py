"""PutRecords and GetRecords on the wire, beside what the standard library writes and reads."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, Final

import orjson
import pytest
from botocore.parsers import ResponseParserError
from hypothesis import given
from hypothesis import strategies as st

from shared.aws import record_page
from shared.aws.fan_out import EventSubscription
from shared.aws.kinesis import KinesisAdapter
from shared.aws.kinesis_wire import parse_put_results, put_records_body
from shared.aws.record_page import get_records_body, parse_record_page
from shared.errors import AmbiguousCallError
from shared.hash_key import HashKeyRange
from shared.limits import HASH_KEY_MAX
from shared.records import ChildShard, PutEntry, PutResult, RecordPage, StreamRecord, StreamRecords
from tests.support.ways import way  # noqa: F401 - each test is run both ways

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_ENTRIES = st.lists(st.builds(PutEntry, st.binary(max_size=60), _TEXT, st.none() | st.integers(0, HASH_KEY_MAX)))


@given(_TEXT, _ENTRIES)
def test_a_put_records_body_is_what_json_dumps_writes(stream: str, entries: list[PutEntry]) -> None:
    """The body equals that of botocore's serializer: base64 data, every other text escaped to ASCII."""
    records = []
    for data, key, hash_key in entries:
        record = {"Data": base64.b64encode(data).decode(), "PartitionKey": key}
        records.append(record if hash_key is None else {**record, "ExplicitHashKey": str(hash_key)})
    expected = json.dumps({"StreamName": stream, "Records": records}).encode()
    assert expected == put_records_body(stream, entries)


@given(_TEXT, st.integers(1, 10_000))
def test_a_get_records_body_is_what_json_dumps_writes(iterator: str, limit: int) -> None:
    """An iterator is opaque: any text of it survives."""
    expected = json.dumps({"ShardIterator": iterator, "Limit": limit}).encode()
    assert expected == get_records_body(iterator, limit)


def test_put_results_keep_their_order_and_their_errors() -> None:
    """A refused entry has a code and a message, the others a place; null fields are as good as none."""
    answer = {
        "FailedRecordCount": 1,
        "Records": [
            {"SequenceNumber": "496", "ShardId": "shardId-000000000001", "ErrorCode": None, "ErrorMessage": None},
            {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded"},
            {"ErrorCode": "InternalFailure"},
        ],
    }
    expected = [
        PutResult("shardId-000000000001", 496),
        PutResult(error_code="ProvisionedThroughputExceededException", error_message="Rate exceeded"),
        PutResult(error_code="InternalFailure"),
    ]
    assert expected == parse_put_results(orjson.dumps(answer))


def test_a_record_page_with_everything_in_it() -> None:
    """Records, the next iterator, the distance to the tip and the children of a closed shard are read."""
    answer = {
        "Records": [
            {"Data": "e30=", "PartitionKey": "ä", "SequenceNumber": "7", "ApproximateArrivalTimestamp": 1700000000.5},
            {"Data": "", "PartitionKey": "k", "SequenceNumber": str(2**180), "ApproximateArrivalTimestamp": 17},
            {"Data": "/+8=", "PartitionKey": "k", "SequenceNumber": "9"},
        ],
        "NextShardIterator": "AAA",
        "MillisBehindLatest": 12,
        "ChildShards": [
            {
                "ShardId": "shardId-000000000002",
                "ParentShards": ["shardId-000000000000", "shardId-000000000001"],
                "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": str(HASH_KEY_MAX)},
            }
        ],
    }
    child = ChildShard(
        "shardId-000000000002", ("shardId-000000000000", "shardId-000000000001"), HashKeyRange(0, HASH_KEY_MAX)
    )
    expected = RecordPage(
        records=(
            StreamRecord(b"{}", "ä", 7, 1700000000.5),
            StreamRecord(b"", "k", 2**180, 17.0),
            StreamRecord(b"\xff\xef", "k", 9, 0.0),
        ),
        next_iterator="AAA",
        behind_milliseconds=12,
        child_shards=(child,),
    )
    page = parse_record_page(orjson.dumps(answer))
    assert expected == page
    assert all(type(record) is StreamRecord and type(record.arrival_timestamp) is float for record in page.records)


def test_the_last_page_of_a_shard_has_no_iterator() -> None:
    """A null iterator, or none, means that the shard is closed and read."""
    assert RecordPage() == parse_record_page(b'{"Records": [], "NextShardIterator": null}')
    assert RecordPage() == parse_record_page(b'{"Records": []}')


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b"7",
        b"{}",
        b'{"Records": 7}',
        b'{"Records": [7]}',
        b'{"Records": [{}]}',
        b'{"Records": [{"ShardId": "s", "SequenceNumber": "x", "PartitionKey": "k", "Data": "e30="}]}',
        b'{"Records": [{"ShardId": "s", "SequenceNumber": null, "PartitionKey": "k", "Data": "e30="}]}',
    ],
)
def test_what_is_no_answer_is_refused_without_being_quoted(answer: bytes) -> None:
    """An unreadable answer is one error of botocore's, which says how long it was and holds none of it."""
    parsers: list[Any] = [parse_put_results, parse_record_page]
    for parse in parsers:
        with pytest.raises(ResponseParserError, match=f"{len(answer)} bytes") as caught:
            parse(answer)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("answer", [{}, {"Records": [{}]}, {"Records": [{"ShardId": "s", "SequenceNumber": "x"}]}])
async def test_what_is_no_answer_is_refused_in_the_ordinary_way_too(answer: dict[str, Any]) -> None:
    """What botocore made of an unreadable answer is an error of ours, after which a producer tries again."""

    async def answering(**_: Any) -> dict[str, Any]:
        return answer

    kinesis = KinesisAdapter(SimpleNamespace(put_records=answering, get_records=answering))
    with pytest.raises(AmbiguousCallError, match="PutRecords"):
        await kinesis.put_records("orders", [PutEntry(b"{}", "key")])
    with pytest.raises(AmbiguousCallError, match="GetRecords"):
        await kinesis.get_records("orders", "iterator", 1)


@pytest.mark.parametrize(
    "event", [{}, {"Records": None}, {"Records": [{"Data": b"{}", "PartitionKey": "k"}]}, {"Records": 7}, ["Records"]]
)
async def test_a_broken_event_of_a_subscription_is_refused(event: Any) -> None:
    """An event that can't be read is an error of ours, after which the reader subscribes anew; never a KeyError."""

    async def messages() -> AsyncIterator[Any]:
        yield {"ResourceNotFoundException": None}
        yield {"SubscribeToShardEvent": event}

    with pytest.raises(AmbiguousCallError, match="SubscribeToShard"):
        await EventSubscription(messages(), "orders").next_event()


@pytest.mark.parametrize("number", ["007", "0", "+7", " 7", "1_0", "\u0661\u0662", "9" * 65])
@pytest.mark.parametrize("is_even", [True, False])
def test_sequence_numbers_are_kept_as_they_are_written_again(number: str, is_even: bool) -> None:
    """Whatever way a number is written in an answer, one text stands for it: it goes into objects and is compared."""
    wire = {"Data": "e30=", "PartitionKey": "k", "ApproximateArrivalTimestamp": 1.5}
    other = "8" * (len(number) if is_even else len(number) + 1)
    page = parse_record_page(orjson.dumps({"Records": [{**wire, "SequenceNumber": each} for each in (number, other)]}))
    expected = [StreamRecord(b"{}", "k", int(each), 1.5) for each in (number, other)]
    assert page.records == expected
    assert StreamRecords.of(expected).numbers == StreamRecords.of(page.records).numbers
    assert page.records[1:] == expected[1:]
    assert page.records != expected[1:]
    assert isinstance(page.records, StreamRecords)
    assert page.records.numbers == [str(int(number)), other]


def test_base64_may_be_written_in_lines() -> None:
    """Characters that are none of base64's are left out of a record's data, as botocore does."""
    record = {"Data": "e3\r\n0=", "PartitionKey": "k", "SequenceNumber": "1"}
    assert (
        parse_record_page(orjson.dumps({"Records": [record, {**record, "Data": "e30="}]})).records
        == [StreamRecord(b"{}", "k", 1, 0.0)] * 2
    )


@pytest.mark.parametrize("data", ["e", "ä", None, 7])
def test_data_that_is_not_base64_is_refused(data: object) -> None:
    """A record whose data can't be decoded is an unreadable answer, never an empty record."""
    record = {"Data": data, "PartitionKey": "k", "SequenceNumber": "1"}
    with pytest.raises(ResponseParserError):
        parse_record_page(orjson.dumps({"Records": [record]}))


_RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "Data": st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode()),
            "PartitionKey": _TEXT | st.sampled_from(('"},{"', "},{", '],"Records":[', "\\", '{"Data":"')),
            "SequenceNumber": st.integers(0, 2**186).map(str),
        },
        optional={
            "ApproximateArrivalTimestamp": st.floats(0, 2e9) | st.integers(0, 2 * 10**9),
            "EncryptionType": st.sampled_from(("NONE", "KMS")),
        },
    ),
    max_size=12,
)


@given(_RECORDS, st.booleans(), st.booleans(), st.booleans(), st.integers(0, 300), st.integers(0, 300))
def test_a_page_is_read_alike_in_pieces_and_as_a_whole(
    records: list[dict[str, Any]], is_first: bool, is_spaced: bool, escapes: bool, piece_bytes: int, large_bytes: int
) -> None:
    """Wherever the text is cut and however it is written, each record comes once, in order, with its own fields."""
    rest = {"NextShardIterator": "AAA", "ChildShards": [], "MillisBehindLatest": 3}
    answer = {"Records": records, **rest} if is_first else {**rest, "Records": records}
    separators = None if is_spaced else (",", ":")
    body = json.dumps(answer, ensure_ascii=escapes, separators=separators).encode()
    expected = tuple(
        StreamRecord(
            base64.b64decode(each["Data"]),
            each["PartitionKey"],
            int(each["SequenceNumber"]),
            float(each.get("ApproximateArrivalTimestamp", 0.0)),
        )
        for each in records
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record_page, "_PIECE_BYTES", piece_bytes)
        patch.setattr(record_page, "_LARGE_BYTES", large_bytes)
        assert RecordPage(expected, "AAA", 3) == parse_record_page(body)


_LARGE: Final = base64.b64encode(b"a large one" * 9).decode()
_ODD_RECORDS: Final = (
    '{"Data":"%s","PartitionKey":"k","SequenceNumber":"1"}',
    '{"SequenceNumber":"1","PartitionKey":"k","Data":"%s"}',
    '{"Data":"%s","PartitionKey":"k\\u00e4\\"","SequenceNumber":"1"}',
    '{"PartitionKey":"\\"Data\\":\\"","Data":"%s","SequenceNumber":"1"}',
    '{"Data":"%s","PartitionKey":"k},{","SequenceNumber":"1"}',
    '{"Data":"%s","PartitionKey":"k","SequenceNumber":"1","Data":"e30="}',
    '{"Data":"e30=","PartitionKey":"k","SequenceNumber":"1","Data":"%s"}',
    '{"Data":"%s","PartitionKey":"k","SequenceNumber":"1","\\u0044ata":""}',
    '{"Data":"%s","PartitionKey":"k","SequenceNumber":"1","x":{"Data":"e30="}}',
    '{"x":{"Data":"%s"},"Data":"e30=","PartitionKey":"k","SequenceNumber":"1"}',
    '{"Data":"%s" ,"PartitionKey":"k","SequenceNumber":"1"}',
    '{"Data": "%s","PartitionKey":"k","SequenceNumber":"1"}',
)


@pytest.mark.parametrize("odd", _ODD_RECORDS)
@pytest.mark.parametrize("data", [_LARGE, _LARGE.replace("=", "\\n="), _LARGE + "\\/\\/8=", "*" + _LARGE, ""])
@pytest.mark.parametrize("name", ["Records", "Recor"])
def test_large_data_are_decoded_where_they_stand_only_if_that_is_the_same(
    odd: str, data: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a record with large data is written, and whatever is odd about them, it is as a JSON parser reads it."""
    plain = _ODD_RECORDS[0] % _LARGE
    body = f'{{"{name}":[{plain},{odd % data},{plain}],"Records" :[{odd % data}]}}'
    if name == "Records":
        body = f'{{"Records":[{plain},{odd % data},{plain}]}}'
    monkeypatch.setattr(record_page, "_LARGE_BYTES", 1 << 30)
    whole = parse_record_page(body.encode())
    assert len(whole.records) == (3 if name == "Records" else 1)
    monkeypatch.setattr(record_page, "_LARGE_BYTES", 8)
    assert parse_record_page(body.encode()) == whole


def test_large_data_are_not_parsed_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an aggregate's record, the JSON parser gets to see everything but the data."""
    body = f'{{"Records":[{",".join([_ODD_RECORDS[0] % _LARGE] * 4)}]}}'.encode()
    monkeypatch.setattr(record_page, "_LARGE_BYTES", 8)
    loads, seen = orjson.loads, []

    def count(text: bytes) -> Any:
        seen.append(len(text))
        return loads(text)

    monkeypatch.setattr(orjson, "loads", count)
    assert len(parse_record_page(body).records) == 4
    assert sum(seen) < len(body) - 3 * len(_LARGE)
