"""The stream records that are sent again, each when it is due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from producer.core.batch import Batch, OutgoingRecord
from producer.core.packer import Packer
from producer.core.shard_map import ShardMap

_NEVER: Final = float("inf")


@dataclass(slots=True)
class _Retry:
    """Stream records that wait until `due_at` to be sent again."""

    due_at: float
    records: list[OutgoingRecord]


class Retries:
    """Stream records whose last attempt failed; they stay as they are, unless their shard is gone.

    `regroup` takes the members of an aggregate whose shard is gone, which would land where readers drop them.
    """

    def __init__(self, packer: Packer, regroup: Callable[[OutgoingRecord], None]) -> None:
        self._waiting: list[_Retry] = []
        self._packer = packer
        self._regroup = regroup
        self._anew_at = -_NEVER

    def __bool__(self) -> bool:
        """Whether any is left."""
        return bool(self._waiting)

    @property
    def due_at(self) -> float:
        """When the first one is due; infinite if there is none."""
        return min((retry.due_at for retry in self._waiting), default=_NEVER)

    def add(self, due_at: float, records: list[OutgoingRecord]) -> None:
        """Have records wait of which an attempt has failed."""
        for record in records:
            record.attempts += 1
        self._waiting.append(_Retry(due_at, records))

    def hasten(self, now: float) -> None:
        """Have none wait any longer."""
        for retry in self._waiting:
            retry.due_at = min(retry.due_at, now)

    def take_apart(self, made_until: float) -> None:
        """Regroup all aggregates that were made until then, also those under way: their shards are no more."""
        self._anew_at = made_until
        for retry in self._waiting:
            aggregates = [record for record in retry.records if record.is_aggregate]
            retry.records = [record for record in retry.records if not record.is_aggregate]
            for record in aggregates:
                self._regroup(record)
        self._waiting = [retry for retry in self._waiting if retry.records]

    def take(self, batch: Batch, now: float, shard_map: ShardMap | None) -> None:
        """Add what is due to a request that has room, within the allowance of its shards."""
        waiting: list[_Retry] = []
        for retry in self._waiting:
            if retry.due_at > now:
                continue
            kept: list[OutgoingRecord] = []
            for record in retry.records:
                self._packer.locate(record, shard_map)
                if self._has_lost_shard(record, shard_map):
                    self._regroup(record)
                elif not self._packer.has_room(batch, 0, record.wire_bytes):
                    kept.append(record)
                elif (ready_at := self._packer.rates.ready_at(record.shard_id, record.wire_bytes, now)) > now:
                    waiting.append(_Retry(ready_at, [record]))
                else:
                    self._packer.add(batch, record)
            retry.records = kept
        self._waiting = [retry for retry in self._waiting if retry.records] + waiting

    def add_part(self, batch: Batch, records: list[OutgoingRecord], shard_map: ShardMap | None) -> None:
        """Send a part of a refused request by itself, whatever the allowance."""
        for record in records:
            if self._has_lost_shard(record, shard_map):
                self._regroup(record)
            else:
                self._packer.add(batch, record)

    def _has_lost_shard(self, record: OutgoingRecord, shard_map: ShardMap | None) -> bool:
        if not record.is_aggregate or not record.shard_id:
            return False
        # A stream that was made anew has shards of the same ids.
        return record.made_at <= self._anew_at or shard_map is None or not shard_map.is_open(record.shard_id)
