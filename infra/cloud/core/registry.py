"""The streams of one account and region: finding them, making them, keeping what changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from infra.cloud.core.api_error import ApiError, in_use, invalid_argument, limit_exceeded, not_found
from infra.cloud.core.journal import Journal, StreamState
from infra.cloud.core.names import check_stream_name, stream_arn, stream_name_of
from infra.cloud.core.shard_log import ShardLog
from infra.cloud.core.stream import AUTO, ON_DEMAND, PROVISIONED, USER_PARTITION_KEY, Stream
from shared.limits import KIB, RECORD_BYTES_MAX_CEILING, RECORD_BYTES_MAX_DEFAULT, SHARDS_PER_STREAM_MAX

ON_DEMAND_SHARDS: Final = 4  # what AWS gives a new on-demand stream
STREAMS_MAX: Final = 1_000
SHARD_QUOTA: Final = 20_000  # per account and region, as in us-east-1
_NEVER: Final = float("inf")


@dataclass(slots=True)
class Registry:
    """All streams by name. `clock` gives seconds since 1970; `status_delay_seconds` is how long CREATING lasts."""

    clock: Callable[[], float]
    region: str
    account_id: str
    status_delay_seconds: float
    journal: Journal | None
    streams: dict[str, Stream] = field(default_factory=dict)
    _by_uid: dict[int, Stream] = field(default_factory=dict)
    _made: int = 0

    # Finding.

    def any_state(self, name_or_arn: str) -> Stream:
        """The stream, whatever its status; ResourceNotFoundException if there is none."""
        name = stream_name_of(name_or_arn)
        stream = self.streams.get(name)
        if stream is not None and self._is_gone(stream):
            stream = None
        if stream is None:
            not_found(f"Stream {name} under account {self.account_id} not found.")
        return stream

    def readable(self, name_or_arn: str) -> Stream:
        """The stream if records can be put and read (ACTIVE or UPDATING), else ResourceNotFoundException."""
        stream = self.any_state(name_or_arn)
        if stream.status(self.clock()) in {"CREATING", "DELETING"}:
            not_found(f"Stream {stream.name} under account {self.account_id} not found.")
        return stream

    def active(self, name_or_arn: str) -> Stream:
        """The stream if it is ACTIVE, else ResourceInUseException."""
        stream = self.any_state(name_or_arn)
        status = stream.status(self.clock())
        if status != "ACTIVE":
            in_use(f"Stream {stream.name} under account {self.account_id} not ACTIVE, instead in state {status}")
        return stream

    def by_uid(self, uid: int) -> Stream:
        """The stream that an iterator or token was issued for."""
        stream = self._by_uid.get(uid)
        if stream is None or self._is_gone(stream):
            not_found(f"The stream of this iterator or token under account {self.account_id} does not exist.")
        return stream

    def all(self) -> list[Stream]:
        """Every stream, by name."""
        return [each for _, each in sorted(self.streams.items()) if not self._is_gone(each)]

    def open_shard_count(self, mode: str | None = None) -> int:
        """Open shards of all streams, or of those in one capacity mode."""
        return sum(len(each.open_shards) for each in self.all() if mode in {None, each.mode})

    # Making.

    def create(
        self,
        name: str,
        *,
        shard_count: int | None,
        mode: str,
        record_bytes_max: int,
        distribution: str,
    ) -> Stream:
        """Make a stream; its shards exist at once and show when it is ACTIVE."""
        check_stream_name(name)
        shards = self._shard_count(shard_count, mode, distribution)
        if not RECORD_BYTES_MAX_DEFAULT <= record_bytes_max <= RECORD_BYTES_MAX_CEILING:
            invalid_argument(f"MaxRecordSizeInKiB must be from 1024 to 10240, not {record_bytes_max // KIB}.")
        if name in self.streams and not self._is_gone(self.streams[name]):
            in_use(f"Stream {name} under account {self.account_id} already exists.")
        if len(self.streams) >= STREAMS_MAX or self.open_shard_count() + shards > SHARD_QUOTA:
            limit_exceeded(
                f"This request would exceed the shard limit for the account {self.account_id} in {self.region}. "
                f"Limit: {SHARD_QUOTA} shards, {STREAMS_MAX} streams."
            )
        now = self.clock()
        self._made += 1
        seed = f"{self.account_id}/{self.region}/{name}/{now!r}/{self._made}"
        uid = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "big")
        stream = Stream(
            uid=uid,
            name=name,
            arn=stream_arn(self.region, self.account_id, name),
            account_id=self.account_id,
            created_at=now,
            mode=mode,
            record_bytes_max=record_bytes_max,
            distribution=distribution,
            busy_until=self._busy_until(now),
        )
        stream.create_shards(shards, now)
        self._add(stream)
        return stream

    @staticmethod
    def _shard_count(shard_count: int | None, mode: str, distribution: str) -> int:
        if mode not in {PROVISIONED, ON_DEMAND} or distribution not in {AUTO, USER_PARTITION_KEY}:
            invalid_argument(f"Unknown stream mode {mode[:64]!r} or distribution {distribution[:64]!r}.")
        if distribution == AUTO and mode != ON_DEMAND:
            invalid_argument("RecordDistributionStrategy AUTO is only supported in the ON_DEMAND mode.")
        if mode == ON_DEMAND:
            if shard_count is not None:
                raise ApiError("ValidationException", "ShardCount must not be set for a stream in ON_DEMAND mode.")
            return ON_DEMAND_SHARDS
        if shard_count is None:
            raise ApiError("ValidationException", "ShardCount is required in the PROVISIONED mode.")
        if not 1 <= shard_count <= SHARDS_PER_STREAM_MAX:
            invalid_argument(f"ShardCount must be from 1 to {SHARDS_PER_STREAM_MAX}, not {shard_count}.")
        return shard_count

    def delete(self, stream: Stream) -> None:
        """Take no more calls for the stream and forget it once DELETING is over."""
        now = self.clock()
        stream.busy_status = "DELETING"
        stream.busy_until = now + self.status_delay_seconds
        self._is_gone(stream)
        if stream.name in self.streams:
            self.changed(stream)

    def busy(self, stream: Stream) -> None:
        """Show UPDATING for a while, during which the next change of the shards is refused."""
        stream.busy_status = "UPDATING"
        stream.busy_until = self._busy_until(self.clock())

    def _busy_until(self, now: float) -> float:
        return now + self.status_delay_seconds if self.status_delay_seconds > 0 else 0.0

    def changed(self, stream: Stream) -> None:
        """Keep the stream's state; a failure to write it fails the call."""
        if self.journal is not None:
            try:
                self.journal.stream_changed(stream.state())
            except OSError as error:
                raise ApiError("InternalFailure", f"the change could not be kept: {error.strerror}") from error

    def _is_gone(self, stream: Stream) -> bool:
        """Whether the stream's deletion is over; it is dropped here, when somebody looks."""
        if stream.busy_status != "DELETING" or self.clock() < stream.busy_until:
            return False
        if self._by_uid.pop(stream.uid, None) is not None:
            del self.streams[stream.name]
            stream.busy_until = _NEVER
            if self.journal is not None:
                self.journal.stream_deleted(stream.uid)
        return True

    # Restart.

    def _add(self, stream: Stream) -> None:
        self.streams[stream.name] = stream
        self._by_uid[stream.uid] = stream

    def states(self) -> Iterable[StreamState]:
        """The state of every stream, for a journal that starts a new file."""
        return [each.state() for each in self.all()]

    def restore(self, state: StreamState, logs: dict[int, ShardLog]) -> None:
        """Take over a stream from its state and its reloaded records, by shard index."""
        self._add(Stream.from_state(state, logs))
