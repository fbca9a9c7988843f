"""Samples the newest records of each open shard: which partition keys load it, and the split that would help."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from consumer.reader import escape
from consumer.retrier import Retrier
from infra.control.group import ATTEMPTS_MAX
from infra.query.rows import table_lines
from producer.core.hot_keys import HotKey, HotKeys
from producer.core.record_columns import RecordColumns
from shared.aggregation import deaggregate
from shared.errors import IteratorExpiredError, ThrottledError
from shared.limits import MIB, SHARD_READ_BYTES_PER_SECOND
from shared.ports import Clock, Kinesis
from shared.records import Shard, Start, StartKind, UserRecord

_SAMPLE_SECONDS: Final = 300.0  # how far back
_CALLS_MAX: Final = 4  # per shard
_BYTES_MAX: Final = 8 * MIB  # per shard
_RECORDS_PER_CALL: Final = 1_000
_PAUSE_SECONDS: Final = 0.25
_SHARDS_AT_ONCE: Final = 4
_KEYS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class ShardSample:
    """What was seen of one open shard; `split_at` is a NewStartingHashKey, None where no split would help."""

    shard_id: str
    records: int
    bytes: int
    seconds: float  # from the first to the last record that was seen
    keys: tuple[HotKey, ...]
    split_at: int | None
    larger_share: float

    def as_mapping(self) -> Mapping[str, Any]:
        """Return all fields, ready for JSON: hash keys have up to 39 digits and are text."""
        return {**asdict(self), "split_at": None if self.split_at is None else str(self.split_at)}


async def sample_stream(kinesis: Kinesis, retrier: Retrier, clock: Clock, stream: str) -> tuple[ShardSample, ...]:
    """Return a sample of each open shard, the one with the most bytes per second first."""
    shards = await retrier.call("list_shards", lambda: kinesis.list_shards(stream), attempts_max=ATTEMPTS_MAX)
    gate = asyncio.Semaphore(_SHARDS_AT_ONCE)
    since = clock.wall() - _SAMPLE_SECONDS

    async def sample(shard: Shard) -> ShardSample:
        async with gate:
            return await _sample(kinesis, retrier, stream, shard, Start(StartKind.AT_TIMESTAMP, timestamp=since))

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(sample(shard)) for shard in shards if shard.is_open]
    found = [task.result() for task in tasks]
    return tuple(sorted(found, key=lambda each: (-each.bytes / max(each.seconds, 1.0), each.shard_id)))


async def _sample(kinesis: Kinesis, retrier: Retrier, stream: str, shard: Shard, start: Start) -> ShardSample:
    keys = HotKeys(stride_max=1)
    records = size = 0
    times: list[float] = []
    iterator: str | None = await retrier.call(
        "get_shard_iterator",
        lambda: kinesis.get_shard_iterator(stream, shard.shard_id, start),
        attempts_max=ATTEMPTS_MAX,
    )
    pause = 0.0
    for _ in range(_CALLS_MAX):
        if iterator is None or size >= _BYTES_MAX:
            break
        await asyncio.sleep(pause)
        try:
            page = await retrier.call(
                "get_records",
                lambda place=iterator: kinesis.get_records(stream, place, _RECORDS_PER_CALL),  # type: ignore[misc] # mypy on defaults
                attempts_max=ATTEMPTS_MAX,
            )
        except IteratorExpiredError:
            break
        except ThrottledError:
            if not records:
                raise
            break  # others read it, too: what came is a sample
        for record in page.records:
            times.append(record.arrival_timestamp)
            members = deaggregate(record, shard.hash_key_range).records
            records += len(members)
            size += sum(len(each.data) + len(each.partition_key) for each in members)
            keys.add(shard.shard_id, shard.hash_key_range, _columns(members))
        iterator = page.next_iterator
        # A call that goes beyond the shard's rate is answered, but the next ones are refused until that is made up for.
        pause = max(_PAUSE_SECONDS, sum(len(each.data) for each in page.records) / SHARD_READ_BYTES_PER_SECOND)
        if not page.records and not page.behind_milliseconds:
            break
    heat = keys.heat(shard.shard_id, shard.hash_key_range)
    return ShardSample(
        shard_id=shard.shard_id,
        records=records,
        bytes=size,
        seconds=max(times) - min(times) if times else 0.0,
        keys=heat.keys if heat is not None else (),
        split_at=heat.split_at if heat is not None else None,
        larger_share=heat.larger_share if heat is not None else 1.0,
    )


def _columns(records: Iterable[UserRecord]) -> RecordColumns:
    columns = RecordColumns()
    for each in records:
        columns.append(each.data, each.partition_key, None, each.explicit_hash_key)
    return columns


def sample_lines(stream: str, samples: Sequence[ShardSample]) -> list[str]:
    """Return the samples as lines for people; partition keys are shown without control characters."""
    rows = iter([(each.shard_id, each.records, each.bytes, round(each.seconds, 1)) for each in samples])
    lines = [f"stream  {stream}", "", *table_lines(("shard", "records", "bytes", "seconds"), rows)]
    for each in samples:
        if not each.keys:
            continue
        lines += ["", each.shard_id]
        lines += [f"  {key.share:>6.1%}  {''.join(map(escape, key.partition_key))}" for key in each.keys[:_KEYS_SHOWN]]
        if each.split_at is not None:
            lines.append(f"  a split at hash key {each.split_at} leaves the larger half {each.larger_share:.0%}")
        else:
            lines.append("  no split helps: one key makes the load, spread it over several keys")
    return lines
