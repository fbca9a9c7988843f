"""Answers to GetRecords: the compiled part reads of any bytes what Python reads of them, or leaves them to it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final

import cbor2
import pytest
from botocore.parsers import ResponseParserError
from hypothesis import example, given
from hypothesis import strategies as st

from shared.aws.cbor_page import parse_record_page_cbor
from shared.aws.record_page import parse_record_page
from shared.compiled import COLUMNS
from shared.compiled.columns import Columns
from shared.records import RecordPage, StreamRecords
from tests.fuzz.mutation import fuzzed, mutated
from tests.support.ways import without_compiled

if COLUMNS is None:
    pytest.skip("headrace was installed without its compiled part", allow_module_level=True)

START: Final = len(b'{"Records":[')
DATA: Final = base64.b64encode(bytes(range(256))).decode()
RECORDS: Final = (
    '{"SequenceNumber":"49","ApproximateArrivalTimestamp":1763683200.123,"Data":"e30=","PartitionKey":"a"}',
    '{"Data":"","PartitionKey":"","SequenceNumber":"7","ApproximateArrivalTimestamp":1.763683200123E9}',
    (
        f'{{"Data":"{DATA}","PartitionKey":"Zürich","SequenceNumber":"{"9" * 56}",'
        '"ApproximateArrivalTimestamp":17,"EncryptionType":"KMS"}'
    ),
)
TAIL: Final = (
    '"NextShardIterator":"AAA+/=","MillisBehindLatest":12,"ChildShards":[{"ShardId":"s","ParentShards":["p"],'
    '"HashKeyRange":{"StartingHashKey":"0","EndingHashKey":"9"}}]'
)
PAGES: Final = tuple(
    text.encode()
    for text in (
        f'{{"Records":[{",".join(RECORDS)}],{TAIL}}}',
        f'{{{TAIL},"Records":[{RECORDS[2]}]}}',
        f'{{"Records":[{RECORDS[0]}],"Records":[{RECORDS[1]}]}}',
    )
)
ENDS: Final = ("", "=", "==", "A=", "====", "*", "é", " ", "\\/", "-_", "B==")


def outcome(body: bytes, parse: Callable[[bytes], RecordPage]) -> RecordPage | str:
    """Return what is read of an answer, or how it is refused."""
    try:
        return parse(body)
    except ResponseParserError as error:
        return str(error)


def both_ways(
    body: bytes, parse: Callable[[bytes], RecordPage] = parse_record_page
) -> tuple[RecordPage | str, RecordPage | str]:
    """Return what both ways make of an answer."""
    compiled = outcome(body, parse)
    with pytest.MonkeyPatch.context() as patch:
        without_compiled(patch)
        return compiled, outcome(body, parse)


def columns_of(page: RecordPage) -> tuple[Any, ...]:
    """Return the columns with the types of their values."""
    records = page.records
    assert isinstance(records, StreamRecords)
    columns = (records.datas, records.keys, records.numbers, records.arrivals)
    return tuple([(type(value), value) for value in column] for column in columns)


@pytest.mark.parametrize("body", PAGES[:2])
def test_what_the_service_sends_is_read(columns: Columns, body: bytes) -> None:
    """All fields of a record, in any order, as often as it likes."""
    assert columns.read_records(body, body.index(b'"Records":[') + len(b'"Records":[')) is not None


@fuzzed
@given(mutated(PAGES))
@example(PAGES[2])
@example(b'{"Records":[%b],"a":"\\u0022Records\\u0022:[]"}' % RECORDS[0].encode())
@example(b'{"ChildShards":[{"Records":[%b]}]}' % RECORDS[0].encode())
@example(b'[{"Records":[%b]}]' % RECORDS[0].encode())
@example(b'{"Records":[%b],"\\u0052ecords":[]}' % RECORDS[0].encode())
@example(PAGES[0][:-1])
@example(PAGES[0] + b" ")
@example(PAGES[0] + b"]")
def test_a_page_is_read_as_by_python(body: bytes) -> None:
    """Or refused as by it, however it is damaged."""
    compiled, python = both_ways(body)
    assert compiled == python
    if isinstance(compiled, RecordPage) and isinstance(python, RecordPage):
        assert columns_of(compiled) == columns_of(python)


@fuzzed
@given(st.binary(max_size=300), st.integers(0, 6), st.sampled_from(ENDS))
def test_base64_is_read_as_by_python(data: bytes, cut: int, end: str) -> None:
    """Of any length, cut anywhere, with letters that are none."""
    text = base64.b64encode(data).decode()
    body = PAGES[0].replace(b"e30=", (text[: len(text) - cut] + end).encode())
    compiled, python = both_ways(body)
    assert compiled == python


@pytest.mark.parametrize("size", [*range(100), 1_000, 1_001, 1_002, 70_000])
def test_each_letter_is_checked(columns: Columns, size: int) -> None:
    """Wherever the 32 letters begin that are decoded at once."""
    data = bytes(at * 7 % 256 for at in range(size))
    text = base64.b64encode(data)
    record = RECORDS[0].encode().replace(b"e30=", b"%b")
    found = columns.read_records(record % text + b"]", 0)
    assert found is not None
    assert found[0] == [data]
    for at in range(0, len(text), 1 + len(text) // 200):
        for bad in b"\x00*:@[`{\x7f\x80\xff,.-_":
            damaged = text[:at] + bytes((bad,)) + text[at + 1 :]
            assert columns.read_records(record % damaged + b"]", 0) is None


NUMBERS: Final = (
    *("0", "-0", "1.", ".5", "01", "1e5", "1E+5", "1e-5", "1e", "1e+", "0.1", "0.30000000000000004", "1e22", "1e23"),
    *(
        "1e400",
        "1e-400",
        "1e99999999999999999999",
        "0e0",
        "0.0",
        "-1.5",
        "+1",
        "NaN",
        "null",
        "true",
        '"1"',
        "1 ",
        "[]",
    ),
    *("9007199254740993", "9007199254740992.0", "1763683200.1234567", "1.763683200123E9", "1.763683200123e-9"),
    "0." + "0" * 70 + "1",
)


@pytest.mark.parametrize("text", NUMBERS)
def test_a_time_is_read_as_by_python(text: str) -> None:
    """Each number of JSON, and what is none."""
    compiled, python = both_ways(PAGES[0].replace(b"1763683200.123", text.encode()))
    assert compiled == python


@given(st.floats(0, 1e12) | st.floats(0, 4e9).map(lambda value: round(value, 3)))
def test_a_time_has_the_very_same_bits(value: float) -> None:
    """In both notations."""
    for text in (repr(value), f"{value:e}", f"{value:.12E}", f"{value:.3f}"):
        compiled, python = both_ways(PAGES[0].replace(b"1763683200.123", text.encode()))
        assert isinstance(compiled, RecordPage)
        assert compiled == python


@pytest.mark.parametrize("arguments", [(), (b"", 1), (b"", -1), ("", 0), (b"", 0.0), (b"", 2**70), (b"{}",)])
def test_other_arguments_are_refused(columns: Columns, arguments: Any) -> None:
    """Nothing is read beyond an end."""
    with pytest.raises((TypeError, OverflowError)):
        columns.read_records(*arguments)


_TIME: Final = "ApproximateArrivalTimestamp"
_RECORD: Final = {
    "SequenceNumber": "49",
    _TIME: cbor2.CBORTag(1, 1_763_683_200_123),
    "Data": b"{}",
    "PartitionKey": "a",
}
_OTHER: Final = {
    "Data": b"x" * 300,
    "PartitionKey": "Zürich" * 50,
    "SequenceNumber": "9" * 56,
    _TIME: cbor2.CBORTag(1, 17),
}
_CBOR_TAIL: Final = {"NextShardIterator": "AAA", "MillisBehindLatest": 12}
_DEFINITE: Final = cbor2.dumps({"Records": [_RECORD, _OTHER, {**_RECORD, "EncryptionType": "KMS"}], **_CBOR_TAIL})
# The array, and each map in it, with a marked end.
_MARKED: Final = b"\xa1\x67Records\x9f" + 2 * (b"\xbf" + cbor2.dumps(_RECORD)[1:] + b"\xff") + b"\xff"
_CBOR_PAGES: Final = (
    *(_DEFINITE, _MARKED, cbor2.dumps({"Records": [_RECORD, {**_RECORD, "X": 1}, {"Data": b""}]})),
    cbor2.dumps({"Records": [{**_RECORD, _TIME: 17}, {**_RECORD, "SequenceNumber": "07"}, _OTHER | {"Data": ""}]}),
)


@fuzzed
@given(mutated(_CBOR_PAGES))
@example(_DEFINITE)
@example(_MARKED)
@example(_DEFINITE + b"\x00")
@example(_DEFINITE.replace(b"dData", b"nSequenceNumber"))
def test_a_page_in_cbor_is_read_as_by_python(body: bytes) -> None:
    """Or refused as by it, however it is damaged."""
    compiled, python = both_ways(body, parse_record_page_cbor)
    assert compiled == python
    if isinstance(compiled, RecordPage) and isinstance(python, RecordPage):
        assert columns_of(compiled) == columns_of(python)


def test_what_the_service_sends_in_cbor_is_read(columns: Columns) -> None:
    """With and without marked ends."""
    head = len(b"\xa3\x67Records\x83")
    assert columns.read_records_cbor(_DEFINITE, head, 3) is not None
    assert columns.read_records_cbor(_MARKED, head, -1) is not None
    assert columns.read_records_cbor(_DEFINITE, head, 4) is None
    for time in (0, 23, 24, 255, 256, 65_536, 2**32, 2**53, 2**53 + 1, 2**64 - 1):
        body = cbor2.dumps({"Records": [{**_RECORD, _TIME: cbor2.CBORTag(1, time)}]})
        compiled, python = both_ways(body, parse_record_page_cbor)
        assert compiled == python
        assert (columns.read_records_cbor(body, head, 1) is not None) == (time <= 2**53)


@pytest.mark.parametrize("arguments", [(), (b"", 1, 1), (b"", -1, 1), ("", 0, 1), (b"", 0, 0.0), (b"", 0, 2**70)])
def test_other_arguments_are_refused_in_cbor(columns: Columns, arguments: Any) -> None:
    """Nothing is read beyond an end."""
    with pytest.raises((TypeError, OverflowError)):
        columns.read_records_cbor(*arguments)
