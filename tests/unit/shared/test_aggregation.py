"""The KPL aggregation format: published vectors, KCL's rules, and two independent implementations as oracles."""

from __future__ import annotations

import base64
import hashlib
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.aggregation import (
    AGGREGATE_OVERHEAD_BYTES,
    HASH_KEY_OVERHEAD_BYTES,
    MAGIC,
    MEMBER_OVERHEAD_BYTES,
    Deaggregated,
    DropReason,
    deaggregate,
)
from shared.hash_key import HashKeyRange, hash_key_of
from shared.limits import AGGREGATE_RECORDS_DECODED_MAX, HASH_KEY_MAX
from shared.records import Position, PutEntry, StreamRecord, UserRecord
from tests.support.aggregate import Aggregate
from tests.support.ways import way  # noqa: F401 - each test is run both ways

V1 = bytes.fromhex(
    "f3899ac20a06757365722d310a06757365722d321a0908001a0568656c6c6f1a0a08011a06776f72"
    "6c642103a0923db78dc4913c13df92fceb7075"
)
V2 = bytes.fromhex(
    "f3899ac20a016b0a027a7a122731373031343131383334363034363932333137333136383733303337313538383431303537"
    "323812273137303134313138333436303436393233313733313638373330333731353838343130353732391a09080010001a"
    "030001021a06080010001a001a0d080110011a077b226e223a317db7d003654e7ba109f349db45a0da2470"
)
V3 = bytes.fromhex(
    "f3899ac20a0b636cc3a92de697a5e69cac0a0270321201301acd0108001ac801"
    + "41" * 200
    + "1a07080110001a01782c60481a7ba4e821ff6b0d3bc3e6efbe"
)
UPPER = HashKeyRange(2**127, HASH_KEY_MAX)
LOWER = HashKeyRange(0, 2**127 - 1)
FULL = HashKeyRange(0, HASH_KEY_MAX)


def stream_record(data: bytes) -> StreamRecord:
    """Return a stream record with fixed coordinates."""
    return StreamRecord(data, "outer", 77, 1.5)


def members(result: Deaggregated) -> list[tuple[str, int | None, bytes, int, bool]]:
    """Return what tells user records apart."""
    return [
        (each.partition_key, each.explicit_hash_key, each.data, each.position.sub_sequence_number, each.is_last)
        for each in result.records
    ]


def envelope(message: bytes) -> bytes:
    """Wrap a protobuf message as an aggregated record."""
    return MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def build(*records: tuple[bytes, str, int | None]) -> PutEntry:
    """Encode records with our own builder."""
    aggregate = Aggregate()
    for record in records:
        aggregate.append(*record)
    return aggregate.encode()


def test_vector_1_has_two_records_in_the_whole_ring() -> None:
    """Two records without explicit hash keys come out in order with sub-sequence numbers and outer coordinates."""
    expected = [
        UserRecord(b"hello", "user-1", None, Position(77, 0), 1.5, is_last=False),
        UserRecord(b"world!", "user-2", None, Position(77, 1), 1.5, is_last=True),
    ]
    assert expected == deaggregate(stream_record(V1)).records
    assert expected == deaggregate(stream_record(V1), FULL).records
    assert hash_key_of("user-1") == 285573413173782752570879317399258818820
    assert hash_key_of("user-2") == 81544010656874607678696621737415172275


@pytest.mark.parametrize("hash_key_range", [UPPER, LOWER])
def test_one_member_outside_the_shard_drops_all(hash_key_range: HashKeyRange) -> None:
    """The hash range filter is all or nothing, and says that it dropped something."""
    assert Deaggregated([], DropReason.OUT_OF_RANGE, 2) == deaggregate(stream_record(V1), hash_key_range)


def test_vector_2_shares_keys_and_hash_keys() -> None:
    """Tables are shared, empty data is legal, explicit hash keys decide about the range."""
    expected = [
        ("k", 2**127, b"\x00\x01\x02", 0, False),
        ("k", 2**127, b"", 1, False),
        ("zz", 2**127 + 1, b'{"n":1}', 2, True),
    ]
    assert len(V2) == 143
    assert expected == members(deaggregate(stream_record(V2), UPPER))
    assert deaggregate(stream_record(V2), LOWER).dropped_reason is DropReason.OUT_OF_RANGE


