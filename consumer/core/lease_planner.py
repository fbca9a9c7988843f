"""Which leases this worker takes, asks for, hands over, and has lost: a pure decision over the lease table."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from consumer.core.roster import Roster
from consumer.core.shard_graph import may_start
from shared.lease import Lease, TableRows

# A shard moves for its load only if the larger of the two loads falls by a quarter, and by more than noise.
_GAIN_SHARE_MIN: Final = 0.25
_GAIN_BYTES_PER_SECOND_MIN: Final = 32_768
_SETTLED_LEASES: Final = 6  # lease durations that a shard stays where it went before it is asked for because of load
_UNEVEN: Final = 2  # shards that another worker has more than this one: one of them moves


@dataclass(frozen=True, slots=True)
class HandOver:
    """A shard of this worker, and the live worker that asks for it."""

    shard_id: str
    successor: str


@dataclass(frozen=True, slots=True)
class LeasePlan:
    """What to do now: rows to take and to ask for, in this order, and shards to hand over or to give up.

    `decline`: rows of this worker that were asked for by one that died or leaves; until that is undone nobody else can.
    """

    take: tuple[Lease, ...] = ()
    ask: tuple[Lease, ...] = ()
    hand_over: tuple[HandOver, ...] = ()
    decline: tuple[Lease, ...] = ()
    lost: tuple[str, ...] = ()


@dataclass(slots=True)
class _View:
    """What one plan is made from."""

    leases: Mapping[str, Lease]
    running: Mapping[str, int]
    avoided: frozenset[str]
    live: list[Lease] = field(default_factory=list)
    free: list[Lease] = field(default_factory=list)
    by_owner: dict[str, list[Lease]] = field(default_factory=dict)  # live rows of others that nobody asks for
    members: frozenset[str] = frozenset()
    certain: frozenset[str] = frozenset()  # those of them that are no dead worker's presence
    mine: int = 0  # shards that this worker reads or was promised
    load: int = 0  # bytes per second of those

    def share(self, members: frozenset[str]) -> int:
        """Return how many shards one of these has at most."""
        return -(-len(self.live) // max(1, len(members)))


class LeasePlanner:
    """Balances by count, then by load, and asks a live owner rather than take from it.

    Count: nobody has two shards more than another. Load: a move must lower the larger load of two workers by a quarter,
    and a shard that has just moved stays; the other may then ask for a lighter one back, to even the counts. A move
    for the count never raises the larger load, so that constant loads come to rest. Workers without a lease count
    through their presence; dead, absent and leaving ones don't, or else the others would leave shards unread.
    """

    def __init__(self, worker_id: str, lease_duration_seconds: float) -> None:
        self._worker_id = worker_id
        self._settled_seconds = _SETTLED_LEASES * lease_duration_seconds
        self.roster = Roster(lease_duration_seconds)

    def plan(self, rows: TableRows, running: Mapping[str, int], now: float, avoid: Iterable[str] = ()) -> LeasePlan:
        """Return what to do.

        `running`: the shards this worker reads, with the epoch of its lease; `avoid`: shards not to take now.
        """
        self.roster.look(rows, now)
        view = self._view(rows, running, now, avoid)
        most = view.share(view.members)
        take = sorted((row for row in view.free if row.shard_id not in view.avoided), key=lambda row: row.shard_id)[
            : max(0, most - view.mine)
        ]
        view.mine += len(take)
        asked = self._asked_of_me(view)
        return LeasePlan(
            take=tuple(take),
            ask=tuple(self._ask(view, now)),
            hand_over=tuple(HandOver(row.shard_id, name) for row, name in asked if name in view.members),
            decline=tuple(row for row, name in asked if name not in view.members),
            lost=self._lost(view),
        )

    def others(self, rows: TableRows, now: float) -> frozenset[str]:
        """Return the live workers besides this one; empty if it is alone."""
        self.roster.look(rows, now)
        owners = {row.owner for row in rows.leases if row.owner is not None and not self.roster.is_free(row, now)}
        return self.roster.members(owners, now) - {self._worker_id}

    def _view(self, rows: TableRows, running: Mapping[str, int], now: float, avoid: Iterable[str]) -> _View:
        leases = {row.shard_id: row for row in rows.leases}
        mine = sum(name not in leases or may_start(leases[name], leases) for name in running)
        view = _View(leases, running, frozenset(avoid), mine=mine)
        owners = {self._worker_id}
        for row in view.leases.values():
            if not may_start(row, view.leases):
                continue
            view.live.append(row)
            if row.shard_id in running:
                view.load += row.load
            elif self._is_free(row, now):
                view.free.append(row)
            elif row.owner is not None:
                owners.add(row.owner)
                if row.successor == self._worker_id:
                    view.mine += 1
                    view.load += row.load
                elif row.successor is None and row.owner != self._worker_id:
                    view.by_owner.setdefault(row.owner, []).append(row)
        view.members = self.roster.members(owners, now) | {self._worker_id}
        view.certain = view.members - (self.roster.doubtful() - owners)
        return view

    def _is_free(self, row: Lease, now: float) -> bool:
        return self.roster.is_free(row, now)

    # Asking: the owner flushes and hands over, so that the shard stands still for less than a second.

    def _ask(self, view: _View, now: float) -> list[Lease]:
        asked: list[Lease] = []
        # Nobody would ask for the part of a dead one in time; of one that lives it is evened out later.
        most = view.share(view.certain)
        for owner, rows in sorted(view.by_owner.items()):
            if owner not in view.members:  # it leaves: whoever has room takes its part
                asked += self._drawn(rows, view)[: max(0, most - view.mine - len(asked))]
        view.mine += len(asked)
        staying = {owner: list(rows) for owner, rows in view.by_owner.items() if owner in view.members}
        while row := self._uneven(view, staying):
            staying[str(row.owner)].remove(row)
            view.mine += 1
            view.load += row.load
            asked.append(row)
        if not asked and (row := self._overloaded(view, staying, now)) is not None:
            asked.append(row)
        return asked

    def _drawn(self, rows: Iterable[Lease], view: _View) -> list[Lease]:
        """Sort rows in an order of this worker's own, so that two who ask at once seldom ask for the same ones."""
        able = (row for row in rows if row.shard_id not in view.avoided)
        return sorted(able, key=lambda row: zlib.crc32(f"{self._worker_id} {row.shard_id}".encode()))

    def _uneven(self, view: _View, staying: Mapping[str, list[Lease]]) -> Lease | None:
        """Return a shard of a worker that has two more than this one, whose move raises the larger load of both not."""
        for _, rows in sorted(staying.items(), key=lambda each: (-len(each[1]), each[0])):
            if len(rows) < view.mine + _UNEVEN:
                return None
            larger = max(view.load, sum(row.load for row in rows))
            fitting = [row for row in self._drawn(rows, view) if view.load + row.load <= larger]
            if fitting:
                return fitting[0]
        return None

    def _overloaded(self, view: _View, staying: Mapping[str, list[Lease]], now: float) -> Lease | None:
        """Return the shard whose move lowers the larger of two loads most, if that is worth it."""
        best: tuple[int, Lease] | None = None
        for rows in staying.values():
            load = sum(row.load for row in rows)
            if len(rows) < max(_UNEVEN, view.mine):
                continue  # it has fewer shards already, or would have none
            for row in self._drawn(rows, view):
                gain = load - max(load - row.load, view.load + row.load)
                is_settled = now - self.roster.moved_at(row.shard_id) >= self._settled_seconds
                if is_settled and (best is None or gain > best[0]) and gain >= _GAIN_SHARE_MIN * load:
                    best = (gain, row)
        return best[1] if best is not None and best[0] >= _GAIN_BYTES_PER_SECOND_MIN else None

    # What others do to the shards of this worker.

    def _asked_of_me(self, view: _View) -> list[tuple[Lease, str]]:
        return [
            (row, row.successor)
            for row in view.leases.values()
            if row.successor is not None
            and view.running.get(row.shard_id) == row.epoch
            and row.owner == self._worker_id
        ]

    def _lost(self, view: _View) -> tuple[str, ...]:
        leases, running = view.leases, view.running
        return tuple(
            shard_id
            for shard_id, epoch in running.items()
            if shard_id not in leases
            or leases[shard_id].epoch > epoch
            # A seek has opened its parents again: it has to wait for them.
            or not (leases[shard_id].checkpoint.is_shard_end or may_start(leases[shard_id], leases))
            or (
                leases[shard_id].epoch == epoch
                and leases[shard_id].owner != self._worker_id
                and not leases[shard_id].checkpoint.is_shard_end  # finished by this worker just now
            )
        )
