"""When a stream is resharded by the faults, and which of its shards the seed chooses."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

from infra.cloud.core.faults import FaultPlan, Reshard, draw
from shared.hash_key import HashKeyRange

_RULE_OFFSET: Final = 1_000_000  # draws of reshards stay apart from those of rules and steps
_STREAM: Final = 0
_KIND: Final = 1
_SHARD: Final = 2
_WIDTH_MIN: Final = 4  # what is narrower can't be split
_HALF: Final = 0.5


class OpenShard(NamedTuple):
    """An open shard, in the order of the ring."""

    shard_id: str
    hash_range: HashKeyRange


class SplitOrder(NamedTuple):
    """Split this shard there."""

    shard_id: str
    new_start: int


class MergeOrder(NamedTuple):
    """Merge these two adjacent shards."""

    shard_id: str
    adjacent_id: str


class CountOrder(NamedTuple):
    """Scale to this many shards."""

    shard_count: int


Order = SplitOrder | MergeOrder | CountOrder


class Turn(NamedTuple):
    """One due occurrence of a schedule; `number` counts from 0."""

    reshard: Reshard
    track: int
    number: int


@dataclass(slots=True)
class _Track:
    reshard: Reshard
    number: int = 0
    done: int = 0
    skipped: int = 0

    def next_time(self) -> float | None:
        """Seconds since the start; None once the schedule is over."""
        reshard, number = self.reshard, self.number
        if reshard.times_max is not None and number >= reshard.times_max:
            return None
        if reshard.every_seconds is not None:
            return (number + 1) * reshard.every_seconds
        return reshard.at_seconds[number] if number < len(reshard.at_seconds) else None

    def catch_up(self, elapsed: float) -> None:
        """Go to the first occurrence after `elapsed` seconds."""
        if self.reshard.every_seconds is not None:
            self.number = max(self.number, int(elapsed / self.reshard.every_seconds))
        else:
            self.number = bisect_right(self.reshard.at_seconds, elapsed)


class ReshardSchedule:
    """The schedules of one plan that began at `started` (seconds of the caller's monotonic clock)."""

    def __init__(self, plan: FaultPlan, started: float) -> None:
        self._started = started
        self._tracks = [_Track(each) for each in plan.reshards]

    def next_deadline(self) -> float | None:
        """When the next reshard is due; None if no more is."""
        times = [time for each in self._tracks if (time := each.next_time()) is not None]
        return self._started + min(times) if times else None

    def due(self, now: float) -> list[Turn]:
        """What is due; of occurrences that were missed (the machine slept) only one is made up for."""
        turns: list[Turn] = []
        for index, track in enumerate(self._tracks):
            time = track.next_time()
            if time is None or self._started + time > now:
                continue
            turns.append(Turn(track.reshard, index, track.number))
            track.number += 1
            track.catch_up(now - self._started)
        return turns

    def report(self, turn: Turn, *, done: bool) -> None:
        """Count what became of a turn."""
        track = self._tracks[turn.track]
        track.done += done
        track.skipped += not done

    def counts(self) -> list[dict[str, Any]]:
        """How often each schedule was carried out and skipped, as JSON values."""
        return [
            {"name": each.reshard.name, "kind": each.reshard.kind, "hits": each.done, "skipped": each.skipped}
            for each in self._tracks
        ]


def chosen_stream(seed: int, turn: Turn, names: Sequence[str]) -> str | None:
    """One of the streams that match, by the seed."""
    return names[int(_draw(seed, turn, _STREAM) * len(names))] if names else None


def order_of(seed: int, turn: Turn, shards: Sequence[OpenShard]) -> Order | None:
    """What to do to a stream with these open shards; None if nothing of the kind is possible."""
    reshard = turn.reshard
    chance = _draw(seed, turn, _SHARD)
    if reshard.kind == "count":
        return CountOrder(reshard.shard_count or 1)
    if reshard.kind == "split":
        return _split(reshard.shard_id, shards, chance)
    if reshard.kind == "merge":
        return _merge(reshard.shard_id, shards, chance)
    may_split = len(shards) < reshard.shards_max
    may_merge = len(shards) > max(1, reshard.shards_min)
    if may_split and (not may_merge or _draw(seed, turn, _KIND) < _HALF):
        return _split(None, shards, chance)
    return _merge(None, shards, chance) if may_merge else None


def _draw(seed: int, turn: Turn, purpose: int) -> float:
    return draw(seed, _RULE_OFFSET + turn.track, turn.number, purpose)


def _split(shard_id: str | None, shards: Sequence[OpenShard], chance: float) -> SplitOrder | None:
    found = [s for s in shards if shard_id in {None, s.shard_id} and s.hash_range.width >= _WIDTH_MIN]
    if not found:
        return None
    shard = found[int(chance * len(found))]
    return SplitOrder(shard.shard_id, shard.hash_range.start + shard.hash_range.width // 2)


def _merge(shard_id: str | None, shards: Sequence[OpenShard], chance: float) -> MergeOrder | None:
    pairs = [
        MergeOrder(low.shard_id, high.shard_id)
        for low, high in pairwise(shards)
        if shard_id in {None, low.shard_id, high.shard_id}
    ]
    return pairs[int(chance * len(pairs))] if pairs else None
