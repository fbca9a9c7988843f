"""Frames of application/vnd.amazon.eventstream, in which SubscribeToShard answers.

Message: total length, header length, CRC-32 of those eight bytes, headers, payload, CRC-32 of all before (big-endian).
Header: name length (1 byte), name, value type 7 (string), value length (2 bytes), value.
Source: the AWS event stream encoding, as botocore's parser reads it.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

CONTENT_TYPE: Final = "application/vnd.amazon.eventstream"
_STRING: Final = 7


def encode_message(headers: dict[str, str], payload: bytes) -> bytes:
    """One message; the payload may have up to 16 MiB."""
    block = b"".join(
        struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _STRING, len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + block + payload
    return message + struct.pack(">I", zlib.crc32(message))


def event_message(event_type: str, content_type: str, payload: bytes) -> bytes:
    """An event of the stream; the first one has the type `initial-response`."""
    headers = {":event-type": event_type, ":content-type": content_type, ":message-type": "event"}
    return encode_message(headers, payload)


def exception_message(exception_type: str, content_type: str, payload: bytes) -> bytes:
    """A modelled error that ends the stream."""
    headers = {":exception-type": exception_type, ":content-type": content_type, ":message-type": "exception"}
    return encode_message(headers, payload)
