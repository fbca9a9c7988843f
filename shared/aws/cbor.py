"""Reads and writes the little CBOR (RFC 8949) that Kinesis speaks, in bounded time and depth."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from shared.records import PutEntry

CBOR_TYPE: Final = "application/x-amz-cbor-1.1"

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, ARRAY, MAP, _TAG, _SIMPLE = range(8)
_DEPTH_MAX: Final = 16
_DIRECT: Final = 24  # a number below it stands in the first byte
_INDEFINITE: Final = 31
_BREAK: Final = 0xFF
_NUMBERS: Final = {24: struct.Struct(">B"), 25: struct.Struct(">H"), 26: struct.Struct(">I"), 27: struct.Struct(">Q")}
_FLOATS: Final = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}
_CONSTANTS: Final = {20: False, 21: True, 22: None, 23: None}


class MalformedCborError(ValueError):
    """The bytes are no CBOR value, or one that no answer of Kinesis is."""


def _head(major: int, number: int) -> bytes:
    if number < _DIRECT:
        return bytes((major << 5 | number,))
    for code, form in _NUMBERS.items():
        if number >> 8 * form.size == 0:
            return bytes((major << 5 | code,)) + form.pack(number)
    msg = f"{number} does not fit 64 bits"
    raise ValueError(msg)


def _text(value: str) -> bytes:
    data = value.encode()
    return _head(_TEXT, len(data)) + data


_DATA: Final = _text("Data")
_PARTITION_KEY: Final = _text("PartitionKey")
_HASH_KEY: Final = _text("ExplicitHashKey")
_RECORD: Final = _head(MAP, 2) + _DATA
_RECORD_WITH_HASH_KEY: Final = _head(MAP, 3) + _DATA
_GET_RECORDS: Final = _head(MAP, 2) + _text("ShardIterator")
_LIMIT: Final = _text("Limit")


def put_records_cbor(stream: str, entries: Sequence[PutEntry]) -> bytes:
    """Return the body of a PutRecords request; data go as they are, without base64."""
    parts = [_head(MAP, 2), _text("StreamName"), _text(stream), _text("Records"), _head(ARRAY, len(entries))]
    for data, partition_key, explicit_hash_key in entries:
        parts += (
            _RECORD if explicit_hash_key is None else _RECORD_WITH_HASH_KEY,
            _head(_BYTES, len(data)),
            data,
            _PARTITION_KEY,
            _text(partition_key),
        )
        if explicit_hash_key is not None:
            parts += (_HASH_KEY, _text(str(explicit_hash_key)))
    return b"".join(parts)


def get_records_cbor(iterator: str, limit: int) -> bytes:
    """Return the body of a GetRecords request."""
    return b"".join((_GET_RECORDS, _text(iterator), _LIMIT, _head(_UNSIGNED, limit)))


def decode_cbor(body: bytes) -> Any:
    """Decode one value that fills `body`; MalformedCborError for anything else.

    Lengths are checked against the bytes that are there before anything is made of them. A tag is left out, so that a
    time is the number that Kinesis means: milliseconds.
    """
    try:
        value, at = read_value(body, 0)
    except (IndexError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise MalformedCborError(type(error).__name__) from None
    if at != len(body):
        msg = f"{len(body) - at:,} bytes behind the value"
        raise MalformedCborError(msg)
    return value


def read_value(body: bytes, at: int, depth: int = 0) -> tuple[Any, int]:
    """Read a value; return it and where the next one starts.

    Raises MalformedCborError, or what comes of bytes that end too early or are no text: IndexError, struct.error,
    UnicodeDecodeError, TypeError.
    """
    if depth > _DEPTH_MAX:
        msg = f"nested deeper than {_DEPTH_MAX}"
        raise MalformedCborError(msg)
    major, code = body[at] >> 5, body[at] & 0x1F
    if major == _SIMPLE:
        return _read_simple(body, at + 1, code)
    number, at = _read_number(body, at + 1, code)
    if major in {ARRAY, MAP}:
        return _read_items(body, at, number, depth, is_map=major == MAP)
    if number is None:
        msg = "a text, or bytes, in pieces"
        raise MalformedCborError(msg)
    if major == _UNSIGNED:
        return number, at
    if major == _NEGATIVE:
        return -1 - number, at
    if major == _TAG:
        return read_value(body, at, depth + 1)
    end = at + number
    if end > len(body):
        raise IndexError
    data = body[at:end]
    return (data.decode() if major == _TEXT else data), end


def read_count(body: bytes, at: int, major: int) -> tuple[int | None, int]:
    """Read how many items an array has, or entries a map; None if its end is marked, as `is_end` tells.

    Errors as in `read_value`.
    """
    if body[at] >> 5 != major:
        msg = f"a value of type {body[at] >> 5} in place of {major}"
        raise MalformedCborError(msg)
    count, at = _read_number(body, at + 1, body[at] & 0x1F)
    if count is not None and count > len(body) - at:  # each item has a byte at least
        raise IndexError
    return count, at


def is_end(body: bytes, at: int) -> bool:
    """Whether an array or a map without a length ends here."""
    return body[at] == _BREAK


def _read_number(body: bytes, at: int, code: int) -> tuple[int | None, int]:
    """Read what follows the first byte of a value; None stands for no length given."""
    if code < _DIRECT:
        return code, at
    if code == _INDEFINITE:
        return None, at
    form = _NUMBERS.get(code)
    if form is None:
        msg = f"a length of kind {code}"
        raise MalformedCborError(msg)
    return form.unpack_from(body, at)[0], at + form.size


def _read_simple(body: bytes, at: int, code: int) -> tuple[Any, int]:
    if code in _CONSTANTS:
        return _CONSTANTS[code], at
    form = _FLOATS.get(code)
    if form is None:
        msg = f"a simple value of kind {code}"
        raise MalformedCborError(msg)
    return form.unpack_from(body, at)[0], at + form.size


def _read_items(body: bytes, at: int, count: int | None, depth: int, *, is_map: bool) -> tuple[Any, int]:
    """Read the items of an array, or the keys and values of a map."""
    items: list[Any] = []
    wanted = None if count is None else count * (1 + is_map)
    if wanted is not None and wanted > len(body) - at:  # each item has a byte at least
        raise IndexError
    while wanted is None or len(items) < wanted:
        if wanted is None and body[at] == _BREAK:
            at += 1
            break
        item, at = read_value(body, at, depth + 1)
        items.append(item)
    if not is_map:
        return items, at
    if len(items) % 2:
        msg = "a key without a value"
        raise MalformedCborError(msg)
    return dict(zip(items[::2], items[1::2], strict=True)), at
