"""The CBOR of Kinesis, beside a library that knows all of it."""

from __future__ import annotations

import struct
from typing import Any

import cbor2
import pytest
from botocore.parsers import ResponseParserError
from hypothesis import given
from hypothesis import strategies as st

from shared.aws.cbor import MalformedCborError, decode_cbor, put_records_cbor
from shared.aws.kinesis_wire import parse_put_results_cbor
from shared.limits import HASH_KEY_MAX
from shared.records import PutEntry, PutResult

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_ENTRIES = st.lists(st.builds(PutEntry, st.binary(max_size=300), _TEXT, st.none() | st.integers(0, HASH_KEY_MAX)))
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False) | st.binary() | _TEXT,
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(_TEXT, inner, max_size=30),
    max_leaves=40,
)


@given(_TEXT, _ENTRIES)
def test_a_put_records_body_is_read_as_what_was_meant(stream: str, entries: list[PutEntry]) -> None:
    """Names, texts and bytes are those of the service's model."""
    records = [
        {"Data": data, "PartitionKey": key} | ({} if hash_key is None else {"ExplicitHashKey": str(hash_key)})
        for data, key, hash_key in entries
    ]
    assert cbor2.loads(put_records_cbor(stream, entries)) == {"StreamName": stream, "Records": records}


@given(_VALUES)
def test_any_value_is_decoded(value: Any) -> None:
    """What a library writes is read as it was; behind it nothing is allowed."""
    encoded = cbor2.dumps(value)
    assert decode_cbor(encoded) == value
    with pytest.raises(MalformedCborError):
        decode_cbor(encoded + b"\0")


def test_what_java_writes_is_decoded() -> None:
    """Maps and arrays without a length, times under a tag, small floats."""
    assert decode_cbor(b"\xbf\x61a\x9f\x01\x20\xff\x61t\xc1\x1b" + struct.pack(">Q", 1_700_000_000_123) + b"\xff") == {
        "a": [1, -1],
        "t": 1_700_000_000_123,
    }
    assert decode_cbor(b"\xf9\x3c\x00") == 1.0


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    """Nothing else is raised, and what is read is what the library reads, where it reads it."""
    try:
        value = decode_cbor(data)
    except MalformedCborError:
        return
    assert value is None or isinstance(value, (bool, int, float, str, bytes, list, dict))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x9b" + b"\xff" * 8,
        b"\xbb" + b"\xff" * 8,
        b"\x5b" + b"\xff" * 8,
        b"\x81" * 100_000,
        b"\xc1" * 100_000,
        b"\x9f" * 100_000,
        b"\x5f\x41a\xff",
        b"\x1c",
        b"\xf8\x20",
        b"\xff",
        b"\xa1\xa0\x01",
        b"\xbf\x61a\xff",
        b"\x61\xff",
    ],
)
def test_a_bad_length_or_depth_is_refused_before_work_is_done(data: bytes) -> None:
    """Counts beyond the bytes that are there, endless depth, pieces, a key that is a map or has no value, bad UTF-8."""
    with pytest.raises(MalformedCborError):
        decode_cbor(data)


def test_an_answer_is_results_or_unreadable() -> None:
    """Results as in JSON; what is no answer is an error that holds none of it."""
    answer = {
        "FailedRecordCount": 1,
        "Records": [
            {"SequenceNumber": "49", "ShardId": "shardId-000000000000"},
            {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow"},
        ],
    }
    assert list(parse_put_results_cbor(cbor2.dumps(answer))) == [
        PutResult("shardId-000000000000", 49),
        PutResult(error_code="ProvisionedThroughputExceededException", error_message="slow"),
    ]
    for body in (b"<html>secret", cbor2.dumps({"secret": 1}), cbor2.dumps({"Records": [{"ShardId": "secret"}]})):
        with pytest.raises(ResponseParserError) as caught:
            parse_put_results_cbor(body)
        assert "secret" not in str(caught.value)
