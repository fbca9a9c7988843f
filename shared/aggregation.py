"""The KPL aggregated record: many user records inside one stream record, written as KPL does and read as KCL does.

Layout: 4 bytes of magic, a protobuf message (proto2), 16 bytes of MD5 over the message. The message has
1 = repeated string partition_key_table, 2 = repeated string explicit_hash_key_table, 3 = repeated Record; a Record has
1 = required uint64 partition_key_index, 2 = optional uint64 explicit_hash_key_index, 3 = required bytes data.
Sources: amazon-kinesis-producer `aggregation-format.md` and `messages.proto`; amazon-kinesis-client
`AggregatorUtil.java`.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Any, Final, NamedTuple

from shared.hash_key import HashKeyRange, hash_key_of
from shared.limits import AGGREGATE_RECORDS_DECODED_MAX, HASH_KEY_MAX
from shared.records import Position, PutEntry, StreamRecord, UserRecord

MAGIC: Final = b"\xf3\x89\x9a\xc2"
OUTER_PARTITION_KEY: Final = "a"  # what KPL sends; no user's key, so that nobody mistakes it for one
_DIGEST_BYTES: Final = 16
_OVERHEAD_BYTES: Final = len(MAGIC) + _DIGEST_BYTES
_KEY_OVERHEAD_BYTES: Final = 4  # tag and length of a table entry of up to 1,024 bytes, rounded up
_RECORD_OVERHEAD_BYTES: Final = 24  # tags, lengths and two indexes of a record, rounded up
_HASH_KEY_DIGITS_MAX: Final = 39

# Field tags: number << 3 | wire type.
_TAG_PARTITION_KEY: Final = 1 << 3 | 2
_TAG_HASH_KEY: Final = 2 << 3 | 2
_TAG_RECORD: Final = 3 << 3 | 2
_TAG_KEY_INDEX: Final = 1 << 3
_TAG_HASH_KEY_INDEX: Final = 2 << 3
_TAG_DATA: Final = 3 << 3 | 2

_WIRE_VARINT: Final = 0
_WIRE_FIXED64: Final = 1
_WIRE_BYTES: Final = 2
_WIRE_GROUP_START: Final = 3
_WIRE_GROUP_END: Final = 4
_WIRE_FIXED32: Final = 5
_VARINT_BYTES_MAX: Final = 10
_UINT64_MAX: Final = 2**64 - 1
_UINT32_MAX: Final = 2**32 - 1
_GROUP_DEPTH_MAX: Final = 32
_CONTINUED: Final = 0x80


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= _CONTINUED:
        encoded.append(value & 0x7F | _CONTINUED)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# The bytes around a short record without explicit hash key are the same for each length: made once.
_SHORT_DATA_BYTES: Final = 2048
_SHORT_INDEXES: Final = 128
_SHORT_HEADS: Final = [
    b"\x1a" + _varint(2 + 1 + len(_varint(size)) + size) + b"\x08" for size in range(_SHORT_DATA_BYTES)
]
_SHORT_LENGTHS: Final = [b"\x1a" + _varint(size) for size in range(_SHORT_DATA_BYTES)]
_SHORT_VARINTS: Final = [bytes((value,)) for value in range(_SHORT_INDEXES)]


class Aggregate:
    """Builds one stream record out of user records, in the order in which they are appended.

    Keys are stored once; the explicit hash key table holds only what a user supplied, in normalised decimal.
    """

    __slots__ = ("_first", "_hash_keys", "_keys", "_records", "_tables", "count")

    def __init__(self) -> None:
        self._keys: dict[str, int] = {}
        self._hash_keys: dict[int, int] = {}
        self._tables = bytearray()
        self._records = bytearray()
        self._first: PutEntry | None = None
        self.count = 0

    @property
    def size(self) -> int:
        """Bytes of the aggregate as it would be encoded now, without its outer partition key."""
        return _OVERHEAD_BYTES + len(self._tables) + len(self._records)

    def size_after(self, data: bytes, partition_key: str) -> int:
        """Return what `size` is at most once a record is appended (never less than the truth)."""
        size = self.size + len(data) + _RECORD_OVERHEAD_BYTES + _HASH_KEY_DIGITS_MAX
        if partition_key in self._keys:
            return size
        return size + 4 * len(partition_key) + _KEY_OVERHEAD_BYTES

    def append(self, data: bytes, partition_key: str, explicit_hash_key: int | None = None) -> int:
        """Append a user record; return `size` afterwards."""
        index = self._keys.get(partition_key)
        if index is None:
            index = self._add_key(partition_key)
        if not self.count:
            self._first = PutEntry(data, partition_key, explicit_hash_key)
        self.count += 1
        records = self._records
        length = len(data)
        if explicit_hash_key is None and index < _SHORT_INDEXES and length < _SHORT_DATA_BYTES:
            records += _SHORT_HEADS[length] + _SHORT_VARINTS[index] + _SHORT_LENGTHS[length]
            records += data
        else:
            self._append_long(index, explicit_hash_key, data)
        return _OVERHEAD_BYTES + len(self._tables) + len(records)

    def _add_key(self, partition_key: str) -> int:
        index = len(self._keys)
        self._keys[partition_key] = index
        encoded = partition_key.encode()
        self._tables += b"\x0a" + _varint(len(encoded)) + encoded
        return index

    def _append_long(self, index: int, explicit_hash_key: int | None, data: bytes) -> None:
        head = b"\x08" + _varint(index)
        if explicit_hash_key is not None:
            hash_index = self._hash_keys.get(explicit_hash_key)
            if hash_index is None:
                hash_index = len(self._hash_keys)
                self._hash_keys[explicit_hash_key] = hash_index
                digits = str(explicit_hash_key).encode()
                self._tables += b"\x12" + _varint(len(digits)) + digits
            head += b"\x10" + _varint(hash_index)
        head += b"\x1a" + _varint(len(data))
        self._records += b"\x1a" + _varint(len(head) + len(data)) + head
        self._records += data

    def encode(self) -> PutEntry:
        """Return the stream record: unwrapped for a single user record, as KPL does; ValueError if there is none.

        An aggregate goes to the shard of its first record, by an explicit hash key on the outside.
        """
        if self._first is None:
            msg = "an aggregate needs at least 1 record, it has 0"
            raise ValueError(msg)
        if self.count == 1:
            return self._first
        digest = hashlib.md5(self._tables, usedforsecurity=False)
        digest.update(self._records)
        data = b"".join((MAGIC, self._tables, self._records, digest.digest()))
        first = self._first
        hash_key = first.explicit_hash_key
        return PutEntry(data, OUTER_PARTITION_KEY, hash_key_of(first.partition_key) if hash_key is None else hash_key)


class DropReason(Enum):
    """Why user records of a valid aggregate can't be delivered; KCL loses them without a word."""

    OUT_OF_RANGE = "member-outside-shard"  # a hash key outside the shard: the producer sends all members again
    BAD_INDEX = "table-index-out-of-range"
    BAD_HASH_KEY = "bad-explicit-hash-key"
    TOO_MANY = "too-many-records"


