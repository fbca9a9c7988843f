"""Events of a chunk: the compiled part finds and writes what Python does, or leaves them to it."""

from __future__ import annotations

import re
from typing import Any, Final

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.core import decoding
from consumer.core.decoding import Decoded, decode
from consumer.core.enrichment import Enricher
from consumer.core.totals import QUANTITY_MAX, plain_totals
from shared.compiled import COLUMNS
from shared.compiled.columns import Columns, Pieces
from shared.limits import BROWSE_HISTORY_ITEMS_MAX
from tests.fuzz.mutation import fuzzed, mutated
from tests.support.ways import without_compiled

if COLUMNS is None:
    pytest.skip("headrace was installed without its compiled part", allow_module_level=True)

EVENTS: Final = (
    (
        b'{"session_id":"a","country":"USA","event_id":"web.00.1","browse_history":['
        b'{"product_code":"S1","quantity":2,"in_shopping_cart":true},{"quantity":1000000000000000,"in_shopping_cart":false}]}'
    ),
    b'{"browse_history":[{"in_shopping_cart":false,"quantity":0}],"number":12345678901234567890123}',
    b'{"browse_history":[{"quantity":1,"in_shopping_cart":null}], "n":[[[[{}]]]]}\n',
    b'{"event_id":7,"a":{"b":"\xc3\xa9"},"browse_history":[]}',
    b"{}",
    b'{"browse_history":null}',
    b'{"browse_history":[[]],"source":1}',
)


def outcome(datas: list[bytes]) -> tuple[Any, ...]:
    """Return all that becomes of the data of a chunk."""
    decoded = decode(datas)
    enricher = Enricher("src", "shard")
    kept = [at for at in range(len(datas)) if at not in decoded.malformed]
    columns = ([datas[at] for at in kept], [decoded.events[at] for at in kept], ["7"] * len(kept), [*range(len(kept))])
    lines, failures = enricher.enrich_all(columns, b"T", None if decoded.malformed else decoded.survey)
    slots = ["a\u00e9" if at % 3 else "b" for at in range(len(lines))]
    return (
        *(_plain(decoded), lines.each(), [(slot, [*own], text) for slot, own, text in lines.by_slot(slots)]),
        {at: str(error) for at, error in failures.items()},
    )


def _plain(decoded: Decoded) -> tuple[Any, ...]:
    errors = {at: str(error) for at, error in decoded.malformed.items()}
    return repr(decoded.events), errors, decoded.survey


@fuzzed
@given(st.lists(st.sampled_from(EVENTS) | mutated(EVENTS), max_size=6))
@example([EVENTS[0]] * 300)
@example([EVENTS[0], EVENTS[3]])
def test_a_chunk_becomes_what_python_makes_of_it(datas: list[bytes]) -> None:
    """Events, sums, ids, errors, lines and texts, however the data are damaged."""
    compiled = outcome(datas)
    with pytest.MonkeyPatch.context() as patch:
        without_compiled(patch)
        assert compiled == outcome(datas)


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-2, QUANTITY_MAX + 1) | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("quantity", "x")), inner),
    max_leaves=5,
)
ITEM: Final = st.fixed_dictionaries(
    {"quantity": st.integers(0, QUANTITY_MAX), "in_shopping_cart": st.booleans()},
    optional={"code": st.text(max_size=2)},
)
EVENT: Final = st.fixed_dictionaries(
    {}, optional={"browse_history": st.lists(ITEM, max_size=4), "event_id": JSON, "é": JSON, "city": JSON}
)
ANY_ITEM: Final = ITEM | st.fixed_dictionaries({}, optional={"quantity": JSON, "in_shopping_cart": JSON})
ANY_EVENT: Final = st.fixed_dictionaries({}, optional={"browse_history": JSON | st.lists(ANY_ITEM, max_size=4)}) | JSON


@fuzzed
@given(st.lists(EVENT, max_size=5) | st.lists(EVENT | ANY_EVENT, max_size=4))
def test_a_survey_is_that_of_python(columns: Columns, events: list[Any]) -> None:
    """Names, sums and ids, or None for the same events."""
    found = columns.survey(events, BROWSE_HISTORY_ITEMS_MAX, QUANTITY_MAX)
    totals = plain_totals(events)
    assert (found is None) == (totals is None)
    if found is not None:
        assert found[1:4] == totals
        assert found[0] == set().union(*events)
        assert found[4] == ([each.get("event_id") for each in events] if "event_id" in found[0] else None)


@pytest.mark.parametrize(
    "count", [BROWSE_HISTORY_ITEMS_MAX - 1, BROWSE_HISTORY_ITEMS_MAX, BROWSE_HISTORY_ITEMS_MAX + 1]
)
def test_a_history_has_so_many_items_at_most(columns: Columns, count: int) -> None:
    """The sums of the longest one are exact."""
    event = {"browse_history": [{"quantity": QUANTITY_MAX, "in_shopping_cart": True}] * count}
    found = columns.survey([event], BROWSE_HISTORY_ITEMS_MAX, QUANTITY_MAX)
    if count > BROWSE_HISTORY_ITEMS_MAX:
        assert found is None
    else:
        assert found is not None
        assert found[1:4] == ([count * QUANTITY_MAX], [count * QUANTITY_MAX], [count])


