"""The compiled functions of the way of a put: each does what Python does, or nothing."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import producer.core.lanes as lanes_module
from producer.api import _encode_all
from producer.core.lanes import LaneQueues
from producer.core.record_columns import bytes_of
from shared.compiled import COLUMNS
from shared.compiled.columns import Columns, EventRules
from shared.event import event_id_heads
from shared.lanes import LANES
from shared.limits import KIB
from tests.support.ways import without_compiled

pytestmark = pytest.mark.compiled

HEADS = event_id_heads("source", LANES, has_lanes=True)
RULES: EventRules = (orjson.dumps, "session_id", "event_id", 4_000, 64)
TICKET = (print, "token")


@pytest.fixture(name="columns", scope="module")
def _columns() -> Columns:
    if COLUMNS is None:
        pytest.skip("headrace was installed without its compiled part: there was no C compiler")
    return COLUMNS


@pytest.fixture(name="python_only")
def _python_only(monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiled(monkeypatch)


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
    calls: list[tuple[list[tuple[bytes, str]], int | None, bool, bool]], blocked: set[int], spilled: int, room: int
) -> None:
    """The same records in the same lanes, the same sums, the same order of lanes; whatever else is refused."""
    if COLUMNS is None:
        pytest.skip("headrace was installed without its compiled part: there was no C compiler")
    both = lane_queues(room), lane_queues(room)
    for queues, compiled in zip(both, (COLUMNS, None), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lanes_module, "COLUMNS", compiled)
            for lane in queues.lanes:
                lane.is_blocked = lane.index in blocked
            queues.lane_of("c").spilled = spilled
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
def test_sizes_are_those_in_utf_8(records: list[tuple[bytes, str]], start: int) -> None:
    """Of data and keys, from any record on."""
    if COLUMNS is None:
        pytest.skip("headrace was installed without its compiled part: there was no C compiler")
    datas, keys = columns_of(records)
    assert COLUMNS.size_of_records(datas, keys, start) == bytes_of(datas[start:], keys[start:])
    assert COLUMNS.size_of_records([*datas, b""], [*keys, "\udfff"], 0) is None
    assert COLUMNS.size_of_records([*datas, "text"], [*keys, ""], 0) is None  # type: ignore[list-item] # on purpose


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
ODD = st.sampled_from(
    (
        {},
        {"session_id": 1},
        {"session_id": "a", "event_id": "mine"},
        {"session_id": "a", "x": 2**64},
        {"session_id": "a", "x": object()},
        {"session_id": "\ud800"},
        {"session_id": "a", 1: 1},
        {"session_id": "a", "x": "[" * 64},
        {"session_id": "a", "x": "{" * 63},
        {"session_id": "a", "x": "[{" * 1_000},
        {"session_id": "", "x": "x" * 3_973},
        {"session_id": "", "x": "x" * 3_974},
        {"session_id": "", "x": "x" * 3_975},
        b'{"session_id":"a"}',
        dataclasses.make_dataclass("Event", ["session_id"])("a"),
        None,
    )
)
EVENTS = st.builds(lambda fields, key: {**fields, "session_id": key}, st.dictionaries(st.text(), JSON), st.text())


@given(st.lists(EVENTS, min_size=1, max_size=5), st.lists(ODD, max_size=1))
@settings(deadline=None)
def test_events_are_encoded_as_python_encodes_them(ordinary: list[Any], odd: list[Any]) -> None:
    """With the same keys; and the same ones are left for a closer look."""
    with pytest.MonkeyPatch.context() as patch:
        for events in (ordinary, odd, ordinary + odd):
            patch.undo()
            compiled = _encode_all(events)
            without_compiled(patch)
            assert compiled == _encode_all(events)


@given(st.lists(EVENTS | ODD, min_size=1, max_size=8), st.none() | st.text(max_size=2) | st.just(1))
@settings(deadline=None)
def test_events_are_staged_as_python_stages_them(events: list[Any], partition_key: Any) -> None:
    """Those that it refuses are refused, too, or have a key that was not seen yet."""
    if COLUMNS is None:
        pytest.skip("headrace was installed without its compiled part: there was no C compiler")
    known = {"": 0, "a": 1}
    bodies, keys = [b"{"], ["first"]
    for event in events:
        count = COLUMNS.stage_event(event, partition_key, (*RULES[:3], 3_999, 64), known, bodies, keys)
        expected = staged_by_python(event, partition_key, known)
        assert (bodies[-1], keys[-1], len(bodies)) == (*expected, count) if count else expected is None


def staged_by_python(event: Any, partition_key: Any, known: dict[str, int]) -> tuple[bytes, str] | None:
    """Do what `Stage.add` does for an event whose key was seen before."""
    key = event.get("session_id") if type(event) is dict and partition_key is None else partition_key
    if type(event) is not dict or "event_id" in event or type(key) is not str or key not in known:
        return None
    try:
        data = orjson.dumps(event)
    except orjson.JSONEncodeError:
        return None
    if not 2 < len(data) <= 4_000 or data.count(b"[") + data.count(b"{") > 64:
        return None
    return data[:-1], key


class BadError(Exception):
    """Raised while an event is written."""


def test_other_errors_of_writing_an_event_are_told(columns: Columns) -> None:
    """Only TypeError means that a closer look will tell."""

    def fail(_: Any) -> bytes:
        raise BadError

    rules: EventRules = (fail, *RULES[1:])
    with pytest.raises(BadError):
        columns.encode_events([{"session_id": "a"}], rules)
    bodies, keys = [b"{"], ["a"]
    with pytest.raises(BadError):
        columns.stage_event({"session_id": "a"}, None, rules, {"a": 1}, bodies, keys)
    assert (bodies, keys) == ([b"{"], ["a"])


def test_nothing_is_staged_when_the_stage_was_cleared_meanwhile(columns: Columns) -> None:
    """Writing an event may run code that looks at the producer; the event is then left to Python, not lost."""
    bodies, keys = [b"{"], ["a"]

    def dumps(event: Any) -> bytes:
        bodies.clear()
        keys.clear()
        return orjson.dumps(event)

    assert columns.stage_event({"session_id": "a"}, None, (dumps, *RULES[1:]), {"a": 1}, bodies, keys) == 0
    assert bodies == keys == []


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
