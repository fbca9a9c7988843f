"""The values that travel: records, shards, positions and outcomes, all frozen and without behaviour of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from shared.hash_key import FULL_RANGE, HashKeyRange


class Position(NamedTuple):
    """A place in a shard: sequence number, then the sub-sequence number inside a KPL aggregate (0 if none)."""

    sequence_number: int
    sub_sequence_number: int = 0


class StreamRecord(NamedTuple):
    """One Kinesis record as GetRecords returns it (before de-aggregation)."""

    data: bytes
    partition_key: str
    sequence_number: int
    arrival_timestamp: float  # seconds since the epoch


class UserRecord(NamedTuple):
    """One record as its producer put it (after de-aggregation)."""

    data: bytes
    partition_key: str
    explicit_hash_key: int | None
    position: Position
    arrival_timestamp: float  # seconds since the epoch, of the stream record
    is_last: bool  # whether it is the last user record of its stream record


class PutEntry(NamedTuple):
    """One entry of a PutRecords request."""

    data: bytes
    partition_key: str
    explicit_hash_key: int | None = None


class PutResult(NamedTuple):
    """One entry of a PutRecords answer: a place, or the service's error code."""

    shard_id: str = ""
    sequence_number: int = 0
    error_code: str = ""
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard as ListShards describes it; `ending_sequence_number` is None while it is open."""

    shard_id: str
    hash_key_range: HashKeyRange = FULL_RANGE
    parent_shard_id: str | None = None
    adjacent_parent_shard_id: str | None = None
    starting_sequence_number: int = 0
    ending_sequence_number: int | None = None

    @property
    def parents(self) -> tuple[str, ...]:
        """The ids of its parents: none, one (split) or two (merge)."""
        return tuple(each for each in (self.parent_shard_id, self.adjacent_parent_shard_id) if each)

    @property
    def is_open(self) -> bool:
        """Whether it still takes records."""
        return self.ending_sequence_number is None


@dataclass(frozen=True, slots=True)
class ChildShard:
    """A child as the last GetRecords answer of its parent names it."""

    shard_id: str
    parents: tuple[str, ...]
    hash_key_range: HashKeyRange


class Distribution(Enum):
    """Who decides on the shard of a record; AUTO ignores partition keys, so order is not to be had."""

    USER_PARTITION_KEY = "USER_PARTITION_KEY"
    AUTO = "AUTO"


@dataclass(frozen=True, slots=True)
class StreamSummary:
    """What DescribeStreamSummary says of a stream."""

    stream_name: str
    stream_arn: str
    status: str
    open_shard_count: int
    retention_hours: int
    record_bytes_max: int
    distribution: Distribution = Distribution.USER_PARTITION_KEY


class StartKind(Enum):
    """The five iterator types of GetShardIterator."""

    TRIM_HORIZON = "TRIM_HORIZON"
    LATEST = "LATEST"
    AT_TIMESTAMP = "AT_TIMESTAMP"
    AT_SEQUENCE_NUMBER = "AT_SEQUENCE_NUMBER"
    AFTER_SEQUENCE_NUMBER = "AFTER_SEQUENCE_NUMBER"


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading of a shard begins; `timestamp` is in seconds since the epoch."""

    kind: StartKind
    sequence_number: int = 0
    timestamp: float = 0.0


TRIM_HORIZON = Start(StartKind.TRIM_HORIZON)
LATEST = Start(StartKind.LATEST)


@dataclass(frozen=True, slots=True)
class StreamConsumer:
    """A registered consumer of a stream (enhanced fan-out); `status` is the API's word."""

    consumer_arn: str
    status: str


@dataclass(frozen=True, slots=True)
class RecordPage:
    """One GetRecords answer, or one event of a subscription.

    `next_iterator` is None at the end of a closed shard; of an event, it is the continuation sequence number.
    """

    records: tuple[StreamRecord, ...] = ()
    next_iterator: str | None = None
    behind_milliseconds: int = 0
    child_shards: tuple[ChildShard, ...] = field(default=())
