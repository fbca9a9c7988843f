"""The allowance per shard: the limits are used up and not exceeded, and other producers are made room for."""

from __future__ import annotations

import random

import pytest

from producer.core.batch import Batch
from producer.core.batcher import Batcher
from producer.core.rate import ShardRates
from shared.hash_key import hash_key_of
from shared.limits import KIB, MIB
from shared.records import PutEntry, PutResult
from shared.retry import Backoff
from tests.support.batchers import batcher_of, shards_of

THROTTLED = "ProvisionedThroughputExceededException"


@pytest.mark.parametrize(("size", "per_second"), [(50 * KIB, 20.48), (100, 1000), (300 * KIB, 3.413), (5 * MIB, 0.2)])
def test_a_shard_gets_its_limits_and_no_more(size: int, per_second: float) -> None:
    """Over a minute, 98 to 102 % of 1 MiB/s or 1,000 records/s are used, whatever the records' size."""
    rates = ShardRates(100)
    now, sent = 0.0, 0
    while (ready_at := rates.ready_at("a", size, now)) < 60:
        if ready_at > now:
            now = ready_at
            continue
        rates.take("a", size)
        sent += 1
    assert sent == pytest.approx(60 * per_second, rel=0.02, abs=1)


def test_a_throttle_cuts_once_per_flight_and_is_forgotten_in_time() -> None:
    """Many throttles of one flight count once; the share comes back by 5 % of the limit a second."""
    rates = ShardRates(100)
    rates.ready_at("a", 1, 0.0)
    assert rates.cut("a", 0.0, 1.0)
    assert not rates.cut("a", 0.5, 1.1)
    assert rates.share("a") == pytest.approx(0.7)
    rates.ready_at("a", 1, 3.0)
    assert rates.share("a") == pytest.approx(0.8)
    rates.ready_at("a", 1, 60.0)
    assert rates.share("a") == 1.0
    assert rates.share("b") == 1.0


def test_who_waits_at_a_small_share_goes_as_soon_as_it_has_grown() -> None:
    """At 2 % of the limits, a quarter of a second's bytes are not waited for as if it stayed that small."""
    rates = ShardRates(100)
    now = rates.ready_at("a", MIB, 0.0)
    for _ in range(12):
        now += 0.01
        assert rates.cut("a", now, now)
    assert rates.share("a") < 0.03
    while (ready_at := rates.ready_at("a", MIB, now)) > now:
        now = ready_at
    assert now < 5


def test_two_producers_share_a_shard_with_few_throttles() -> None:
    """Two producers at one bucket of 1 MiB/s use at least 85 % of it, and fewer than 5 % of the records come back."""
    both = [ShardRates(100), ShardRates(100)]
    size, level, now, landed, throttled = 50 * KIB, float(MIB), 0.0, [0, 0], 0
    for _ in range(60_000):
        now += 0.002
        level = min(float(MIB), level + 0.002 * MIB)
        for index, rates in enumerate(both):
            if rates.ready_at("a", size, now) > now:
                continue
            rates.take("a", size)
            if level >= size:
                level -= size
                landed[index] += 1
            else:
                throttled += 1
                rates.cut("a", now, now)
    assert sum(landed) * size / now / MIB > 0.85
    assert throttled / (sum(landed) + throttled) < 0.05
    assert 0.5 < landed[0] / landed[1] < 2


def test_no_bound_and_no_shard_never_wait() -> None:
    """With 0 percent, or where the shard is not known, everything may go at once."""
    assert ShardRates(0).ready_at("a", 10 * MIB, 5.0) == 5.0
    rates = ShardRates(100)
    for _ in range(5000):
        assert rates.ready_at(None, MIB, 5.0) == 5.0
        rates.take(None, MIB)


