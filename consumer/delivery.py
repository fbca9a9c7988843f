"""Carries a chunk of records to its destinations: into the batch of objects to be, and to the destination streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from consumer.budget import Account
from consumer.core.batch import Batch
from consumer.core.checkpoint_tracker import CheckpointTracker, Unit
from consumer.core.chunk import Chunk
from consumer.core.dead_letter import DeadLetter
from consumer.core.object_key import STREAM_DELIVERY_FAILED
from consumer.core.transform import Transform
from consumer.status import Counters
from shared.event import decode_event, event_id_of
from shared.ports import Clock, Outcome, RecordSink, Telemetry, Undeliverable
from shared.records import UserRecord

# What a receipt brings back: the unit it counts for, and all that a dead letter would need.
_Token = tuple[Unit, Batch, UserRecord, str]


@dataclass(slots=True)
class _Lines:
    """The lines of one chunk for one destination; joined at once, which is cheaper than one by one."""

    oldest_arrival: float
    lines: list[bytes] = field(default_factory=list)


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

    async def take(
        self, chunk: Chunk, batch: Batch, transform: Transform, *, timestamp: bytes, to_streams: bool = True
    ) -> int:
        """Deliver a chunk as one unit of the tracker; return how many of its records became dead letters.

        Waits where a sink has no room. Without `to_streams` only the batch is filled.
        """
        if batch.first is None:
            batch.open(chunk.first, self._clock.monotonic())
        size_before = batch.size
        unit = self.tracker.begin()
        sinks = self._sinks if to_streams else {}
        duplicates = failed = 0
        routed: dict[str, _Lines] = {}
        for item in chunk.items:
            outcome = item if isinstance(item, DeadLetter) else transform.apply(item, timestamp)
            if outcome is None:
                duplicates += 1
            elif isinstance(outcome, DeadLetter):
                failed += 1
                self._refuse(outcome, batch)
            else:
                destination = outcome[1]
                found = routed.get(destination)
                if found is None:
                    found = routed[destination] = _Lines(item.arrival_timestamp)
                found.oldest_arrival = min(found.oldest_arrival, item.arrival_timestamp)
                found.lines.append(outcome[0])
                sink = sinks.get(destination)
                if sink is not None:
                    self.tracker.expect(unit)
                    await sink.put(outcome[0], outcome[2], self._receive, (unit, batch, item, destination))
        for destination, found in routed.items():
            batch.append(destination, found.lines, found.oldest_arrival)
        batch.extend(chunk.last, len(chunk.items))
        held = chunk.size + batch.size - size_before
        batch.charged += held
        self._account.hold(held)
        self._count(len(chunk.items), duplicates, routed)
        if self.tracker.seal(unit, chunk.last):
            self._on_progress()
        return failed

    def _receive(self, token: Any, outcome: Outcome) -> None:
        unit, batch, record, destination = cast("_Token", token)
        if isinstance(outcome, Undeliverable):
            letter = DeadLetter(
                error_type=STREAM_DELIVERY_FAILED,
                error_code=outcome.error_code,
                error_message=outcome.error_message,
                data=record.data,
                partition_key=record.partition_key,
                position=record.position,
                arrival_timestamp=record.arrival_timestamp,
                event_id=_event_id(record.data),
                destination=destination,
            )
            self._refuse(letter, batch)
        if self.tracker.acknowledge(unit):
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

    def _count(self, read: int, duplicates: int, routed: Mapping[str, _Lines]) -> None:
        counters, telemetry = self._counters, self._telemetry
        counters.read += read
        telemetry.count("records_read", read)
        if duplicates:
            counters.duplicates += duplicates
            telemetry.count("duplicates_dropped", duplicates)
        for destination, found in routed.items():
            count = len(found.lines)
            counters.enriched += count
            counters.destinations[destination] = counters.destinations.get(destination, 0) + count
            telemetry.count("events_routed", count, destination=destination)


def _event_id(data: bytes) -> str | None:
    """Return the id of an event that was decoded once already."""
    return event_id_of(decode_event(data))