def test_vector_3_keeps_absent_and_zero_hash_key_apart() -> None:
    """A record without explicit hash key has none, even if the table's entry 0 is there."""
    expected = [("clé-日本", None, b"A" * 200, 0, False), ("p2", 0, b"x", 1, True)]
    assert expected == members(deaggregate(stream_record(V3)))
    assert hash_key_of("clé-日本") == 294198683064415325921573232518484909649


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(V1[:-1] + b"\x74", id="N1"),
        pytest.param(bytes.fromhex("f3899ac2d41d8cd98f00b204e9800998ecf8427e"), id="N2"),
        pytest.param(bytes.fromhex("f3899ac2"), id="N3"),
        pytest.param(bytes.fromhex("f3899ac2ffffffffffffffffffff013911354ea2e353def5b3f73d26451aee"), id="N6"),
        pytest.param(b"", id="empty"),
        pytest.param(b"plain", id="plain"),
        pytest.param(envelope(b"\x1a\x02\x08\x00"), id="no data"),
        pytest.param(envelope(b"\x1a\x02\x1a\x00"), id="no key index"),
        pytest.param(envelope(b"\x1a\xff\xff\xff\xff\x0f\x08"), id="length beyond the end"),
        pytest.param(envelope(b"\x0a"), id="length missing"),
        pytest.param(envelope(b"\x00\x00"), id="field number 0"),
        pytest.param(envelope(b"\x0f\x00"), id="wire type 7"),
        pytest.param(envelope(b"\x0c"), id="group end without start"),
        pytest.param(envelope(b"\x23" * 100_000), id="groups without end"),
        pytest.param(envelope(b"\x08" + b"\xff" * 11), id="varint of 11 bytes"),
        pytest.param(
            envelope(b"\x0a\x01k\x1a\x05\x08\x00\x1a\x01x\x30" + b"\xff" * 9 + b"\x7f"),
            id="varint of more than 64 bits",
        ),
        pytest.param(envelope(b"\x0a\x01k\x1a\xcd\x01\x08\x00\x1a\xc8\x01" + b"x" * 192), id="8 bytes into the digest"),
    ],
)
def test_what_is_no_aggregate_passes_through_unchanged(data: bytes) -> None:
    """Wrong length, magic, digest or protobuf: one user record with the stream record's own bytes and key."""
    expected = [UserRecord(data, "outer", None, Position(77, 0), 1.5, is_last=True)]
    assert Deaggregated(expected) == deaggregate(stream_record(data), UPPER)


def test_vector_n4_without_records_yields_nothing() -> None:
    """A key table without records is a valid aggregate of zero records."""
    data = bytes.fromhex("f3899ac20a01610da6f998a7e312b8f5235eeeb285497b")
    assert Deaggregated([]) == deaggregate(stream_record(data))


def test_vector_n5_with_a_bad_index_is_counted() -> None:
    """An index outside its table yields nothing of that record, and the caller is told."""
    data = bytes.fromhex("f3899ac20a01611a0408051a00540cfbe2df995fd6347102915dcba608")
    assert Deaggregated([], DropReason.BAD_INDEX, 1) == deaggregate(stream_record(data))


def test_a_bad_index_in_the_middle_keeps_what_came_before() -> None:
    """Records before the broken one are delivered, the last of them marked as such; the rest is counted."""
    message = b"\x0a\x01a" + b"\x1a\x05\x08\x00\x1a\x01x" + b"\x1a\x04\x08\x07\x1a\x00" + b"\x1a\x04\x08\x00\x1a\x00"
    result = deaggregate(stream_record(envelope(message)))
    assert members(result) == [("a", None, b"x", 0, True)]
    assert (result.dropped_reason, result.dropped_count) == (DropReason.BAD_INDEX, 2)


