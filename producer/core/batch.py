"""What travels through the batcher: stream records, the requests that carry them, and what came of those."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from producer.core.lanes import Lane, QueuedRecord
from shared.aggregation import AGGREGATE_OVERHEAD_BYTES, HASH_KEY_OVERHEAD_BYTES, MEMBER_OVERHEAD_BYTES, Aggregate
from shared.ports import Delivered, Undeliverable
from shared.records import PutEntry


class FlushReason(Enum):
    """Why a batch was due."""

    BYTES = "bytes"
    COUNT = "count"
    LINGER = "linger"
    FLUSH = "flush"
    RETRY = "retry"


class OutgoingRecord:
    """One stream record on its way: its entry stays the same however often it is sent."""

    __slots__ = ("attempts", "entry", "lanes", "members", "refused_at", "shard_id", "size", "wire_bytes")

    def __init__(
        self, entry: PutEntry, members: list[QueuedRecord], lanes: list[Lane], shard_id: str | None, size: int
    ) -> None:
        self.entry = entry
        self.members = members
        self.lanes = lanes  # those that wait for it; none where order is not kept
        self.shard_id = shard_id  # predicted
        self.size = size  # data and keys of the members, as the queues count them
        self.wire_bytes = len(entry.data) + len(entry.partition_key.encode())
        self.attempts = 0
        self.refused_at = float("inf")  # when the service first refused a request that it was part of

    @property
    def is_aggregate(self) -> bool:
        """Whether it holds more than one user record."""
        return len(self.members) > 1


@dataclass(slots=True)
class Batch:
    """One PutRecords request."""

    reason: FlushReason
    taken_at: float
    records: list[OutgoingRecord] = field(default_factory=list)
    bytes: int = 0

    @property
    def entries(self) -> list[PutEntry]:
        """The entries of the request, in the order in which `settle` expects their results."""
        return [record.entry for record in self.records]


@dataclass(slots=True)
class Settlement:
    """What came of a batch: receipts to hand out, and numbers for the telemetry."""

    delivered: list[tuple[list[QueuedRecord], Delivered]] = field(default_factory=list)
    undeliverable: list[tuple[QueuedRecord, Undeliverable]] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)  # stream records by error code
    misplaced: int = 0  # aggregates that landed where readers drop them


@dataclass(slots=True)
class Retry:
    """Stream records that wait until `due_at` to be sent again."""

    due_at: float
    records: list[OutgoingRecord]


def member_bytes_max(record: QueuedRecord) -> int:
    """Return what a record takes in an aggregate at most."""
    return record[6] + MEMBER_OVERHEAD_BYTES + (0 if record[3] is None else HASH_KEY_OVERHEAD_BYTES)


class Group:
    """An aggregate under construction for one shard."""

    __slots__ = ("aggregate", "bytes", "lanes", "members", "shard_id", "size")

    def __init__(self, shard_id: str) -> None:
        self.shard_id = shard_id
        self.aggregate = Aggregate()
        self.members: list[QueuedRecord] = []
        self.lanes: list[Lane] = []
        self.bytes = AGGREGATE_OVERHEAD_BYTES  # that the aggregate takes at most
        self.size = 0  # of its members, as the queues count them

    def take(self, lane: Lane, count: int) -> None:
        """Move the first `count` records of a lane here."""
        queue = lane.queue
        if count == len(queue):
            records, size = list(queue), lane.bytes
            queue.clear()
        else:
            records = [queue.popleft() for _ in range(count)]
            size = sum(record[6] for record in records)
        lane.bytes -= size
        self.bytes += size + count * MEMBER_OVERHEAD_BYTES
        self.size += size
        self.members += records
        self.lanes.append(lane)
        if lane.has_explicit:
            for record in records:
                self.aggregate.append(record[0], record[1], record[3])
                self.bytes += 0 if record[3] is None else HASH_KEY_OVERHEAD_BYTES
        else:
            self.aggregate.extend([record[0] for record in records], [record[1] for record in records])
