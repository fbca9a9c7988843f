"""One shard: its range of hash keys, its ancestors, its records and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from infra.cloud.core.budget import CallBudget, ReadBudget, WriteBudget
from infra.cloud.core.names import shard_id_of
from infra.cloud.core.sequence import SequenceSpace
from infra.cloud.core.shard_log import ShardLog, StoredRecord
from shared.hash_key import HashKeyRange
from shared.limits import SHARD_READ_CALLS_PER_SECOND


@dataclass(slots=True)
class Shard:
    """A shard; times in seconds since 1970, parents by index (two after a merge)."""

    index: int
    hash_range: HashKeyRange
    parents: tuple[int, ...]
    created_at: float
    epoch_ms: int
    log: ShardLog = field(default_factory=ShardLog)
    closed_at: float | None = None
    shard_id: str = field(init=False)
    numbers: SequenceSpace = field(init=False)
    writes: WriteBudget = field(init=False)
    reads: ReadBudget = field(init=False)
    iterators: CallBudget = field(init=False)

    def __post_init__(self) -> None:
        self.shard_id = shard_id_of(self.index)
        self.numbers = SequenceSpace.of_shard(self.epoch_ms, self.index)
        self.writes = WriteBudget(self.created_at)
        self.reads = ReadBudget(self.created_at)
        # GetShardIterator has the same five calls a second as GetRecords, counted apart.
        self.iterators = CallBudget(self.created_at, SHARD_READ_CALLS_PER_SECOND)

    @property
    def is_open(self) -> bool:
        """Whether the shard takes records."""
        return self.closed_at is None

    @property
    def starting_sequence_number(self) -> str:
        """Below the number of each record of the shard."""
        return self.numbers.text(0)

    @property
    def ending_sequence_number(self) -> str | None:
        """Above the number of each record of a closed shard; None while it is open."""
        return None if self.is_open else self.numbers.text(self.log.next)

    def close(self, now: float) -> None:
        """Take no more records from now on."""
        self.closed_at = now

    def is_listed(self, horizon: float) -> bool:
        """Whether the shard is open or was closed after the trim horizon, so that it may still hold records."""
        return self.closed_at is None or self.closed_at > horizon

    def was_open_at(self, timestamp: float) -> bool:
        """Whether the shard took records at that moment."""
        return self.created_at <= timestamp and (self.closed_at is None or self.closed_at > timestamp)

    def stored(self, counter: int) -> StoredRecord:
        """One kept record as a reader sees it."""
        data, key, arrival = self.log.record(counter)
        return StoredRecord(self.numbers.text(counter), round(arrival, 3), data, key)

    def state(self) -> dict[str, Any]:
        """What a restart needs to know, as JSON values."""
        return {
            "index": self.index,
            "start": str(self.hash_range.start),
            "end": str(self.hash_range.end),
            "parents": list(self.parents),
            "created_at": self.created_at,
            "epoch_ms": self.epoch_ms,
            "closed_at": self.closed_at,
            "next": self.log.next,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], log: ShardLog | None) -> Shard:
        """Rebuild a shard around the records that were already reloaded, if any."""
        shard = cls(
            index=state["index"],
            hash_range=HashKeyRange(int(state["start"]), int(state["end"])),
            parents=tuple(state["parents"]),
            created_at=state["created_at"],
            epoch_ms=state["epoch_ms"],
            log=ShardLog() if log is None else log,
            closed_at=state["closed_at"],
        )
        shard.log.skip_to(state["next"])
        return shard
