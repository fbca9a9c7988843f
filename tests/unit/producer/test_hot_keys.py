"""The hot keys: found with their share and the split that helps, in bounded memory."""

from __future__ import annotations

import random

import pytest

from producer.core.hot_keys import KEYS_PER_SHARD_MAX, HotKeys
from producer.core.record_columns import RecordColumns
from shared.hash_key import HashKeyRange, even_ranges
from shared.limits import HASH_KEY_MAX

FULL = HashKeyRange(0, HASH_KEY_MAX)


def records(*keys: str, size: int = 300, explicit: int | None = None) -> RecordColumns:
    """Make records as the queues hold them."""
    made = RecordColumns()
    for key in keys:
        made.append(bytes(size), key, None, explicit)
    return made


def test_a_hot_key_shows_with_its_share() -> None:
    """A key with 30 % of the bytes among 10,000 others is first, at 25 to 35 %, whatever the aggregates' length."""
    chance = random.Random(3)
    hot = HotKeys()
    for _ in range(2000):
        keys = ["hot" if chance.random() < 0.3 else f"cold-{chance.randrange(10_000)}" for _ in range(20)]
        hot.add("a", FULL, records(*keys))
    heat = hot.heat("a", FULL)
    assert heat is not None
    assert heat.keys[0].partition_key == "hot"
    assert 0.25 < heat.keys[0].share < 0.38
    assert heat.keys[1].share < 0.1
    assert heat.weight == pytest.approx(2000 * 20 * 305, rel=0.1)
    assert len(hot._sketches["a"].weights) <= KEYS_PER_SHARD_MAX


def test_keys_of_even_load_are_not_called_hot() -> None:
    """Of 3,000 keys with the same load none is said to have more than a fraction of a percent."""
    chance = random.Random(5)
    hot = HotKeys(stride_max=1)
    for _ in range(2000):
        hot.add("a", FULL, records(*(f"key-{chance.randrange(3000)}" for _ in range(10))))
    heat = hot.heat("a", FULL)
    assert heat is not None
    assert heat.keys
    assert max(key.share for key in heat.keys) < 0.005


def test_single_records_and_turns_of_keys_are_seen_evenly() -> None:
    """Sixteen keys that take turns, one record each time, get about the same share."""
    hot = HotKeys()
    for number in range(400_000):
        hot.add("a", FULL, records(f"key-{number % 16}"))
    heat = hot.heat("a", FULL, keys_max=16)
    assert heat is not None
    shares = [key.share for key in heat.keys]
    assert len(shares) == 16
    assert max(shares) < 1.5 * min(shares)


def test_the_split_comes_nearest_to_two_halves() -> None:
    """With four fifths of the load in the lowest quarter of a shard, the split lies in that quarter."""
    chance = random.Random(4)
    shard = even_ranges(4)[2]
    hot = HotKeys()
    for number in range(20_000):
        part = chance.random() / 4 if chance.random() < 0.8 else chance.random()
        explicit = shard.start + int(part * shard.width)
        hot.add("a", shard, records(f"key-{number}", explicit=min(explicit, shard.end)))
    heat = hot.heat("a", shard)
    assert heat is not None
    assert heat.split_at is not None
    assert shard.start < heat.split_at < shard.start + shard.width // 4
    assert 0.5 <= heat.larger_share < 0.55


def test_one_key_can_not_be_split() -> None:
    """Where one key makes the load, no split is offered."""
    hot = HotKeys()
    for _ in range(2000):
        hot.add("a", FULL, records("only"))
    heat = hot.heat("a", FULL)
    assert heat is not None
    assert (heat.split_at, heat.keys[0].share) == (None, 1.0)


def test_what_is_old_fades_and_closed_shards_are_forgotten() -> None:
    """After a minute a load counts half; a closed shard and an unknown one have no heat."""
    hot = HotKeys()
    hot.age(0.0, {"a", "b"})
    for shard_id in ("a", "b"):
        for _ in range(1000):
            hot.add(shard_id, FULL, records("key"))
    before = hot.heat("a", FULL)
    hot.age(60.0, {"a"})
    after = hot.heat("a", FULL)
    assert before is not None
    assert after is not None
    assert after.weight == pytest.approx(before.weight / 2)
    assert hot.heat("b", FULL) is None
    hot.age(1e9, {"a"})
    assert hot.heat("a", FULL) is None


def test_a_shard_of_a_few_hash_keys_gets_a_split_that_kinesis_takes() -> None:
    """The split lies behind the first hash key and not behind the last; a shard of one key has none."""
    for width in (1, 2, 3, 65):
        shard = HashKeyRange(100, 99 + width)
        hot = HotKeys()
        for number in range(3000):
            hot.add("a", shard, records(f"key-{number}", explicit=100 + number % width))
        heat = hot.heat("a", shard)
        assert heat is not None
        assert (heat.split_at is None) == (width == 1)
        if heat.split_at is not None:
            assert 100 < heat.split_at <= 99 + width
