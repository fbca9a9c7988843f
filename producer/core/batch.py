"""What travels through the batcher: stream records, the requests that carry them, and what came of those."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from producer.core.lane import Lane
from producer.core.record_columns import RecordColumns, Ticket, size_of
from shared.aggregation import (
    AGGREGATE_OVERHEAD_BYTES,
    HASH_KEY_OVERHEAD_BYTES,
    MEMBER_OVERHEAD_BYTES,
    encode_aggregates,
)
from shared.ports import Delivered, Undeliverable
from shared.records import PutEntry

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
    """One PutRecords request."""

    reason: FlushReason
    taken_at: float
    records: list[OutgoingRecord] = field(default_factory=list)
    plain: RecordColumns = field(
        default_factory=RecordColumns
    )  # user records sent as they are, in no order, after these
    closed: list[Group] = field(default_factory=list)  # aggregates that are full, to be written together with the last
    bytes: int = 0

    @property
    def count(self) -> int:
        """How many stream records it has."""
        return len(self.records) + len(self.closed) + len(self.plain.datas)

    @property
    def entries(self) -> list[PutEntry]:
        """The entries of the request, in the order in which `settle` expects their results."""
        plain = self.plain
        return [
            *(record.entry for record in self.records),
            *(_new_tuple(PutEntry, (data, key, None)) for data, key in zip(plain.datas, plain.keys, strict=True)),
        ]


@dataclass(slots=True)
class Settlement:
    """What came of a batch: receipts to hand out, and numbers for the telemetry."""

    delivered: list[tuple[RecordColumns, Delivered]] = field(default_factory=list)
    undeliverable: list[tuple[Ticket | None, Undeliverable]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)  # stream records by error code
    misplaced: int = 0  # aggregates that landed where readers drop them
    is_hopeless: bool = False  # the stream refuses whatever is tried, so that no record is to blame


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
        return OutgoingRecord(
            entry, self.members, self.lanes, self.shard_id, len(entry.data) + len(entry.partition_key.encode())
        )


def write(groups: Sequence[Group]) -> list[OutgoingRecord]:
    """Return the stream records of some groups."""
    entries = encode_aggregates([(each.members.datas, each.members.keys, each.members.hash_keys) for each in groups])
    return [group.written(entry) for group, entry in zip(groups, entries, strict=True)]
