"""A complete in-memory Kinesis behind the port: hash key ranges, closed shards, splits, merges, expiring iterators."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from shared.errors import (
    ForeignPositionError,
    InvalidRequestError,
    IteratorExpiredError,
    StreamNotFoundError,
    ThrottledError,
)
from shared.hash_key import HashKeyRange, even_ranges, hash_key_of
from shared.limits import (
    GET_RECORDS_BYTES_MAX,
    GET_RECORDS_COUNT_MAX,
    HASH_KEY_MAX,
    ITERATOR_LIFETIME_SECONDS,
    PARTITION_KEY_CHARACTERS_MAX,
    PUT_RECORDS_BYTES_MAX,
    PUT_RECORDS_COUNT_MAX,
    RECORD_BYTES_MAX_DEFAULT,
    RETENTION_HOURS_DEFAULT,
)
from shared.records import (
    ChildShard,
    Distribution,
    PutEntry,
    PutResult,
    PutResults,
    RecordPage,
    Shard,
    Start,
    StartKind,
    StreamRecord,
    StreamSummary,
)
from tests.support.network import Network, PerfectNetwork

# Real sequence numbers have 56 digits and leave gaps; code that counts on `+ 1` should fail here as it would there.
_SEQUENCE_FIRST = 49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898
_SEQUENCE_STEP = 1 << 20


@dataclass(slots=True)
class FakeShard:
    """A shard and all its records, oldest first; `trimmed` of them are past retention."""

    shard: Shard
    records: list[StreamRecord] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    trimmed: int = 0
    children: list[str] = field(default_factory=list)


@dataclass(slots=True)
class FakeStream:
    """A stream: its shards by id, in the order of their making."""

    name: str
    shards: dict[str, FakeShard] = field(default_factory=dict)
    shards_made: int = 0  # an id is never given twice, even if its shard is forgotten
    sequence_number: int = _SEQUENCE_FIRST
    record_bytes_max: int = RECORD_BYTES_MAX_DEFAULT
    distribution: Distribution = Distribution.USER_PARTITION_KEY

    def next_sequence_number(self) -> int:
        """Return a number above all given before, with a gap that is not constant."""
        self.sequence_number += _SEQUENCE_STEP + self.sequence_number % 7
        return self.sequence_number

    def add_shard(self, hash_key_range: HashKeyRange, parents: Sequence[str] = ()) -> FakeShard:
        """Open a shard."""
        shard = Shard(
            shard_id=f"shardId-{self.shards_made:012d}",
            hash_key_range=hash_key_range,
            parent_shard_id=parents[0] if parents else None,
            adjacent_parent_shard_id=parents[1] if len(parents) > 1 else None,
            starting_sequence_number=self.next_sequence_number(),
        )
        self.shards_made += 1
        added = self.shards[shard.shard_id] = FakeShard(shard)
        for parent in parents:
            self.shards[parent].children.append(shard.shard_id)
        return added

    def close_shard(self, shard_id: str) -> None:
        """Close a shard for writing."""
        each = self.shards[shard_id]
        each.shard = replace(each.shard, ending_sequence_number=self.next_sequence_number())

    def open_shards(self) -> list[FakeShard]:
        """Return the shards that take records, by hash key."""
        found = [each for each in self.shards.values() if each.shard.is_open]
        return sorted(found, key=lambda each: each.shard.hash_key_range.start)

    def shard_for(self, hash_key: int) -> FakeShard:
        """Return the open shard whose range covers the hash key."""
        for each in self.shards.values():
            if each.shard.is_open and hash_key in each.shard.hash_key_range:
                return each
        msg = f"no open shard covers {hash_key}"
        raise AssertionError(msg)


class FakeKinesis:
    """The port `Kinesis`, whole, in memory; every call crosses the network it was given."""

    def __init__(self, network: Network | None = None) -> None:
        self.network: Network = network or PerfectNetwork()
        self.streams: dict[str, FakeStream] = {}

    # What an operator does: takes no time, fails only where Kinesis refuses it.

    def create_stream(
        self, name: str, shard_count: int = 1, distribution: Distribution = Distribution.USER_PARTITION_KEY
    ) -> FakeStream:
        """Make a stream with evenly cut shards."""
        stream = self.streams[name] = FakeStream(name, distribution=distribution)
        for each in even_ranges(shard_count):
            stream.add_shard(each)
        return stream

    def split_shard(self, stream: str, shard_id: str, at: int | None = None) -> tuple[str, str]:
        """Split an open shard in front of the hash key `at` (its middle by default); return the two children."""
        found = self._find(stream)
        parent = self._find_shard(stream, shard_id).shard
        middle = at if at is not None else parent.hash_key_range.start + parent.hash_key_range.width // 2
        # Kinesis leaves the lower child two hash keys and the upper one two.
        if not parent.is_open or not parent.hash_key_range.start + 1 < middle < parent.hash_key_range.end:
            raise InvalidRequestError(f"`{shard_id}` can't be split at {middle}", code="InvalidArgumentException")
        found.close_shard(shard_id)
        low = found.add_shard(HashKeyRange(parent.hash_key_range.start, middle - 1), [shard_id])
        high = found.add_shard(HashKeyRange(middle, parent.hash_key_range.end), [shard_id])
        return low.shard.shard_id, high.shard.shard_id

    def merge_shards(self, stream: str, shard_id: str, adjacent_shard_id: str) -> str:
        """Merge two open adjacent shards; return the child."""
        found = self._find(stream)
        first = self._find_shard(stream, shard_id).shard
        second = self._find_shard(stream, adjacent_shard_id).shard
        if not (first.is_open and second.is_open and first.hash_key_range.is_adjacent_to(second.hash_key_range)):
            raise InvalidRequestError(
                f"`{shard_id}` and `{adjacent_shard_id}` can't be merged", code="InvalidArgumentException"
            )
        found.close_shard(shard_id)
        found.close_shard(adjacent_shard_id)
        low = min(first.hash_key_range.start, second.hash_key_range.start)
        high = max(first.hash_key_range.end, second.hash_key_range.end)
        return found.add_shard(HashKeyRange(low, high), [shard_id, adjacent_shard_id]).shard.shard_id

    def trim(self, stream: str, shard_id: str, count: int) -> None:
        """Let the oldest `count` records fall out of retention."""
        shard = self.streams[stream].shards[shard_id]
        shard.trimmed = min(len(shard.records), shard.trimmed + count)

    def forget_shard(self, stream: str, shard_id: str) -> None:
        """Let a closed shard fall out of retention: ListShards no longer names it."""
        assert not self.streams[stream].shards[shard_id].shard.is_open
        del self.streams[stream].shards[shard_id]

    def records(self, stream: str) -> list[tuple[str, StreamRecord]]:
        """Return (shard id, record) of everything ever written, shard by shard."""
        return [(name, record) for name, each in self.streams[stream].shards.items() for record in each.records]

    def append(self, stream: FakeStream, shard: FakeShard, entry: PutEntry) -> int:
        """Write a record into a shard, whatever its keys; return its sequence number."""
        number = stream.next_sequence_number()
        shard.records.append(StreamRecord(entry.data, entry.partition_key, number, self.network.wall()))
        shard.numbers.append(number)
        return number

    # The port.

    async def put_record(self, stream: str, entry: PutEntry) -> PutResult:
        """Put one record."""

        def land() -> PutResult:
            found = self._find(stream)
            self._check_entry(found, entry)
            result = self._put(found, entry, "put_record")
            if result.error_code:
                raise ThrottledError(f"put_record on {stream}: {result.error_code}", code=result.error_code)
            return result

        return await self.network.call("kinesis.put_record", land)

    async def put_records(self, stream: str, entries: Sequence[PutEntry]) -> Sequence[PutResult]:
        """Put a batch; each entry is taken or refused on its own."""
        entries = tuple(entries)

        def land() -> Sequence[PutResult]:
            found = self._find(stream)
            if not 1 <= len(entries) <= PUT_RECORDS_COUNT_MAX:
                raise InvalidRequestError(f"{len(entries)} records; 1..{PUT_RECORDS_COUNT_MAX} are allowed")
            size = sum(len(each.data) + len(each.partition_key.encode()) for each in entries)
            if size > PUT_RECORDS_BYTES_MAX:
                raise InvalidRequestError(f"{size:,} bytes; at most {PUT_RECORDS_BYTES_MAX:,} are allowed")
            for each in entries:
                self._check_entry(found, each)
            return as_told([self._put(found, each, "put_records") for each in entries])

        return await self.network.call("kinesis.put_records", land)

    async def describe_stream(self, stream: str) -> StreamSummary:
        """Describe the stream."""

        def land() -> StreamSummary:
            found = self._find(stream)
            return StreamSummary(
                stream_name=stream,
                stream_arn=f"arn:aws:kinesis:eu-central-1:123456789012:stream/{stream}",
                status="ACTIVE",
                open_shard_count=len(found.open_shards()),
                retention_hours=RETENTION_HOURS_DEFAULT,
                record_bytes_max=found.record_bytes_max,
                distribution=found.distribution,
            )

        return await self.network.call("kinesis.describe_stream", land)

    async def list_shards(self, stream: str) -> tuple[Shard, ...]:
        """List all shards, open and closed."""
        return await self.network.call(
            "kinesis.list_shards", lambda: tuple(each.shard for each in self._find(stream).shards.values())
        )

    async def get_shard_iterator(self, stream: str, shard_id: str, start: Start) -> str:
        """Return an iterator: an index into the shard and the time of its making."""

        def land() -> str:
            shard = self._find_shard(stream, shard_id)
            self._check_start(self._find(stream), shard.shard, start)
            return f"{shard_id}:{_index_of(shard, start)}:{self.network.now()!r}"

        return await self.network.call("kinesis.get_shard_iterator", land)

    async def get_records(self, stream: str, iterator: str, limit: int) -> RecordPage:
        """Read one page: perhaps short, perhaps empty although records wait."""

        def land() -> RecordPage:
            if not 1 <= limit <= GET_RECORDS_COUNT_MAX:
                raise InvalidRequestError(f"limit is {limit}; 1..{GET_RECORDS_COUNT_MAX} are allowed")
            shard_id, index, made_at = _parse_iterator(iterator)
            age = self.network.now() - made_at
            if age > ITERATOR_LIFETIME_SECONDS or self.network.happens("iterator_expired"):
                raise IteratorExpiredError(f"the iterator is {age:.0f} s old")
            return self._page(self._find(stream), self._find_shard(stream, shard_id), index, limit)

        return await self.network.call("kinesis.get_records", land)

    def _page(self, stream: FakeStream, shard: FakeShard, index: int, limit: int) -> RecordPage:
        first = max(index, shard.trimmed)
        length = self.network.page_length("kinesis.get_records", min(limit, len(shard.records) - first))
        page: list[StreamRecord] = []
        size = 0
        for record in shard.records[first : first + length]:
            size += len(record.data) + len(record.partition_key)
            if page and size > GET_RECORDS_BYTES_MAX:
                break
            page.append(record)
        after = first + len(page)
        waiting = shard.records[after : after + 1]
        behind = max(0, int(1000 * (self.network.wall() - waiting[0].arrival_timestamp))) if waiting else 0
        # The end of a closed shard may be told together with the last records or by further, empty answers.
        is_end = not shard.shard.is_open and not waiting and not self.network.happens("late_shard_end")
        return RecordPage(
            records=tuple(page),
            next_iterator=None if is_end else f"{shard.shard.shard_id}:{after}:{self.network.now()!r}",
            behind_milliseconds=behind,
            child_shards=tuple(
                _child(stream.shards[name].shard) for name in shard.children if is_end and name in stream.shards
            ),
        )

    def _put(self, stream: FakeStream, entry: PutEntry, operation: str) -> PutResult:
        explicit = entry.explicit_hash_key
        if stream.distribution is Distribution.AUTO:
            shards = stream.open_shards()
            shard = shards[self.network.part(len(shards) - 1)]  # whatever the keys say
        else:
            shard = stream.shard_for(hash_key_of(entry.partition_key) if explicit is None else explicit)
        name = shard.shard.shard_id
        code = self.network.entry_error(operation, name)
        if code:
            return PutResult(error_code=code, error_message=f"{code} on {name}")
        return PutResult(shard_id=name, sequence_number=self.append(stream, shard, entry))

    def _check_entry(self, stream: FakeStream, entry: PutEntry) -> None:
        if not 1 <= len(entry.partition_key) <= PARTITION_KEY_CHARACTERS_MAX:
            raise InvalidRequestError(
                f"the partition key has {len(entry.partition_key)} characters; "
                f"1..{PARTITION_KEY_CHARACTERS_MAX} are allowed"
            )
        size = len(entry.data) + len(entry.partition_key.encode())
        if size > stream.record_bytes_max:
            raise InvalidRequestError(f"the record has {size:,} bytes; at most {stream.record_bytes_max:,} are allowed")
        if entry.explicit_hash_key is not None and not 0 <= entry.explicit_hash_key <= HASH_KEY_MAX:
            raise InvalidRequestError(f"the explicit hash key {entry.explicit_hash_key} is not inside 0..2^128-1")

    def _check_start(self, stream: FakeStream, shard: Shard, start: Start) -> None:
        if start.kind is StartKind.AT_TIMESTAMP and start.timestamp > self.network.wall():
            raise InvalidRequestError(f"the timestamp {start.timestamp} is in the future")
        if start.kind in {StartKind.AT_SEQUENCE_NUMBER, StartKind.AFTER_SEQUENCE_NUMBER}:
            last = shard.ending_sequence_number or stream.sequence_number
            if not shard.starting_sequence_number <= start.sequence_number <= last:
                raise ForeignPositionError(f"sequence number {start.sequence_number} is not of {shard.shard_id}")

    def _find(self, stream: str) -> FakeStream:
        if stream not in self.streams:
            raise StreamNotFoundError(f"Stream `{stream}` does not exist", code="ResourceNotFoundException")
        return self.streams[stream]

    def _find_shard(self, stream: str, shard_id: str) -> FakeShard:
        shards = self._find(stream).shards
        if shard_id not in shards:
            raise StreamNotFoundError(f"Shard `{shard_id}` does not exist", code="ResourceNotFoundException")
        return shards[shard_id]


def as_told(results: list[PutResult]) -> Sequence[PutResult]:
    """Return results as the adapter does: in columns if none failed."""
    if any(result.error_code for result in results):
        return results
    return PutResults([each.shard_id for each in results], [str(each.sequence_number) for each in results])


def _index_of(shard: FakeShard, start: Start) -> int:
    if start.kind is StartKind.TRIM_HORIZON:
        return 0
    if start.kind is StartKind.LATEST:
        return len(shard.records)
    if start.kind is StartKind.AT_TIMESTAMP:
        later = (index for index, each in enumerate(shard.records) if each.arrival_timestamp >= start.timestamp)
        return next(later, len(shard.records))
    bisect = bisect_left if start.kind is StartKind.AT_SEQUENCE_NUMBER else bisect_right
    return bisect(shard.numbers, start.sequence_number)


def _parse_iterator(iterator: str) -> tuple[str, int, float]:
    """Return shard id, index and time of making."""
    try:
        shard_id, index, made_at = iterator.rsplit(":", 2)
        return shard_id, int(index), float(made_at)
    except ValueError:
        raise InvalidRequestError("not a shard iterator", code="InvalidArgumentException") from None


def _child(shard: Shard) -> ChildShard:
    return ChildShard(shard.shard_id, shard.parents, shard.hash_key_range)
