"""Reads spill files: whatever a read returns, whole frames come out."""

from __future__ import annotations

from typing import Final

from producer.core.spill_frame import FRAME_BYTES_MAX, SpilledRecord, decode_records
from shared.limits import KIB
from shared.ports import ReadableFile

_CHUNK_BYTES: Final = 256 * KIB


async def read_whole(handle: ReadableFile, offset: int, size: int) -> bytes:
    """Read `size` bytes from `offset` on; fewer where the file ends."""
    parts: list[bytes] = []
    while size > 0 and (part := await handle.read_at(offset, size)):
        parts.append(part)
        offset += len(part)
        size -= len(part)
    return b"".join(parts)


async def read_records(handle: ReadableFile, offset: int, end: int) -> tuple[list[SpilledRecord], bool]:
    """Read whole frames from `offset` on, at least one if there is one before `end`."""
    data = await read_whole(handle, offset, min(_CHUNK_BYTES, end - offset))
    records, is_broken = decode_records(data)
    if not records and not is_broken and len(data) < end - offset:
        data = await read_whole(handle, offset, min(FRAME_BYTES_MAX, end - offset))
        records, is_broken = decode_records(data)
    return records, is_broken
