"""Records as the compiled part queues them: as Python does, or nothing is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import producer.core.lanes as lanes_module
from producer.core.lanes import LaneQueues
from producer.core.record_columns import bytes_of
from shared.compiled.columns import Columns, EventRules
from shared.event import event_id_heads
from shared.lanes import LANES, WHOLE
from shared.limits import KIB

pytestmark = pytest.mark.compiled

HEADS = event_id_heads("source", WHOLE, has_lanes=True)
RULES: EventRules = (orjson.dumps, "session_id", "event_id", 4_000, 64)
READING: EventRules = (orjson.loads, *RULES[1:])
TICKET = (print, "token")


def lane_queues(buffer_bytes_max: int = 64 * KIB) -> LaneQueues:
    """Return queues that take records of up to 4 KiB."""
    return LaneQueues(buffer_bytes_max=buffer_bytes_max, record_bytes_max=4 * KIB)


def state_of(queues: LaneQueues) -> Any:
    """Return all that queueing changes."""
    return (
        [(lane.records.datas, lane.records.keys, lane.records.tickets) for lane in queues.lanes],
        [lane.index for lane in queues.ready],
        [lane.index for lane in queues.fresh],
        queues.ready_bytes,
        queues.ready_count,
        queues.accepted,
        queues.pending_bytes,
        queues.queued,
        queues.ticket,
        sorted(queues._board.idle),
    )


KEYS = st.sampled_from(("a", "b", "c", "é", "😀 key", "", "\ud800")) | st.text(max_size=3)
RECORDS = st.lists(st.tuples(st.binary(min_size=1, max_size=20) | st.just(bytes(4_080)), KEYS), max_size=30)
NUMBERS = st.none() | st.integers(0, 2_000) | st.sampled_from((9, 99, 999, 99_998, 2**63 - 30, 2**63))


@given(
    calls=st.lists(st.tuples(RECORDS, NUMBERS, st.booleans(), st.booleans()), max_size=4),
    blocked=st.sets(st.integers(0, LANES - 1)),
    spilled=st.integers(0, 1),
    room=st.sampled_from((KIB, 4 * KIB, 64 * KIB)),
)
@example([([(b"{", f"key {each}") for each in range(300)], 990, True, False)] * 2, {*range(0, 256, 2)}, 0, 10**6)
@settings(deadline=None)
def test_records_are_queued_as_python_queues_them(
    columns: Columns,
    calls: list[tuple[list[tuple[bytes, str]], int | None, bool, bool]],
    blocked: set[int],
    spilled: int,
    room: int,
) -> None:
    """The same records in the same lanes, the same sums, the same order of lanes; whatever else is refused."""
    both = lane_queues(room), lane_queues(room)
    for queues, compiled in zip(both, (columns, None), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lanes_module, "COLUMNS", compiled)
            for lane in queues.lanes:
                lane.is_blocked = lane.index in blocked
            queues.lane_of("c").spilled = spilled
            for key in ("a", "b", "c", "é", *(f"key {each}" for each in range(300))):
                assert key not in queues.indexes or key == "c"
                queues.lane_of(key)  # a key that is not known is left to Python
            for records, first, is_range, asks in calls:
                numbers = range(first or 0, (first or 0) + len(records))
                numbering = None if first is None else (HEADS, numbers if is_range else list(numbers))
                queues.accept_all(*columns_of(records), TICKET if asks else None, numbering)
    assert state_of(both[0]) == state_of(both[1])


def columns_of(records: list[tuple[bytes, str]]) -> tuple[list[bytes], list[str]]:
    """Return data and keys."""
    return [data for data, _ in records], [key for _, key in records]


@pytest.mark.parametrize(
    "changes",
    [
        {0: [b"1", bytearray(b"2")]},
        {1: ["a", 1]},
        {1: ["a"]},
        {1: ["a", "unknown"]},
        {2: {"a": 1, "b": LANES}},
        {2: {"a": 1, "b": -1}},
        {2: {"a": 1, "b": 2**70}},
        {2: {"a": 1, "b": 1.0}},
        {3: HEADS[:1]},
        {3: (*HEADS[:2], "text")},
        {4: -1},
        {4: 2**63},
        {4: [1]},
        {4: (1, -1)},
        {4: (1, True)},
        {5: [[] for _ in range(LANES - 1)]},
        {6: [()] * LANES},
        {7: bytearray(2)},
        {8: 0},
        {8: -1},
        {9: 10},
        {9: -1},
    ],
)
def test_what_is_out_of_the_ordinary_changes_nothing(columns: Columns, changes: dict[int, Any]) -> None:
    """Nothing is queued of records of which one is left to Python."""
    lane_datas: list[list[bytes]] = [[] for _ in range(LANES)]
    lane_keys: list[list[str]] = [[] for _ in range(LANES)]
    lanes = {"a": 1, "b": 2}
    args = [[b"{1", b"{2"], ["a", "b"], lanes, HEADS, 1, lane_datas, lane_keys, bytearray(LANES), KIB, KIB]
    for place, value in changes.items():
        args[place] = value
    assert columns.queue_records(*args) is None  # type: ignore[arg-type] # on purpose
    assert not any(lane_datas)
    assert not any(lane_keys)


def test_as_much_is_queued_as_may_be(columns: Columns) -> None:
    """A record of just the largest size, in just the room there is; a lane that was empty is told of once."""
    lists: list[list[bytes]] = [[], []]
    keys: list[list[str]] = [[], []]
    args = [b"12", b"12"], ["a", "a"], {"a": 1}, None, (), lists, keys, bytearray(b"\1\1")
    assert columns.queue_records(*args, 5, 3) is None
    assert columns.queue_records(*args, 6, 2) is None
    assert columns.queue_records(*args, 6, 3) == (6, 6, 2, [1])
    assert (lists, keys) == ([[], [b"12", b"12"]], [[], ["a", "a"]])


def test_arguments_of_other_types_are_refused(columns: Columns) -> None:
    """None of them is looked into."""
    args: list[Any] = [[], [], {}, HEADS, 1, [], [], bytearray(), 0, 0]
    assert columns.queue_records(*args) == (0, 0, 0, [])
    for place in range(len(args)):
        with pytest.raises(TypeError):
            columns.queue_records(*args[:place], 1.5, *args[place + 1 :])  # type: ignore[arg-type] # on purpose
    with pytest.raises(TypeError):
        columns.queue_records()  # type: ignore[call-arg] # on purpose
    for size_args in (([],), ([b""], [], 0), ((), [], 0), ([], [], -1), ([], [], 0.0)):
        with pytest.raises(TypeError):
            columns.size_of_records(*size_args)  # type: ignore[arg-type,call-arg] # on purpose
    for rules in ((), (orjson.dumps, b"", "", 1, 1), (orjson.dumps, "", "", 1.0, 1), None):
        with pytest.raises(TypeError):
            columns.encode_events([{}], rules)  # type: ignore[arg-type] # on purpose
        with pytest.raises(TypeError):
            columns.stage_event({}, None, rules, {}, [], [])  # type: ignore[arg-type] # on purpose


class Mischief(str):
    """A key that changes the lists under way as soon as it is compared."""

    __slots__ = ("lists",)
    lists: list[list[Any]]

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        for each in self.lists:
            each.clear()
        return False


def test_lists_that_change_under_way_are_left_alone(columns: Columns) -> None:
    """A key of a caller's own class may have any code run."""
    datas, keys = [b"{1", b"{2"], [str(b"ab", "ascii"), "b"]
    mischief = Mischief("ab")
    mischief.lists = [datas, keys]
    lanes = {mischief: 1, "b": 2}
    lists: list[Any] = [[] for _ in range(LANES)]
    assert columns.queue_records(datas, keys, lanes, HEADS, 1, lists, lists, bytearray(LANES), KIB, KIB) is None
    assert not any(lists)


