"""Turns a closed batch into S3 objects: their keys before the fenced PREPARE, their bodies at the PUT."""

from __future__ import annotations

import zlib
from typing import Final

from consumer.core.batch import Batch
from consumer.core.flush_format import FlushFormat
from consumer.core.object_key import ObjectNames, ObjectRange
from consumer.retrier import Retrier
from shared.lease import PendingFlush
from shared.ports import ObjectStore, Telemetry

_CONTENT_TYPE: Final = "application/x-ndjson"
_GZIP_LEVEL: Final = 6
_GZIP_WINDOW: Final = 31  # zlib's way to ask for a gzip header, which then holds no time stamp


class Archive:
    """The objects of one bucket, written once each: a key that exists already counts as written."""

    def __init__(
        self,
        objects: ObjectStore,
        names: ObjectNames,
        retrier: Retrier,
        telemetry: Telemetry,
        *,
        destinations: tuple[str, ...],
        is_compressed: bool,
    ) -> None:
        self._objects = objects
        self._names = names
        self._retrier = retrier
        self._telemetry = telemetry
        self._destinations = destinations
        self._is_compressed = is_compressed

    def prepare(self, shard_id: str, batch: Batch, generation: int) -> PendingFlush | None:
        """Return what is to be written into the lease row before any object; None if there is no object."""
        if not batch.slots or batch.first is None or batch.last is None:
            return None
        covered = ObjectRange(shard_id, batch.first, batch.last, generation)
        described = FlushFormat(self._is_compressed, self._destinations, batch.slots)
        return PendingFlush(
            keys=tuple(self._names.key(slot, covered, batch.oldest_arrival(slot)) for slot in batch.slots),
            first=batch.first,
            last=batch.last,
            count=batch.count,
            format_version=described.text,
        )

    def extend(
        self, shard_id: str, pending: PendingFlush, pinned: FlushFormat, batch: Batch, generation: int
    ) -> PendingFlush | None:
        """Return `pending` with keys for slots that only the rebuilt batch has; None if it has no others.

        Another release may refuse an event that the pinned one took: it must not get lost between the two.
        """
        slots = tuple(slot for slot in batch.slots if slot not in pinned.slots)
        if not slots:
            return None
        covered = ObjectRange(shard_id, pending.first, pending.last, generation)
        keys = tuple(self._names.key(slot, covered, batch.oldest_arrival(slot)) for slot in slots)
        described = FlushFormat(pinned.is_compressed, pinned.destinations, pinned.slots + slots, pinned.version)
        return PendingFlush(pending.keys + keys, pending.first, pending.last, batch.count, described.text)

    async def put(self, pending: PendingFlush, batch: Batch) -> int:
        """Write every object that is pinned in `pending` and not there yet; return the bytes sent."""
        described = FlushFormat.parse(pending.format_version)
        sent = 0
        for key, slot in zip(pending.keys, described.slots, strict=True):
            lines = batch.lines_of(slot)
            if lines is None:
                # The records were trimmed before the flush could be replayed.
                self._telemetry.error("object_not_rebuilt", key=key)
                continue
            body = _compress(lines) if described.is_compressed else bytes(lines)
            if await self._put_one(key, body, is_compressed=described.is_compressed):
                sent += len(body)
                self._telemetry.count("objects_written")
                self._telemetry.count("object_bytes_written", len(body))
            else:
                self._telemetry.count("objects_existing")
        return sent

    async def _put_one(self, key: str, body: bytes, *, is_compressed: bool) -> bool:
        encoding = "gzip" if is_compressed else ""

        async def attempt() -> bool:
            return await self._objects.put_object(
                key, body, content_type=_CONTENT_TYPE, content_encoding=encoding, only_if_absent=True
            )

        return await self._retrier.call("put_object", attempt)


def _compress(lines: bytearray) -> bytes:
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return compressor.compress(lines) + compressor.flush()
