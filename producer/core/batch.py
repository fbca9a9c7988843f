"""What travels through the batcher: stream records, the requests that carry them, and what came of those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Self

from producer.core.aggregates import Aggregates
from producer.core.lane import Lane
from producer.core.record_columns import RecordColumns, Ticket, size_of
from shared.aggregation import (
    AGGREGATE_OVERHEAD_BYTES,
    HASH_KEY_OVERHEAD_BYTES,
    MEMBER_OVERHEAD_BYTES,
    encode_aggregates,
)
from shared.ports import Delivered, Undeliverable
from shared.records import PutEntry, PutResult, PutResults

_new_tuple: Final[Any] = tuple.__new__  # half the time of a NamedTuple's own constructor


class FlushReason(Enum):
    """Why a batch was due."""

    BYTES = "bytes"
    COUNT = "count"
    LINGER = "linger"
    FLUSH = "flush"
    RETRY = "retry"


class OutgoingRecord:
    """One stream record on its way: its entry stays the same however often it is sent.

    `columns` are its members. A user record that is sent as it is has none, only a `ticket`: objects per record cost
    more than to send it.
    """

    __slots__ = (
        "attempts",
        "columns",
        "entry",
        "is_last_try",
        "lanes",
        "made_at",
        "overtaken",
        "refusal",
        "refused_at",
        "shard_id",
        "ticket",
        "wire_bytes",
    )

    def __init__(
        self,
        entry: PutEntry,
        columns: RecordColumns | None,
        lanes: Sequence[Lane],
        shard_id: str | None,
        wire_bytes: int,
        ticket: Ticket | None = None,
    ) -> None:
        self.entry = entry
        self.columns = columns
        self.ticket = ticket
        self.lanes = lanes  # those that wait for it; none where order is not kept
        self.shard_id = shard_id  # predicted
        self.wire_bytes = wire_bytes  # data and partition key of the entry
        self.made_at = float("inf")  # when the request was taken that it was made for
        self.attempts = 0  # that failed otherwise than by a refusal of the whole request
        self.refused_at = float("inf")  # when the service first refused a request that it was part of
        self.is_last_try = False  # the service was known to have taken something since, when it was sent
        self.refusal = ("", "")  # code and message of the last one
        self.overtaken: Sequence[OutgoingRecord] = ()  # refused records of its lane, given up once it has an outcome

    @property
    def is_aggregate(self) -> bool:
        """Whether it holds more than one user record."""
        return self.count > 1

    @property
    def count(self) -> int:
        """How many user records it holds."""
        return 1 if self.columns is None else len(self.columns.datas)

    @property
    def members(self) -> RecordColumns:
        """Its user records."""
        if self.columns is not None:
            return self.columns
        data, key, explicit = self.entry
        alone = RecordColumns()
        alone.append(data, key, self.ticket, explicit)
        return alone


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What requests are made of: how many stream records and bytes at most, and whether these are aggregates."""

    aggregates: bool
    aggregate_bytes_max: int
    batch_records_max: int
    batch_bytes_max: int


@dataclass(slots=True)
class Batch:
    """One PutRecords request: stream records, aggregates in columns, and user records as they are, in this order."""

    reason: FlushReason
    taken_at: float
    singled: list[OutgoingRecord] = field(default_factory=list)  # objects, as something is to be told of each
    aggregates: Aggregates | None = None
    plain: RecordColumns = field(default_factory=RecordColumns)  # user records sent as they are, in no order
    closed: list[Group] = field(default_factory=list)  # aggregates that are full, to be written together with the last
    bytes: int = 0

    @property
    def count(self) -> int:
        """How many stream records it has."""
        together = len(self.closed) if self.aggregates is None else len(self.aggregates)
        return len(self.singled) + together + len(self.plain.datas)

    @property
    def records(self) -> list[OutgoingRecord]:
        """Its stream records; the aggregates become such objects by this, to be judged one by one."""
        together, self.aggregates = self.aggregates, None
        if together is not None:
            for entry, members, lanes, shard_id in zip(
                together.entries, together.members, together.lanes_of_each, together.shard_ids, strict=True
            ):
                record = OutgoingRecord(entry, members, lanes, shard_id, _wire_bytes(entry))
                record.made_at = self.taken_at
                self.singled.append(record)
        return self.singled

    def take_landed(self, results: Sequence[PutResult]) -> tuple[Aggregates, PutResults] | None:
        """Take out the aggregates, with their results, if all of them landed where they were meant to be."""
        together, start = self.aggregates, len(self.singled)
        if together is None or not isinstance(results, PutResults) or results.shard_ids[start:] != together.shard_ids:
            return None
        self.aggregates = None
        return together, results[start:]

    @property
    def entries(self) -> list[PutEntry]:
        """The entries of the request, in the order in which `settle` expects their results."""
        plain = self.plain
        return [
            *(record.entry for record in self.singled),
            *(() if self.aggregates is None else self.aggregates.entries),
            *(_new_tuple(PutEntry, (data, key, None)) for data, key in zip(plain.datas, plain.keys, strict=True)),
        ]


