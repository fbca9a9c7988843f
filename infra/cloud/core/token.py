"""Shard iterators and page tokens: opaque to the caller, self-contained, so that they survive a restart."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass
from typing import Final

_ITERATOR: Final = struct.Struct(">QQIQd")  # mark, stream uid, shard index, counter, issued at
_MARK: Final = 1
_CHECK_BYTES: Final = 12
_TOKEN_CHARACTERS_MAX: Final = 512


def _sign(payload: bytes, person: bytes) -> bytes:
    # Not a secret: it only tells our tokens from anything else, as AWS does with its encryption.
    return hashlib.blake2b(payload, digest_size=_CHECK_BYTES, person=person).digest()


def _wrap(payload: bytes, person: bytes) -> str:
    return base64.b64encode(payload + _sign(payload, person)).decode()


def _unwrap(text: str, person: bytes) -> bytes | None:
    if len(text) > _TOKEN_CHARACTERS_MAX:
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    payload, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    return payload if check == _sign(payload, person) else None


@dataclass(frozen=True, slots=True)
class ShardIterator:
    """A position in a shard: the counter of the next record to read, and when the iterator was issued."""

    stream_uid: int
    shard_index: int
    counter: int
    issued_at: float

    def encode(self) -> str:
        """The opaque text that callers get."""
        payload = _ITERATOR.pack(_MARK, self.stream_uid, self.shard_index, self.counter, self.issued_at)
        return _wrap(payload, b"iterator")

    @classmethod
    def decode(cls, text: str) -> ShardIterator | None:
        """Read a token; None if it is not one of ours."""
        payload = _unwrap(text, b"iterator")
        if payload is None or len(payload) != _ITERATOR.size:
            return None
        _, stream_uid, shard_index, counter, issued_at = _ITERATOR.unpack(payload)
        return cls(stream_uid, shard_index, counter, issued_at)


_PAGE: Final = struct.Struct(">Qd")


@dataclass(frozen=True, slots=True)
class PageToken:
    """Where a listing goes on: the stream, when the token was issued, the last item shown, and the filter."""

    stream_uid: int
    issued_at: float
    last: str
    filter_type: str = ""
    filter_time: float = 0.0

    def encode(self) -> str:
        """The opaque text that callers get."""
        text = f"{self.last}|{self.filter_type}|{self.filter_time!r}"
        return _wrap(_PAGE.pack(self.stream_uid, self.issued_at) + text.encode(), b"page")

    @classmethod
    def decode(cls, text: str) -> PageToken | None:
        """Read a token; None if it is not one of ours."""
        payload = _unwrap(text, b"page")
        if payload is None or len(payload) < _PAGE.size:
            return None
        stream_uid, issued_at = _PAGE.unpack_from(payload)
        last, filter_type, filter_time = payload[_PAGE.size :].decode().split("|")
        return cls(stream_uid, issued_at, last, filter_type, float(filter_time))
