"""The values that travel: records, shards, positions and outcomes, all frozen and without behaviour of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Self, overload

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


class PutResult(NamedTuple):
    """One entry of a PutRecords answer: a place, or the service's error code."""

    shard_id: str = ""
    sequence_number: int = 0
    error_code: str = ""
    error_message: str = ""


class PutResults(Sequence[PutResult]):
    """The results of an answer without failures, in columns: an object is made for each when it is looked at.

    Equal to any sequence of equal results. `numbers` are the sequence numbers in plain decimal digits, as they come.
    """

    __slots__ = ("numbers", "shard_ids")

    def __init__(self, shard_ids: list[str], numbers: list[str]) -> None:
        self.shard_ids = shard_ids
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.shard_ids)

    @overload
    def __getitem__(self, index: int) -> PutResult: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> PutResult | Self:
        if isinstance(index, slice):
            return type(self)(self.shard_ids[index], self.numbers[index])
        return PutResult(self.shard_ids[index], int(self.numbers[index]))

    def __iter__(self) -> Iterator[PutResult]:
        return map(PutResult, self.shard_ids, map(int, self.numbers))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as of a list


class StreamRecords(Sequence[StreamRecord]):
    """Neighbouring stream records in columns: an object per record costs as much as to parse it, so none is kept.

    Equal to any sequence of equal records. `numbers` are the sequence numbers in plain decimal digits, as they come and
    as they are written again.
    """

    __slots__ = ("arrivals", "datas", "keys", "numbers")

    def __init__(self, datas: list[bytes], keys: list[str], numbers: list[str], arrivals: list[float]) -> None:
        self.datas = datas
        self.keys = keys
        self.numbers = numbers
        self.arrivals = arrivals

    @classmethod
    def of(cls, records: Iterable[StreamRecord]) -> Self:
        """Return the columns of records."""
        columns = cls([], [], [], [])
        for data, key, number, arrival in records:
            columns.datas.append(data)
            columns.keys.append(key)
            columns.numbers.append(str(number))
            columns.arrivals.append(arrival)
        return columns

    def __len__(self) -> int:
        return len(self.datas)

    @overload
    def __getitem__(self, index: int) -> StreamRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> StreamRecord | Self:
        if isinstance(index, slice):
            return type(self)(self.datas[index], self.keys[index], self.numbers[index], self.arrivals[index])
        return StreamRecord(self.datas[index], self.keys[index], int(self.numbers[index]), self.arrivals[index])

    def __iter__(self) -> Iterator[StreamRecord]:
        return map(StreamRecord, self.datas, self.keys, map(int, self.numbers), self.arrivals)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as of a list


def data_bytes(records: Sequence[StreamRecord]) -> int:
    """Return how many bytes of data records have together."""
    columns = records if isinstance(records, StreamRecords) else StreamRecords.of(records)
    return sum(map(len, columns.datas))


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


class Wire(Enum):
    """How requests that carry records are written."""

    JSON = "json"
    CBOR = "cbor"


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

    records: Sequence[StreamRecord] = ()
    next_iterator: str | None = None
    behind_milliseconds: int = 0
    child_shards: tuple[ChildShard, ...] = field(default=())