class Deaggregated(NamedTuple):
    """The user records of a stream record, and why some of its members are missing (None: none is)."""

    records: list[UserRecord]
    dropped_reason: DropReason | None = None
    dropped_count: int = 0


class _Malformed(Exception):  # noqa: N818 - never leaves this module: it means "not an aggregate"
    pass


# Key index, explicit hash key index if there is one, data.
_Member = tuple[int, int | None, bytes]

# Half the time of a NamedTuple's own constructor; a page of 10,000 records makes 20,000 of them.
_new_tuple: Final[Any] = tuple.__new__


def deaggregate(record: StreamRecord, hash_key_range: HashKeyRange | None = None) -> Deaggregated:
    """Split a stream record into its user records by KCL's rules; what is no aggregate passes through unchanged.

    With the shard's `hash_key_range`, one member outside drops all members, as in KCL: the producer resends them all.
    Nested aggregates are not expanded. Time and memory are linear in the record's length.
    """
    data = record.data
    if (
        not data.startswith(MAGIC)
        or len(data) <= _OVERHEAD_BYTES
        or hashlib.md5(memoryview(data)[len(MAGIC) : -_DIGEST_BYTES], usedforsecurity=False).digest()
        != data[-_DIGEST_BYTES:]
    ):
        return _plain(record)
    try:
        keys, hash_keys, members = _parse(data, len(MAGIC), len(data) - _DIGEST_BYTES)
    except _Malformed:
        return _plain(record)
    if len(members) > AGGREGATE_RECORDS_DECODED_MAX:
        return Deaggregated([], DropReason.TOO_MANY, len(members))
    return _walk(record, keys, hash_keys, members, hash_key_range)


def _plain(record: StreamRecord) -> Deaggregated:
    data, partition_key, sequence_number, arrival = record
    position = _new_tuple(Position, (sequence_number, 0))
    user_record = _new_tuple(UserRecord, (data, partition_key, None, position, arrival, True))
    return _new_tuple(Deaggregated, ([user_record], None, 0))  # type: ignore[no-any-return] # it is what it was made as


def _walk(
    record: StreamRecord,
    keys: list[str],
    hash_keys: list[str],
    members: list[_Member],
    hash_key_range: HashKeyRange | None,
) -> Deaggregated:
    sequence_number = record.sequence_number
    arrival = record.arrival_timestamp
    last = len(members) - 1
    records: list[UserRecord] = []
    inside: set[int] = set()  # key indexes whose hash was looked at: keys repeat, MD5 is not free
    key_count = len(keys)
    for sub, (key_index, hash_key_index, data) in enumerate(members):
        explicit = None
        if key_index >= key_count or (hash_key_index is not None and hash_key_index >= len(hash_keys)):
            return _cut(records, DropReason.BAD_INDEX, len(members))
        if hash_key_index is not None:
            explicit = _decimal(hash_keys[hash_key_index])
            if explicit is None:
                return _cut(records, DropReason.BAD_HASH_KEY, len(members))
        key = keys[key_index]
        if hash_key_range is not None:
            if explicit is not None:
                if explicit not in hash_key_range:
                    return Deaggregated([], DropReason.OUT_OF_RANGE, len(members))
            elif key_index not in inside:
                if hash_key_of(key) not in hash_key_range:
                    return Deaggregated([], DropReason.OUT_OF_RANGE, len(members))
                inside.add(key_index)
        position = _new_tuple(Position, (sequence_number, sub))
        records.append(_new_tuple(UserRecord, (data, key, explicit, position, arrival, sub == last)))
    return Deaggregated(records)