@pytest.mark.parametrize("digits", ["", "-1", "1x", "٣", str(2**128), "0" * 40])
def test_a_bad_explicit_hash_key_is_counted(digits: str) -> None:
    """A hash key that is no number of 0..2^128-1 with at most 39 digits breaks the record that names it."""
    encoded = digits.encode()
    message = b"\x0a\x01a" + b"\x12" + bytes((len(encoded),)) + encoded + b"\x1a\x06\x08\x00\x10\x00\x1a\x00"
    assert Deaggregated([], DropReason.BAD_HASH_KEY, 1) == deaggregate(stream_record(envelope(message)))


def test_more_records_than_fit_the_bound_are_counted_not_built() -> None:
    """A bomb of tiny records is refused as a whole."""
    message = b"\x0a\x01a" + b"\x1a\x04\x08\x00\x1a\x00" * (AGGREGATE_RECORDS_DECODED_MAX + 1)
    expected = Deaggregated([], DropReason.TOO_MANY, AGGREGATE_RECORDS_DECODED_MAX + 1)
    assert expected == deaggregate(stream_record(envelope(message)))


def test_a_nested_aggregate_is_not_expanded() -> None:
    """A user record may hold an aggregate; it stays the user's bytes."""
    result = deaggregate(stream_record(build((V1, "k", None), (b"x", "k", None)).data))
    assert [each.data for each in result.records] == [V1, b"x"]


def test_fields_may_come_in_any_order_with_unknown_ones_between() -> None:
    """Records before tables, tags, groups and fields of a later version are read as protobuf does."""
    member = b"\x22\x03\x0a\x01t" + b"\x1a\x01x" + b"\x08\x05" + b"\x08\x00"
    message = (
        b"\x1a" + bytes((len(member),)) + member + b"\x23\x08\x01\x2b\x2c\x24" + b"\x29" + b"\0" * 8 + b"\x2d\0\0\0\0"
    ) + b"\x0a\x01a"
    assert members(deaggregate(stream_record(envelope(message)))) == [("a", None, b"x", 0, True)]


def test_the_builder_writes_the_vectors() -> None:
    """Our encoder writes V1, V2 and V3 byte for byte; the outer record is `a` and the first hash key."""
    built = build((b"hello", "user-1", None), (b"world!", "user-2", None))
    assert PutEntry(V1, "a", hash_key_of("user-1")) == built
    assert build((b"A" * 200, "clé-日本", None), (b"x", "p2", 0)).data == V3
    second = build((b"\x00\x01\x02", "k", 2**127), (b"", "k", 2**127), (b'{"n":1}', "zz", 2**127 + 1))
    assert PutEntry(V2, "a", 2**127) == second


def test_one_record_stays_unwrapped() -> None:
    """A single user record travels as it is, with its own key and explicit hash key."""
    assert PutEntry(b"x", "k", None) == build((b"x", "k", None))
    assert PutEntry(b"x", "k", 5) == build((b"x", "k", 5))


def test_an_empty_aggregate_is_refused() -> None:
    """There is no stream record without a user record."""
    with pytest.raises(ValueError, match="at least 1 record"):
        Aggregate().encode()


keys = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
hash_keys = st.none() | st.integers(0, HASH_KEY_MAX)
many = st.lists(st.tuples(st.binary(max_size=3000), keys, hash_keys), min_size=2, max_size=200) | st.lists(
    st.tuples(st.binary(max_size=3000), keys, st.none()), min_size=2, max_size=400
)


def message_class() -> Any:
    """Build KPL's message with google.protobuf from a descriptor made here."""
    file = descriptor_pb2.FileDescriptorProto(name="kpl.proto", package="kpl", syntax="proto2")
    record = file.message_type.add(name="Record")
    aggregated = file.message_type.add(name="AggregatedRecord")
    kinds = descriptor_pb2.FieldDescriptorProto
    record.field.add(name="key", number=1, type=kinds.TYPE_UINT64, label=kinds.LABEL_REQUIRED)
    record.field.add(name="hash_key", number=2, type=kinds.TYPE_UINT64, label=kinds.LABEL_OPTIONAL)
    record.field.add(name="data", number=3, type=kinds.TYPE_BYTES, label=kinds.LABEL_REQUIRED)
    aggregated.field.add(name="keys", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_REPEATED)
    aggregated.field.add(name="hash_keys", number=2, type=kinds.TYPE_STRING, label=kinds.LABEL_REPEATED)
    aggregated.field.add(
        name="records", number=3, type=kinds.TYPE_MESSAGE, type_name=".kpl.Record", label=kinds.LABEL_REPEATED
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("kpl.AggregatedRecord"))


