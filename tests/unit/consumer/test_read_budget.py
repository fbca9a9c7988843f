"""The budget's book around a read: the worst case before, the page after, nothing while there is nothing."""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import Callable, Coroutine
from sys import getsizeof
from typing import Any

import orjson
import pybase64
import pytest

from consumer.budget import Budget
from consumer.core.read_estimate import ReadEstimate, page_bytes
from consumer.retrier import Retrier
from consumer.shard_reader import ReadPorts, ReadSettings, ShardReader
from shared.aws.record_page import parse_record_page
from shared.errors import ServiceUnavailableError
from shared.limits import GET_RECORDS_BYTES_MAX, MIB
from shared.records import TRIM_HORIZON, PutEntry, RecordPage
from shared.retry import Backoff
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud, VirtualClock

FIRST = "shardId-000000000000"
FIRST_LOOK = ReadEstimate().answer_bytes(0, 1)
WORST = ReadEstimate().answer_bytes(0, 10_000)


class Stand:
    """One shard, readers over it, and the book as each call found it."""

    def __init__(self, budget_bytes: int = 64 * MIB) -> None:
        self.cloud = SmallCloud.make()
        self.budget = Budget(budget_bytes)
        self.book: list[int] = []
        chance, backoff = random.Random(1), Backoff(0.05, 1)
        retrier = Retrier(backoff, chance, self.cloud.telemetry)
        clock = VirtualClock(self.cloud.loop)
        self.ports = ReadPorts(self.cloud.kinesis, retrier, clock, chance, self.cloud.telemetry, backoff)
        real = self.cloud.kinesis.get_records

        async def noted(stream: str, iterator: str, limit: int) -> RecordPage:
            self.book.append(self.budget.used)
            return await real(stream, iterator, limit)

        self.cloud.kinesis.get_records = noted  # type: ignore[method-assign] # looks at the book first

    def reader(self) -> ShardReader:
        """Return a reader of the shard with an account of its own."""
        settings = ReadSettings(SOURCE, 10_000, pause_seconds=0.2, idle_seconds=1, start_timestamp=0)
        account = self.budget.open(lambda: None)
        return ShardReader(FIRST, TRIM_HORIZON, settings=settings, ports=self.ports, account=account)

    def put(self, *data: bytes) -> None:
        """Put records, at once."""
        stream = self.cloud.kinesis.streams[SOURCE]
        for each in data:
            self.cloud.kinesis.append(stream, stream.shards[FIRST], PutEntry(each, "k"))

    def run(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a story in virtual time."""
        self.cloud.run(story)


def answer(count: int, size: int, key: str = "2f1c8d5e-7b44-4a0e-9c57-0b6f1a9d3e21") -> bytes:
    """Return the text of an answer."""
    data = pybase64.b64encode(bytes(size)).decode()
    number = "49590338271490256608559692538361571095921575989136588898"
    fields = {"Data": data, "PartitionKey": key, "ApproximateArrivalTimestamp": 1763700000.123}
    records = [fields | {"SequenceNumber": number} for _ in range(count)]
    return orjson.dumps({"Records": records, "NextShardIterator": "x" * 200, "MillisBehindLatest": 0})


def test_a_full_answer_takes_no_more_than_was_estimated() -> None:
    """Text, its parts before they are joined, and objects are within the estimate; so is what is left of them."""
    for count, size in ((10_000, 1_048), (205, 51_200), (10_000, 20)):
        body = answer(count, size)
        tracemalloc.start()
        try:
            page = parse_record_page(body)
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert max(2 * len(body), len(body) + peak) <= WORST
        assert kept <= page_bytes(page.records) * 1.03


@pytest.mark.parametrize("key", ["k", "2f1c8d5e-7b44-4a0e-9c57-0b6f1a9d3e21", "k" * 256, "\N{GRINNING FACE}" * 256])
def test_a_page_is_in_the_book_with_its_keys(key: str) -> None:
    """Keys of others can be long, and take four bytes a character; the book has within 5 % what the page takes."""
    body = answer(10_000, 20, key)
    gc.collect()
    tracemalloc.start()
    try:
        page = parse_record_page(body)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert page_bytes(page.records) == pytest.approx(kept, rel=0.05)


def test_the_worst_case_is_reserved_while_a_shard_is_behind() -> None:
    """One record is asked for first; then each call finds room for a full answer, until one tells that all is read."""
    stand = Stand()

    async def story() -> None:
        reader = stand.reader()
        stand.put(*[bytes(MIB - 1)] * 25)
        for _ in range(4):
            await reader.read()
        assert stand.book == [FIRST_LOOK, WORST, WORST, WORST]
        await reader.read()
        assert stand.book[4] < WORST / 2  # of what it took in while the reader paused for the size of the last page

    stand.run(story)


def test_a_page_is_in_the_book_until_the_next_call() -> None:
    """After the call only the page counts; while the reader waits for its next call, nothing does."""
    stand = Stand()

    async def story() -> None:
        reader = stand.reader()
        await reader.read()
        stand.put(bytes(1_000), bytes(2_000))
        page = await reader.read()
        assert stand.budget.used == page_bytes(page.records) == 3_000 + 2 * (200 + getsizeof("k"))
        task = asyncio.ensure_future(reader.read())
        await asyncio.sleep(0.01)
        assert (stand.budget.used, len(stand.book)) == (0, 2)
        await task
        await reader.aclose()
        assert stand.budget.used == 0

    stand.run(story)


def test_what_a_shard_can_take_in_since_its_tip_was_read_is_reserved() -> None:
    """A shard takes in 1 MiB a second: with the time since the last call the estimate grows up to the worst case."""
    estimate = ReadEstimate()
    estimate.take_page(100.0, 0)
    assert (estimate.is_small, estimate.limit(10_000)) == (True, 10_000)
    waits = [estimate.answer_bytes(now, 10_000) for now in (100.2, 101, 105, 10_000)]
    assert waits == sorted(set(waits))
    assert 2 * 4 / 3 * 1.2 * MIB < waits[0] < 4 * MIB
    assert waits[-1] == WORST > 2 * 4 / 3 * GET_RECORDS_BYTES_MAX
    estimate.take_page(200.0, 1)
    assert (estimate.is_small, estimate.answer_bytes(200, 10_000)) == (False, WORST)


def test_a_wait_for_room_makes_a_read_at_the_tip_a_larger_one() -> None:
    """While a reader waits for room, its shard fills up: the call is made with room for that."""
    stand = Stand()

    async def story() -> None:
        reader = stand.reader()
        await reader.read()
        holder = stand.budget.open(lambda: None)
        holder.hold(64 * MIB)
        task = asyncio.ensure_future(reader.read())
        await asyncio.sleep(30)
        assert not task.done()
        holder.free(64 * MIB)
        await task
        assert stand.book[1:] == [WORST]

    stand.run(story)


def test_nothing_is_reserved_between_the_attempts_of_a_call_that_fails() -> None:
    """A shard that can't be read keeps no other from being read."""
    stand = Stand()

    async def story() -> None:
        stand.cloud.network.errors["kinesis.get_records"] = [ServiceUnavailableError("down") for _ in range(100)]
        task = asyncio.ensure_future(stand.reader().read())
        seen = set()
        for _ in range(2_000):
            await asyncio.sleep(0.01)
            seen.add(stand.budget.used)
        assert 0 in seen
        task.cancel()
        await asyncio.wait([task])
        assert stand.budget.used == 0
        assert len(stand.book) > 5

    stand.run(story)


def test_shards_that_lag_take_turns_within_a_budget_that_is_too_small() -> None:
    """With a budget below one worst case, one call at a time is made, and every shard gets on."""
    stand = Stand(12 * MIB)

    async def story() -> None:
        stand.put(*[bytes(MIB - 1)] * 30)
        readers = [stand.reader() for _ in range(3)]

        async def follow(reader: ShardReader) -> int:
            found = 0
            while found < 30:
                found += len((await reader.read()).records)
            await reader.aclose()
            return found

        assert await asyncio.gather(*map(follow, readers)) == [30] * 3
        assert max(stand.book) <= WORST + 6 * MIB
        assert stand.budget.used == 0

    stand.run(story)
