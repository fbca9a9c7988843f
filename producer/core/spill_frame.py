"""The form of spilled records on disk: frames with a checksum, so that a torn or damaged end is seen for what it is."""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from shared.limits import HASH_KEY_MAX, PARTITION_KEY_CHARACTERS_MAX, PUT_RECORDS_BYTES_MAX

# CRC-32 of what follows it; bytes of data; bytes of key; 1 if an explicit hash key of 16 bytes precedes key and data.
_HEAD: Final = struct.Struct(">IIHB")
_CHECKED_FROM: Final = 4
_HASH_KEY_BYTES: Final = 16
_KEY_BYTES_MAX: Final = 4 * PARTITION_KEY_CHARACTERS_MAX
FRAME_BYTES_MAX: Final = _HEAD.size + _HASH_KEY_BYTES + _KEY_BYTES_MAX + PUT_RECORDS_BYTES_MAX

_FILE_HEAD: Final = struct.Struct(">8sQQQI")
_MAGIC: Final = b"hrspill2"
FILE_HEAD_BYTES: Final = _FILE_HEAD.size

assert HASH_KEY_MAX.bit_length() == 8 * _HASH_KEY_BYTES


class SpilledRecord(NamedTuple):
    """One record of a spill file, and where its frame ends, counted from the beginning of what was decoded."""

    data: bytes
    partition_key: str
    explicit_hash_key: int | None
    end: int


class FileHead(NamedTuple):
    """The beginning of a spill file; files are read in the order of their numbers, which are above 0.

    What the file with the number `before` has behind its first `before_bytes` bytes was never accepted: an append that
    failed may leave whole frames there, whose records were put again. 0: there is no such file.
    """

    number: int
    before: int = 0
    before_bytes: int = 0


def encode_record(data: bytes, partition_key: str, explicit_hash_key: int | None) -> bytes:
    """Return the frame of a record; the key is one that Kinesis takes."""
    key = partition_key.encode()
    hash_key = b"" if explicit_hash_key is None else explicit_hash_key.to_bytes(_HASH_KEY_BYTES, "big")
    head = _HEAD.pack(0, len(data), len(key), 1 if hash_key else 0)[_CHECKED_FROM:]
    body = b"".join((head, hash_key, key, data))
    return zlib.crc32(body).to_bytes(_CHECKED_FROM, "big") + body


def decode_records(buffer: bytes) -> tuple[list[SpilledRecord], bool]:
    """Return the whole frames at the beginning of a buffer, and whether what follows them can't be a frame."""
    records: list[SpilledRecord] = []
    at, length = 0, len(buffer)
    while at + _HEAD.size <= length:
        checksum, data_bytes, key_bytes, has_hash_key = _HEAD.unpack_from(buffer, at)
        key_at = at + _HEAD.size + (_HASH_KEY_BYTES if has_hash_key else 0)
        end = key_at + key_bytes + data_bytes
        if has_hash_key > 1 or not key_bytes or key_bytes > _KEY_BYTES_MAX or data_bytes > PUT_RECORDS_BYTES_MAX:
            return records, True
        if end > length:
            return records, False
        if zlib.crc32(memoryview(buffer)[at + _CHECKED_FROM : end]) != checksum:
            return records, True
        explicit = int.from_bytes(buffer[key_at - _HASH_KEY_BYTES : key_at], "big") if has_hash_key else None
        try:
            key = buffer[key_at : key_at + key_bytes].decode()
        except UnicodeDecodeError:
            return records, True
        records.append(SpilledRecord(buffer[key_at + key_bytes : end], key, explicit, end))
        at = end
    return records, False


def encode_head(head: FileHead) -> bytes:
    """Return the first bytes of a spill file."""
    packed = _FILE_HEAD.pack(_MAGIC, *head, 0)[:-_CHECKED_FROM]
    return packed + zlib.crc32(packed).to_bytes(_CHECKED_FROM, "big")


def decode_head(data: bytes) -> FileHead | None:
    """Return the head of a spill file; None if the file is empty or not one."""
    if len(data) != FILE_HEAD_BYTES:
        return None
    magic, number, before, before_bytes, checksum = _FILE_HEAD.unpack(data)
    if magic != _MAGIC or checksum != zlib.crc32(data[:-_CHECKED_FROM]):
        return None
    return FileHead(number, before, before_bytes)
