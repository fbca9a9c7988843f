"""Records that are sent as they are, many to a request: what landed is settled together, what did not is sent again."""

from __future__ import annotations

import random

import pytest

from producer.core.batcher import Batcher
from producer.core.landed import landed
from producer.core.lanes import LaneQueues
from producer.core.rate import ShardRates
from producer.core.record_columns import RecordColumns
from producer.core.shard_map import ShardMap
from shared.hash_key import even_ranges, hash_key_of
from shared.limits import MIB
from shared.ports import Delivered
from shared.records import PutResult, PutResults, Shard
from shared.retry import Backoff
from tests.support.ways import way  # noqa: F401 - each test is run both ways

SHARDS = [Shard(f"shard-{index}", each) for index, each in enumerate(even_ranges(3))]


def columns(asked: str) -> RecordColumns:
    """Return a record for each letter, with a ticket for `x`."""
    records = RecordColumns()
    for index, letter in enumerate(asked):
        records.append(b"%d" % index, f"key-{index}", (print, index) if letter == "x" else None)
    return records


def test_records_nobody_asks_for_are_told_together() -> None:
    """One shard takes all: the columns are those that were sent."""
    records = columns("--")
    assert landed(records, PutResults(["a", "a"], ["1", "2"])) == [(records, Delivered("a", 1))]


def test_each_shard_and_each_ticket_is_told_by_itself() -> None:
    """By shard, without those that were refused; with a ticket, each with its own number."""
    records = columns("-x--x")
    results = [PutResult("a", 1), PutResult("a", 2), PutResult("b", 3), PutResult(error_code="No"), PutResult("b", 5)]
    found = [(each.datas, each.tickets, each.size, *place) for each, place in landed(records, results)]
    assert found == [
        ([b"1"], [(print, 1)], 6, "a", 2),
        ([b"4"], [(print, 4)], 6, "b", 5),
        ([b"0"], None, 6, "a", 1),
        ([b"2"], None, 6, "b", 3),
    ]


def unordered(percent: int) -> Batcher:
    """Return a batcher that sends records as they are, in no order, to three shards."""
    batcher = Batcher(
        LaneQueues(buffer_bytes_max=64 * MIB, record_bytes_max=MIB),
        keeps_order=False,
        aggregates=False,
        aggregate_bytes_max=MIB,
        batch_records_max=200,
        batch_bytes_max=4 * MIB,
        linger_seconds=0,
        backoff=Backoff(0.1, 1.0),
        rates=ShardRates(percent),
    )
    batcher.install(ShardMap(SHARDS))
    return batcher


@pytest.mark.parametrize("percent", [0, 10, 100])
@pytest.mark.parametrize("asks", [False, True])
def test_what_is_refused_is_sent_again(percent: int, asks: bool) -> None:
    """Through refused records and lost calls each record lands, none is counted twice, and the books balance."""
    chance = random.Random(percent + asks)
    batcher = unordered(percent)
    queues = batcher.queues
    names = [f"key-{number % 70}" for number in range(1_000)]
    assert queues.accept_all([b"%d" % each for each in range(1_000)], names, (print, None) if asks else None) == 1_000
    queues.stamp(0.0)
    arrived: set[bytes] = set()
    told = 0
    now = 0.0
    while batcher.ledger.pending:
        now = max(now, batcher.next_deadline(now) or now)
        batch = batcher.take(now)
        if batch is None:
            continue
        assert len(batch.entries) == batch.count <= 200
        if chance.random() < 0.3:
            batcher.fail(batch, now, chance)
            continue
        results = []
        for entry in batch.entries:
            place = next(shard for shard in SHARDS if hash_key_of(entry.partition_key) in shard.hash_key_range)
            is_refused = chance.random() < 0.2
            results.append(PutResult(error_code="No") if is_refused else PutResult(place.shard_id, 1))
            if not is_refused:
                assert entry.data not in arrived
                arrived.add(entry.data)
        told += sum(len(records) for records, _ in batcher.settle(batch, results, now, chance).outcomes())
        assert batcher.ledger.balances
    assert told == len(arrived) == 1_000
    assert queues.pending_bytes == 0


def test_a_shard_nobody_knows_is_looked_for() -> None:
    """A record that lands where the map has no open shard says that the map is old."""
    batcher = unordered(0)
    batcher.queues.accept(b"1", "key")
    batcher.queues.stamp(0.0)
    batch = batcher.take(1.0)
    assert batch is not None
    assert not batcher.needs_shard_map
    batcher.settle(batch, [PutResult("shard-9", 1)], 1.0, random.Random(1))
    assert batcher.needs_shard_map
    assert batcher.ledger.acknowledged == 1