def test_objects_with_many_fields_in_another_order_each(columns: Columns) -> None:
    """Fields are known by their names, not by their places."""
    names = [f"n{at}" for at in range(50)] + ["event_id", "browse_history"]
    events: list[dict[str, Any]] = []
    for at in range(len(names)):
        values: dict[str, Any] = dict.fromkeys(names[at:] + names[:at], at)
        values["browse_history"] = [
            {"in_shopping_cart": True, "z": 1, "quantity": at},
            {"quantity": 1, "in_shopping_cart": False},
        ]
        events.append(orjson.loads(orjson.dumps(values)))
    found = columns.survey(events, BROWSE_HISTORY_ITEMS_MAX, QUANTITY_MAX)
    assert found is not None
    assert found[0] == set(names)
    assert found[1:] == ([at + 1 for at in range(52)], [*range(52)], [2] * 52, [*range(52)])


@given(st.lists(st.text("[]{}0123456789 \n\ra", max_size=40) | st.text("0123456789", max_size=45), max_size=6))
@example(["[" * 1000, "{" * 239 + "\n", "x" * 300 + "\r"])
@example(["1" * 18, "1" * 18])
@example(["a" * 18 + "1" * 19])
@example(["a" * 19 + "1" * 18 + "a"])
def test_a_look_finds_what_is_there(columns: Columns, texts: list[str]) -> None:
    """Wherever it stands."""
    whole = "".join(texts)
    expected = (
        max(map(len, texts), default=0),
        whole.count("[") + whole.count("{"),
        "\n" in whole or "\r" in whole,
        any(re.search("[0-9]{19}", text) for text in texts),
    )
    assert columns.look_at([text.encode() for text in texts]) == expected


@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=9), st.integers(0, 2**63 - 1), st.sampled_from(["", "a", "b" * 99])),
        max_size=9,
    )
)
def test_lines_have_all_of_their_pieces(columns: Columns, rows: list[tuple[bytes, int, str]]) -> None:
    """Numbers of up to 63 bits, texts of any length."""
    datas, numbers, texts = [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
    pieces: Pieces = (b"<", numbers, b"", texts, b">\n")
    expected = [b"%b<%d%b>\n" % (data[:-1], number, text.encode()) for data, number, text in rows]
    assert columns.each_line(datas, pieces) == expected
    slots = [text or "é\u20ac" for text in texts]
    found = columns.lines_by_slot(datas, pieces, slots)
    assert [slot for slot, _, _ in found] == [*dict.fromkeys(slots)]
    for slot, own, text in found:
        assert own == [at for at, each in enumerate(slots) if each == slot]
        assert text == b"".join(expected[at] for at in own)


def test_slots_are_equal_by_their_letters(columns: Columns) -> None:
    """Not by their objects; texts of another width differ."""
    slots = ["".join(("a", str(at % 3), end)) for at in range(600) for end in ("", "é", "\u20ac", "\U0001f600")]
    found = columns.lines_by_slot([b"}"] * len(slots), (b"\n",), slots)
    assert [(slot, len(own), len(text)) for slot, own, text in found] == [
        (slot, 200, 200) for slot in dict.fromkeys(slots)
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ([b"a"], (b"", [-1]), ["a"]),
        ([b"a"], (b"", [2**63]), ["a"]),
        ([b"a"], (b"", [1.0]), ["a"]),
        ([b"a"], (b"", [True]), ["a"]),
        ([b"a"], (b"", ["é"]), ["a"]),
        ([b"a"], (b"", []), ["a"]),
        ([b"a"], (b"", [1, 2]), ["a"]),
        ([b"a"], (b"", "text"), ["a"]),
        ([b"a"], [b""], ["a"]),
        ([b"a"], (b"",) * 25, ["a"]),
        ([b""], (b"",), ["a"]),
        (["a"], (b"",), ["a"]),
        ((b"a",), (b"",), ["a"]),
        ([b"a"], (b"",), []),
        ([b"a"], (b"",), [b"a"]),
        ([b"a"], (b"",), ("a",)),
        ([b"a"], (b"",), ["a", "b"]),
        (),
    ],
)
def test_what_is_no_column_is_refused(columns: Columns, arguments: Any) -> None:
    """Nothing is read or written beyond an end."""
    with pytest.raises(TypeError):
        columns.lines_by_slot(*arguments)
    if len(arguments) == 3 and arguments[2] == ["a"]:
        with pytest.raises(TypeError):
            columns.each_line(*arguments[:2])
    with pytest.raises(TypeError):
        columns.look_at(("text",))  # type: ignore[arg-type] # on purpose
    with pytest.raises(TypeError):
        columns.look_at(["text"])  # type: ignore[list-item] # on purpose
    with pytest.raises(TypeError):
        columns.survey((), 1, 1)  # type: ignore[arg-type] # on purpose
    with pytest.raises(OverflowError):
        columns.survey([], 2**70, 1)


def test_a_key_that_is_no_text_is_left_to_python(columns: Columns) -> None:
    """No code of a caller's runs."""
    assert columns.survey([{7: 1}], 1, 1) is None
    assert columns.survey([{"browse_history": [{7: 1}]}], 1, 1) is None
    assert decoding.COLUMNS is columns
