"""Events as the compiled part writes and reads them: as Python does, or not at all."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from producer.api import _encode_all
from producer.core.json_line import JsonLineParser, are_bare, event_columns
from shared.compiled import COLUMNS
from shared.compiled.columns import Columns, EventRules
from tests.support.ways import without_compiled

pytestmark = pytest.mark.compiled

RULES: EventRules = (orjson.dumps, "session_id", "event_id", 4_000, 64)
READING: EventRules = (orjson.loads, *RULES[1:])


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
        {"session_id": "", "x": "x" * 3_976},
        {"session_id": "", "x": "x" * 3_977},
        {"session_id": "", "x": "x" * 3_978},
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
def test_events_are_staged_as_python_stages_them(columns: Columns, events: list[Any], partition_key: Any) -> None:
    """Those that it refuses are refused, too, or have a key that was not seen yet."""
    known = {"": 0, "a": 1}
    bodies, keys = [b"{"], ["first"]
    for event in events:
        count = columns.stage_event(event, partition_key, (*RULES[:3], 3_999, 64), known, bodies, keys)
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


VALUES = (
    *(b"9" * 19, b"-9223372036854775808", b"-9223372036854775809", b"18446744073709551615", b"18446744073709551616"),
    *(b"0." + b"3" * 30, b'"%s"' % (b"7" * 40), b"1e999"),
    *(b"[" * depth + b"]" * depth for depth in (63, 64)),
    *(b'"%s"' % (b"x" * size) for size in (3_976, 3_977)),
)
LINES = st.builds(orjson.dumps, EVENTS) | st.sampled_from(
    (
        b"",
        b"{}",
        b"{",
        b"}",
        b' {"session_id":"a"}',
        b'{"session_id":"a"}\r',
        b'{"session_id":"a"',
        b'{"session_id":""}',
        b'{"session_id":1}',
        b'{"session_id":"a","event_id":1}',
        b'{"session_id":"\xff"}',
        b'{"session_id":"\\ud800"}',
        b'{"session_id":"%s"}' % (b"a" * 256),
        b'{"session_id":"%s"}' % (b"a" * 257),
        b'{"session_id":"%s"}' % (b"e\xcc\x81" * 128),
        b'{"session_id":"","x":"%s"}' % (b"x" * 3_976),
        b'{"session_id":"a","session_id":"b"}',
        b'["session_id"]',
        b'"{}"',
        *(b'{"session_id":"a","x":%s}' % value for value in VALUES),
    )
)


@given(st.lists(LINES, min_size=1, max_size=6))
@settings(deadline=None)
def test_lines_are_read_as_python_reads_them(lines: list[bytes]) -> None:
    """With the same keys; a line that Python does not take is not taken."""
    parser = JsonLineParser()
    with pytest.MonkeyPatch.context() as patch:
        for texts in (lines, *([line] for line in lines)):
            patch.undo()
            compiled = COLUMNS.read_events(texts, READING, 256) if COLUMNS is not None else None
            found, both = parser.parse_events(texts), event_columns(texts) if are_bare(texts) else None
            without_compiled(patch)
            expected = parser.parse_events(texts)
            assert found == expected
            assert both == (event_columns(texts) if are_bare(texts) else None)
            assert compiled is None or compiled == expected


@given(st.text(st.sampled_from("-0189.e"), max_size=60))
@example("1" * 18 + "x" + "2" * 19)
@example("1" * 19 + "-" + "9" * 19)
@settings(deadline=None)
def test_no_integer_beyond_64_bits_is_taken(columns: Columns, digits: str) -> None:
    """Wherever the digits begin."""
    line = f'{{"session_id":"a","x":[{digits}]}}'.encode()
    taken = columns.read_events([line], ((lambda _: {"session_id": "a"}), *READING[1:]), 256) is not None
    assert taken is not any(len(run) >= 19 + (run[0] != "-") for run in re.findall(r"-?[0-9]+", digits))


def test_ordinary_lines_are_taken(columns: Columns) -> None:
    """Else what is said above would say nothing."""
    lines = [b'{"session_id":"%d","n":1234567890123456789}' % each for each in range(3)]
    expected = [line[:-1] for line in lines], ["0", "1", "2"]
    assert columns.read_events(lines, READING, 256) == columns.read_events(tuple(lines), READING, 256) == expected
    assert columns.read_events([*lines, "{}"], READING, 256) is None  # type: ignore[list-item] # on purpose
    for args in ((lines, READING), (lines, None, 256), (lines, READING, "x"), (iter(lines), READING, 256)):
        with pytest.raises(TypeError):
            columns.read_events(*args)  # type: ignore[arg-type,call-arg] # on purpose


class BadError(Exception):
    """Raised while an event is written."""


def test_other_errors_of_writing_an_event_are_told(columns: Columns) -> None:
    """Only TypeError means that a closer look will tell."""

    def fail(_: Any) -> bytes:
        raise BadError

    rules: EventRules = (fail, *RULES[1:])
    with pytest.raises(BadError):
        columns.encode_events([{"session_id": "a"}], rules)
    with pytest.raises(BadError):
        columns.read_events([b"{}"], rules, 256)
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
