"""Planners of several workers over one table: they come to rest, evenly, and follow who comes, leaves and dies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from consumer.core.lease_planner import LeasePlanner
from shared.lease import Lease, Presence, TableRows

_DURATION = 15.0
_ROUND = 5.0


class _Fleet:
    """A lease table and the workers that plan over it, one after the other in each round."""

    def __init__(self, shards: int, workers: int, loads: tuple[int, ...] = (0,)) -> None:
        self.rows = {f"s{n:03d}": Lease(f"s{n:03d}", load=loads[n % len(loads)]) for n in range(shards)}
        self.planners = {f"w{n}": LeasePlanner(f"w{n}", _DURATION) for n in range(workers)}
        self.leaving: set[str] = set()
        self.dead: set[str] = set()
        self.beats: Counter[str] = Counter()
        self.now = 0.0
        self.moves = 0

    def run(self, rounds: int) -> int:
        """Let all workers look `rounds` times; return how often a shard changed hands."""
        before = self.moves
        for _ in range(rounds):
            self.now += _ROUND
            for worker in self.planners.keys() - self.dead:
                self._beat(worker)
            for worker in sorted(self.planners.keys() - self.dead):
                self._act(worker)
        return self.moves - before

    def _beat(self, worker: str) -> None:
        self.beats[worker] += 1
        for name, row in self.rows.items():
            if row.owner == worker:
                self.rows[name] = replace(row, heartbeat=row.heartbeat + 1)

    def table(self) -> TableRows:
        presences = (Presence(name, self.beats[name], name in self.leaving) for name in self.planners)
        return TableRows(tuple(self.rows.values()), tuple(presences))

    def _act(self, worker: str) -> None:
        running = {name: row.epoch for name, row in self.rows.items() if row.owner == worker}
        plan = self.planners[worker].plan(self.table(), running, self.now)
        for hand_over in plan.hand_over:
            self._give(hand_over.shard_id, hand_over.successor)
        if worker in self.leaving:
            return
        for row in plan.take:
            self._give(row.shard_id, worker)
        for row in plan.ask:
            if self.rows[row.shard_id].successor is None:
                self.rows[row.shard_id] = replace(self.rows[row.shard_id], successor=worker)

    def _give(self, shard_id: str, owner: str) -> None:
        row = self.rows[shard_id]
        self.rows[shard_id] = replace(row, owner=owner, epoch=row.epoch + 1, successor=None)
        self.moves += 1

    def counts(self) -> list[int]:
        """Return how many shards each worker owns, the largest first."""
        owned = Counter(row.owner for row in self.rows.values())
        return sorted((owned[name] for name in self.planners), reverse=True)


@pytest.mark.parametrize(("shards", "workers"), [(64, 4), (7, 3), (1, 2), (2, 5)])
@pytest.mark.parametrize("loads", [(0,), (50_000, 900_000, 10_000), (1_000_000, 0, 0, 0, 0)])
def test_constant_loads_come_to_rest_with_every_shard_owned(shards: int, workers: int, loads: tuple[int, ...]) -> None:
    """After a while no shard moves any more, every shard has an owner, and equal loads are split evenly."""
    fleet = _Fleet(shards, workers, loads)
    fleet.run(400)
    assert fleet.run(400) == 0
    assert sum(fleet.counts()) == shards
    if len(loads) == 1:
        assert fleet.counts()[0] - fleet.counts()[-1] <= 1


def test_a_worker_with_the_only_load_still_gets_its_part() -> None:
    """Shards without load cost it nothing, so that the counts are evened out (simulated seed 62000021)."""
    fleet = _Fleet(4, 2, (1, 0, 0, 0))
    for number, name in enumerate(sorted(fleet.rows)):
        fleet.rows[name] = replace(fleet.rows[name], owner="w1" if number else "w0", epoch=1)
    fleet.run(50)
    assert fleet.counts() == [2, 2]
    assert fleet.run(50) == 0


def test_a_worker_that_comes_gets_its_part() -> None:
    """A fourth worker of 64 shards ends with 16, though none was free, and no more shards move than it lacks."""
    fleet = _Fleet(64, 3)
    fleet.run(50)
    fleet.planners["w9"] = LeasePlanner("w9", _DURATION)
    moved = fleet.run(50)
    assert fleet.counts() == [16, 16, 16, 16]
    assert moved <= 20


def test_a_leaving_worker_is_left_without_a_shard() -> None:
    """The others ask for all that a leaving worker holds, and rest evenly."""
    fleet = _Fleet(64, 4)
    fleet.run(50)
    fleet.leaving.add("w0")
    fleet.run(50)
    assert fleet.counts() == [22, 21, 21, 0]
    assert fleet.run(50) == 0


def test_the_shards_of_a_dead_worker_are_taken_though_its_presence_stays() -> None:
    """A presence that stands still counts for nothing after a lease duration."""
    fleet = _Fleet(64, 4)
    fleet.run(50)
    fleet.dead.add("w0")
    fleet.run(12)
    assert fleet.counts() == [22, 21, 21, 0]


def test_the_ask_of_a_dead_worker_is_not_honoured() -> None:
    """An owner keeps a shard whose asker's heartbeat has stood still for longer than a lease."""
    planner = LeasePlanner("me", _DURATION)
    row = Lease("s", owner="me", epoch=3, successor="gone")
    rows = TableRows((row,), (Presence("gone", 1),))
    assert planner.plan(rows, {"s": 3}, now=0).hand_over
    assert not planner.plan(rows, {"s": 3}, now=_DURATION + 1).hand_over
