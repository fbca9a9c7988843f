"""Kinesis as a library: each operation as a method over in-memory streams, with time from a given clock.

The server speaks the wire in front of it; a simulator puts the same engine behind its own port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from infra.cloud.core.api_error import ApiError, in_use, invalid_argument, limit_exceeded
from infra.cloud.core.consumer_desk import ConsumerDesk
from infra.cloud.core.journal import Journal, StreamState
from infra.cloud.core.listing import ShardFilter, ShardPage, first_page, following_page
from infra.cloud.core.reading import RecordsPage, StartingPosition, get_records, issue_iterator
from infra.cloud.core.registry import SHARD_QUOTA, Registry
from infra.cloud.core.settings import StreamSettings
from infra.cloud.core.shard import Shard
from infra.cloud.core.shard_log import ShardLog
from infra.cloud.core.stream import ON_DEMAND, PROVISIONED, USER_PARTITION_KEY, Stream
from infra.cloud.core.token import PageToken, ShardIterator
from infra.cloud.core.writing import PutEntry, PutOutcome, check_ordering_number, parse_hash_key, put
from shared.limits import (
    GET_RECORDS_COUNT_MAX,
    LIST_SHARDS_COUNT_MAX,
    RECORD_BYTES_MAX_DEFAULT,
    SHARDS_PER_STREAM_MAX,
)

REGION: Final = "us-east-1"
ACCOUNT_ID: Final = "123456789012"
STORE_BYTES_MAX: Final = 8 * 1024**3


class KinesisEngine:
    """One account and region of Kinesis.

    `clock` gives wall-clock seconds since 1970. Streams are named by name or ARN. Every refusal is an `ApiError` with
    AWS's error type; `limits_enforced=False` lifts the per-shard throughput, never the sizes. At most
    `store_bytes_max` bytes of records are kept: beyond that puts fail with InternalFailure until retention frees some.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        limits_enforced: bool = True,
        region: str = REGION,
        account_id: str = ACCOUNT_ID,
        status_delay_seconds: float = 0.0,
        store_bytes_max: int = STORE_BYTES_MAX,
        journal: Journal | None = None,
    ) -> None:
        self._clock = clock
        self._limits_enforced = limits_enforced
        self._store_bytes_max = store_bytes_max
        self._bytes_kept = 0
        self.streams = Registry(clock, region, account_id, status_delay_seconds, journal)
        self.settings = StreamSettings(self.streams)
        self.consumers = ConsumerDesk(self.streams)

    # Streams.

    def create_stream(
        self,
        name: str,
        shard_count: int | None = None,
        *,
        mode: str = PROVISIONED,
        tags: dict[str, str] | None = None,
        record_bytes_max: int = RECORD_BYTES_MAX_DEFAULT,
        distribution: str = USER_PARTITION_KEY,
        warm_throughput_mibps: int | None = None,
    ) -> Stream:
        """CreateStream; an on-demand stream gets 4 shards and takes no `shard_count`."""
        stream = self.streams.create(
            name,
            shard_count=shard_count,
            mode=mode,
            record_bytes_max=record_bytes_max,
            distribution=distribution,
        )
        stream.warm_throughput_mibps = warm_throughput_mibps
        self.settings.set_tags(stream.tags, tags or {})
        self.streams.changed(stream)
        return stream

    def delete_stream(self, stream_name: str, *, enforce_consumer_deletion: bool = False) -> None:
        """DeleteStream; refused while consumers are registered, unless told otherwise."""
        stream = self.streams.any_state(stream_name)
        if stream.status(self._clock()) == "DELETING":
            in_use(f"Stream {stream.name} under account {stream.account_id} is being deleted already.")
        if stream.consumers and not enforce_consumer_deletion:
            in_use(
                f"Stream {stream.name} under account {stream.account_id} has {len(stream.consumers)} registered "
                "consumers; deregister them or set EnforceConsumerDeletion."
            )
        self._bytes_kept -= stream.bytes_kept
        self.streams.delete(stream)

    def describe_stream(self, stream_name: str) -> Stream:
        """The stream with all its settings; its shards are listed by `list_shards`."""
        return self.streams.any_state(stream_name)

    def list_stream_names(self) -> list[str]:
        """The names of all streams, sorted."""
        return [each.name for each in self.streams.all()]

    # Shards.

    def list_shards(
        self,
        stream_name: str,
        *,
        wanted: ShardFilter | None = None,
        exclusive_start_shard_id: str | None = None,
        count_max: int = LIST_SHARDS_COUNT_MAX,
    ) -> ShardPage:
        """ListShards, first page; at most 1,000 shards come in one."""
        stream = self.streams.any_state(stream_name)
        if stream.status(self._clock()) in {"CREATING", "DELETING"}:
            in_use(f"Stream {stream.name} under account {stream.account_id} not ACTIVE.")
        return first_page(stream, wanted or ShardFilter(), exclusive_start_shard_id, count_max, self._clock())

    def list_shards_page(self, next_token: str, *, count_max: int = LIST_SHARDS_COUNT_MAX) -> ShardPage:
        """ListShards, a following page; the token names the stream and the filter."""
        token = PageToken.decode(next_token)
        if token is None:
            invalid_argument("NextToken is invalid.")
        return following_page(self.streams.by_uid(token.stream_uid), token, count_max, self._clock())

    def split_shard(self, stream_name: str, shard_id: str, new_starting_hash_key: str) -> None:
        """SplitShard: close the shard and open two children."""
        stream = self._resizable(stream_name)
        now = self._clock()
        shard = stream.shard(shard_id, now)
        new_start = parse_hash_key(new_starting_hash_key, "newStartingHashKey")
        stream.check_split(shard, new_start)
        self._check_growth(stream, 1)
        stream.split(shard, new_start, now)
        self._resized(stream)

    def merge_shards(self, stream_name: str, shard_id: str, adjacent_shard_id: str) -> None:
        """MergeShards: close two adjacent shards and open one child."""
        stream = self._resizable(stream_name)
        now = self._clock()
        first, second = stream.shard(shard_id, now), stream.shard(adjacent_shard_id, now)
        stream.check_merge(first, second)
        stream.merge(first, second, now)
        self._resized(stream)

    def update_shard_count(self, stream_name: str, target: int) -> int:
        """UpdateShardCount with uniform scaling; returns the count before. From half to double, at most 10,000.

        AWS's ten calls in 24 hours are not enforced: a test may scale as often as it likes.
        """
        stream = self._resizable(stream_name)
        current = len(stream.open_shards)
        if not 1 <= target <= SHARDS_PER_STREAM_MAX:
            invalid_argument(f"TargetShardCount must be from 1 to {SHARDS_PER_STREAM_MAX}, not {target}.")
        if target > current * 2 or target * 2 < current:
            verb, bound = ("above", "double") if target > current else ("below", "half of")
            invalid_argument(
                f"UpdateShardCount cannot scale {verb} {bound} the current shard count. Current open shard count: "
                f"{current} Target shard count: {target}"
            )
        self._check_growth(stream, target - current)
        if target != current:
            stream.scale_to(target, self._clock())
            self._resized(stream)
        return current

    def _resizable(self, stream_name: str) -> Stream:
        stream = self.streams.active(stream_name)
        if stream.mode == ON_DEMAND:
            raise ApiError(
                "ValidationException",
                f"Stream {stream.name} is in the ON_DEMAND mode: Kinesis alone changes its shards.",
            )
        return stream

    def _check_growth(self, stream: Stream, more: int) -> None:
        if more > 0 and (
            self.streams.open_shard_count() + more > SHARD_QUOTA
            or len(stream.open_shards) + more > SHARDS_PER_STREAM_MAX
        ):
            limit_exceeded(f"This request would exceed the shard limit. Limit: {SHARD_QUOTA} shards.")

    def _resized(self, stream: Stream) -> None:
        self.streams.busy(stream)
        self.streams.changed(stream)

    # Records.

    def put_records(self, stream_name: str, entries: Sequence[PutEntry]) -> list[PutOutcome]:
        """PutRecords: 1 to 500 entries, at most 10 MiB; an outcome for each, in their order."""
        stream = self.streams.readable(stream_name)
        if self._bytes_kept >= self._store_bytes_max:
            message = f"the store holds {self._bytes_kept} bytes, at most {self._store_bytes_max} are kept"
            raise ApiError("InternalFailure", message)
        outcomes = put(
            stream,
            entries,
            self._clock(),
            limits_enforced=self._limits_enforced,
            journal=self.streams.journal,
        )
        self._bytes_kept += sum(len(each.data) for each in entries)
        return outcomes

    def put_record(
        self,
        stream_name: str,
        data: bytes,
        partition_key: str | None,
        explicit_hash_key: str | None = None,
        sequence_number_for_ordering: str | None = None,
    ) -> PutOutcome:
        """PutRecord: like `put_records` of one entry, but a throttled shard refuses the call."""
        if sequence_number_for_ordering is not None:
            stream = self.streams.readable(stream_name)
            check_ordering_number(stream, sequence_number_for_ordering, self._clock())
        outcome = self.put_records(stream_name, [PutEntry(data, partition_key, explicit_hash_key)])[0]
        if outcome.error_code is not None:
            raise ApiError(outcome.error_code, outcome.error_message or "")
        return outcome

    def get_shard_iterator(self, stream_name: str, shard_id: str, start: StartingPosition) -> str:
        """GetShardIterator: an opaque position, good for five minutes."""
        stream = self.streams.readable(stream_name)
        now = self._clock()
        shard = stream.shard(shard_id, now)
        return issue_iterator(stream, shard, start, now, limits_enforced=self._limits_enforced)

    def get_records(self, shard_iterator: str, limit: int = GET_RECORDS_COUNT_MAX) -> RecordsPage:
        """GetRecords: at most `limit` records and 10 MiB from where the iterator stands."""
        iterator = ShardIterator.decode(shard_iterator)
        if iterator is None:
            invalid_argument("Invalid ShardIterator.")
        stream = self.streams.by_uid(iterator.stream_uid)
        return get_records(stream, iterator, limit, self._clock(), limits_enforced=self._limits_enforced)

    # Keeping.

    def sweep(self) -> None:
        """Trim what retention has passed by in every shard; call it now and then."""
        now = self._clock()
        streams = self.streams.all()
        for stream in streams:
            stream.sweep(now)
        self._bytes_kept = sum(each.bytes_kept for each in streams)

    def states(self) -> Iterable[StreamState]:
        """The state of every stream, for a journal that starts a new file."""
        return self.streams.states()

    def restore(self, state: StreamState, logs: dict[int, ShardLog]) -> None:
        """Take over a stream from a journal: its state and its records by shard index."""
        self.streams.restore(state, logs)
        self._bytes_kept += sum(each.bytes_kept for each in logs.values())

    def shards_of(self, stream_name: str) -> list[Shard]:
        """The shards that DescribeStream shows; none while the stream is CREATING."""
        stream = self.streams.any_state(stream_name)
        now = self._clock()
        return [] if stream.status(now) == "CREATING" else stream.listed(now)
