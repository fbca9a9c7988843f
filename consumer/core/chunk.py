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


Item = UserRecord | DeadLetter


@dataclass(slots=True)
class Chunk:
    """Neighbouring records in reading order, with dead letters in the places of members that can't be had."""

    items: list[Item] = field(default_factory=list)
    last: Position = Position(0)
    size: int = 0  # bytes of data

    def extend(self, items: list[Item], last: Position, size: int) -> None:
        """Add records that end at `last` and have `size` bytes of data; there may be none."""
        self.items += items
        self.last = last
        self.size += size

    def is_full(self, records_max: int) -> bool:
        """Whether nothing more is to be added."""
        return len(self.items) >= records_max or self.size >= CHUNK_BYTES_MAX

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
    for items, last, size in _between(records, hash_key_range, after, through):
        if not items or (len(items) <= records_max - len(chunk.items) and size <= CHUNK_BYTES_MAX):
            chunk.extend(items, last, size)
            if chunk.is_full(records_max):
                yield chunk
                chunk = Chunk()
            continue
        for item in items:
            chunk.extend([item], item.position, len(item.data))
            if chunk.is_full(records_max):
                yield chunk
                chunk = Chunk()
    if chunk.last.sequence_number:
        yield chunk


def _between(
    records: Iterable[StreamRecord],
    hash_key_range: HashKeyRange | None,
    after: Position | None,
    through: Position | None,
) -> Iterator[tuple[list[Item], Position, int]]:
    """Yield what each stream record holds between the bounds, its last position there, and its bytes."""
    for record in records:
        number = record.sequence_number
        if after is not None and number < after.sequence_number:
            continue
        if through is not None and number > through.sequence_number:
            return
        items, last = _items(record, deaggregate(record, hash_key_range))
        is_first = after is not None and number == after.sequence_number
        is_last = through is not None and number == through.sequence_number
        if is_first or is_last:
            items = [item for item in items if _lies_between(item.position, after, through)]
            if not items:
                continue
            last = items[-1].position
        yield items, last, len(record.data)


def _lies_between(position: Position, after: Position | None, through: Position | None) -> bool:
    return (after is None or position > after) and (through is None or position <= through)


def _items(record: StreamRecord, found: Deaggregated) -> tuple[list[Item], Position]:
    """Return what a stream record holds, and its last position (an aggregate can be empty)."""
    items: list[Item] = list(found.records)
    if found.dropped_reason is not None:
        items.append(
            DeadLetter(
                error_type=PROCESSING_FAILED,
                error_code=found.dropped_reason.value,
                error_message=f"{found.dropped_count:,} members of the aggregate can't be delivered",
                data=record.data,
                partition_key=record.partition_key,
                position=Position(record.sequence_number, len(found.records)),
                arrival_timestamp=record.arrival_timestamp,
            )
        )
    return items, items[-1].position if items else Position(record.sequence_number)
