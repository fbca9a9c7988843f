"""Cuts a page of stream records into runs of user records that are small enough to handle at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from consumer.core.dead_letter import DeadLetter
from shared.aggregation import MAGIC, are_aggregates, split
from shared.compiled import COLUMNS
from shared.hash_key import HashKeyRange
from shared.limits import KIB
from shared.records import Position, StreamRecord, StreamRecords

# Chunks of 256 stay in the processor's cache; to keep a page's decoded events costs as much again as to parse them.
CHUNK_RECORDS: Final = 256
CHUNK_BYTES_MAX: Final = 256 * KIB
PROCESS_KILLED: Final = "ProcessKilled"
_NO_EVENT: Final = b"{}"


@dataclass(slots=True)
class _Members:
    """What a stream record holds; `start` and `stop` bound what is wanted of it."""

    datas: list[bytes]
    keys: list[str]
    sequence_number: int
    arrival: float
    refused: tuple[str, str] | None  # why the last one, which is the whole stream record, is refused
    start: int
    stop: int
    size_max: int  # bytes that all data have at most


@dataclass(slots=True)
class Chunk:
    """Neighbouring records in reading order, in columns: an object per record costs more than most of what is done.

    Where members of an aggregate can't be had, the whole stream record stands in their place, as a refused one.
    """

    datas: list[bytes] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    sequence_numbers: list[str] = field(default_factory=list)  # in plain decimal digits
    sub_sequence_numbers: list[int] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)  # seconds since the epoch
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)  # by index: error code and message
    last: Position = Position(0)
    size: int = 0  # bytes of data
    attempts: int = 1  # how often it was looked at, as far as the lease row counts it

    def __len__(self) -> int:
        return len(self.datas)

    @property
    def first(self) -> Position:
        """The position of its first record."""
        return self.position(0) if self.datas else self.last

    @property
    def readable(self) -> Sequence[bytes]:
        """The records with an empty event in the place of refused ones: to decode one may be what kills the process."""
        if not self.refused:
            return self.datas
        return [_NO_EVENT if index in self.refused else data for index, data in enumerate(self.datas)]

    def position(self, index: int) -> Position:
        """Return the place of a record."""
        return Position(int(self.sequence_numbers[index]), self.sub_sequence_numbers[index])

    def condemn(self, attempts: int) -> None:
        """Refuse the first record, as the process ended at each of the attempts to look at it."""
        self.attempts = attempts
        self.refused[0] = (PROCESS_KILLED, f"the process ended {attempts} times while it looked at this record")

    def dead_letter(
        self,
        index: int,
        *,
        error_type: str,
        error_code: str,
        error_message: str,
        event_id: str | None = None,
        destination: str | None = None,
    ) -> DeadLetter:
        """Return the dead letter of a record."""
        return DeadLetter(
            error_type=error_type,
            error_code=error_code,
            error_message=error_message,
            data=self.datas[index],
            partition_key=self.keys[index],
            position=self.position(index),
            arrival_timestamp=self.arrivals[index],
            event_id=event_id,
            destination=destination,
            attempts=self.attempts,
        )

    def extend(self, members: _Members, start: int, stop: int) -> None:
        """Add members `start` to `stop` of one stream record; there may be none."""
        count = stop - start
        datas = members.datas[start:stop]
        if members.refused is not None and stop == len(members.datas) and count:
            self.refused[len(self.datas) + count - 1] = members.refused
        self.datas += datas
        self.keys += members.keys[start:stop]
        self.sequence_numbers += [str(members.sequence_number)] * count
        self.sub_sequence_numbers += range(start, stop)
        self.arrivals += [members.arrival] * count
        self.last = Position(members.sequence_number, max(0, stop - 1))
        self.size += sum(map(len, datas))

    def fit(self, members: _Members, start: int, records_max: int) -> int:
        """Return where the part of `members` from `start` on ends that still goes in: one record does in any case."""
        stop = min(members.stop, start + records_max - len(self.datas))
        left = CHUNK_BYTES_MAX - self.size
        if members.size_max < left:
            return stop
        sizes = accumulate(map(len, members.datas[start:stop]))
        return next((at for at, size in enumerate(sizes, start + 1) if size >= left), stop)


def cut(
    records: Sequence[StreamRecord],
    hash_key_range: HashKeyRange | None,
    *,
    after: Position | None = None,
    through: Position | None = None,
    records_max: int = CHUNK_RECORDS,
) -> Iterator[Chunk]:
    """De-aggregate a page and yield it in chunks, leaving out what lies at or before `after` or beyond `through`.

    A chunk has at most `records_max` records and ends once it has 256 KiB. A chunk without records only moves the
    position: an aggregate can be empty.
    """
    chunk = Chunk()
    columns = records if isinstance(records, StreamRecords) else StreamRecords.of(records)
    for at in range(0, len(columns), records_max):
        part = columns[at : at + records_max]
        plain = _plain_chunk(part, after, through) if not chunk.last.sequence_number else None
        if plain is not None:
            yield plain
            continue
        for record, is_aggregate in zip(part, are_aggregates(part.datas), strict=True):
            members = _members(record, hash_key_range, after, through, is_aggregate=is_aggregate)
            if members is None:
                continue
            start = members.start
            while True:
                stop = chunk.fit(members, start, records_max)
                chunk.extend(members, start, stop)
                if len(chunk) >= records_max or chunk.size >= CHUNK_BYTES_MAX:
                    yield chunk
                    chunk = Chunk()
                start = stop
                if start >= members.stop:
                    break
    if chunk.last.sequence_number:
        yield chunk


def _plain_chunk(records: StreamRecords, after: Position | None, through: Position | None) -> Chunk | None:
    """Return records as a chunk at once; None if an aggregate or a bound is among them, or too many bytes."""
    datas, numbers = records.datas, records.numbers
    first, last = int(numbers[0]), int(numbers[-1])
    if (after is not None and first <= after.sequence_number) or (
        through is not None and last >= through.sequence_number
    ):
        return None
    size = _size_of_plain(datas)
    if size is None or size > CHUNK_BYTES_MAX:
        return None
    return Chunk(datas, records.keys, numbers, [0] * len(datas), records.arrivals, last=Position(last), size=size)


def _size_of_plain(datas: list[bytes]) -> int | None:
    """Return how many bytes there are; None if one may be an aggregate: it begins with the magic, JSON with less."""
    if COLUMNS is not None:
        return COLUMNS.size_of_plain(datas)
    return None if max(datas) >= MAGIC else len(b"".join(datas))  # in half the time of the sum of their lengths


def _members(
    record: StreamRecord,
    hash_key_range: HashKeyRange | None,
    after: Position | None,
    through: Position | None,
    *,
    is_aggregate: bool,
) -> _Members | None:
    """Return what a stream record holds between the bounds; None if nothing of it lies there."""
    number = record.sequence_number
    if (after is not None and number < after.sequence_number) or (
        through is not None and number > through.sequence_number
    ):
        return None
    datas, keys, _, reason, dropped = split(record, hash_key_range, is_aggregate=is_aggregate)
    refused, size_max = None, len(record.data)
    if reason is not None:
        size_max *= 2
        refused = (reason.value, f"{dropped:,} members of the aggregate can't be delivered")
        datas, keys = [*datas, record.data], [*keys, record.partition_key]
    start, stop = 0, len(datas)
    if after is not None and number == after.sequence_number:
        start = after.sub_sequence_number + 1
    if through is not None and number == through.sequence_number:
        stop = min(stop, through.sub_sequence_number + 1)
    is_whole = (start, stop) == (0, len(datas))
    if start >= stop and not (is_whole and not datas):
        return None
    return _Members(datas, keys, number, record.arrival_timestamp, refused, start, stop, size_max)
