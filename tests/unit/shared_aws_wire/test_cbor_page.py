"""A page of records in CBOR, beside the same page in JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import cbor2
import pytest
from botocore.parsers import ResponseParserError
from hypothesis import given
from hypothesis import strategies as st

from shared.aws import cbor_page
from shared.aws.cbor import decode_cbor, get_records_cbor
from shared.aws.cbor_page import parse_record_page_cbor
from shared.aws.record_page import parse_record_page
from shared.records import RecordPage, StreamRecord
from tests.support.ways import way  # noqa: F401 - each test is run both ways

_NAMES: Final = ("SequenceNumber", "ApproximateArrivalTimestamp", "Data", "PartitionKey")
_TEXT: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_KEYS: Final = st.sampled_from(["a", "k\n", "", "kä", "x" * 23, "x" * 24, "x" * 255, "x" * 256, "PartitionKey"])
_DATA: Final = st.binary(max_size=40) | st.sampled_from([b"d" * size for size in (23, 24, 255, 256, 65_535, 65_536)])
_HOSTILE_DATA: Final = st.sampled_from([b"lPartitionKeya1", b"dData\x41x", b"\xff\xbfnSequenceNumberx8"])
_NUMBERS: Final = st.integers(10**55, 10**56 - 1) | st.integers(0, 10**30)
_RECORDS: Final = st.lists(
    st.builds(
        StreamRecord,
        _DATA | _HOSTILE_DATA,
        _KEYS | _TEXT,
        _NUMBERS,
        st.integers(0, 2**42).map(lambda milliseconds: milliseconds / 1_000),
    ),
    max_size=12,
)
_END: Final = {"NextShardIterator": "AAA", "MillisBehindLatest": 5}


def _entry(key: str, value: Any) -> bytes:
    return bytes(cbor2.dumps(key)) + bytes(value if isinstance(value, bytes) else cbor2.dumps(value))


def _map(entries: Sequence[tuple[str, Any]], *, is_marked: bool) -> bytes:
    """Write a map whose values are ready (bytes) or not; with its length or, as Java does, with its end marked."""
    head, end = (b"\xbf", b"\xff") if is_marked else (bytes((0xA0 | len(entries),)), b"")
    return head + b"".join(_entry(*each) for each in entries) + end


def _array(items: Sequence[bytes], *, is_marked: bool) -> bytes:
    head = b"\x9f" if is_marked else bytes(cbor2.dumps([0] * len(items)))[: -len(items) or None]
    return head + b"".join(items) + (b"\xff" if is_marked else b"")


def page_in_cbor(
    records: Sequence[StreamRecord], names: Sequence[str] = _NAMES, *, is_marked: bool = False, extra: Any = None
) -> bytes:
    """Write a page with the fields of its records in some order."""
    items = []
    for data, key, number, arrival in records:
        values: Mapping[str, Any] = {
            "SequenceNumber": str(number),
            "ApproximateArrivalTimestamp": cbor2.dumps(cbor2.CBORTag(1, round(arrival * 1_000))),
            "Data": cbor2.dumps(data),
            "PartitionKey": key,
            "EncryptionType": extra,
        }
        items.append(_map([(name, values[name]) for name in names], is_marked=is_marked))
    return _map([("Records", _array(items, is_marked=is_marked)), *_END.items()], is_marked=is_marked)


def page_in_json(records: Sequence[StreamRecord]) -> bytes:
    """Write the same page in JSON."""
    wire = [
        {
            "SequenceNumber": str(number),
            "ApproximateArrivalTimestamp": arrival,
            "Data": base64.b64encode(data).decode(),
            "PartitionKey": key,
        }
        for data, key, number, arrival in records
    ]
    return json.dumps({"Records": wire, **_END}).encode()


def test_a_request_is_read_as_what_was_meant() -> None:
    """Names and values are those of the service's model."""
    assert cbor2.loads(get_records_cbor("AAA/+=ä", 10_000)) == {"ShardIterator": "AAA/+=ä", "Limit": 10_000}


@given(_RECORDS, st.permutations([*_NAMES, "EncryptionType"]), st.booleans(), st.sampled_from(["KMS", None]))
def test_both_wires_carry_the_same_records(
    records: list[StreamRecord], names: list[str], is_marked: bool, extra: str | None
) -> None:
    """Whatever the keys, the data, the order of the fields and the form of the maps: the page is that of JSON."""
    body = page_in_cbor(records, names, is_marked=is_marked, extra=extra)
    assert parse_record_page_cbor(body) == parse_record_page(page_in_json(records))


@pytest.mark.parametrize(
    "names",
    [
        _NAMES,
        ("ApproximateArrivalTimestamp", "Data", "PartitionKey", "SequenceNumber"),
        ("Data", "PartitionKey", "ApproximateArrivalTimestamp", "SequenceNumber"),
        ("PartitionKey", "Data", "SequenceNumber", "ApproximateArrivalTimestamp"),
    ],
)
@pytest.mark.parametrize("is_marked", [False, True])
@pytest.mark.parametrize("odd", ["", "key", "data", "number", "time"])
def test_a_record_that_is_not_like_the_others_is_read_all_the_same(
    names: tuple[str, ...], is_marked: bool, odd: str
) -> None:
    """A long run of records with an odd one in its middle, and one at its end, has all of them, to the byte."""
    records = [
        StreamRecord(b"%d" % at * 99, f"key-{at // 90}", 10**55 + at, (1_700_000_000_123 + at) / 1_000)
        for at in range(700)
    ]
    for at in (300, 301, 699):
        data, key, number, arrival = records[at]
        records[at] = StreamRecord(
            b"x" * 70_000 if odd == "data" else data,
            "y" * 300 if odd == "key" else key,
            number * 10 if odd == "number" else number,
            0.3 if odd == "time" else arrival,
        )
    body = page_in_cbor(records, names, is_marked=is_marked)
    assert parse_record_page_cbor(body) == parse_record_page(page_in_json(records))


