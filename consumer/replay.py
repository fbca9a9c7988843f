"""Rebuilds the batch of a flush that was prepared before: its very range, read again."""

from __future__ import annotations

from typing import Final

from consumer.care import Care
from consumer.core.batch import Batch
from consumer.core.chunk import cut
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.enrichment import Enricher, timestamp_text
from consumer.core.flush_format import FlushFormat
from consumer.core.object_key import STREAM_DELIVERY_FAILED, error_slot
from consumer.core.route import Router
from consumer.core.transform import Transform
from consumer.delivery import Delivery
from consumer.fan_out_reader import Reader
from shared.hash_key import HashKeyRange
from shared.lease import PendingFlush
from shared.ports import Clock
from shared.records import Position

_TIP_PAGES_MAX: Final = 5  # empty pages at the tip after which nobody waits any longer for records that were trimmed


class Replay:
    """Reads from the first position of a pending flush to its last, whoever prepared it."""

    def __init__(
        self,
        reader: Reader,
        delivery: Delivery,
        enricher: Enricher,
        marks: DuplicateMarks,
        *,
        care: Care,
        clock: Clock,
    ) -> None:
        self._reader = reader
        self._delivery = delivery
        self._enricher = enricher
        self._marks = marks
        self._care = care
        self._clock = clock

    @staticmethod
    def pinned_of(pending: PendingFlush) -> FlushFormat:
        """Return the format that was decided on when the flush was prepared."""
        return FlushFormat.parse(pending.format_version)

    async def rebuild(self, pending: PendingFlush, hash_key_range: HashKeyRange | None) -> Batch:
        """Return the batch; it is shorter than it was if records were trimmed meanwhile."""
        pinned = self.pinned_of(pending)
        batch = Batch(self._clock.monotonic(), keeps_lines=True)
        transform = Transform(self._enricher, Router(pinned.destinations, pinned.fields), self._marks)
        # A destination refuses for the record's own sake, so that asking again brings the same dead letters.
        to_streams = error_slot(STREAM_DELIVERY_FAILED) in pinned.slots
        first, last = pending.first, pending.last
        after = Position(first.sequence_number, first.sub_sequence_number - 1)
        tip_pages = 0
        while tip_pages < _TIP_PAGES_MAX:
            page = await self._reader.read()
            for chunk in cut(page.records, hash_key_range, after=after, through=last):
                if pinned.condemned_after:
                    chunk.condemn(pinned.condemned_after)
                timestamp = timestamp_text(self._clock.wall()).encode()
                await self._care.pass_by()
                await self._delivery.take(chunk, batch, transform, timestamp=timestamp, to_streams=to_streams)
                after = chunk.last
            is_beyond = bool(page.records) and page.records[-1].sequence_number > last.sequence_number
            if page.next_iterator is None or is_beyond or (batch.last is not None and batch.last >= last):
                break
            tip_pages = tip_pages + 1 if not page.records and not page.behind_milliseconds else 0
            del page  # before the next one takes its room
        return batch