ORACLE = message_class()


@settings(deadline=None)
@given(many)
def test_what_is_encoded_comes_back(records: list[tuple[bytes, str, int | None]]) -> None:
    """Encoding and decoding is the identity, for any keys, hash keys and data; the size stays below its bound."""
    bound = AGGREGATE_OVERHEAD_BYTES
    for data, key, hash_key in records:
        bound += len(data) + len(key.encode()) + MEMBER_OVERHEAD_BYTES
        bound += 0 if hash_key is None else HASH_KEY_OVERHEAD_BYTES
    entry = build(*records)
    assert len(entry.data) + len(entry.partition_key) <= bound
    result = deaggregate(stream_record(entry.data))
    assert result.dropped_reason is None
    assert [(key, hash_key, data) for data, key, hash_key in records] == [each[:3] for each in members(result)]
    assert [each.is_last for each in result.records] == [False] * (len(records) - 1) + [True]


@settings(deadline=None)
@given(many)
def test_protobuf_reads_what_we_write_and_we_read_what_it_writes(records: list[tuple[bytes, str, int | None]]) -> None:
    """google.protobuf decodes our aggregates to the same members, and its own encoding decodes with ours."""
    entry = build(*records)
    message = ORACLE.FromString(entry.data[4:-16])
    decoded = [
        (
            each.data,
            message.keys[each.key],
            int(message.hash_keys[each.hash_key]) if each.HasField("hash_key") else None,
        )
        for each in message.records
    ]
    assert records == decoded
    result = deaggregate(stream_record(envelope(message.SerializeToString())))
    assert [(key, hash_key, data) for data, key, hash_key in records] == [each[:3] for each in members(result)]


@settings(deadline=None)
@given(many)
def test_aws_kinesis_agg_reads_what_we_write(records: list[tuple[bytes, str, int | None]]) -> None:
    """The public library decodes our aggregates to the same keys and data."""
    from aws_kinesis_agg import deaggregator  # noqa: PLC0415 - a slow import, only this oracle needs it

    outside = dict.fromkeys(
        ("eventSource", "eventVersion", "eventID", "eventName", "invokeIdentityArn", "awsRegion"), ""
    )
    data = base64.b64encode(build(*records).data).decode()
    wire = outside | {
        "eventSourceARN": "",
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "data": data,
            "partitionKey": "a",
            "sequenceNumber": "7",
            "approximateArrivalTimestamp": 0,
        },
    }
    decoded = [
        (base64.b64decode(each["kinesis"]["data"]), each["kinesis"]["partitionKey"])
        for each in deaggregator.deaggregate_records(wire)
    ]
    assert [(data, key) for data, key, _ in records] == decoded


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"\x0a\x01a", b"\x12\x011", b"\x1a\x04\x08\x00\x1a\x00", b"\x1a", b"\x22\x00", b"\x80"])),
    st.binary(max_size=30),
)
def test_hostile_messages_are_read_as_protobuf_reads_them(parts: list[bytes], tail: bytes) -> None:
    """Where google.protobuf refuses a message we pass it through; where it accepts, we see as many members."""
    message = b"".join(parts) + tail
    result = deaggregate(stream_record(envelope(message)))
    try:
        oracle = ORACLE.FromString(message)
        if not oracle.IsInitialized():
            oracle = SimpleNamespace(records=None)
    except Exception:  # noqa: BLE001 - the oracle's own error type differs between its back-ends
        oracle = SimpleNamespace(records=None)
    if oracle.records is None:
        assert [envelope(message)] == [each.data for each in result.records]
    elif message:
        assert len(oracle.records) == len(result.records) + result.dropped_count
