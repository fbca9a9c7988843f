"""The KPL aggregated record: many user records inside one stream record, written as KPL does and read as KCL does.

Layout: 4 bytes of magic, a protobuf message (proto2), 16 bytes of MD5 over the message. The message has
1 = repeated string partition_key_table, 2 = repeated string explicit_hash_key_table, 3 = repeated Record; a Record has
1 = required uint64 partition_key_index, 2 = optional uint64 explicit_hash_key_index, 3 = required bytes data.
Sources: amazon-kinesis-producer `aggregation-format.md` and `messages.proto`; amazon-kinesis-client
`AggregatorUtil.java`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from enum import Enum
from itertools import count, repeat
from typing import Any, Final, NamedTuple

from shared.aggregate_message import MalformedMessageError, Tables, parse_message
from shared.compiled import COLUMNS
from shared.hash_key import FULL_RANGE, HashKeyRange, hash_key_of
from shared.limits import AGGREGATE_RECORDS_DECODED_MAX, HASH_KEY_MAX
from shared.records import Position, PutEntry, StreamRecord, UserRecord

MAGIC: Final = b"\xf3\x89\x9a\xc2"
OUTER_PARTITION_KEY: Final = "a"  # what KPL sends; no user's key, so that nobody mistakes it for one
_DIGEST_BYTES: Final = 16
_OVERHEAD_BYTES: Final = len(MAGIC) + _DIGEST_BYTES
AGGREGATE_OVERHEAD_BYTES: Final = _OVERHEAD_BYTES + len(OUTER_PARTITION_KEY)
MEMBER_OVERHEAD_BYTES: Final = 20  # tags and lengths of a member and its key, and an index of up to 4 bytes
HASH_KEY_OVERHEAD_BYTES: Final = 48  # what an explicit hash key adds
_HASH_KEY_DIGITS_MAX: Final = 39

_CONTINUED: Final = 0x80


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= _CONTINUED:
        encoded.append(value & 0x7F | _CONTINUED)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# The bytes around a short record without explicit hash key are the same for each length and index: made once.
_SHORT_DATA_BYTES: Final = 2048
_ONE_BYTE_INDEXES: Final = 128
_SHORT_INDEXES: Final = 2048
_SHORT_LENGTHS: Final = [b"\x1a" + _varint(size) for size in range(_SHORT_DATA_BYTES)]
_HEADS_BY_INDEX_BYTES: Final = [
    [b"\x1a" + _varint(1 + index_bytes + len(length) + size) + b"\x08" for size, length in enumerate(_SHORT_LENGTHS)]
    for index_bytes in (1, 2)
]
_SHORT_KEY_BYTES: Final = 128
_SHORT_VARINTS: Final = [_varint(value) for value in range(_SHORT_INDEXES)]
_PARTS_PER_MEMBER: Final = 4
_new_tuple: Final[Any] = tuple.__new__  # half the time of a NamedTuple's own constructor


# User records of one stream record: data, partition keys, and explicit hash keys if any has one.
Group = tuple[list[bytes], list[str], list[int | None] | None]


def encode_aggregates(groups: Sequence[Group]) -> list[PutEntry]:
    """Do what `encode_aggregate` does for each group; together, as sixteen digests take hardly longer than one."""
    if COLUMNS is None:
        return [encode_aggregate(*group) for group in groups]
    plain = [(datas, keys) for datas, keys, hash_keys in groups if hash_keys is None and len(datas) > 1]
    written = COLUMNS.encode_aggregates(plain)
    if written is None:  # a key that is not ASCII
        return [encode_aggregate(*group) for group in groups]
    ready = iter(written)
    return [
        PutEntry(next(ready), OUTER_PARTITION_KEY, hash_key_of(keys[0]))
        if hash_keys is None and len(datas) > 1
        else encode_aggregate(datas, keys, hash_keys)
        for datas, keys, hash_keys in groups
    ]


def encode_plain(datas: Sequence[list[bytes]], keys: Sequence[list[str]]) -> list[PutEntry]:
    """Do what `encode_aggregates` does where no record has an explicit hash key."""
    groups = list(zip(datas, keys, strict=True))
    if COLUMNS is None or not all(map((1).__lt__, map(len, datas))):
        return encode_aggregates([(*group, None) for group in groups])
    written = COLUMNS.encode_aggregates(groups)
    if written is None:  # a key that is not ASCII
        return [encode_aggregate(*group) for group in groups]
    columns = zip(written, repeat(OUTER_PARTITION_KEY), [hash_key_of(each[0]) for each in keys], strict=False)
    return [_new_tuple(PutEntry, each) for each in columns]


def encode_aggregate(
    datas: Sequence[bytes], partition_keys: Sequence[str], hash_keys: Sequence[int | None] | None = None
) -> PutEntry:
    """Return the stream record of user records: unwrapped if it is one, as KPL does; ValueError if there is none.

    There is a partition key for each record and, with `hash_keys`, an explicit hash key or None. Keys are stored once,
    explicit hash keys in normalised decimal. An aggregate goes to the shard of its first record, by an explicit hash
    key on the outside. Beyond data and keys (in UTF-8) it has at most AGGREGATE_OVERHEAD_BYTES, MEMBER_OVERHEAD_BYTES
    for each member, and HASH_KEY_OVERHEAD_BYTES for each explicit hash key.
    """
    if not datas:
        msg = "an aggregate needs at least 1 record, it has 0"
        raise ValueError(msg)
    outer = None if hash_keys is None else hash_keys[0]
    if len(datas) == 1:
        return PutEntry(datas[0], partition_keys[0], outer)
    unique = dict.fromkeys(partition_keys)
    parts = [_key_table(unique)]
    # Mostly each record has a key of its own, and the first of them is the first of the table.
    indexes: Sequence[int] = range(len(datas))
    if len(unique) < len(datas):
        places = dict(zip(unique, count(), strict=False))
        indexes = list(map(places.__getitem__, partition_keys))
    if hash_keys is None:
        _write_plain(parts, indexes, len(unique), datas)
    else:
        _write_mixed(parts, indexes, hash_keys, datas)
    message = b"".join(parts)
    digest = hashlib.md5(message, usedforsecurity=False).digest()
    data = b"".join((MAGIC, message, digest))
    return PutEntry(data, OUTER_PARTITION_KEY, hash_key_of(partition_keys[0]) if outer is None else outer)


def _key_table(keys: Collection[str]) -> bytes:
    sizes = {*map(len, keys)}
    if len(sizes) == 1 and (size := sizes.pop()) < _SHORT_KEY_BYTES:
        head = "\n" + chr(size)
        text = head + head.join(keys)
        if text.isascii():  # so that each key has as many bytes as characters
            return text.encode("ascii")
    encoded = map(str.encode, keys)
    return b"".join(part for key in encoded for part in (b"\x0a", _varint(len(key)), key))


def _write_plain(parts: list[bytes], indexes: Sequence[int], index_end: int, datas: Sequence[bytes]) -> None:
    sizes = list(map(len, datas))
    if max(sizes) >= _SHORT_DATA_BYTES or index_end > _SHORT_INDEXES:
        for index, data in zip(indexes, datas, strict=True):
            _write_member(parts, index, None, data)
        return
    columns: list[bytes] = [b""] * (_PARTS_PER_MEMBER * len(datas))
    columns[0::4] = _member_heads(indexes, index_end, sizes)
    is_counted = isinstance(indexes, range)
    columns[1::4] = _SHORT_VARINTS[:index_end] if is_counted else map(_SHORT_VARINTS.__getitem__, indexes)
    columns[2::4] = map(_SHORT_LENGTHS.__getitem__, sizes)
    columns[3::4] = datas
    parts += columns


def _member_heads(indexes: Sequence[int], index_end: int, sizes: list[int]) -> Iterable[bytes]:
    one, two = _HEADS_BY_INDEX_BYTES
    if index_end <= _ONE_BYTE_INDEXES:
        return map(one.__getitem__, sizes)
    if isinstance(indexes, range):
        few, many = sizes[:_ONE_BYTE_INDEXES], sizes[_ONE_BYTE_INDEXES:]
        return [*map(one.__getitem__, few), *map(two.__getitem__, many)]
    return [(two if index >= _ONE_BYTE_INDEXES else one)[size] for index, size in zip(indexes, sizes, strict=True)]


def _write_mixed(
    parts: list[bytes], indexes: Iterable[int], hash_keys: Sequence[int | None], datas: Iterable[bytes]
) -> None:
    unique = dict.fromkeys(each for each in hash_keys if each is not None)
    places = dict(zip(unique, count(), strict=False))
    for hash_key in unique:
        digits = b"%d" % hash_key
        parts += (b"\x12", _varint(len(digits)), digits)
    for index, hash_key_or_none, data in zip(indexes, hash_keys, datas, strict=True):
        place = None if hash_key_or_none is None else places[hash_key_or_none]
        _write_member(parts, index, place, data)


def _write_member(parts: list[bytes], index: int, hash_index: int | None, data: bytes) -> None:
    head = b"\x08" + _varint(index)
    if hash_index is not None:
        head += b"\x10" + _varint(hash_index)
    head += b"\x1a" + _varint(len(data))
    parts += (b"\x1a", _varint(len(head) + len(data)), head, data)


class DropReason(Enum):
    """Why user records of a valid aggregate can't be delivered; KCL loses them without a word."""

    OUT_OF_RANGE = "member-outside-shard"  # a hash key outside the shard: the producer sends all members again
    BAD_INDEX = "table-index-out-of-range"
    BAD_HASH_KEY = "bad-explicit-hash-key"
    TOO_MANY = "too-many-records"


