"""Which leases this worker takes, and which it has lost: a pure decision over the rows of the lease table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from consumer.core.shard_graph import may_start
from shared.lease import Lease


@dataclass(frozen=True, slots=True)
class LeasePlan:
    """What to do now: rows to take, in this order, and shards whose row names another owner or epoch."""

    take: tuple[Lease, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A heartbeat as it was first seen, and when, on this worker's own monotonic clock."""

    owner: str | None
    epoch: int
    heartbeat: int
    seen_at: float


class LeasePlanner:
    """Judges expiry by heartbeats that stand still on the observer's clock; clocks of two machines are never compared.

    Balance: an even share, ceil(live rows / live owners). Unowned rows and owners whose every row has expired do not
    count as owners, or else the survivors would leave shards unread. Nothing is stolen from a live owner.
    """

    def __init__(self, worker_id: str, lease_duration_seconds: float) -> None:
        self._worker_id = worker_id
        self._duration = lease_duration_seconds
        self._sightings: dict[str, _Sighting] = {}

    def plan(
        self,
        rows: Iterable[Lease],
        running: Mapping[str, int],
        now: float,
        avoid: Iterable[str] = (),
    ) -> LeasePlan:
        """Return what to take and what is lost.

        `running`: the shards this worker reads, with the epoch of its lease; `avoid`: shards not to take now.
        """
        leases = {row.shard_id: row for row in rows}
        self._look(leases, now)
        avoided = frozenset(avoid)
        live = [row for row in leases.values() if may_start(row, leases)]
        takeable = [row for row in live if row.shard_id not in running and self._is_free(row, now)]
        free = {row.shard_id for row in takeable}
        owners = {row.owner for row in live if row.owner is not None and row.shard_id not in free}
        owners.add(self._worker_id)
        share = -(-len(live) // len(owners))
        wanted = max(0, share - len(running))
        candidates = sorted((row for row in takeable if row.shard_id not in avoided), key=lambda row: row.shard_id)
        return LeasePlan(take=tuple(candidates[:wanted]), lost=self._lost(leases, running))

    def _is_free(self, row: Lease, now: float) -> bool:
        return row.owner is None or now - self._sightings[row.shard_id].seen_at > self._duration

    def _look(self, leases: Mapping[str, Lease], now: float) -> None:
        for shard_id in [each for each in self._sightings if each not in leases]:
            del self._sightings[shard_id]
        for row in leases.values():
            seen = self._sightings.get(row.shard_id)
            if seen is None or (seen.owner, seen.epoch, seen.heartbeat) != (row.owner, row.epoch, row.heartbeat):
                self._sightings[row.shard_id] = _Sighting(row.owner, row.epoch, row.heartbeat, now)

    def _lost(self, leases: Mapping[str, Lease], running: Mapping[str, int]) -> tuple[str, ...]:
        return tuple(
            shard_id
            for shard_id, epoch in running.items()
            if shard_id not in leases
            or leases[shard_id].epoch > epoch
            or (
                leases[shard_id].epoch == epoch
                and leases[shard_id].owner != self._worker_id
                and not leases[shard_id].checkpoint.is_shard_end  # finished by this worker just now
            )
        )
