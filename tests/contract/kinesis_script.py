"""Writes random Kinesis scripts; knows of the stream only what is needed to name shards and records that exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from shared.hash_key import HashKeyRange, even_ranges, hash_key_of
from shared.limits import (
    GET_RECORDS_COUNT_MAX,
    HASH_KEY_MAX,
    ITERATOR_LIFETIME_SECONDS,
    PUT_RECORDS_COUNT_MAX,
    RECORD_BYTES_MAX_DEFAULT,
    RETENTION_HOURS_DEFAULT,
)
from shared.records import PutEntry, StartKind
from tests.contract.kinesis_steps import (
    NOWHERE,
    Describe,
    From,
    Keep,
    ListShards,
    Merge,
    Put,
    Read,
    ReadKept,
    Split,
    Step,
    Turn,
)

STEPS: Final = 30
SLOTS: Final = 3
SHARDS_MAX: Final = 24
_KEYS: Final = ("a", "b", "visitor-17", "naïve ünïcode", "日本語", "😀", " ", '"quoted\\"', "k" * 256, "é" * 256)
_RETENTION_SECONDS: Final = RETENTION_HOURS_DEFAULT * 3_600
_TICK: Final = 0.125  # a sum of these is exact in binary and in milliseconds


@dataclass(slots=True)
class _Shard:
    covers: HashKeyRange
    is_open: bool = True
    records: int = 0


@dataclass(slots=True)
class KinesisScript:
    """A script for a stream of `shard_count` shards.

    Without `reshards` it holds only what moto can do (DIVERGENCES.md): no closed shards, no clock, no refusals that
    moto does not make.
    """

    random: Random
    reshards: bool
    shard_count: int = field(init=False)
    steps: list[Step] = field(init=False, default_factory=list)
    _shards: list[_Shard] = field(init=False)
    _seconds: float = field(init=False, default=0.0)
    _kept: set[int] = field(init=False, default_factory=set)
    _put_at: list[float] = field(init=False, default_factory=lambda: [0.0])

    def __post_init__(self) -> None:
        self.shard_count = self.random.choice((1, 1, 2, 3, 5))
        self._shards = [_Shard(each) for each in even_ranges(self.shard_count)]
        actions: list[tuple[Callable[[], None], int]] = [
            (self._put, 34),
            (self._read, 22),
            (self._keep, 9),
            (self._read_kept, 14),
            (self._list, 5),
            (self._refused_put, 6),
            (self._refused_read, 4),
        ]
        if self.reshards:
            actions += [
                (self._split, 8),
                (self._merge, 8),
                (self._turn, 8),
                (self._outlive, 4),
                (self._refused_reshard, 6),
            ]
        calls, weights = zip(*actions, strict=True)
        for _ in range(STEPS):
            self.random.choices(calls, weights)[0]()
        self._read_everything()

    # Writing.

    def _put(self) -> None:
        is_single = self.random.random() < 0.5
        count = 1 if is_single else self.random.choice((1, 2, 3, 8, 20))
        entries = tuple(self._entry() for _ in range(count))
        for each in entries:
            self._place(each)
        self._put_at.append(self._seconds)
        self.steps.append(Put(entries, is_single))

    def _entry(self) -> PutEntry:
        explicit = self._hash_key() if self.random.random() < 0.4 else None
        return PutEntry(self.random.randbytes(self.random.choice((0, 1, 5, 40))), self.random.choice(_KEYS), explicit)

    def _hash_key(self) -> int:
        covers = self.random.choice(self._open()).covers
        inside = self.random.randint(covers.start, covers.end)
        # moto fails at the last hash key of a shard.
        return self.random.choice((covers.start, covers.end, inside)) if self.reshards else min(inside, covers.end - 1)

    def _place(self, entry: PutEntry) -> None:
        explicit = entry.explicit_hash_key
        hash_key = hash_key_of(entry.partition_key) if explicit is None else explicit
        next(each for each in self._open() if hash_key in each.covers).records += 1

    def _refused_put(self) -> None:
        good = self._entry()
        bad: list[tuple[tuple[PutEntry, ...], int]] = [
            ((good,), NOWHERE),
            ((good._replace(partition_key="k" * 257),), 0),
            ((good._replace(explicit_hash_key=HASH_KEY_MAX + 1),), 0),
            ((good,) * (PUT_RECORDS_COUNT_MAX + 1), 0),
        ]
        if self.reshards:
            size = RECORD_BYTES_MAX_DEFAULT + 1 - len(good.partition_key.encode())
            bad += [
                ((good._replace(data=bytes(size)),), 0),
                ((good, good._replace(explicit_hash_key=-1)), 0),
                ((good._replace(explicit_hash_key=10**39),), 0),
                ((), 0),
                ((good._replace(partition_key=""),), 0),
                ((good, good, good._replace(partition_key="k" * 257)), 0),
            ]
        entries, stream = self.random.choice(bad)
        self.steps.append(Put(entries, len(entries) == 1 and self.random.random() < 0.5, stream))

    # Reading.

    def _start(self, shard: int) -> From:
        known = self._shards[shard]
        kinds = [StartKind.TRIM_HORIZON, StartKind.LATEST, StartKind.AT_TIMESTAMP]
        if known.records or self.reshards:
            kinds += [StartKind.AT_SEQUENCE_NUMBER, StartKind.AFTER_SEQUENCE_NUMBER] * 2
        kind = self.random.choice(kinds)
        if kind is StartKind.AT_TIMESTAMP:
            # moto's clock is not in our hand: there only a time before everything is the same everywhere.
            shift = self.random.choice((0.0, 0.0, 0.001, -_TICK))
            return From(kind, seconds=self.random.choice(self._put_at) + shift if self.reshards else -3600.0)
        if kind in {StartKind.TRIM_HORIZON, StartKind.LATEST}:
            return From(kind)
        if known.records and (not self.reshards or self.random.random() < 0.8):
            return From(kind, "record", self.random.randrange(known.records))
        return From(kind, "start" if known.is_open else self.random.choice(("start", "end")))

    def _read(self) -> None:
        shard = self.random.randrange(len(self._shards))
        limit = self.random.choice((1, 2, 3, 7, GET_RECORDS_COUNT_MAX))
        self._age()
        self.steps.append(Read(shard, self._start(shard), limit, self.random.choice((1, 2, 5))))

    def _keep(self) -> None:
        slot, shard = self.random.randrange(SLOTS), self.random.randrange(len(self._shards))
        self._kept.add(slot)
        self.steps.append(Keep(slot, shard, self._start(shard)))

    def _read_kept(self) -> None:
        if not self._kept:
            self._keep()
        slot = self.random.choice(sorted(self._kept))
        self._age()
        self.steps.append(ReadKept(slot, self.random.choice((1, 3, 100)), advance=self.random.random() < 0.7))

    def _age(self) -> None:
        """Let what waits be a tick old, so that whoever reads is behind by more than nothing."""
        if self.reshards:
            self._seconds += _TICK
            self.steps.append(Turn(_TICK))

    def _list(self) -> None:
        stream = self.random.choice((0, 0, 0, NOWHERE))
        self.steps.append(self.random.choice((ListShards, Describe))(stream))

    def _refused_read(self) -> None:
        horizon = From(StartKind.TRIM_HORIZON)
        bad: list[Step] = [Read(0, horizon, 10, 1, stream=NOWHERE), Read(NOWHERE, horizon, 10, 1)]
        if self.reshards:
            shard = self.random.randrange(len(self._shards))
            numbered = self.random.choice((StartKind.AT_SEQUENCE_NUMBER, StartKind.AFTER_SEQUENCE_NUMBER))
            bad += [
                Read(0, horizon, 0, 1),
                Read(0, horizon, GET_RECORDS_COUNT_MAX + 1, 1),
                Read(shard, From(numbered, self.random.choice(("below", "above"))), 10, 1),
                Read(shard, From(StartKind.AT_TIMESTAMP, seconds=self._seconds + 60), 10, 1),
                ReadKept(NOWHERE, 10, advance=False),
            ]
        self.steps.append(self.random.choice(bad))

    def _read_everything(self) -> None:
        self.steps += [Turn(1.0), ListShards(), Describe()]
        for shard in range(len(self._shards)):
            self.steps.append(Read(shard, From(StartKind.TRIM_HORIZON), self.random.choice((5, 1000)), 1_000))

    # Resharding.

    def _open(self) -> list[_Shard]:
        return [each for each in self._shards if each.is_open]

    def _split(self) -> None:
        index = self.random.choice([index for index, each in enumerate(self._shards) if each.is_open])
        covers = self._shards[index].covers
        if covers.width < 5 or len(self._shards) >= SHARDS_MAX:
            return
        at = self.random.choice(
            (covers.start + covers.width // 2, self.random.randint(covers.start + 2, covers.end - 1))
        )
        self._shards[index].is_open = False
        self._shards += [_Shard(HashKeyRange(covers.start, at - 1)), _Shard(HashKeyRange(at, covers.end))]
        self.steps.append(Split(index, at))

    def _merge(self) -> None:
        pairs = self._pairs(adjacent=True)
        if not pairs or len(self._shards) >= SHARDS_MAX:
            return
        pair = self.random.choice(pairs)
        first, second = pair if self.random.random() < 0.5 else pair[::-1]
        ranges = self._shards[first].covers, self._shards[second].covers
        self._shards[first].is_open = self._shards[second].is_open = False
        merged = HashKeyRange(min(each.start for each in ranges), max(each.end for each in ranges))
        self._shards.append(_Shard(merged))
        self.steps.append(Merge(first, second))

    def _pairs(self, *, adjacent: bool) -> list[tuple[int, int]]:
        found = [index for index, each in enumerate(self._shards) if each.is_open]
        return [
            (first, second)
            for first in found
            for second in found
            if first < second and self._shards[first].covers.is_adjacent_to(self._shards[second].covers) is adjacent
        ]

    def _refused_reshard(self) -> None:
        index = self.random.randrange(len(self._shards))
        covers = self._shards[index].covers
        at = self.random.choice((covers.start, covers.start + 1, covers.end, covers.end + 1, HASH_KEY_MAX + 1, -1))
        bad: list[Step] = [
            Split(index, at),
            Split(NOWHERE, 5),
            Split(index, covers.start + covers.width // 2, stream=NOWHERE),
            Merge(index, index),
            Merge(index, NOWHERE),
            Merge(index, 0, stream=NOWHERE),
        ]
        closed = [index for index, each in enumerate(self._shards) if not each.is_open]
        if closed:
            one = self._shards[closed[-1]].covers
            bad += [
                Split(closed[-1], one.start + one.width // 2),
                Merge(closed[0], closed[-1]),
                Merge(index, closed[0]),
            ]
        apart = self._pairs(adjacent=False)
        bad += [Merge(*pair) for pair in apart[:2]]
        self.steps.append(self.random.choice(bad))

    def _turn(self) -> None:
        # Now and then beyond the five minutes of an iterator, on both sides of the bound.
        seconds = self.random.choice((_TICK, _TICK, 1.0, 2.5, 299.875, 300.0, 300.125))
        # Retention passes, too: to the tick, so that records and closed shards lie on both sides of the horizon.
        if self.random.random() < 0.15:
            seconds = _RETENTION_SECONDS - self.random.choice((0, 1, 2, 8, 20, 2_400)) * _TICK
        self._seconds += seconds
        self.steps.append(Turn(seconds))

    def _outlive(self) -> None:
        """Use an iterator when it is as old as it may be, and a tick later."""
        self._keep()
        kept = self.steps[-1]
        assert isinstance(kept, Keep)
        for seconds in (ITERATOR_LIFETIME_SECONDS, _TICK):
            self._seconds += seconds
            self.steps += [Turn(seconds), ReadKept(kept.slot, 3, advance=False)]