@pytest.mark.parametrize("aggregates", [True, False])
def test_a_hot_shard_slows_itself_only(aggregates: bool) -> None:
    """While a shard that others use up is waited for, the other shard's records leave at once, and nobody spins."""
    batcher = batcher_of(2, aggregates=aggregates, rates=ShardRates(100))
    chance = random.Random(1)
    keys = [f"key-{index}" for index in range(400)]
    low = {key for key in keys if batcher.shard_map.of_keys[key] == "s0"}
    now, turns, landed = 0.0, 0, {"s0": 0, "s1": 0}
    longest = 0.0
    while now < 20:
        for _ in range(10):
            for key in (chance.choice(keys), chance.choice(sorted(low))):
                batcher.queues.accept(bytes(900), key)
                batcher.queues.stamp(now)
        while batch := batcher.take(now):
            turns += 1
            results = []
            for number, record in enumerate(batch.records):
                if record.shard_id == "s0" and number % 3:
                    results.append(PutResult(error_code=THROTTLED))
                else:
                    results.append(PutResult(record.shard_id or "", 1))
                    landed[record.shard_id or ""] += len(record.members)
            batcher.settle(batch, results, now, chance)
            waiting = [lane.ready_since for lane in batcher.queues.lanes if lane.index >= 128 and len(lane.records)]
            longest = max(longest, now - min(waiting, default=now))
        now += 0.05
    assert longest < 0.25
    assert landed["s1"] > 1800
    assert turns < 2000


@pytest.mark.parametrize("aggregates", [True, False])
@pytest.mark.parametrize("keeps_order", [True, False])
@pytest.mark.parametrize("linger_seconds", [0, 0.1])
@pytest.mark.parametrize("throttles", [0, 1])
def test_no_lane_starves_at_a_full_shard(
    *, aggregates: bool, keeps_order: bool, linger_seconds: float, throttles: int
) -> None:
    """What needs more than small records do is sent, however many of them come, and throttled or not: first in first.

    Also ahead of what became ready just before the instant that it waits for.
    """
    batcher = batcher_of(
        2,
        buffer_bytes_max=MIB,
        keeps_order=keeps_order,
        aggregates=aggregates,
        aggregate_bytes_max=2 * KIB,
        batch_records_max=3,
        batch_bytes_max=16 * KIB,
        linger_seconds=linger_seconds,
        backoff=Backoff(0.05, 1),
        rates=ShardRates(1),
    )
    sizes = {f"key-{number}": 1_900 if number < 2 else 200 for number in range(40)}
    lasts = dict.fromkeys(sizes, 0.0)
    for key, size in sizes.items():
        batcher.queues.accept(bytes(size), key)
    under_way: list[tuple[float, Batch]] = []
    longest = 0.0
    for step in range(3_000):
        now = step / 100
        while under_way and under_way[0][0] <= now:
            batch = under_way.pop(0)[1]
            results = [PutResult(_shard_of(batcher, entry), step) for entry in batch.entries]
            if throttles and any("key-0" in record.members.keys for record in batch.records):
                throttles = 0
                results[0] = PutResult(error_code=THROTTLED)
            for columns, _ in batcher.settle(batch, results, now, random.Random(1)).outcomes():
                for key in columns.keys:
                    lasts[key] = now
                    batcher.queues.accept(bytes(sizes[key]), key)
        batcher.queues.stamp(now)
        while (due := batcher.take(now)) is not None:
            under_way.append((now + 0.08, due))
        longest = max(longest, now - min(lasts.values()))
    assert longest < 5


def test_a_record_from_before_the_shard_map_is_sent_again_within_the_allowance() -> None:
    """Its shard was unknown when it was made; by the time it is sent again, it may be known."""
    rates = ShardRates(100)
    batcher = batcher_of(0, buffer_bytes_max=MIB, backoff=Backoff(0.05, 1), rates=rates)
    batcher.queues.accept(b"x", "key", explicit_hash_key=5)
    batcher.queues.stamp(0.0)
    batch = batcher.take(0.0)
    assert batch is not None
    batcher.settle(batch, [PutResult(error_code=THROTTLED)], 0.0, random.Random(1))
    batcher.install(shards_of(2))
    assert rates.ready_at("s0", 1, 2.0) == 2.0
    rates.take("s0", 5 * MIB)
    assert batcher.take(2.0) is None
    now = 2.0
    while batcher.take(now) is None:
        deadline = batcher.next_deadline(now)
        assert deadline is not None
        assert deadline > now
        now = deadline
    assert 6.0 < now < 8.0


def _shard_of(batcher: Batcher, entry: PutEntry) -> str:
    explicit = entry.explicit_hash_key
    return str(batcher.shard_map.predict(hash_key_of(entry.partition_key) if explicit is None else explicit))