@pytest.mark.parametrize("data_size", [0, 1, 23, 24, 255, 256, 65_535])
@pytest.mark.parametrize("key_size", [0, 23, 24, 255])
def test_records_that_are_alike_are_read_in_runs(
    data_size: int, key_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hardly one in a hundred is read field by field, whatever the forms of data and keys; sizes may differ."""
    records = [
        StreamRecord(b"d" * (data_size + at % 2), "k" * (key_size - at % 2), 10**55 + at, 1_700_000_000.123)
        for at in range(600)
    ]
    read, calls = cbor_page._read_record, []

    def count(body: bytes, at: int) -> Any:
        calls.append(at)
        return read(body, at)

    monkeypatch.setattr(cbor_page, "_read_record", count)
    assert parse_record_page_cbor(page_in_cbor(records)).records == records
    has_large = data_size == 65_535  # every other one is larger than what a run takes
    assert len(calls) <= (600 if has_large else 6)


def _reference(body: bytes) -> list[StreamRecord] | None:
    """Read a page value by value; None if it is none."""
    try:
        answer = decode_cbor(body)
        records = [
            StreamRecord(
                each["Data"],
                each["PartitionKey"],
                int(each["SequenceNumber"]),
                each.get("ApproximateArrivalTimestamp", 0) / 1_000,
            )
            for each in answer["Records"]
        ]
        assert all((type(each.data), type(each.partition_key)) == (bytes, str) for each in records)
        assert all(type(each["SequenceNumber"]) is str for each in answer["Records"])
        assert all(type(each.get("ApproximateArrivalTimestamp", 0)) is int for each in answer["Records"])
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError):
        return None
    return records


@pytest.mark.parametrize("is_marked", [False, True])
@pytest.mark.parametrize(
    "names", [_NAMES, ("Data", "PartitionKey", "EncryptionType", "ApproximateArrivalTimestamp", "SequenceNumber")]
)
def test_a_damaged_byte_is_seen_in_a_run_as_it_is_in_a_record(names: tuple[str, ...], is_marked: bool) -> None:
    """Whichever byte of a page is another one, the page is what a reading value by value makes of it."""
    records = [StreamRecord(b"d" * 260, "key-1", 10**55 + at, 1_700_000_000.123 + at) for at in range(4)]
    body = page_in_cbor(records, names, is_marked=is_marked, extra="KMS")
    assert _reference(body) == records
    for at in range(body.index(b"Records") + 7, len(body)):
        if body[at - 3 : at + 4] == b"d" * 7:
            continue
        for other in (body[at] ^ 1, body[at] ^ 0x20, 0xFF, 0x78):
            damaged = body[:at] + bytes((other,)) + body[at + 1 :]
            wanted = _reference(damaged)
            found: list[StreamRecord] | None
            try:
                found = list(parse_record_page_cbor(damaged).records)
            except ResponseParserError:
                found = None
            assert found == wanted, at


def test_children_and_the_end_of_a_shard_are_told_as_in_json() -> None:
    """The last answer of a closed shard has no iterator and names the children."""
    answer = {
        "Records": [],
        "MillisBehindLatest": 0,
        "ChildShards": [
            {
                "ShardId": "shardId-000000000002",
                "ParentShards": ["shardId-000000000000"],
                "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "9"},
            }
        ],
    }
    assert parse_record_page_cbor(cbor2.dumps(answer)) == parse_record_page(json.dumps(answer).encode())


_RECORD: Final = {"SequenceNumber": "1", "Data": b"secret", "PartitionKey": "secret"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>secret",
        cbor2.dumps([1]),
        cbor2.dumps({"secret": 1}),
        cbor2.dumps({"Records": {"secret": 1}}),
        cbor2.dumps({"Records": [1]}),
        cbor2.dumps({"Records": [{"Data": b"secret"}]}),
        cbor2.dumps({"Records": [{**_RECORD, "Data": "c2VjcmV0"}]}),  # base64, as emulators do
        cbor2.dumps({"Records": [{**_RECORD, "PartitionKey": b"secret"}]}),
        cbor2.dumps({"Records": [{**_RECORD, "SequenceNumber": "secret"}]}),
        cbor2.dumps({"Records": [{**_RECORD, "SequenceNumber": 1}]}),
        cbor2.dumps({"Records": [{**_RECORD, "ApproximateArrivalTimestamp": float("nan")}]}),
        cbor2.dumps({"Records": [_RECORD] * 3})[:-3],
        cbor2.dumps({"Records": []}) + b"\0",
        b"\xa1" + cbor2.dumps("Records") + b"\x9b" + b"\xff" * 8,
        b"\xa1" + cbor2.dumps("Records") + b"\x81" * 100_000,
        b"\xa1" + cbor2.dumps("Records") + b"\x9f" + b"\xbf" * 100_000,
    ],
)
def test_what_is_no_page_is_unreadable(body: bytes) -> None:
    """Other types, missing fields, an early end and endless depth are an error that holds none of the answer."""
    with pytest.raises(ResponseParserError) as caught:
        parse_record_page_cbor(body)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("missing", range(1, 400))
def test_a_page_that_is_cut_off_is_unreadable(missing: int) -> None:
    """No prefix of a page passes for one, wherever it ends."""
    records = [StreamRecord(b"d" * 300, "key", 10**55 + at, 1_700_000_000.123) for at in range(4)]
    body = page_in_cbor(records)
    assert isinstance(parse_record_page_cbor(body), RecordPage)
    with pytest.raises(ResponseParserError):
        parse_record_page_cbor(body[:-missing])
