"""The way out: where an iterator stands, what a GetRecords call or a subscription gets, and where it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from infra.cloud.core.api_error import ApiError, constraint_broken, invalid_argument, validation_failed
from infra.cloud.core.consumer import ChildShard, ShardEvent
from infra.cloud.core.names import shard_id_of
from infra.cloud.core.sequence import parse_sequence_number
from infra.cloud.core.shard import Shard
from infra.cloud.core.shard_log import StoredRecord
from infra.cloud.core.stream import Stream
from infra.cloud.core.token import ShardIterator
from infra.cloud.core.writing import THROTTLED, rate_exceeded
from shared.limits import (
    GET_RECORDS_BYTES_MAX,
    GET_RECORDS_COUNT_MAX,
    ITERATOR_LIFETIME_SECONDS,
    SHARD_READ_BYTES_PER_SECOND,
)

ITERATOR_TYPES: Final = (
    "AT_SEQUENCE_NUMBER",
    "AFTER_SEQUENCE_NUMBER",
    "TRIM_HORIZON",
    "LATEST",
    "AT_TIMESTAMP",
)


@dataclass(frozen=True, slots=True)
class StartingPosition:
    """Where to start reading; `timestamp` in seconds since 1970."""

    type: str
    sequence_number: str | None = None
    timestamp: float | None = None


@dataclass(frozen=True, slots=True)
class RecordsPage:
    """The answer of GetRecords; `next_iterator` is None once a closed shard is read to its end."""

    records: list[StoredRecord]
    next_iterator: str | None
    millis_behind_latest: int
    child_shards: list[ChildShard]


def locate(stream: Stream, shard: Shard, start: StartingPosition, now: float) -> int:
    """The counter of the first record to read from a starting position."""
    stream.trim(shard, now)
    log = shard.log
    match start.type:
        case "TRIM_HORIZON":
            return log.first
        case "LATEST":
            return log.next
        case "AT_TIMESTAMP":
            return _at_timestamp(shard, start.timestamp, now)
        case "AT_SEQUENCE_NUMBER" | "AFTER_SEQUENCE_NUMBER":
            return max(log.first, _at_sequence_number(stream, shard, start))
    raise constraint_broken(
        start.type, "shardIteratorType", f"Member must satisfy enum value set: {list(ITERATOR_TYPES)}"
    )


def _at_timestamp(shard: Shard, timestamp: float | None, now: float) -> int:
    if timestamp is None:
        invalid_argument("Must either specify timestamp parameter or a different iterator type.")
    if timestamp > now:
        invalid_argument(
            f"The timestampInMillis parameter cannot be greater than the currentTimestampInMillis. "
            f"timestampInMillis: {int(timestamp * 1_000)}, currentTimestampInMillis: {int(now * 1_000)}"
        )
    # Readers see arrival times in whole milliseconds, so a time taken from a record must find that record.
    return shard.log.counter_from_time(timestamp - 0.0005)


def _at_sequence_number(stream: Stream, shard: Shard, start: StartingPosition) -> int:
    text = start.sequence_number
    if text is None:
        invalid_argument("Must either specify startingSequenceNumber or a different iterator type.")
    number = parse_sequence_number(text)
    if number is None:
        validation_failed(text, "startingSequenceNumber", r"Member must satisfy pattern: 0|([1-9]\d{0,128})")
    counter = shard.numbers.counter_at_or_after(number)
    # Counter 0 is the shard's StartingSequenceNumber, `next` the EndingSequenceNumber of a closed shard.
    if not 0 <= counter <= shard.log.next or number < shard.numbers.base:
        invalid_argument(
            f"StartingSequenceNumber {text} used in GetShardIterator on shard {shard.shard_id} in stream "
            f"{stream.name} under account {stream.account_id} is invalid because it did not come from this stream."
        )
    after = start.type == "AFTER_SEQUENCE_NUMBER"
    return min(shard.numbers.counter_after(number) if after else counter, shard.log.next)


def issue_iterator(stream: Stream, shard: Shard, start: StartingPosition, now: float, *, limits_enforced: bool) -> str:
    """Answer GetShardIterator."""
    if limits_enforced and not shard.iterators.take(now):
        raise ApiError(THROTTLED, rate_exceeded(stream, shard))
    counter = locate(stream, shard, start, now)
    return ShardIterator(stream.uid, shard.index, counter, now).encode()


def check_fresh(iterator: ShardIterator, now: float) -> None:
    """Refuse an iterator that is older than five minutes."""
    if now - iterator.issued_at > ITERATOR_LIFETIME_SECONDS:
        raise ApiError(
            "ExpiredIteratorException",
            f"Iterator expired. The iterator was created at time {iterator.issued_at:.3f} while right now it is "
            f"{now:.3f} which is further in the future than the tolerated delay of "
            f"{ITERATOR_LIFETIME_SECONDS * 1_000} milliseconds.",
        )


def get_records(
    stream: Stream, iterator: ShardIterator, limit: int, now: float, *, limits_enforced: bool
) -> RecordsPage:
    """Answer GetRecords: at most `limit` records and 10 MiB."""
    if not 1 <= limit <= GET_RECORDS_COUNT_MAX:
        validation_failed(limit, "limit", f"Member must have value between 1 and {GET_RECORDS_COUNT_MAX}")
    check_fresh(iterator, now)
    shard = stream.shards.get(iterator.shard_index)
    # Also before the sweep takes it away: the answer must not depend on when that runs.
    if shard is None or not shard.is_listed(stream.horizon(now)):
        stream.refuse_shard(shard_id_of(iterator.shard_index))
    if limits_enforced and not shard.reads.take_call(now):
        raise ApiError(THROTTLED, rate_exceeded(stream, shard))
    stream.trim(shard, now)
    start = min(max(iterator.counter, shard.log.first), shard.log.next)
    end, size = shard.log.slice(start, limit, GET_RECORDS_BYTES_MAX)
    if limits_enforced:
        shard.reads.charge(now, size)
    finished = not shard.is_open and end == shard.log.next
    following = ShardIterator(stream.uid, shard.index, end, now)
    return RecordsPage(
        records=[shard.stored(counter) for counter in range(start, end)],
        next_iterator=None if finished else following.encode(),
        millis_behind_latest=_millis_behind(shard, start, end, now),
        child_shards=children(stream, shard) if finished else [],
    )


def next_event(stream: Stream, shard: Shard, position: int, now: float) -> ShardEvent:
    """What a subscription at `position` pushes next: what arrived, or an empty event with its position."""
    stream.trim(shard, now)
    start = min(max(position, shard.log.first), shard.log.next)
    end, size = shard.log.slice(start, GET_RECORDS_COUNT_MAX, SHARD_READ_BYTES_PER_SECOND)
    finished = not shard.is_open and end == shard.log.next
    return ShardEvent(
        records=[shard.stored(counter) for counter in range(start, end)],
        continuation=None if finished else shard.numbers.text(end - 1),
        millis_behind_latest=_millis_behind(shard, start, end, now),
        child_shards=children(stream, shard) if finished else [],
        position=end,
        size=size,
    )


def children(stream: Stream, shard: Shard) -> list[ChildShard]:
    """The children of a shard as they are named at its end."""
    return [
        ChildShard(
            each.shard_id,
            tuple(shard_id_of(index) for index in each.parents),
            each.hash_range.start,
            each.hash_range.end,
        )
        for each in stream.children_of(shard)
    ]


def _millis_behind(shard: Shard, start: int, end: int, now: float) -> int:
    """How far the answer is behind the tip: 0 if nothing is left to read, else the age of its last record."""
    if end >= shard.log.next:
        return 0
    last = end - 1 if end > start else end
    return max(0, int((now - shard.log.arrival(last)) * 1_000))
