"""Streams whose shards cut lanes: stream records that are worth their cost, and no event that waits for long."""

from __future__ import annotations

import random
from heapq import heappop, heappush
from typing import NamedTuple

import pytest

from producer.core.batch import Batch
from shared.lanes import LaneDivision
from shared.records import PutResults
from tests.support.batchers import batcher_of, shards_of

CALLS_MAX = 16
ROUND_TRIP_MILLISECONDS = 20
LINGER_MILLISECONDS = 100


class Traffic(NamedTuple):
    """What became of a second of events."""

    per_record: float  # events in a stream record
    requests: int
    wait_milliseconds: list[int]  # of each event, from its put to the call that took it; rising

    def wait_of(self, share: float) -> int:
        """Return how long all but the slowest events wait at most."""
        return self.wait_milliseconds[int(share * (len(self.wait_milliseconds) - 1))]


def traffic(shards: int, events_per_millisecond: int, *, is_late: bool = False) -> Traffic:
    """Put events of 10,000 sessions at an even rate, with calls of 20 milliseconds, until all are acknowledged.

    If it `is_late`, the shards came after the producer had opened: lanes are not cut along them.
    """
    dice = random.Random(1)
    batcher = batcher_of(0, linger_seconds=LINGER_MILLISECONDS / 1_000)
    batcher.install(shards_of(shards))
    if not is_late:
        batcher.queues.divide(LaneDivision.along(batcher.shard_map.starts))
    keys = [f"session-{number}" for number in range(10_000)]
    waits: list[int] = []
    calls: list[tuple[int, int, Batch]] = []
    milliseconds = records = requests = 0
    while milliseconds < 500 or calls or batcher.queues.queued:
        milliseconds += 1
        now = milliseconds / 1_000
        while calls and calls[0][0] <= milliseconds:
            batch = heappop(calls)[2]
            places = PutResults([str(record.shard_id) for record in batch.records], [*range(len(batch.records))])
            batcher.settle(batch, places, now, dice)
        if milliseconds < 500:
            chosen = dice.choices(keys, k=events_per_millisecond)
            batcher.queues.accept_all([b"%6d%300d" % (milliseconds, 0)] * len(chosen), chosen, None)
            batcher.queues.stamp(now)
        while len(calls) < CALLS_MAX and (taken := batcher.take(now)) is not None:
            requests += 1
            records += len(taken.records)
            heappush(calls, (milliseconds + ROUND_TRIP_MILLISECONDS, requests, taken))
            waits += [milliseconds - int(data[:6]) for record in taken.records for data in record.members.datas]
    return Traffic(len(waits) / records, requests, sorted(waits))


@pytest.mark.parametrize(
    ("shards", "per_record_min"), [(1, 120), (3, 120), (12, 110), (64, 90), (65, 90), (100, 90), (200, 45), (500, 18)]
)
def test_records_are_worth_their_cost_and_nobody_waits(shards: int, per_record_min: int) -> None:
    """Whatever the number of shards, 100,000 events a second are sent once they have lingered."""
    seen = traffic(shards, 100)
    assert seen.per_record > per_record_min
    assert seen.wait_of(1) <= LINGER_MILLISECONDS + 1
    assert seen.requests < 10


def test_a_thousand_shards_do_not_fall_behind() -> None:
    """A request serves half of them; the other half waits for its turn."""
    seen = traffic(1_000, 100)
    assert seen.per_record > 9
    assert seen.wait_of(1) <= 1.5 * LINGER_MILLISECONDS
    assert seen.requests < 20


@pytest.mark.parametrize(
    ("shards", "rate", "per_record_min", "wait_max"), [(20, 20, 20, 200), (100, 20, 5, 350), (300, 20, 2, 500)]
)
def test_shards_that_came_late_do_not_hold_up_the_others(
    shards: int, rate: int, per_record_min: int, wait_max: int
) -> None:
    """Where lanes are cut, what is left of one when its answer comes takes nobody along who has just come."""
    seen = traffic(shards, rate, is_late=True)
    assert seen.per_record > per_record_min
    assert seen.wait_of(0.5) <= LINGER_MILLISECONDS
    assert seen.wait_of(1) <= wait_max
    assert seen.requests < 80