@given(st.lists(st.tuples(st.binary(max_size=9), st.text(max_size=5))), st.integers(0, 9))
def test_sizes_are_those_in_utf_8(columns: Columns, records: list[tuple[bytes, str]], start: int) -> None:
    """Of data and keys, from any record on."""
    datas, keys = columns_of([*records, (b"1", "\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000")])
    assert columns.size_of_records(datas, keys, start) == bytes_of(datas[start:], keys[start:])
    assert columns.size_of_records([*datas, b""], [*keys, "\udfff"], 0) is None
    assert columns.size_of_records([*datas, "text"], [*keys, ""], 0) is None  # type: ignore[list-item] # on purpose


def test_references_are_balanced(columns: Columns) -> None:
    """Nothing that was passed in is kept or given away."""
    data, key, event = bytes(bytearray(b"{123")), str(b"session", "ascii"), {"session_id": "a", "n": 1}
    before = sys.getrefcount(data), sys.getrefcount(key), sys.getrefcount(event), sys.getrefcount(RULES[0])
    for room in (KIB, 0):
        lists = [[b"0"] for _ in range(LANES)], [["0"] for _ in range(LANES)]
        for heads in (HEADS, None):
            for _ in range(20):
                columns.queue_records([data], [key], {key: 3}, heads, 1, *lists, bytearray(LANES), room, KIB)
        assert len(lists[0][3]) == len(lists[1][3]) == (41 if room else 1)
        del lists
    for _ in range(20):
        columns.encode_events([event], RULES)
        columns.encode_events([event, {}], RULES)
        columns.stage_event(event, key, RULES, {key: 1}, [b"{"], ["a"])
        columns.size_of_records([data], [key], 0)
        columns.read_events([b'{"session_id":"a"}', b"{}"], READING, 256)
        columns.read_events([b'{"session_id":"a"}'], READING, 256)
    after = sys.getrefcount(data), sys.getrefcount(key), sys.getrefcount(event), sys.getrefcount(RULES[0])
    assert after == before


def memory_failures() -> Iterator[Any]:
    """Yield a function that has the n-th allocation fail from now on, where this Python can do that."""
    testing = pytest.importorskip("_testcapi")
    try:
        yield testing.set_nomemory
    finally:
        testing.remove_mem_hooks()


@pytest.fixture(name="set_nomemory")
def _set_nomemory() -> Iterator[Any]:
    yield from memory_failures()


def test_without_memory_nothing_is_queued(columns: Columns, set_nomemory: Any) -> None:
    """All or nothing, whichever allocation fails."""
    testing = pytest.importorskip("_testcapi")
    keys = [f"key {each}" for each in range(40)]
    lanes = {key: each % 7 for each, key in enumerate(keys)}
    datas = [b"{%d" % each for each in range(40)]
    failures = 0
    for start in range(200):
        lists: tuple[Any, Any] = [[b"0"] * (each % 5) for each in range(7)], [["0"] * (each % 5) for each in range(7)]
        before = [list(map(len, each)) for each in lists]
        free = bytearray(7)
        set_nomemory(start, start + 1)
        try:
            queued = columns.queue_records(datas, keys, lanes, HEADS, 1, *lists, free, 10**6, KIB)
            testing.remove_mem_hooks()
            assert queued is not None
            assert sum(map(len, lists[0])) == sum(map(len, lists[1])) == 40 + sum(before[0])
        except MemoryError:
            testing.remove_mem_hooks()
            failures += 1
            assert [list(map(len, each)) for each in lists] == before
    assert failures > 40
