"""Turns a closed batch into S3 objects: keys and bodies before the fenced PREPARE, the PUTs after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice, zip_longest
from typing import Final

import orjson

from consumer.core.batch import Batch
from consumer.core.compression_ratio import CompressionRatios
from consumer.core.dead_letter import DeadLetter
from consumer.core.flush_format import FlushFormat
from consumer.core.manifest import INDEX_MARK, Manifests, index_body
from consumer.core.object_format import Codec, FormatKind, ObjectFormat
from consumer.core.object_key import ERROR_MARK, FORMAT_CONVERSION_FAILED, ObjectNames, ObjectRange
from consumer.core.schema import Schema
from consumer.encoding import Encoded, Rejected, encode
from consumer.failure import first_failure
from consumer.retrier import START_ATTEMPTS_MAX, Retrier
from shared.errors import ServiceError
from shared.lease import PendingFlush
from shared.ports import Clock, ObjectStore, Telemetry
from shared.records import Position

_CHECKED_NAME: Final = "write-check"  # no object ever has it
_PUTS_MAX: Final = 8  # objects of one flush under way at once
_INFERRED_LINES_MAX: Final = 1_000
_INDEX_FORMAT: Final = ObjectFormat(FormatKind.JSON, Codec.NONE)
_FITS_NOTHING: Final = Schema({"event_id": "string"}, is_declared=False)  # an enriched event has more
_REJECTED_CODE: Final = "DataFormatConversion.MalformedData"  # Firehose's

# Stores a schema unless there is one, and returns the one that is stored.
HoldSchema = Callable[[str], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class SealedFlush:
    """A closed batch as objects: what is pinned in the lease row, and the body of each slot."""

    pending: PendingFlush
    objects: Mapping[str, Encoded]
    rejected: int  # events that did not fit the columns; they are among the dead letters

    @property
    def pinned(self) -> FlushFormat:
        """What `pending` says of the format."""
        return FlushFormat.parse(self.pending.format_version)


@dataclass(slots=True)
class Archive:
    """The objects of one bucket, written once each: a key that exists already counts as written."""

    objects: ObjectStore
    names: ObjectNames
    retrier: Retrier
    clock: Clock
    telemetry: Telemetry
    hold_schema: HoldSchema
    destinations: tuple[str, ...]
    format: ObjectFormat
    manifests: Manifests | None = None
    ratios: CompressionRatios = field(default_factory=CompressionRatios)
    _settling: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def seal(self, shard_id: str, batch: Batch, generation: int, not_before: float = 0.0) -> SealedFlush | None:
        """Return what is to be written into the lease row before any object, and the objects; None if there is none.

        No object is named after a time before `not_before`, seconds since the epoch.
        """
        if not batch.slots or batch.first is None or batch.last is None:
            return None
        count = batch.count
        described = await self._settled_format(batch)
        objects, rejected = await self._encode(shard_id, batch, described)
        covered = ObjectRange(shard_id, batch.first, batch.last, generation)
        slots, keys = self._named(objects, covered, batch, not_before)
        pinned = FlushFormat(described, self.destinations, slots, self.names.fields, batch.condemned_after)
        pending = PendingFlush(keys, batch.first, batch.last, count, pinned.text)
        return SealedFlush(pending, objects | _indexes(pending, slots, objects, covered), rejected)

    async def reseal(
        self, shard_id: str, pending: PendingFlush, batch: Batch, generation: int, not_before: float = 0.0
    ) -> SealedFlush:
        """Return the rebuilt batch under the keys that were pinned, and more keys for slots that only it has.

        Another release may refuse an event that the pinned one took: it must not get lost between the two.
        """
        pinned = FlushFormat.parse(pending.format_version)
        objects, rejected = await self._encode(shard_id, batch, pinned.format)
        covered = ObjectRange(shard_id, pending.first, pending.last, generation)
        more = {slot: encoded for slot, encoded in objects.items() if slot not in pinned.slots}
        if more:
            slots, keys = self._named(more, covered, batch, not_before, start=len(pinned.slots))
            pinned = replace(pinned, slots=pinned.slots + slots)
            pending = replace(pending, keys=pending.keys + keys, format_version=pinned.text)
        return SealedFlush(pending, objects | _indexes(pending, pinned.slots, objects, covered), rejected)

    async def check_write(self) -> None:
        """Raise what keeps this worker from writing the objects: at the first flush it would be found too late.

        In an outage nothing is found: a worker that starts in one reads and delivers, as those do that run.
        """
        places = [*self.names.beginnings, *([self.manifests.prefix] if self.manifests is not None else [])]
        try:
            for place in dict.fromkeys(places):
                attempt = partial(self.objects.check_write, place + _CHECKED_NAME)
                await self.retrier.call("check_write", attempt, attempts_max=START_ATTEMPTS_MAX)
        except ServiceError as error:
            if not error.retryable:
                raise
            self.telemetry.warning("bucket_not_checked", error=type(error).__name__)

    async def abort_uploads(self, pending: PendingFlush) -> None:
        """Abort what a worker that died had begun to upload; what this misses, the bucket's lifecycle rule removes."""
        try:
            aborted = await self.objects.abort_uploads(pending.keys)
        except ServiceError as error:
            self.telemetry.warning("uploads_not_aborted", error=type(error).__name__)
        else:
            self.telemetry.count("uploads_aborted", aborted)

    async def put(self, sealed: SealedFlush) -> int:
        """Write every object that is pinned and not there yet, several at a time; return the bytes sent.

        Indexes come last: what one lists is there.
        """
        pinned = sealed.pinned
        named = list(zip(sealed.pending.keys, pinned.slots, strict=True))
        listed = [each for each in named if not each[1].startswith(INDEX_MARK)]
        sent = await self._put_all(listed, sealed, pinned.format)
        if len(listed) < len(named):
            indexes = [each for each in named if each[1].startswith(INDEX_MARK)]
            sent += await self._put_all(indexes, sealed, pinned.format)
        return sent

    async def _put_all(self, named: list[tuple[str, str]], sealed: SealedFlush, described: ObjectFormat) -> int:
        waiting = iter(named)
        sent = 0

        async def work() -> None:
            nonlocal sent
            for key, slot in waiting:
                written = await self._put_slot(key, slot, sealed.objects.get(slot), described)
                sent += written  # `sent += await ...` would take back what others add meanwhile

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(_PUTS_MAX, len(named))):
                    group.create_task(work())
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures
        return sent

    async def _put_slot(self, key: str, slot: str, encoded: Encoded | None, described: ObjectFormat) -> int:
        if encoded is None:
            # The records were trimmed before the flush could be replayed.
            self.telemetry.error("object_not_rebuilt", key=key)
            return 0
        if slot.startswith(ERROR_MARK):
            described = described.of_dead_letters
        elif slot.startswith(INDEX_MARK):
            described = _INDEX_FORMAT
        if not await self._put_one(key, encoded.body, described):
            self.telemetry.count("objects_existing")
            return 0
        self.telemetry.count("objects_written")
        self.telemetry.count("object_bytes_written", len(encoded.body))
        return len(encoded.body)

    async def _put_one(self, key: str, body: bytes, described: ObjectFormat) -> bool:
        async def attempt() -> bool:
            return await self.objects.put_object(
                key,
                body,
                content_type=described.content_type,
                content_encoding=described.content_encoding,
                only_if_absent=True,
            )

        return await self.retrier.call("put_object", attempt)

    def _named(
        self, objects: Mapping[str, Encoded], covered: ObjectRange, batch: Batch, not_before: float, start: int = 0
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the slots of objects, then those of their indexes, with the keys of all; the first is at `start`."""
        instants = {slot: max(batch.oldest_arrival(slot), not_before) for slot in sorted(objects)}
        if self.manifests is None:
            return tuple(instants), self.names.keys(instants, covered)
        instants = self.manifests.by_hour(instants)
        counts = {slot: each.count for slot, each in objects.items()}
        indexes = self.manifests.index_keys(instants, counts, covered, start)
        return (*instants, *indexes), (*self.names.keys(instants, covered), *indexes.values())

    async def _settled_format(self, batch: Batch) -> ObjectFormat:
        """Return the format with its columns; the first flush of an application infers them for all workers."""
        async with self._settling:
            slots = [slot for slot in batch.slots if not slot.startswith(ERROR_MARK)]
            if not self.format.needs_schema or self.format.schema is not None or not slots:
                return self.format
            inferred = Schema.infer(islice(_lines_in_turn(batch, slots), _INFERRED_LINES_MAX))
            if inferred is None:  # the next flush infers them
                return replace(self.format, schema=_FITS_NOTHING)
            held = Schema.parse(await self.retrier.call("hold_schema", lambda: self.hold_schema(inferred.text)))
            self.telemetry.info(
                "schema_held",
                columns=len(held.columns),
                is_ours=held == inferred,
                consequence="an event with a field or type that these columns lack becomes a dead letter",
                hint="Declare columns with archive_schema",
            )
            self.format = replace(self.format, schema=held)
            return self.format

    async def _encode(self, shard_id: str, batch: Batch, described: ObjectFormat) -> tuple[dict[str, Encoded], int]:
        """Encode all slots; what does not fit the columns goes to the dead letters, which are encoded last."""
        objects: dict[str, Encoded] = {}
        rejected = 0
        for slot in batch.slots:
            if not slot.startswith(ERROR_MARK):
                lines = batch.take_lines(slot)
                found = await encode(lines, described)
                self.ratios.learn(slot, len(lines), len(found.body))
                for each in found.rejected:
                    letter = _letter_of(each, batch.oldest_arrival(slot))
                    batch.append_dead_letter(letter, shard_id, self.clock.wall())
                rejected += len(found.rejected)
                if found.count:
                    objects[slot] = found
        for slot in batch.slots:
            if slot.startswith(ERROR_MARK):
                objects[slot] = await encode(batch.take_lines(slot), described.of_dead_letters)
        if rejected:
            self.telemetry.count("dead_letters", rejected, type=FORMAT_CONVERSION_FAILED, code=_REJECTED_CODE)
        return objects, rejected


def _lines_in_turn(batch: Batch, slots: Sequence[str]) -> Iterator[bytes]:
    """Yield a line of each object, then another one of each, so that none speaks for all."""

    def lines_of(slot: str) -> Iterator[bytes]:
        return (line for block in batch.blocks_of(slot) for line in bytes(block).splitlines())

    rounds = zip_longest(*map(lines_of, slots))
    return (line for each in rounds for line in each if line is not None)


def _indexes(
    pending: PendingFlush, slots: tuple[str, ...], objects: Mapping[str, Encoded], covered: ObjectRange
) -> dict[str, Encoded]:
    """Return the indexes among the slots; they list what is pinned, with the counts of what was encoded."""
    counts = {slot: each.count for slot, each in objects.items()}
    return {
        slot: Encoded(index_body(slot, slots, pending.keys, counts, covered), 1)
        for slot in slots
        if slot.startswith(INDEX_MARK)
    }


def _letter_of(rejected: Rejected, arrival: float) -> DeadLetter:
    """Return the dead letter of an enriched event; its place is in the event, the arrival is that of its object."""
    event = orjson.loads(rejected.line)
    source = event["source"]
    session_id = event.get("session_id")
    return DeadLetter(
        error_type=FORMAT_CONVERSION_FAILED,
        error_code=_REJECTED_CODE,
        error_message=rejected.reason,
        data=rejected.line,
        partition_key=session_id if isinstance(session_id, str) else "",
        position=Position(int(source["sequence_number"]), int(source["sub_sequence_number"])),
        arrival_timestamp=arrival,
        event_id=event.get("event_id"),
    )