class Members(NamedTuple):
    """The user records of a stream record in columns, and why some are missing (None: none is).

    Columns, because an object per record costs more than to read the record.
    """

    datas: list[bytes]
    keys: list[str]
    hash_keys: dict[int, int]  # the explicit ones, by the number of the record
    dropped_reason: DropReason | None = None
    dropped_count: int = 0


class Deaggregated(NamedTuple):
    """The user records of a stream record, and why some of its members are missing (None: none is)."""

    records: list[UserRecord]
    dropped_reason: DropReason | None = None
    dropped_count: int = 0


def deaggregate(record: StreamRecord, hash_key_range: HashKeyRange | None = None) -> Deaggregated:
    """Split a stream record into its user records; see `split`."""
    number, arrival = record.sequence_number, record.arrival_timestamp
    datas, keys, hash_keys, reason, dropped = split(record, hash_key_range)
    last = len(datas) - 1
    records = [
        UserRecord(data, key, hash_keys.get(sub), Position(number, sub), arrival, sub == last)
        for sub, (data, key) in enumerate(zip(datas, keys, strict=True))
    ]
    return Deaggregated(records, reason, dropped)


def are_aggregates(datas: Sequence[bytes]) -> Iterable[bool]:
    """Return of each data of a stream record whether they are an aggregate, by magic and digest."""
    return map(_is_aggregate, datas) if COLUMNS is None else COLUMNS.are_aggregates(list(datas))


