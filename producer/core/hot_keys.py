"""Which partition keys load which shard: bounded, sampled, and with the split that would help."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from producer.core.record_columns import RecordColumns
from shared.hash_key import HashKeyRange, hash_key_of

KEYS_PER_SHARD_MAX: Final = 32
_SHARDS_MAX: Final = 10_000
_BUCKETS: Final = 64  # of a shard's hash keys, to find the middle of its load
_STRIDE_MAX: Final = 255  # one record of 128 on average is looked at
_HALF_LIFE_SECONDS: Final = 60.0
_USELESS_SHARE: Final = 0.9  # a split that leaves one side more than this is none


@dataclass(frozen=True, slots=True)
class HotKey:
    """A partition key and the share that it has for sure of the bytes that were looked at; at most a 32nd too low."""

    partition_key: str
    share: float


@dataclass(frozen=True, slots=True)
class ShardHeat:
    """The load of one shard over the last minutes, as this producer makes it.

    `split_at` is the NewStartingHashKey of the split that comes nearest to two halves; None if no split helps, because
    one key makes the load: it has to be spread over several keys. `larger_share` is what the larger half would keep.
    """

    shard_id: str
    weight: float  # bytes, those of a minute ago counted half
    keys: tuple[HotKey, ...]  # hottest first
    split_at: int | None
    larger_share: float


class _Sketch:
    """Space-saving (Metwally, Agrawal, El Abbadi, 2005): a new key takes the place and the count of the least one."""

    __slots__ = ("buckets", "inherited", "total", "weights")

    def __init__(self) -> None:
        self.total = 0.0
        self.weights: dict[str, float] = {}
        self.inherited: dict[str, float] = {}  # what of a weight may have been other keys'
        self.buckets = [0.0] * _BUCKETS

    def add(self, key: str, weight: float, bucket: int) -> None:
        self.total += weight
        self.buckets[bucket] += weight
        weights = self.weights
        if key not in weights and len(weights) >= KEYS_PER_SHARD_MAX:
            least = min(weights, key=weights.__getitem__)
            self.inherited.pop(least, None)
            self.inherited[key] = weights.pop(least)
            weight += self.inherited[key]
        weights[key] = weights.get(key, 0.0) + weight

    def certain(self) -> Iterator[tuple[str, float]]:
        """Yield each key with what it has for sure: of many even keys, all would seem to have a 32nd otherwise."""
        for key, weight in self.weights.items():
            yield key, weight - self.inherited.get(key, 0.0)

    def halve(self) -> None:
        self.total /= 2
        self.weights = {key: weight / 2 for key, weight in self.weights.items()}
        self.inherited = {key: weight / 2 for key, weight in self.inherited.items()}
        self.buckets = [weight / 2 for weight in self.buckets]


class HotKeys:
    """Looks at one of 128 records that were delivered; costs some four microseconds for each of these.

    `stride_max` is the longest way from one record that is looked at to the next: 1 looks at each.
    """

    def __init__(self, *, stride_max: int = _STRIDE_MAX) -> None:
        self._stride_max = stride_max
        self._sketches: dict[str, _Sketch] = {}
        self._until_next = 0
        self._state = 1
        self._halved_at: float | None = None

    def add(self, shard_id: str, shard_range: HashKeyRange | None, members: RecordColumns) -> None:
        """Take the members of a stream record that a shard has taken; without its range nothing is learnt."""
        index, count = self._until_next, len(members.datas)
        if index < count and shard_range is not None:
            sketch = self._sketches.get(shard_id)
            if sketch is None and len(self._sketches) < _SHARDS_MAX:
                sketch = self._sketches[shard_id] = _Sketch()
            while index < count:
                if sketch is not None:
                    self._look(sketch, shard_range, members, index)
                # Strides of one length would see the same keys again and again where these take turns (Lehmer, 1951).
                self._state = self._state * 48_271 % 2_147_483_647
                index += 1 + self._state % self._stride_max
        self._until_next = max(0, index - count)

    def looked_at(self, counts: Iterable[int]) -> Iterator[int]:
        """Yield the places of those stream records that are to be added, as a record in them is looked at.

        `counts` tells of how many records each consists; those that are left out are counted here.
        """
        for place, count in enumerate(counts):
            if self._until_next < count:
                yield place
            else:
                self._until_next -= count

    def _look(self, sketch: _Sketch, shard_range: HashKeyRange, records: RecordColumns, index: int) -> None:
        key, explicit = records.keys[index], records.explicit(index)
        hash_key = hash_key_of(key) if explicit is None else explicit
        bucket = (hash_key - shard_range.start) * _BUCKETS // shard_range.width
        if 0 <= bucket < _BUCKETS:
            size = len(records.datas[index]) + len(key)
            sketch.add(key, size * (1 + self._stride_max) / 2, bucket)

    def age(self, now: float, open_ids: Container[str]) -> None:
        """Let old load count half after a minute, and forget shards that are closed."""
        self._sketches = {name: sketch for name, sketch in self._sketches.items() if name in open_ids}
        if self._halved_at is None:
            self._halved_at = now
        while now - self._halved_at >= _HALF_LIFE_SECONDS:
            if now - self._halved_at > 100 * _HALF_LIFE_SECONDS:  # a long sleep: nothing would be left
                self._halved_at = now
                self._sketches = {}
                return
            self._halved_at += _HALF_LIFE_SECONDS
            for sketch in self._sketches.values():
                sketch.halve()

    def heat(self, shard_id: str, shard_range: HashKeyRange, keys_max: int = 10) -> ShardHeat | None:
        """Return what is known of a shard's load; None if nothing is."""
        sketch = self._sketches.get(shard_id)
        if sketch is None or not sketch.total:
            return None
        hottest = sorted(sketch.certain(), key=lambda item: (-item[1], item[0]))[:keys_max]
        split_at, larger = _best_split(sketch, shard_range)
        return ShardHeat(
            shard_id=shard_id,
            weight=sketch.total,
            keys=tuple(HotKey(key, min(1.0, weight / sketch.total)) for key, weight in hottest),
            split_at=split_at if larger <= _USELESS_SHARE else None,
            larger_share=larger,
        )


def _best_split(sketch: _Sketch, shard_range: HashKeyRange) -> tuple[int | None, float]:
    """Return the first hash key of the upper part, and the share of the larger part."""
    best: tuple[int | None, float] = (None, 1.0)
    below = 0.0
    for index in range(1, _BUCKETS):
        below += sketch.buckets[index - 1]
        larger = max(below, sketch.total - below) / sketch.total
        start = shard_range.start - (-shard_range.width * index // _BUCKETS)
        if larger < best[1] and shard_range.start < start <= shard_range.end:
            best = (start, larger)
    return best
