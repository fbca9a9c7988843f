"""Who is there: workers judged alive by heartbeats that move, on the observer's own clock."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from shared.lease import Lease, TableRows

_FORGOTTEN_LEASES: Final = 10  # lease durations after which a presence that stands still is taken away


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A heartbeat as it was first seen, and when."""

    value: Any
    seen_at: float


class Roster:
    """Remembers when each heartbeat was seen to move; clocks of two machines are never compared."""

    def __init__(self, lease_duration_seconds: float) -> None:
        self._duration = lease_duration_seconds
        self._leases: dict[str, _Sighting] = {}
        self._moves: dict[str, _Sighting] = {}  # of owner and epoch: when a shard was last seen to change hands
        self._presences: dict[str, _Sighting] = {}
        self._leaving: frozenset[str] = frozenset()
        self._found: dict[str, int] | None = None  # presences of the first look and their heartbeats

    def look(self, rows: TableRows, now: float) -> None:
        """Take note of what the table shows now."""
        leases = {row.shard_id: row for row in rows.leases}
        self._note(self._leases, ((name, (row.owner, row.epoch, row.heartbeat)) for name, row in leases.items()), now)
        known = set(self._moves)
        self._note(self._moves, ((name, row.epoch) for name, row in leases.items()), now)
        for name in self._moves.keys() - known:
            self._moves[name] = _Sighting(self._moves[name].value, float("-inf"))  # it may have moved long ago
        self._note(self._presences, ((each.worker_id, each.heartbeat) for each in rows.presences), now)
        self._leaving = frozenset(each.worker_id for each in rows.presences if each.is_leaving)
        shown = {each.worker_id: each.heartbeat for each in rows.presences}
        found = shown if self._found is None else self._found
        self._found = {name: heartbeat for name, heartbeat in found.items() if shown.get(name) == heartbeat}

    @staticmethod
    def _note(sightings: dict[str, _Sighting], found: Iterable[tuple[str, Hashable]], now: float) -> None:
        kept: set[str] = set()
        for name, value in found:
            kept.add(name)
            seen = sightings.get(name)
            if seen is None or seen.value != value:
                sightings[name] = _Sighting(value, now)
        for name in [each for each in sightings if each not in kept]:
            del sightings[name]

    def is_free(self, row: Lease, now: float) -> bool:
        """Whether a row has no owner, or one whose heartbeat stood still for a lease duration."""
        return row.owner is None or now - self._leases[row.shard_id].seen_at > self._duration

    def moved_at(self, shard_id: str) -> float:
        """Return when a shard was seen to change hands; minus infinity if it never was."""
        return self._moves[shard_id].seen_at

    def present(self, now: float) -> frozenset[str]:
        """Return the workers whose presence is alive, those that leave included."""
        return frozenset(name for name, seen in self._presences.items() if now - seen.seen_at <= self._duration)

    def members(self, owners: Iterable[str], now: float) -> frozenset[str]:
        """Return who shares the shards: the given owners of live leases and all who are present, save who leaves."""
        return (frozenset(owners) | self.present(now)) - self._leaving

    def doubtful(self) -> frozenset[str]:
        """Return the workers whose presence stands as at the first look: they may have died long before that."""
        return frozenset(self._found or ())

    def is_somebody_leaving(self, now: float) -> bool:
        """Whether a worker is about to leave, whose shards wait to be asked for."""
        return bool(self.present(now) & self._leaving)

    def forgotten(self, now: float) -> tuple[tuple[str, int], ...]:
        """Return presences, with their heartbeat, whose worker died without taking them away."""
        return tuple(
            (name, seen.value)
            for name, seen in self._presences.items()
            if now - seen.seen_at > _FORGOTTEN_LEASES * self._duration
        )