def _is_aggregate(data: bytes) -> bool:
    if not data.startswith(MAGIC) or len(data) <= _OVERHEAD_BYTES:
        return False
    message = memoryview(data)[len(MAGIC) : -_DIGEST_BYTES]
    return hashlib.md5(message, usedforsecurity=False).digest() == data[-_DIGEST_BYTES:]


def split(
    record: StreamRecord, hash_key_range: HashKeyRange | None = None, *, is_aggregate: bool | None = None
) -> Members:
    """Split a stream record into its user records by KCL's rules; what is no aggregate passes through unchanged.

    With the shard's `hash_key_range`, one member outside drops all members, as in KCL: the producer resends them all.
    `is_aggregate` is what `are_aggregates` tells of it, where somebody has asked that already.
    Nested aggregates are not expanded. Time and memory are linear in the record's length.
    """
    data = record.data
    if not (_is_aggregate(data) if is_aggregate is None else is_aggregate):
        return Members([data], [record.partition_key], {})
    found = None if COLUMNS is None else COLUMNS.read_aggregate(data, AGGREGATE_RECORDS_DECODED_MAX)
    if found is not None:
        return _in_range(Members(*found, {}), hash_key_range)
    try:
        tables = parse_message(data, len(MAGIC), len(data) - _DIGEST_BYTES)
    except MalformedMessageError:
        return Members([data], [record.partition_key], {})
    if len(tables.datas) > AGGREGATE_RECORDS_DECODED_MAX:
        return Members([], [], {}, DropReason.TOO_MANY, len(tables.datas))
    return _in_range(_resolve(tables), hash_key_range)


def _resolve(tables: Tables) -> Members:
    """Look up the keys of all records, up to the first one whose keys can't be had, as KCL does."""
    datas, reason = tables.datas, None
    total = whole = len(datas)
    try:
        keys = list(map(tables.keys.__getitem__, tables.key_indexes))
    except IndexError:
        whole = next(sub for sub, index in enumerate(tables.key_indexes) if index >= len(tables.keys))
        keys = [tables.keys[index] for index in tables.key_indexes[:whole]]
        reason = DropReason.BAD_INDEX
    explicit: dict[int, int] = {}
    for sub, index in tables.hash_key_indexes.items():
        if sub >= whole:
            break
        value = _decimal(tables.hash_keys[index]) if index < len(tables.hash_keys) else None
        if value is None:
            reason = DropReason.BAD_HASH_KEY if index < len(tables.hash_keys) else DropReason.BAD_INDEX
            whole = sub
            break
        explicit[sub] = value
    if whole < total:
        del datas[whole:], keys[whole:]
    return Members(datas, keys, explicit, reason, total - whole)


def _in_range(members: Members, hash_key_range: HashKeyRange | None) -> Members:
    """Return members as they are if all of them belong to the range, else none of them."""
    if hash_key_range is None or _lies_in(hash_key_range, members.keys, members.hash_keys):
        return members
    return Members([], [], {}, DropReason.OUT_OF_RANGE, len(members.datas) + members.dropped_count)


def _lies_in(hash_key_range: HashKeyRange, keys: list[str], explicit: dict[int, int]) -> bool:
    """Whether every record belongs to the range."""
    if hash_key_range == FULL_RANGE:
        return True
    hashed = [key for sub, key in enumerate(keys) if sub not in explicit] if explicit else keys
    return all(value in hash_key_range for value in explicit.values()) and hash_key_range.holds_all(hashed)


def _decimal(text: str) -> int | None:
    if len(text) > _HASH_KEY_DIGITS_MAX or not text.isascii() or not text.isdecimal():
        return None
    value = int(text)
    return value if value <= HASH_KEY_MAX else None
