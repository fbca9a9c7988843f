"""Lanes as the compiled part empties them into aggregates: as Python packs them, or nothing is done."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import producer.core.packer as packer_module
from producer.core.batch import Batch, BatchShape, FlushReason
from producer.core.lanes import LaneQueues
from producer.core.packer import Packer
from producer.core.rate import ShardRates
from producer.core.shard_map import ShardMap
from shared.compiled.columns import Columns
from shared.hash_key import even_ranges
from shared.limits import KIB
from shared.records import Shard

pytestmark = pytest.mark.compiled

KEYS = [f"key-{number}" for number in range(300)] + ["é", "ключ"]
TICKETS = [None, (print, 1), (print, 2)]


def packers(shape: BatchShape, seed: int, percent: int, *, keeps_order: bool) -> tuple[LaneQueues, Packer, ShardRates]:
    """Return a packer over lanes in which all sorts of records wait; the same for the same arguments."""
    chance = random.Random(seed)
    queues = LaneQueues(buffer_bytes_max=10**7, record_bytes_max=8 * KIB)
    rates = ShardRates(percent)
    packer = Packer(queues, shape, keeps_order=keeps_order, rates=rates)
    for lane in chance.sample(queues.lanes, chance.choice((0, 5, 200))):
        lane.is_blocked = keeps_order
    keys = chance.sample(KEYS, chance.choice((3, 50, 302)))
    odd = chance.choice((0, 0, 0.02, 0.5))  # so many records are out of the ordinary
    for step in range(chance.randrange(1, 8)):
        count = chance.choice((1, 20, 200))
        chosen = chance.choices(keys, k=count)
        datas = [bytes(chance.choice((0, 3, 30, 300))) or b"{" for _ in chosen]
        queues.accept_all(datas, chosen, chance.choice(TICKETS))
        for _ in range(3):
            if chance.random() < odd:
                explicit = chance.getrandbits(128) if chance.random() < odd and not keeps_order else None
                ticket = chance.choice([None, *TICKETS])
                queues.accept(bytes(chance.choice((10, 7_000))), chance.choice(keys), ticket, explicit)
        queues.stamp(float(step))
    for lane in queues.lanes:
        if lane.records.datas and chance.random() < odd / 5:
            lane.alone = chance.randrange(1, 3)
    return queues, packer, rates


def packed(seed: int, shape: BatchShape, shards: int, percent: int, since: float, columns: Columns | None) -> Any:
    """Return all that three requests hold and leave."""
    chance = random.Random(seed)
    queues, packer, rates = packers(shape, seed, percent, keeps_order=chance.random() < 0.8)
    known = ShardMap(Shard(f"shard-{number}", each) for number, each in enumerate(even_ranges(shards)))
    told: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packer_module, "COLUMNS", columns)
        for now in range(3):
            batch = Batch(FlushReason.LINGER, 10.0 + now)
            packer.pack(batch, known if chance.random() < 0.9 else None, since)
            told.append((batch.count, batch.bytes, batch.entries, len(batch.plain)))
            records = batch.records
            told.append(
                [
                    (
                        each.entry,
                        each.shard_id,
                        each.wire_bytes,
                        [lane.index for lane in each.lanes],
                        each.members.datas,
                        each.members.keys,
                        [each.members.ticket(index) for index in range(each.count)],
                        each.members.hash_keys,
                        each.members.size,
                    )
                    for each in records
                ]
            )
            for lane in queues.lanes:
                lane.write_tickets()
            told.append(
                [(lane.index, lane.records.datas, lane.records.keys, lane.records.size) for lane in queues.lanes]
            )
            told.append([(lane.is_blocked, lane.alone, lane.waits_since, lane.ready_since) for lane in queues.lanes])
            told.append([[lane.records.ticket(n) for n in range(len(lane.records))] for lane in queues.lanes])
            told.append((queues.ready_bytes, queues.ready_count, queues.ready_since, queues.queued))
            told.append(([lane.index for lane in queues.ready], sorted(queues._board.idle)))
            told.append([(until, lane.index) for until, lane in packer.held])
            told.append([round(rates.ready_at(f"shard-{each}", 9 * KIB, 10.0 + now), 3) for each in range(shards)])
            for record in chance.sample(records, len(records) // 2):
                queues.release(record.lanes)
    return told


SHAPES = st.builds(
    BatchShape,
    aggregates=st.just(value=True),
    aggregate_bytes_max=st.sampled_from((KIB, 5 * KIB, 50 * KIB)),
    batch_records_max=st.sampled_from((1, 7, 100)),
    batch_bytes_max=st.sampled_from((3 * KIB, 60 * KIB, 500 * KIB)),
)


@given(
    seed=st.integers(0, 2**32),
    shape=SHAPES,
    shards=st.sampled_from((1, 4, 64, 200, 256)),
    percent=st.sampled_from((0, 0, 1, 100)),
    since=st.sampled_from((float("inf"), float("inf"), 1.0, 3.0)),
)
@settings(max_examples=150)
def test_lanes_are_packed_as_python_packs_them(
    columns: Columns, seed: int, shape: BatchShape, shards: int, percent: int, since: float
) -> None:
    """The same stream records in the same order, and the same is left in the lanes."""
    args = seed, shape, shards, percent, since
    assert packed(*args, columns) == packed(*args, None)


LIMITS = (10, 10**6, 10**5, 5 * 10**4, 1_000, 21, 20)


def lanes_of(*sizes: int) -> tuple[list[list[bytes]], list[list[str]]]:
    """Return the lists of lanes that hold so many records."""
    return [[b"%d" % number for number in range(size)] for size in sizes], [["key"] * size for size in sizes]


def test_lanes_are_taken_until_one_needs_a_look(columns: Columns) -> None:
    """By their shards, in the order of the lanes; nothing else is touched."""
    datas, keys = lanes_of(2, 1, 3, 1, 1)
    taken = columns.take_lanes([4, 2, 0, 1, 3], ["b", "a", "b", None, "a"], None, datas, keys, LIMITS)
    assert taken == (
        ["b", "a"],
        [[b"0", b"0", b"1"], [b"0", b"1", b"2"]],
        [["key"] * 3, ["key"] * 3],
        [3 + 9, 3 + 9],
        [2, 1],
        [4, 0, 2],
        [],
        3,
    )
    assert (datas, keys) == ([[], [b"0"], [], [b"0"], []], [[], ["key"], [], ["key"], []])


def test_lanes_that_may_only_join_are_left(columns: Columns) -> None:
    """As are those of other shards once there are as many aggregates as may be."""
    datas, keys = lanes_of(*[1] * 6)
    shards: list[str | None] = ["a", "b", "a", "c", "b", "d"]
    taken = columns.take_lanes([*range(6)], shards, bytes((1, 1, 1, 0, 0, 0)), datas, keys, (2, *LIMITS[1:]))
    assert (taken[0], taken[5:]) == (["a", "c"], ([0, 2, 3], [1, 4, 5], 6))
    assert [len(each) for each in datas] == [0, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, [0, 1, 2**70]),
        (0, [0, 1, -1]),
        (0, [0, 1, 3]),
        (0, [0, 1, 1]),
        (0, [0, 1, 1.0]),
        (1, ["a", "a", b"a"]),
        (1, ["a", "a", "\u0101"]),
        (3, [[b"1"], [b"1"], ()]),
        (3, [[b"1"], [b"1"], []]),
        (3, [[b"1"], [b"1"], [b"1", b"2"]]),
        (3, [[b"1"], [b"1"], ["1"]]),
        (3, [[b"1"], [b"1"], [bytes(10**5)]]),
        (4, [["k"], ["k"], [1]]),
        (4, [["k"], ["k"], ["\ud800"]]),
    ],
)
def test_what_is_out_of_the_ordinary_is_left_to_python(columns: Columns, place: int, value: Any) -> None:
    """What comes before it is taken."""
    args: list[Any] = [[0, 1, 2], ["a", "a", "a"], None, *lanes_of(1, 1, 1), LIMITS]
    args[place] = value
    assert columns.take_lanes(*args)[5:] == ([0, 1], [], 2)
    assert [args[3][0], args[3][1], args[4][0], args[4][1]] == [[]] * 4


def test_arguments_of_other_types_are_refused(columns: Columns) -> None:
    """None of them is looked into."""
    args: list[Any] = [[0], ["a"], b"\0", *lanes_of(1), LIMITS]
    others: dict[int, list[Any]] = {
        0: [(0,), []],
        1: [("a",), []],
        2: [b"", bytearray(1), 0],
        3: [([b"0"],), []],
        4: [(["key"],), []],
        5: [None, (), LIMITS[1:], (*LIMITS[1:], -1), (*LIMITS[1:], 2**62), (*LIMITS[1:], 2**70), (*LIMITS[1:], 1.0)],
    }
    for place, values in others.items():
        for value in values:
            with pytest.raises(TypeError):
                columns.take_lanes(*args[:place], value, *args[place + 1 :])
    with pytest.raises(TypeError):
        columns.take_lanes(*args[:-1])  # type: ignore[call-arg] # on purpose
    assert columns.take_lanes(*args)[-1] == 1


def test_lists_that_are_the_same_object_do_no_harm(columns: Columns) -> None:
    """Two lanes that share their lists hold what these hold, each."""
    datas, keys = lanes_of(2)
    assert columns.take_lanes([0, 1], ["a", "a"], None, datas * 2, keys * 2, LIMITS)[1] == [[b"0", b"1"] * 2]
    assert (datas, keys) == ([[]], [[]])


@pytest.mark.parametrize("changed", ["lane", "lanes", "shards"])
def test_lists_that_change_under_way_are_left_alone(columns: Columns, changed: str) -> None:
    """Where lists are made, the collector may run, and with it any code."""
    count = 2_000
    datas, keys = lanes_of(*[1] * count)
    shards: list[str | None] = [f"shard-{number}" for number in range(count)]
    victims: dict[str, list[Any]] = {"lane": datas[-1], "lanes": datas, "shards": shards}

    def meddle(phase: str, _: object) -> None:
        if phase == "stop":
            victims[changed].clear()

    gc.collect()
    gc.callbacks.append(meddle)
    try:
        # From Python 3.12 on, the collector runs between two steps of Python only.
        is_seen = changed != "shards" and sys.version_info < (3, 12)
        with pytest.raises(RuntimeError) if is_seen else nullcontext():
            taken = columns.take_lanes([*range(count)], shards, None, datas, keys, (count, *LIMITS[1:]))
            assert taken[-1] == count
        assert [len(each) for each in keys] == [int(is_seen)] * count
    finally:
        gc.callbacks.remove(meddle)


def test_references_are_balanced(columns: Columns) -> None:
    """Nothing that was passed in is kept or given away."""
    data, key, shard = bytes(bytearray(b"{123")), str(b"session", "ascii"), str(b"shard-1", "ascii")
    before = sys.getrefcount(data), sys.getrefcount(key), sys.getrefcount(shard), sys.getrefcount(None)
    for limits in (LIMITS, (0, *LIMITS[1:]), (1, *LIMITS[1:])):
        for _ in range(50):
            lists = [[data] * 3, [data], []], [[key] * 3, [key], []]
            columns.take_lanes([0, 1, 2], [shard, shard, "other"], None, *lists, limits)
            del lists
    after = sys.getrefcount(data), sys.getrefcount(key), sys.getrefcount(shard), sys.getrefcount(None)
    assert after[:3] == before[:3]
    assert abs(after[3] - before[3]) < 50


def test_without_memory_nothing_is_taken(columns: Columns, set_nomemory: Any) -> None:
    """All or nothing, whichever allocation fails."""
    testing = pytest.importorskip("_testcapi")
    sizes = [number % 4 + 1 for number in range(40)]
    shards: list[str | None] = [f"shard-{number % 9}" for number in range(40)]
    indexes = [*range(40)]
    failures = 0
    for start in range(100):
        datas, keys = lanes_of(*sizes)
        set_nomemory(start, start + 1)
        try:
            taken = columns.take_lanes(indexes, shards, None, datas, keys, LIMITS)
            testing.remove_mem_hooks()
            assert taken[-1] == 40
            assert not any(datas)
            assert not any(keys)
        except MemoryError:
            testing.remove_mem_hooks()
            failures += 1
            assert list(map(len, datas)) == list(map(len, keys)) == sizes
    assert failures > 30


@pytest.fixture(name="set_nomemory")
def _set_nomemory() -> Iterator[Any]:
    testing = pytest.importorskip("_testcapi")
    try:
        yield testing.set_nomemory
    finally:
        testing.remove_mem_hooks()
