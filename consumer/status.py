"""What a worker says of itself at one instant: for /healthz, /metrics and the live page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from consumer.core.object_key import position_text
from shared.lease import CheckpointKind, Lease


class WorkerState(Enum):
    """The life of a worker."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"


class ShardState(Enum):
    """The life of a shard inside a worker."""

    REPLAYING = "replaying"
    READING = "reading"
    DRAINING = "draining"
    PAUSED = "paused"
    HALTED = "halted"
    FINISHED = "finished"

    def then(self, after: ShardState) -> ShardState:
        """Return the next state; AssertionError where `SHARD_TRANSITIONS` has no such way."""
        if after is not self and (self, after) not in SHARD_TRANSITIONS:
            msg = f"a shard went from {self.value} to {after.value}"
            raise AssertionError(msg)
        return after


# Why a shard goes from one state to another; docs/explanation/leases.md draws it.
SHARD_TRANSITIONS: Final[Mapping[tuple[ShardState, ShardState], str]] = {
    (ShardState.REPLAYING, ShardState.READING): "a prepared flush is finished, or there was none",
    (ShardState.REPLAYING, ShardState.DRAINING): "the worker leaves, or another asks",
    (ShardState.REPLAYING, ShardState.HALTED): "too many attempts ended with the process",
    (ShardState.REPLAYING, ShardState.FINISHED): "trimmed as a whole",
    (ShardState.READING, ShardState.PAUSED): "an operator pauses it",
    (ShardState.READING, ShardState.DRAINING): "the worker leaves, or another asks",
    (ShardState.READING, ShardState.HALTED): "too many records failed",
    (ShardState.READING, ShardState.FINISHED): "read and stored to its end",
    (ShardState.PAUSED, ShardState.READING): "an operator resumes it",
    (ShardState.PAUSED, ShardState.DRAINING): "the worker leaves, or another asks",
    (ShardState.PAUSED, ShardState.HALTED): "too many records failed",
    (ShardState.PAUSED, ShardState.FINISHED): "trimmed as a whole",
    (ShardState.HALTED, ShardState.DRAINING): "the worker leaves, another asks, or an operator resumes it",
    (ShardState.DRAINING, ShardState.HALTED): "too many records failed",
    (ShardState.DRAINING, ShardState.FINISHED): "it was at its end",
}


@dataclass(slots=True)
class Counters:
    """Totals since the worker started; they only rise."""

    read: int = 0  # user records
    duplicates: int = 0
    enriched: int = 0
    dead_letters: int = 0
    dead_letters_unkept: int = 0  # without a bucket there is nowhere to keep them
    objects: int = 0
    object_bytes: int = 0
    commits: int = 0
    destinations: dict[str, int] = field(default_factory=dict)  # enriched events per destination


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """One shard that this worker holds."""

    shard_id: str
    owner: str
    epoch: int
    state: ShardState
    checkpoint: str
    iterator_age_milliseconds: int
    records: int
    buffered_bytes: int

    @classmethod
    def of(
        cls, row: Lease, state: ShardState, *, behind_milliseconds: int, records: int, buffered_bytes: int
    ) -> ShardStatus:
        """Return what there is to say of a shard whose row was written last as `row`."""
        checkpoint = row.checkpoint
        is_number = checkpoint.kind is CheckpointKind.NUMBER
        return cls(
            shard_id=row.shard_id,
            owner=row.owner or "",
            epoch=row.epoch,
            state=state,
            checkpoint=position_text(checkpoint.position) if is_number else checkpoint.text,
            iterator_age_milliseconds=behind_milliseconds,
            records=records,
            buffered_bytes=buffered_bytes,
        )


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker and all its shards."""

    worker_id: str
    state: WorkerState
    application: str
    source_stream: str
    uptime_seconds: float
    renewal_age_seconds: float  # since the last round of renewals in which every lease was renewed
    is_renewal_fresh: bool
    is_ready: bool
    budget_bytes_used: int
    budget_bytes_max: int
    totals: Counters
    shards: tuple[ShardStatus, ...] = ()

    def as_mapping(self) -> Mapping[str, object]:
        """Return what the live page reads, as plain values."""
        return {
            "worker_id": self.worker_id,
            "state": self.state.value,
            "application": self.application,
            "source_stream": self.source_stream,
            "uptime_seconds": round(self.uptime_seconds, 1),
            "renewal_age_seconds": round(self.renewal_age_seconds, 2),
            "is_ready": self.is_ready,
            "budget_bytes_used": self.budget_bytes_used,
            "budget_bytes_max": self.budget_bytes_max,
            "totals": {
                "read": self.totals.read,
                "duplicates": self.totals.duplicates,
                "enriched": self.totals.enriched,
                "dead_letters": self.totals.dead_letters,
                "dead_letters_unkept": self.totals.dead_letters_unkept,
                "objects": self.totals.objects,
                "object_bytes": self.totals.object_bytes,
                "commits": self.totals.commits,
                "destinations": dict(sorted(self.totals.destinations.items())),
            },
            "shards": [
                {
                    "shard_id": shard.shard_id,
                    "owner": shard.owner,
                    "epoch": shard.epoch,
                    "state": shard.state.value,
                    "checkpoint": shard.checkpoint,
                    "iterator_age_milliseconds": shard.iterator_age_milliseconds,
                    "records": shard.records,
                    "buffered_bytes": shard.buffered_bytes,
                }
                for shard in self.shards
            ],
        }
