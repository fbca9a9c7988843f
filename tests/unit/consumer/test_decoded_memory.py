"""Decoded events take many times the memory of their text: how much of them there is at a time is bounded."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections import Counter
from collections.abc import Sequence

import orjson
import pytest

from consumer.care import DECODED_BYTES_MAX, Care
from consumer.core.decoded_size import decoded_size
from consumer.core.record import Record
from shared.records import PutEntry
from tests.simulation.loop import SimulationLoop
from tests.unit.consumer.small_cloud import SOURCE
from tests.unit.consumer.test_processing_api import Shop

KIB = 1024


def memory_of(text: bytes) -> int:
    """Return how many bytes an event takes once it is decoded."""
    tracemalloc.start()
    try:
        event = orjson.loads(text)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert event
    return taken


@pytest.mark.parametrize(
    "part",
    [b"{}", b"[]", b'{"a":1}', b'{"a":{"b":[]}}', b"1.5", b"12345678901", b'"\xf0\x9f\x98\x80abcdefghijklm"', b'"a"'],
)
def test_the_bound_holds_for_what_takes_most(part: bytes) -> None:
    """Whatever an event is made of, a list of many such things takes no more than was said."""
    text = b'{"x":[%b]}' % b",".join([part] * (256 * KIB // (len(part) + 1)))
    assert len(text) < memory_of(text) <= decoded_size([text]) < 120 * len(text)


def test_the_bound_holds_for_names() -> None:
    """Each name of an object is a string of its own."""
    text = orjson.dumps({f"{at:x}": None for at in range(20_000)})
    assert memory_of(text) <= decoded_size([text])


def test_events_that_take_much_memory_are_handled_one_at_a_time() -> None:
    """The functions of all shards together have a bounded amount decoded; small events do not wait for each other."""
    shop = Shop(shards=8)
    dense = b",".join([b"{}"] * 340_000)
    under_way: Counter[bool] = Counter()
    most: Counter[bool] = Counter()
    seen: list[int] = []

    async def put() -> None:
        for n in range(48):
            more = b',"x":[%b]' % dense if n % 3 == 0 else b""
            await shop.cloud.kinesis.put_record(SOURCE, PutEntry(b'{"n":%d%b}' % (n, more), f"key-{n}"))

    async def handle(batch: Sequence[Record]) -> None:
        for is_large in {len(record.data) > KIB for record in batch}:
            under_way[is_large] += 1
            most[is_large] = max(most[is_large], under_way[is_large])
        await asyncio.sleep(0.5)
        for is_large in {len(record.data) > KIB for record in batch}:
            under_way[is_large] -= 1
        seen.extend(record.event["n"] for record in batch if record.event is not None)

    shop.handle(handle, 0, put=put, concurrency_max=1, seconds=60)
    assert sorted(seen) == list(range(48))
    assert most[True] == 1
    assert most[False] > 1


async def test_a_suspect_is_not_held_up_by_who_has_room_and_waits_for_it() -> None:
    """Whoever has the gate needs no room, and nobody decodes anything meanwhile."""
    care = Care()
    told: list[str] = []

    async def other() -> None:
        async with care.decoded(2 * DECODED_BYTES_MAX):
            told.append("other")

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks, care.alone():
        tasks.create_task(other())
        for _ in range(5):
            await asyncio.sleep(0)
        async with care.decoded(2 * DECODED_BYTES_MAX):
            await asyncio.sleep(0)
            told.append("suspect")
    assert told == ["suspect", "other"]


def test_a_shard_that_tries_again_for_ever_holds_no_other_up_for_ever() -> None:
    """A function may ask for its records again for as long as it takes; a large chunk, and all behind it, go on."""
    care = Care()
    told: list[str] = []

    async def handle(name: str, amount: int, work: asyncio.Event | None = None) -> None:
        async with care.decoded(amount):
            if work is not None:
                await work.wait()
            told.append(name)

    async def story() -> None:
        trying = asyncio.create_task(handle("trying", 1, asyncio.Event()))
        async with asyncio.timeout(600), asyncio.TaskGroup() as tasks:
            await asyncio.sleep(0)
            for name, amount in (("large", 2 * DECODED_BYTES_MAX), ("small", 1), ("large", 2 * DECODED_BYTES_MAX)):
                tasks.create_task(handle(name, amount))
                await asyncio.sleep(0)
        trying.cancel()

    loop = SimulationLoop()
    try:
        loop.run(story())
    finally:
        loop.close()
    assert sorted(told) == ["large", "large", "small"]
