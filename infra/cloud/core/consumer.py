"""Registered consumers (enhanced fan-out) and the subscriptions that they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from infra.cloud.core.shard_log import StoredRecord


@dataclass(frozen=True, slots=True)
class Subscription:
    """One accepted SubscribeToShard call; `number` tells it from a later one that took its place."""

    stream_uid: int
    consumer_name: str
    shard_index: int
    number: int
    position: int
    started_at: float


@dataclass(frozen=True, slots=True)
class ChildShard:
    """A child as GetRecords and SubscribeToShard name it at the end of its parent."""

    shard_id: str
    parent_ids: tuple[str, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ShardEvent:
    """What a subscription pushes next; `continuation` is None at the end of the shard, `position` is the next start."""

    records: list[StoredRecord]
    continuation: str | None
    millis_behind_latest: int
    child_shards: list[ChildShard]
    position: int
    size: int


@dataclass(slots=True)
class RegisteredConsumer:
    """A consumer of a stream; times in seconds since 1970."""

    name: str
    arn: str
    created_at: float
    busy_until: float
    tags: dict[str, str] = field(default_factory=dict)
    subscriptions: dict[int, Subscription] = field(default_factory=dict)

    def status(self, now: float) -> str:
        """CREATING or ACTIVE; once ACTIVE it stays so."""
        if now < self.busy_until:
            return "CREATING"
        self.busy_until = 0.0
        return "ACTIVE"

    def state(self) -> dict[str, Any]:
        """What a restart needs to know; subscriptions end with their connections."""
        return {
            "name": self.name,
            "arn": self.arn,
            "created_at": self.created_at,
            "busy_until": self.busy_until,
            "tags": dict(self.tags),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> RegisteredConsumer:
        """Rebuild a consumer."""
        return cls(**state)