def _cut(records: list[UserRecord], reason: DropReason, total: int) -> Deaggregated:
    """Keep what came before the broken member, as KCL does, and say how many are missing."""
    if records:
        records[-1] = records[-1]._replace(is_last=True)
    return Deaggregated(records, reason, total - len(records))


def _decimal(text: str) -> int | None:
    if len(text) > _HASH_KEY_DIGITS_MAX or not text.isascii() or not text.isdecimal():
        return None
    value = int(text)
    return value if value <= HASH_KEY_MAX else None


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
        if at >= end:
            raise _Malformed
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < _CONTINUED:
            if value > _UINT64_MAX:
                raise _Malformed
            return value, at
    raise _Malformed


def _read_length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return where a length-delimited field's content starts and ends."""
    if at < end and data[at] < _CONTINUED:
        start, stop = at + 1, at + 1 + data[at]
    else:
        length, start = _read_varint(data, at, end)
        stop = start + length
    if stop > end:
        raise _Malformed
    return start, stop


def _parse(data: bytes, at: int, end: int) -> tuple[list[str], list[str], list[_Member]]:
    keys: list[str] = []
    hash_keys: list[str] = []
    members: list[_Member] = []
    while at < end:
        tag = data[at]
        if tag == _TAG_RECORD:
            start, at = _read_length(data, at + 1, end)
            members.append(_parse_short_member(data, start, at) or _parse_member(data, start, at))
            if len(members) > AGGREGATE_RECORDS_DECODED_MAX:
                members[-1] = members[0]  # only the number still matters: the whole record becomes a dead letter
        elif tag == _TAG_PARTITION_KEY:
            start, at = _read_length(data, at + 1, end)
            keys.append(data[start:at].decode(errors="replace"))
        elif tag == _TAG_HASH_KEY:
            start, at = _read_length(data, at + 1, end)
            hash_keys.append(data[start:at].decode(errors="replace"))
        else:
            at = _skip_field(data, at, end, depth=0)
    return keys, hash_keys, members


def _parse_short_member(data: bytes, at: int, end: int) -> _Member | None:
    """Read what nearly every member is: an index below 128 and fewer than 16 KiB of data, in this order.

    It may look up to 5 bytes beyond `end`: the digest lies there, so that they exist.
    """
    if data[at] == _TAG_KEY_INDEX and data[at + 1] < _CONTINUED and data[at + 2] == _TAG_DATA:
        length = data[at + 3]
        start = at + 4
        if length >= _CONTINUED:
            if data[at + 4] >= _CONTINUED:
                return None
            length += (data[at + 4] - 1) << 7
            start = at + 5
        if start + length == end:
            return data[at + 1], None, data[start:end]
    return None


def _parse_member(data: bytes, at: int, end: int) -> _Member:
    key_index: int | None = None
    hash_key_index: int | None = None
    content: tuple[int, int] | None = None
    while at < end:
        tag = data[at]
        if tag == _TAG_DATA:
            content = _read_length(data, at + 1, end)
            at = content[1]
        elif tag == _TAG_KEY_INDEX:
            key_index, at = _read_varint(data, at + 1, end)
        elif tag == _TAG_HASH_KEY_INDEX:
            hash_key_index, at = _read_varint(data, at + 1, end)
        else:
            at = _skip_field(data, at, end, depth=0)
    if key_index is None or content is None:
        raise _Malformed
    return key_index, hash_key_index, data[content[0] : content[1]]


def _skip_field(data: bytes, at: int, end: int, *, depth: int) -> int:
    """Step over a field that is not ours (tags, or what a later version adds); return where the next one starts."""
    start = at
    tag, at = _read_varint(data, at, end)
    number, wire = tag >> 3, tag & 7
    # A tag in more bytes than it needs is written by nobody; taking it for an unknown field could lose a member.
    if not number or depth > _GROUP_DEPTH_MAX or (at - start > 1 and not data[at - 1]) or tag > _UINT32_MAX:
        raise _Malformed
    if wire == _WIRE_VARINT:
        return _read_varint(data, at, end)[1]
    if wire == _WIRE_BYTES:
        return _read_length(data, at, end)[1]
    if wire == _WIRE_FIXED64:
        at += 8
    elif wire == _WIRE_FIXED32:
        at += 4
    elif wire == _WIRE_GROUP_START:
        return _skip_group(data, at, end, number, depth)
    else:
        raise _Malformed
    if at > end:
        raise _Malformed
    return at


def _skip_group(data: bytes, at: int, end: int, number: int, depth: int) -> int:
    while True:
        tag, after = _read_varint(data, at, end)
        if tag == number << 3 | _WIRE_GROUP_END:
            return after
        at = _skip_field(data, at, end, depth=depth + 1)