@dataclass(slots=True)
class Settlement:
    """What came of a batch: receipts to hand out, and numbers for the telemetry."""

    delivered: list[tuple[RecordColumns, Delivered]] = field(default_factory=list)  # but for these:
    landed: tuple[Aggregates, PutResults] | None = None  # aggregates, all where they were meant to be
    undeliverable: list[tuple[Ticket | None, Undeliverable]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)  # stream records by error code
    misplaced: int = 0  # aggregates that landed where readers drop them
    is_hopeless: bool = False  # the stream refuses whatever is tried, so that no record is to blame

    def outcomes(self) -> Iterator[tuple[RecordColumns, Delivered]]:
        """Yield all that was delivered, stream record by stream record."""
        yield from self.delivered
        if self.landed is not None:
            aggregates, results = self.landed
            yield from zip(aggregates.members, (Delivered(*result[:2]) for result in results), strict=True)

    def receipts(self) -> Iterator[tuple[Ticket, Delivered, int]]:
        """Yield who is to be told, what, and of how many records."""
        asked = self.landed is not None and self.landed[0].tickets is not None
        for members, delivered in self.outcomes() if asked else self.delivered:
            if members.tickets is not None:
                for ticket, number in members.receipts():
                    yield ticket, delivered, number

    @property
    def count(self) -> int:
        """How many user records were delivered."""
        together = 0 if self.landed is None else self.landed[0].count
        return together + sum(len(members.datas) for members, _ in self.delivered)


def bytes_max(records: RecordColumns) -> int:
    """Return what records take in an aggregate at most."""
    explicit = 0 if records.hash_keys is None else len(records.hash_keys) - records.hash_keys.count(None)
    return records.size + len(records.datas) * MEMBER_OVERHEAD_BYTES + explicit * HASH_KEY_OVERHEAD_BYTES


def member_bytes_max(records: RecordColumns, index: int) -> int:
    """Return what one of some records takes in an aggregate at most."""
    return (
        size_of(records.datas[index], records.keys[index])
        + MEMBER_OVERHEAD_BYTES
        + (0 if records.explicit(index) is None else HASH_KEY_OVERHEAD_BYTES)
    )


def head_bytes_max(records: RecordColumns, index: int) -> int:
    """Return what one of some records takes in a request at most: unwrapped, or in an aggregate of its own."""
    return AGGREGATE_OVERHEAD_BYTES + member_bytes_max(records, index)


def prefix_within(records: RecordColumns, room: int) -> int:
    """Count the first records, none with an explicit hash key, that fit into `room` bytes of an aggregate.

    Nearly the longest such prefix: found by sums, in a fifth of the time of looking at each record.
    """
    count = min(len(records), max(0, room) * len(records) // bytes_max(records) + 1)
    while count and (size := bytes_max(records.part(0, count))) > room:
        count = max(0, room) * count // size
    return count


class Group:
    """An aggregate under construction for one shard."""

    __slots__ = ("bytes", "lanes", "members", "shard_id")

    def __init__(self, shard_id: str) -> None:
        self.shard_id = shard_id
        self.members = RecordColumns()
        self.lanes: list[Lane] = []
        self.bytes = AGGREGATE_OVERHEAD_BYTES  # that the aggregate takes at most

    def take(self, lane: Lane, count: int) -> None:
        """Move the first `count` records of a lane here."""
        lane.move_to(self.members, count)
        self.bytes = AGGREGATE_OVERHEAD_BYTES + bytes_max(self.members)
        self.lanes.append(lane)

    def written(self, entry: PutEntry) -> OutgoingRecord:
        """Return the stream record that `entry` is made of its members."""
        return OutgoingRecord(entry, self.members, self.lanes, self.shard_id, _wire_bytes(entry))

    @classmethod
    def each_of(cls, taken: Aggregates) -> Iterator[Self]:
        """Yield groups that more can be added to."""
        for shard_id, members, lanes in zip(taken.shard_ids, taken.members, taken.lanes_of_each, strict=True):
            group = cls(shard_id)
            group.members = members
            group.lanes += lanes
            group.bytes += bytes_max(members)
            yield group


def together(groups: Sequence[Group]) -> Aggregates | None:
    """Return some groups in columns; None if one has an explicit hash key."""
    members = [group.members for group in groups]
    if any(each.hash_keys is not None for each in members):
        return None
    tickets = [each.tickets for each in members]
    return Aggregates(
        [group.shard_id for group in groups],
        [each.datas for each in members],
        [each.keys for each in members],
        [each.size for each in members],
        tickets if any(tickets) else None,
        [len(group.lanes) for group in groups],
        [lane for group in groups for lane in group.lanes],
    )


def write(groups: Sequence[Group]) -> list[OutgoingRecord]:
    """Return the stream records of some groups."""
    entries = encode_aggregates([(each.members.datas, each.members.keys, each.members.hash_keys) for each in groups])
    return [group.written(entry) for group, entry in zip(groups, entries, strict=True)]


def _wire_bytes(entry: PutEntry) -> int:
    return len(entry.data) + len(entry.partition_key.encode())
