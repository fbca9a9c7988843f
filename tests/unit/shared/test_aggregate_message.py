"""The quick way through an aggregate's message, beside the way that reads any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import aggregate_message
from shared.aggregate_message import MalformedMessageError, Tables, parse_message
from shared.aggregation import MAGIC, deaggregate
from shared.records import StreamRecord
from tests.support.aggregate import Aggregate

_DIGEST = bytes(16)
_SIZES = st.sampled_from((0, 1, 100, 122, 123, 127, 128, 129, 300, 2047, 2048, 16_375, 16_383, 16_384, 20_000))
_MEMBERS = st.lists(st.tuples(_SIZES, st.integers(0, 3), st.none() | st.integers(0, 2)), min_size=2, max_size=8)


def message_of(members: list[tuple[int, int, int | None]], keys_before: int) -> bytes:
    """Return a message whose key table begins with `keys_before` keys of records that are not in `members`."""
    aggregate = Aggregate()
    for number in range(keys_before):
        aggregate.append(b"", f"before-{number}")
    for size, key, hash_key in members:
        aggregate.append(b"x" * size, f"key-{key}", hash_key)
    return aggregate.encode().data[len(MAGIC) : -len(_DIGEST)]


def read_slowly(message: bytes) -> Tables | None:
    """Read field by field, each the general way; None for what is malformed."""
    tables, at = Tables(), 0
    try:
        while at < len(message):
            at = aggregate_message._parse_field(message + _DIGEST, at, len(message), tables)
    except MalformedMessageError:
        return None
    return tables


def read(message: bytes) -> Tables | None:
    """Read as the product does; None for what is malformed."""
    try:
        return parse_message(message + _DIGEST, 0, len(message))
    except MalformedMessageError:
        return None


_KEYS = st.text("ab\n\t", max_size=3) | st.sampled_from(("ä", "\U0001f600", "x" * 127, "x" * 128, "\n" * 8))


@given(st.lists(_KEYS, max_size=6) | _KEYS.flatmap(lambda key: st.lists(st.just(key), max_size=6)), st.integers(0, 3))
def test_keys_of_one_size_are_read_as_others(keys: list[str], cut: int) -> None:
    """The table of keys is read alike at once and one by one: whatever the keys hold, and if the last one is cut."""
    fields = b"".join(b"\x0a" + _length(key.encode()) + key.encode() for key in keys) + b"\x1a\x04\x08\x00\x1a\x00"
    for message in (fields, fields[: len(fields) - 6 - cut] if len(fields) > 6 + cut else b""):
        assert read(message) == read_slowly(message)


def _length(data: bytes) -> bytes:
    size = len(data)
    return bytes((size,)) if size < 128 else bytes((size & 127 | 128, size >> 7))


@given(_MEMBERS, st.sampled_from((0, 126, 127, 128, 300)))
def test_members_of_any_size_and_index_are_read(members: list[tuple[int, int, int | None]], keys_before: int) -> None:
    """Whatever bytes lengths and indexes take, each member comes once, in order, with its own key and data."""
    message = message_of(members, keys_before)
    tables = read(message)
    assert tables is not None
    assert tables == read_slowly(message)
    found = [tables.keys[index] for index in tables.key_indexes[keys_before:]]
    assert found == [f"key-{key}" for _, key, _ in members]
    assert [len(data) for data in tables.datas[keys_before:]] == [size for size, _, _ in members]


@given(_MEMBERS, st.sampled_from((0, 130)), st.data())
def test_a_damaged_message_is_read_alike_both_ways(
    members: list[tuple[int, int, int | None]], keys_before: int, data: st.DataObject
) -> None:
    """Where the quick way is not sure, the general one decides: no damage makes them differ."""
    message = bytearray(message_of(members, keys_before))
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    assert read(bytes(message)) == read_slowly(bytes(message))


@pytest.mark.parametrize("size", [127, 128, 5_000])
def test_long_records_of_one_aggregate_keep_their_places(size: int) -> None:
    """Sub-sequence numbers count the members from 0; only the last one is the last."""
    aggregate = Aggregate()
    for number in range(200):
        aggregate.append(b"%03d" % number + b"x" * size, f"key-{number}")
    found = deaggregate(StreamRecord(aggregate.encode().data, "a", 7, 1.5)).records
    assert [each.data[:3] for each in found] == [b"%03d" % number for number in range(200)]
    assert [(each.position.sub_sequence_number, each.partition_key) for each in found] == [
        (number, f"key-{number}") for number in range(200)
    ]
    assert [each.is_last for each in found] == [False] * 199 + [True]
