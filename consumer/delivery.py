"""Carries a chunk of records to its destinations: into the batch of objects to be, and to the destination streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Final, NamedTuple

import orjson

from consumer.budget import Account
from consumer.core.batch import Batch
from consumer.core.checkpoint_tracker import CheckpointTracker, Unit
from consumer.core.chunk import Chunk
from consumer.core.dead_letter import DeadLetter
from consumer.core.lines import pick
from consumer.core.object_key import STREAM_DELIVERY_FAILED
from consumer.core.transform import Transform, Transformed, partition_keys_of
from consumer.status import Counters
from shared.event import decode_event, event_id_of
from shared.ports import Clock, Outcome, RecordSink, Telemetry, Undeliverable
from shared.records import Position

# So many chunks, a page or two, are acknowledged as one: then its events in an aggregate share a receipt.
_PARCEL_CHUNKS_MAX: Final = 64
_PROGRESS_RECEIPTS: Final = 256  # so many events of a parcel are progress, though it is not through


class _Part(NamedTuple):
    """What was delivered of a chunk: all that a dead letter would need."""

    chunk: Chunk
    indexes: Sequence[int]  # of the events in the chunk
    destinations: Sequence[str]


class _Parcel:
    """Neighbouring chunks of one batch whose receipts count for one unit; it is what the receipts bring back."""

    __slots__ = ("batch", "parts", "unit")

    def __init__(self, unit: Unit, batch: Batch) -> None:
        self.unit = unit
        self.batch = batch
        self.parts: list[_Part] = []

    def takes(self, batch: Batch) -> bool:
        """Whether another chunk of a batch may join."""
        return self.batch is batch and len(self.parts) < _PARCEL_CHUNKS_MAX and not self.unit.is_done


class Delivery:
    """The way of one shard's records to sinks and batches, and of the receipts back to the tracker."""

    def __init__(
        self,
        shard_id: str,
        sinks: Mapping[str, RecordSink],
        *,
        keeps_dead_letters: bool,
        account: Account,
        counters: Counters,
        clock: Clock,
        telemetry: Telemetry,
        on_progress: Callable[[], None],
    ) -> None:
        self.tracker = CheckpointTracker()
        self._parcel: _Parcel | None = None  # the one that was filled last
        self._shard_id = shard_id
        self._sinks = sinks
        self._keeps_dead_letters = keeps_dead_letters
        self._account = account
        self._counters = counters
        self._clock = clock
        self._telemetry = telemetry
        self._on_progress = on_progress

    def start_over(self) -> None:
        """Forget which positions were delivered, as reading goes back; no receipt may be missing."""
        self.tracker = CheckpointTracker()
        self._parcel = None

    async def take(
        self, chunk: Chunk, batch: Batch, transform: Transform, *, timestamp: bytes, to_streams: bool = True
    ) -> int:
        """Deliver a chunk; return how many of its records became dead letters.

        Waits where a sink has no room. Without `to_streams` only the batch is filled.
        """
        if batch.first is None:
            batch.open(chunk.first, self._clock.monotonic())
        held_before = batch.held_bytes
        parcel = self._parcel_for(batch)
        found = transform.apply(chunk, timestamp)
        for letter in found.dead_letters:
            self._refuse(letter, batch)
        if to_streams and self._sinks:
            keys = partition_keys_of(found.events, pick(chunk.keys, found.indexes))
            # They take up to thirty times the memory of their text, and a sink may have many shards wait.
            found = found._replace(events=())
            await self._put(found, keys, parcel, chunk)
        _fill(batch, found, chunk)
        batch.extend(chunk.last, len(chunk), chunk.arrivals[-1])
        held = chunk.size + batch.held_bytes - held_before
        batch.charged += held
        self._account.hold(held)
        self._count(len(chunk), found)
        if self.tracker.seal(parcel.unit, chunk.last):
            self._on_progress()
        return len(found.dead_letters)

    def _parcel_for(self, batch: Batch) -> _Parcel:
        """Return the parcel of the next chunk: the last one, for as long as it is on its way, or a new one."""
        parcel = self._parcel
        if parcel is not None and parcel.takes(batch):
            self.tracker.reopen(parcel.unit)
        else:
            parcel = self._parcel = _Parcel(self.tracker.begin(), batch)
        return parcel

    async def _put(self, found: Transformed, all_keys: list[str], parcel: _Parcel, chunk: Chunk) -> None:
        """Put the events to their sinks, each in reading order: two destinations may share a stream."""
        all_lines = found.lines.each()
        parcel.parts.append(_Part(chunk, found.indexes, found.destinations))
        for sink in {id(sink): sink for sink in self._sinks.values()}.values():
            lines, keys = all_lines, all_keys
            names = {name for name, each in self._sinks.items() if each is sink}
            if not names.issuperset(found.destinations):
                is_own = [destination in names for destination in found.destinations]
                lines, keys = list(compress(lines, is_own)), list(compress(keys, is_own))
            self.tracker.expect(parcel.unit, len(lines))
            await sink.put_all(lines, keys, self._receive, parcel)

    def _receive(self, parcel: _Parcel, outcome: Outcome, count: int = 1, /) -> None:
        if isinstance(outcome, Undeliverable):
            self._refuse(_letter_of(outcome, parcel), parcel.batch)
        before = parcel.unit.outstanding // _PROGRESS_RECEIPTS
        if self.tracker.acknowledge(parcel.unit, count) or parcel.unit.outstanding // _PROGRESS_RECEIPTS < before:
            self._on_progress()

    def _refuse(self, letter: DeadLetter, batch: Batch) -> None:
        batch.append_dead_letter(letter, self._shard_id, self._clock.wall())
        self._counters.dead_letters += 1
        self._telemetry.count("dead_letters", type=letter.error_type, code=letter.error_code)
        if not self._keeps_dead_letters:
            # The place is enough to read the record again for as long as the source stream keeps it.
            self._counters.dead_letters_unkept += 1
            self._telemetry.error(
                "dead_letter_not_kept",
                shard_id=self._shard_id,
                sequence_number=str(letter.position.sequence_number),
                sub_sequence_number=letter.position.sub_sequence_number,
                code=letter.error_code,
            )

    def _count(self, read: int, found: Transformed) -> None:
        counters, telemetry = self._counters, self._telemetry
        counters.read += read
        telemetry.count("records_read", read)
        if found.duplicates:
            counters.duplicates += found.duplicates
            telemetry.count("duplicates_dropped", found.duplicates)
        for destination in dict.fromkeys(found.destinations):
            count = found.destinations.count(destination)
            counters.enriched += count
            counters.destinations[destination] = counters.destinations.get(destination, 0) + count
            telemetry.count("events_routed", count, destination=destination)


