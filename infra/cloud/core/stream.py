"""One stream: its shard tree, which shard takes a hash key, splits and merges, and its settings."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final, NoReturn

from infra.cloud.core.api_error import invalid_argument, not_found
from infra.cloud.core.consumer import RegisteredConsumer
from infra.cloud.core.journal import StreamState
from infra.cloud.core.names import shard_index_of
from infra.cloud.core.resharding import Merge, covering, uniform_scaling
from infra.cloud.core.shard import Shard
from infra.cloud.core.shard_log import ShardLog
from shared.hash_key import HashKeyRange, even_ranges
from shared.limits import RECORD_BYTES_MAX_DEFAULT, RETENTION_HOURS_DEFAULT

PROVISIONED: Final = "PROVISIONED"
ON_DEMAND: Final = "ON_DEMAND"
USER_PARTITION_KEY: Final = "USER_PARTITION_KEY"
AUTO: Final = "AUTO"

_SECONDS_PER_HOUR: Final = 3_600
_BY_START: Final = attrgetter("hash_range.start")


@dataclass(slots=True)
class Stream:
    """A data stream; times in seconds since 1970. `busy_until` ends CREATING, UPDATING or DELETING."""

    uid: int
    name: str
    arn: str
    account_id: str
    created_at: float
    mode: str = PROVISIONED
    retention_hours: int = RETENTION_HOURS_DEFAULT
    record_bytes_max: int = RECORD_BYTES_MAX_DEFAULT
    distribution: str = USER_PARTITION_KEY
    warm_throughput_mibps: int | None = None
    kms_key_id: str | None = None
    busy_status: str = "CREATING"
    busy_until: float = 0.0
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=list)
    policy: str | None = None
    consumers: dict[str, RegisteredConsumer] = field(default_factory=dict)
    shards: dict[int, Shard] = field(default_factory=dict)
    next_index: int = 0
    open_shards: list[Shard] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)
    _turn: int = 0

    # Status and retention.

    def status(self, now: float) -> str:
        """CREATING, UPDATING, DELETING or ACTIVE; once ACTIVE it stays so, even if the clock goes back."""
        if now < self.busy_until:
            return self.busy_status
        if self.busy_status != "DELETING":
            self.busy_until = 0.0
        return "ACTIVE"

    @property
    def encryption_type(self) -> str:
        """NONE, or KMS once StartStreamEncryption was called; the key is kept and not used."""
        return "NONE" if self.kms_key_id is None else "KMS"

    def horizon(self, now: float) -> float:
        """Arrival time before which records are trimmed."""
        return now - self.retention_hours * _SECONDS_PER_HOUR

    def trim(self, shard: Shard, now: float) -> int:
        """Forget what retention has passed by in one shard; return the bytes freed."""
        return shard.log.trim(self.horizon(now))

    def sweep(self, now: float) -> int:
        """Trim every shard and drop closed ones that retention has passed by; return the bytes freed."""
        horizon = self.horizon(now)
        freed = 0
        for shard in list(self.shards.values()):
            freed += shard.log.trim(horizon)
            if not shard.is_listed(horizon) and not len(shard.log):
                del self.shards[shard.index]
        return freed

    @property
    def bytes_kept(self) -> int:
        """Bytes of data and keys in all shards."""
        return sum(shard.log.bytes_kept for shard in self.shards.values())

    # Finding a shard.

    def shard_for(self, hash_key: int) -> Shard:
        """The open shard whose range covers the hash key."""
        return self.open_shards[covering(self._starts, hash_key)]

    def next_shard(self) -> Shard:
        """The open shard that takes the next record under distribution AUTO, where keys do not count."""
        self._turn += 1
        return self.open_shards[self._turn % len(self.open_shards)]

    def shard(self, shard_id: str, now: float) -> Shard:
        """The shard with this id, or ResourceNotFoundException."""
        shard = self.shards.get(shard_index_of(shard_id))
        if shard is None or not shard.is_listed(self.horizon(now)):
            self.refuse_shard(shard_id)
        return shard

    def refuse_shard(self, shard_id: str) -> NoReturn:
        """Say that the stream has no such shard."""
        not_found(f"Shard {shard_id} in stream {self.name} under account {self.account_id} does not exist")

    def listed(self, now: float) -> list[Shard]:
        """The shards that DescribeStream and ListShards show, by id."""
        horizon = self.horizon(now)
        return [each for _, each in sorted(self.shards.items()) if each.is_listed(horizon)]

    def children_of(self, shard: Shard) -> list[Shard]:
        """The shards that a split or merge made out of this one."""
        return [each for _, each in sorted(self.shards.items()) if shard.index in each.parents]

    # Growing and shrinking.

    def create_shards(self, count: int, now: float) -> None:
        """Cut the ring into `count` even ranges."""
        for each in even_ranges(count):
            self._open(each, (), now)

    def split(self, parent: Shard, new_start: int, now: float) -> None:
        """Close a shard and open two in its place, the upper one starting at `new_start`."""
        low = HashKeyRange(parent.hash_range.start, new_start - 1)
        high = HashKeyRange(new_start, parent.hash_range.end)
        self._close(parent, now)
        self._open(low, (parent.index,), now)
        self._open(high, (parent.index,), now)

    def merge(self, first: Shard, second: Shard, now: float) -> None:
        """Close two adjacent shards and open one in their place; `first` is named as ParentShardId."""
        low, high = sorted((first.hash_range, second.hash_range), key=lambda each: each.start)
        self._close(first, now)
        self._close(second, now)
        self._open(HashKeyRange(low.start, high.end), (first.index, second.index), now)

    def scale_to(self, count: int, now: float) -> None:
        """Split and merge until there are `count` even shards."""
        for step in uniform_scaling([each.hash_range for each in self.open_shards], count):
            if isinstance(step, Merge):
                position = covering(self._starts, step.boundary)
                self.merge(self.open_shards[position - 1], self.open_shards[position], now)
            else:
                self.split(self.shard_for(step.new_start), step.new_start, now)

    def check_split(self, shard: Shard, new_start: int) -> None:
        """Refuse a split that leaves a child of less than two hash keys, as Kinesis does."""
        where = f"shard {shard.shard_id} in stream {self.name} under account {self.account_id}"
        if not shard.is_open:
            invalid_argument(f"SplitShard() cannot be called on the closed {where}.")
        if not shard.hash_range.start + 1 < new_start < shard.hash_range.end:
            invalid_argument(
                f"NewStartingHashKey {new_start} used in SplitShard() on {where} is not both greater than one plus "
                f"the shard's StartingHashKey {shard.hash_range.start} and less than the shard's EndingHashKey "
                f"{shard.hash_range.end}."
            )

    def check_merge(self, first: Shard, second: Shard) -> None:
        """Refuse to merge shards that are closed, the same, or not adjacent."""
        where = f"in stream {self.name} under account {self.account_id}"
        if first is second or not first.is_open or not second.is_open:
            invalid_argument(
                f"Shards {first.shard_id} and {second.shard_id} {where} can't be merged: both must be open and "
                "different."
            )
        if not first.hash_range.is_adjacent_to(second.hash_range):
            invalid_argument(
                f"Shards {first.shard_id} and {second.shard_id} {where} are not an adjacent pair of shards eligible "
                "for merging"
            )

    def _open(self, hash_range: HashKeyRange, parents: tuple[int, ...], now: float) -> None:
        epoch_ms = max([int(now * 1_000), *(self.shards[index].epoch_ms + 1 for index in parents)])
        shard = Shard(self.next_index, hash_range, parents, now, epoch_ms)
        self.next_index += 1
        self.shards[shard.index] = shard
        insort(self.open_shards, shard, key=_BY_START)
        insort(self._starts, hash_range.start)

    def _close(self, shard: Shard, now: float) -> None:
        shard.close(now)
        position = covering(self._starts, shard.hash_range.start)
        del self.open_shards[position]
        del self._starts[position]

    # Restart.

    def state(self) -> StreamState:
        """Everything but the records, as JSON values."""
        return {
            "uid": self.uid,
            "name": self.name,
            "arn": self.arn,
            "account_id": self.account_id,
            "created_at": self.created_at,
            "mode": self.mode,
            "retention_hours": self.retention_hours,
            "record_bytes_max": self.record_bytes_max,
            "distribution": self.distribution,
            "warm_throughput_mibps": self.warm_throughput_mibps,
            "kms_key_id": self.kms_key_id,
            "busy_status": self.busy_status,
            "busy_until": self.busy_until,
            "tags": dict(self.tags),
            "metrics": list(self.metrics),
            "policy": self.policy,
            "consumers": [each.state() for each in self.consumers.values()],
            "shards": [each.state() for each in self.shards.values()],
            "next_index": self.next_index,
        }

    @classmethod
    def from_state(cls, state: StreamState, logs: dict[int, ShardLog]) -> Stream:
        """Rebuild a stream around the records that were already reloaded, by shard index."""
        values: dict[str, Any] = {key: value for key, value in state.items() if key not in {"consumers", "shards"}}
        stream = cls(**values)
        for each in state["consumers"]:
            consumer = RegisteredConsumer.from_state(each)
            stream.consumers[consumer.name] = consumer
        for each in state["shards"]:
            shard = Shard.from_state(each, logs.get(each["index"]))
            stream.shards[shard.index] = shard
        stream.open_shards = sorted((s for s in stream.shards.values() if s.is_open), key=_BY_START)
        stream._starts = [s.hash_range.start for s in stream.open_shards]
        return stream
