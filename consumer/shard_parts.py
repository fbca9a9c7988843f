"""What a shard consumer is given: how its shard is processed, and what the shards of a worker share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from consumer.archive import Archive
from consumer.budget import Budget
from consumer.care import Care
from consumer.core.roll_policy import RollPolicy
from consumer.core.route import Router
from consumer.handover import Handling
from consumer.retention import Retention
from consumer.shard_reader import ReadPorts, ReadSettings
from consumer.status import Counters
from shared.ports import RecordSink


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How a shard is processed."""

    roll: RollPolicy
    chunk_records_max: int
    breaker_window_records: int
    breaker_failed_percent: float
    read: ReadSettings
    progress_timeout_seconds: float


@dataclass(frozen=True, slots=True)
class ShardParts:
    """What the shards of a worker share."""

    ports: ReadPorts
    sinks: Mapping[str, RecordSink]
    archive: Archive | None
    router: Router
    budget: Budget
    counters: Counters
    retention: Retention
    care: Care = field(default_factory=Care)
    handling: Handling | None = None  # the user's function; None: events are enriched and delivered
