"""Reads the protobuf message of a KPL aggregated record in bounded time and memory; its layout: shared.aggregation."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from shared.limits import AGGREGATE_RECORDS_DECODED_MAX

# Field tags: number << 3 | wire type.
_TAG_PARTITION_KEY: Final = 1 << 3 | 2
_TAG_HASH_KEY: Final = 2 << 3 | 2
_TAG_RECORD: Final = 3 << 3 | 2
_TAGS: Final = frozenset((_TAG_PARTITION_KEY, _TAG_HASH_KEY, _TAG_RECORD))
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
_LOW: Final = 0x7F  # what a byte of a varint adds

_KEY_TAG: Final = bytes((_TAG_PARTITION_KEY,))
_MEMBER_BYTES_MIN: Final = 6
# The first nine bytes of a record.
_HEAD: Final = struct.Struct("9B")


class MalformedMessageError(Exception):
    """The bytes are no such message; the stream record is then no aggregate, whatever its digest says."""


# Key index, explicit hash key index if there is one, data.
Member = tuple[int, int | None, bytes]


@dataclass(slots=True)
class Tables:
    """What the message holds: two tables, and its records in columns: an object each costs more than to read them."""

    keys: list[str] = field(default_factory=list)
    hash_keys: list[str] = field(default_factory=list)
    key_indexes: list[int] = field(default_factory=list)
    hash_key_indexes: dict[int, int] = field(default_factory=dict)  # by the number of the record, rising
    datas: list[bytes] = field(default_factory=list)

    def append(self, member: Member) -> None:
        """Add a record; beyond the bound only its number matters, as the whole aggregate becomes a dead letter."""
        key_index, hash_key_index, data = member
        if hash_key_index is not None:
            self.hash_key_indexes[len(self.datas)] = hash_key_index
        self.key_indexes.append(key_index)
        self.datas.append(data if len(self.datas) < AGGREGATE_RECORDS_DECODED_MAX else b"")


def parse_message(data: bytes, at: int, end: int) -> Tables:
    """Parse the message in `data[at:end]`, behind which 16 bytes of digest must follow; MalformedMessageError."""
    tables = Tables()
    at = _read_even_keys(data, at, end, tables)
    # No more records than are kept begin before this, so that they need not be counted.
    until = min(end, at + _MEMBER_BYTES_MIN * AGGREGATE_RECORDS_DECODED_MAX)
    at = _read_ordinary(data, at, until, end, tables)
    while at < end:
        at = _parse_field(data, at, end, tables)
    return tables


def _read_ordinary(data: bytes, at: int, until: int, end: int, tables: Tables) -> int:
    """Take all fields that begin before `until`; return where the next one starts."""
    add_index, add_data = tables.key_indexes.append, tables.datas.append
    unpack, more, low = _HEAD.unpack_from, _CONTINUED, _LOW
    while at < until:
        # What nearly every record is: 128 bytes to 16 KiB, so that its lengths take two bytes, an index of one or
        # two, and no explicit hash key. The digest lies behind `end`, so that nine bytes are there.
        tag, outer, high, first, index, a, b, c, d = unpack(data, at)
        if tag == _TAG_RECORD and outer >= more > high and first == _TAG_KEY_INDEX:
            stop = at + 3 + (outer & low | high << 7)
            start = size = 0
            if index < more:
                if a == _TAG_DATA and b >= more > c:
                    start, size = at + 8, b & low | c << 7
            elif b == _TAG_DATA and c >= more > d and a < more:
                start, size = at + 9, c & low | d << 7
                index = index & low | a << 7
            if start and start + size == stop <= end:
                add_index(index)
                add_data(data[start:stop])
                at = stop
                continue
        elif tag == _TAG_RECORD and outer < more and high == _TAG_KEY_INDEX and (stop := at + 2 + outer) <= end:
            at = _read_short(data, at, stop, tables)
            continue
        elif tag == _TAG_PARTITION_KEY and outer < more and (stop := at + 2 + outer) <= end:
            tables.keys.append(data[at + 2 : stop].decode("utf-8", "replace"))
            at = stop
            continue
        at = _parse_field(data, at, end, tables)
    return at


def _read_short(data: bytes, at: int, stop: int, tables: Tables) -> int:
    """Take a record of less than 128 bytes in all that begins with the index of its key; return where it ends."""
    _, _, _, low, high, a, b, *_ = _HEAD.unpack_from(data, at)
    if low < _CONTINUED:
        if high == _TAG_DATA and at + 6 + a == stop:
            tables.key_indexes.append(low)
            tables.datas.append(data[at + 6 : stop])
            return stop
    elif a == _TAG_DATA and high < _CONTINUED and at + 7 + b == stop:
        tables.key_indexes.append(low & _LOW | high << 7)
        tables.datas.append(data[at + 7 : stop])
        return stop
    tables.append(_parse_member(data, at + 2, stop))
    return stop


def _read_even_keys(data: bytes, at: int, end: int, tables: Tables) -> int:
    """Take the first partition keys at once if they are ASCII and of one size, as most are; return where they end.

    Only the first ones: to look for such a run at each key would take the square of the message's length.
    """
    size = data[at + 1]
    stride = 2 + size
    tags = data[at:end:stride]
    count = len(tags) - len(tags.lstrip(_KEY_TAG))
    stop = at + count * stride
    if size >= _CONTINUED or stop > end or data[at + 1 : stop : stride] != bytes((size,)) * count:
        return at
    run = data[at:stop]
    if not run.isascii():
        return at
    text = run.decode("ascii")
    tables.keys += [text[start : start + size] for start in range(2, len(text) + 1, stride)]
    return stop


def _parse_field(data: bytes, at: int, end: int, tables: Tables) -> int:
    """Take a field of any kind; return where the next one starts."""
    tag = data[at]
    if tag not in _TAGS:
        return _skip_field(data, at, end, depth=0)
    start, stop = _read_length(data, at + 1, end)
    if tag == _TAG_RECORD:
        tables.append(_parse_member(data, start, stop))
    elif tag == _TAG_PARTITION_KEY:
        tables.keys.append(data[start:stop].decode(errors="replace"))
    else:
        tables.hash_keys.append(data[start:stop].decode(errors="replace"))
    return stop


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _VARINT_BYTES_MAX, 7):
        if at >= end:
            raise MalformedMessageError
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < _CONTINUED:
            if value > _UINT64_MAX:
                raise MalformedMessageError
            return value, at
    raise MalformedMessageError


def _read_length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return where a length-delimited field's content starts and ends."""
    if at < end and data[at] < _CONTINUED:
        start, stop = at + 1, at + 1 + data[at]
    else:
        length, start = _read_varint(data, at, end)
        stop = start + length
    if stop > end:
        raise MalformedMessageError
    return start, stop


def _parse_member(data: bytes, at: int, end: int) -> Member:
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
        raise MalformedMessageError
    return key_index, hash_key_index, data[content[0] : content[1]]


def _skip_field(data: bytes, at: int, end: int, *, depth: int) -> int:
    """Step over a field that is not ours (tags, or what a later version adds); return where the next one starts."""
    start = at
    tag, at = _read_varint(data, at, end)
    number, wire = tag >> 3, tag & 7
    # A tag in more bytes than it needs is written by nobody; taking it for an unknown field could lose a member.
    if not number or depth > _GROUP_DEPTH_MAX or (at - start > 1 and not data[at - 1]) or tag > _UINT32_MAX:
        raise MalformedMessageError
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
        raise MalformedMessageError
    if at > end:
        raise MalformedMessageError
    return at


def _skip_group(data: bytes, at: int, end: int, number: int, depth: int) -> int:
    while True:
        tag, after = _read_varint(data, at, end)
        if tag == number << 3 | _WIRE_GROUP_END:
            return after
        at = _skip_field(data, at, end, depth=depth + 1)
