"""Cuts a page of stream records into runs of user records that are small enough to handle at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from consumer.core.dead_letter import DeadLetter
from consumer.core.object_key import PROCESSING_FAILED
from shared.aggregation import Deaggregated, deaggregate
from shared.hash_key import HashKeyRange
from shared.limits import KIB
from shared.records import Position, StreamRecord, UserRecord

# Chunks of 256 stay in the processor's cache; to keep a page's decoded events costs as much again as to parse them.
CHUNK_RECORDS: Final = 256
CHUNK_BYTES_MAX: Final = 256 * KIB


@dataclass(slots=True)
class Chunk:
    """Neighbouring records in reading order, with dead letters in the places of members that can't be had."""

    items: list[UserRecord | DeadLetter] = field(default_factory=list)
    last: Position = Position(0)
    size: int = 0  # bytes of data

    @property
    def first(self) -> Position:
        """The position of its first record."""
        return self.items[0].position if self.items else self.last


def cut(
    records: Iterable[StreamRecord],
    hash_key_range: HashKeyRange | None,
    *,
    after: Position | None = None,
    through: Position | None = None,
    records_max: int = CHUNK_RECORDS,
) -> Iterator[Chunk]:
    """De-aggregate a page and yield it in chunks, leaving out what lies at or before `after` or beyond `through`.

    A chunk has at most `records_max` records and ends once it has 256 KiB. A chunk without items only moves the
    position: an aggregate can be empty.
    """
    chunk = Chunk()
    for record in records:
        if after is not None and record.sequence_number < after.sequence_number:
            continue
        if through is not None and record.sequence_number > through.sequence_number:
            break
        for item in _items(record, deaggregate(record, hash_key_range)):
            position = item.position if not isinstance(item, Position) else item
            if (after is not None and position <= after) or (through is not None and position > through):
                continue
            chunk.last = position
            if not isinstance(item, Position):
                chunk.items.append(item)
                chunk.size += len(item.data)
            if len(chunk.items) >= records_max or chunk.size >= CHUNK_BYTES_MAX:
                yield chunk
                chunk = Chunk()
    if chunk.last.sequence_number:
        yield chunk


def _items(record: StreamRecord, found: Deaggregated) -> Iterator[UserRecord | DeadLetter | Position]:
    yield from found.records
    if found.dropped_reason is not None:
        yield DeadLetter(
            error_type=PROCESSING_FAILED,
            error_code=found.dropped_reason.value,
            error_message=f"{found.dropped_count:,} members of the aggregate can't be delivered",
            data=record.data,
            partition_key=record.partition_key,
            position=Position(record.sequence_number, len(found.records)),
            arrival_timestamp=record.arrival_timestamp,
        )
    elif not found.records:
        yield Position(record.sequence_number, 0)