def _fill(batch: Batch, found: Transformed, chunk: Chunk) -> None:
    """Add events to the objects that they belong to."""
    if not batch.keeps_lines:
        return
    arrivals, indexes = chunk.arrivals, found.indexes
    if not isinstance(indexes, range):
        arrivals = [arrivals[index] for index in indexes]
    for slot, own, text in found.lines.by_slot(found.slots):
        batch.append(slot, text, len(own), min(pick(arrivals, own)))


def _letter_of(outcome: Undeliverable, parcel: _Parcel) -> DeadLetter:
    """Return the dead letter of an enriched event, whose record is found by the place that the event tells."""
    source = orjson.loads(outcome.data)["source"]  # of our own making, and it may be larger than what is decoded
    place = Position(int(source["sequence_number"]), source["sub_sequence_number"])
    part = next(part for part in parcel.parts if place <= part.chunk.last)
    chunk = part.chunk
    index = next(index for index in range(len(chunk)) if chunk.position(index) == place)
    return chunk.dead_letter(
        index,
        error_type=STREAM_DELIVERY_FAILED,
        error_code=outcome.error_code,
        error_message=outcome.error_message,
        event_id=event_id_of(decode_event(chunk.datas[index])),
        destination=part.destinations[part.indexes.index(index)],
    )
