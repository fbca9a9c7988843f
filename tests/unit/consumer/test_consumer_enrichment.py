"""Enrichment, routing, dead letters: the pure way of an event."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core import enrichment
from consumer.core.chunk import Chunk
from consumer.core.decoding import decode
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.enrichment import Columns, Enricher, timestamp_text
from consumer.core.lines import CompiledLines, Lines, PlainLines
from consumer.core.route import Router
from consumer.core.totals import QUANTITY_MAX, totals_of
from consumer.core.transform import Transform, partition_keys_of
from shared.compiled import COLUMNS
from shared.errors import ConfigurationError, MalformedEventError
from shared.event import decode_event, decode_events
from shared.limits import BROWSE_HISTORY_ITEMS_MAX, EVENT_BYTES_MAX
from shared.records import Position
from tests.support.ways import COMPILED, way  # noqa: F401 - each test is run both ways

STAMP = b"2026-11-21T02:27:00.123456Z"
PLACE = Position(49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898, 3)
ADDED = {
    "processing_timestamp",
    "overall_product_quantity",
    "overall_in_shopping_cart",
    "total_different_products",
    "recommendations",
    "event_id",
    "source",
}


def columns_of(*datas: bytes, first_sub: int = 3) -> Columns:
    """Return what enrichment takes of records at PLACE and behind it, or of those that are no members."""
    count = len(datas)
    numbers, subs = [str(PLACE.sequence_number)] * count, list(range(first_sub, first_sub + count))
    if not first_sub:
        subs = [0] * count
    return datas, [orjson.loads(data) for data in datas], numbers, subs


def enrich(data: bytes) -> bytes:
    """Enrich bytes as shard 0 of `src` would."""
    lines, failures = Enricher("src", "shardId-000000000000").enrich_all(columns_of(data), STAMP)
    assert not failures
    return lines.each()[0]


def history(*items: dict[str, Any]) -> dict[str, Any]:
    """Return an event with these items."""
    return {"browse_history": list(items)}


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (history(), (0, 0, 0)),
        ({}, (0, 0, 0)),
        ({"browse_history": None}, (0, 0, 0)),
        (history({"quantity": 2, "in_shopping_cart": True}, {"quantity": 1, "in_shopping_cart": False}), (3, 2, 2)),
        (history({"quantity": "2", "in_shopping_cart": True}), (2, 2, 1)),
        (history({"quantity": " 7 "}, {"quantity": 0}), (7, 0, 2)),
        (history({"quantity": 1.5, "in_shopping_cart": True}, {"quantity": "0.5"}), (2.0, 1.5, 2)),
        (history({"quantity": 3, "in_shopping_cart": None}), (3, 0, 1)),
        (history({"quantity": 10**15}), (10**15, 0, 1)),
    ],
)
def test_totals_follow_the_lab(event: dict[str, Any], expected: tuple[float, float, int]) -> None:
    """Quantities count as numbers, also as numeric strings; the cart sums quantities, not items."""
    assert expected == tuple(totals_of(event))


@pytest.mark.parametrize(
    "item",
    [
        {"quantity": True},
        {"quantity": None},
        {},
        {"quantity": "two"},
        {"quantity": ""},
        {"quantity": "nan"},
        {"quantity": "inf"},
        {"quantity": "1e3"},
        {"quantity": "-1"},
        {"quantity": -1},
        {"quantity": -0.5},
        {"quantity": 10**15 + 1},
        {"quantity": "9" * 17},
        {"quantity": "\u0661"},
        {"quantity": [2]},
        {"quantity": 1, "in_shopping_cart": "true"},
        {"quantity": 1, "in_shopping_cart": 1},
        "not an object",
    ],
)
def test_a_sum_that_would_be_a_guess_is_refused(item: Any) -> None:
    """What is no number from 0 to 10^15, or no boolean, fails the event and does not count as 0."""
    with pytest.raises(MalformedEventError):
        totals_of({"browse_history": [item]})


_ITEMS = st.dictionaries(
    st.sampled_from(("quantity", "in_shopping_cart", "x")),
    st.integers(-1, 9) | st.sampled_from((True, False, None, "2", "x", 1.5, 10**15, 10**15 + 1, [])),
)


@given(st.lists(_ITEMS | st.sampled_from(([], "x", 7, None)), max_size=4) | _ITEMS | st.text(max_size=2) | st.none())
def test_sums_are_the_same_whether_read_the_quick_way_or_not(value: Any) -> None:
    """Every history has one outcome: the same three sums in the line, or the same refusal."""
    event = {"browse_history": value}
    try:
        expected: Any = totals_of(event)
    except MalformedEventError as error:
        expected = str(error)
    lines, failures = Enricher("src", "shard").enrich_all(columns_of(orjson.dumps(event)), STAMP)
    if failures:
        assert expected == str(failures[0])
    else:
        line = orjson.loads(lines.each()[0])
        sums = [line[name] for name in sorted(ADDED) if name.startswith(("overall", "total"))]
        assert [(each, type(each)) for each in sums] == [(expected[at], type(expected[at])) for at in (1, 0, 2)]


_EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "event_id": st.sampled_from(("web.00.5", "foreign", "", None, 7)),
        "browse_history": st.lists(_ITEMS, max_size=3) | st.just([{"quantity": 2, "in_shopping_cart": True}]),
        "source": st.just("own"),
        "city": st.sampled_from(("Zürich", "two\nlines")),
    },
)
_ORDINARY = st.fixed_dictionaries(
    {"city": st.just("Ulm")},
    optional={
        "browse_history": st.lists(
            st.fixed_dictionaries({"quantity": st.integers(0, QUANTITY_MAX), "in_shopping_cart": st.booleans()})
        )
    },
)


@given(
    st.lists(_ORDINARY, max_size=5) | st.lists(_ORDINARY | _EVENTS, max_size=5),
    st.none() | st.just("web.00."),
    st.sampled_from((b"", b"\n", b" ")),
    st.sampled_from((0, 3, 998)),
)
def test_events_are_enriched_alike_together_and_one_by_one(
    events: list[dict[str, Any]], id_head: str | None, behind: bytes, first_sub: int
) -> None:
    """Which way is taken shows in no byte, and in no refusal."""
    datas = [
        orjson.dumps(event if id_head is None else {**event, "event_id": f"{id_head}{number}"}) + behind
        for number, event in enumerate(events)
    ]
    enricher, columns = Enricher("src", "shard"), columns_of(*datas, first_sub=first_sub)
    together, failures = enricher.enrich_all(columns, STAMP, decode(datas).survey)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Enricher, "_enrich_together", lambda *_: None)
        one_by_one, expected = enricher.enrich_all(columns, STAMP)
    assert together.each() == one_by_one.each()
    assert {at: str(error) for at, error in failures.items()} == {at: str(error) for at, error in expected.items()}


@given(st.lists(st.sampled_from("abc"), max_size=9))
def test_lines_are_dealt_out_to_slots_in_their_order(slots: list[str]) -> None:
    """Each line is in the text of its slot, behind those that came before it, and its index says which it is."""
    numbers = [b"%d" % number for number in range(len(slots))]
    lines: Lines = PlainLines((numbers, b"-", numbers[::-1], b".\n"))
    if COLUMNS is not None:
        datas = [number + b"}" for number in numbers]
        lines = CompiledLines(COLUMNS, datas, (b"-", [*range(len(slots))][::-1], b".\n"))
    each = lines.each()
    assert each == [b"%b-%b." % pair for pair in zip(numbers, numbers[::-1], strict=True)]
    found = {slot: (list(own), text) for slot, own, text in lines.by_slot(slots)}
    expected = {slot: [at for at, other in enumerate(slots) if other == slot] for slot in slots}
    assert found == {slot: (own, b"".join(each[at] + b"\n" for at in own)) for slot, own in expected.items()}


@pytest.mark.parametrize("value", ["[]", {}, 3, [{"quantity": 1}] * (BROWSE_HISTORY_ITEMS_MAX + 1)])
def test_a_history_that_is_no_bounded_list_is_refused(value: Any) -> None:
    """Only a list of at most 1,000 items is a history."""
    with pytest.raises(MalformedEventError, match="browse_history"):
        totals_of({"browse_history": value})


def test_source_bytes_stay_untouched() -> None:
    """Everything up to the closing brace is the source's own bytes, numbers and duplicate keys included."""
    data = b'{"a": 1.50, "b":1e2, "a":"\\u00e9", "unknown": {"x": [1,2]}}'
    assert enrich(data).startswith(data[:-1] + b',"processing_timestamp":')


def test_an_enriched_event_has_the_promised_fields() -> None:
    """The new fields are added with the values of interfaces.md."""
    event = orjson.loads(enrich(b'{"session_id":"a"}'))
    assert set(event) == ADDED | {"session_id"}
    assert event["event_id"] == f"src:shardId-000000000000:{PLACE.sequence_number}:3"
    assert event["source"] == {
        "stream": "src",
        "shard_id": "shardId-000000000000",
        "sequence_number": str(PLACE.sequence_number),
        "sub_sequence_number": 3,
    }
    assert event["processing_timestamp"] == STAMP.decode()


def test_an_event_stays_on_one_line() -> None:
    """Newlines between tokens become spaces; escaped ones inside strings stay."""
    line = enrich(b'\r\n{\n "a": "x\\ny",\r\n "b": 1\n}\n ')
    assert b"\n" not in line
    assert b"\r" not in line
    assert orjson.loads(line)["a"] == "x\ny"


@pytest.mark.parametrize("data", [b"{}", b" { \n } ", b'{"source":1}', b'{"event_id":null}', b'{"event_id":7}'])
def test_events_that_can_not_be_spliced_are_written_anew(data: bytes) -> None:
    """An empty event, or one that has a field of ours, gets the new values, once each."""
    line = enrich(data)
    event = orjson.loads(line)
    assert set(event) == ADDED
    assert line.count(b'"source"') == 1
    assert line.count(b'"event_id"') == 1
    assert event["source"]["stream"] == "src"


def test_an_own_event_id_is_kept() -> None:
    """An event id that came with the event stays, ours or foreign."""
    assert orjson.loads(enrich(b'{"event_id":"foreign-7"}'))["event_id"] == "foreign-7"
    assert orjson.loads(enrich(b'{"event_id":"x","source":0}'))["event_id"] == "x"


def test_timestamps_are_iso_8601_in_utc() -> None:
    """Seconds since the epoch become ISO 8601 with microseconds and Z."""
    assert timestamp_text(1_700_000_000.25) == "2023-11-14T22:13:20.250000Z"


@pytest.mark.parametrize(
    ("country", "destination"),
    [
        ("USA", "USA"),
        ("usa", "International"),
        ("France", "International"),
        (None, "International"),
        (3, "International"),
    ],
)
def test_route_is_exact_and_international_takes_the_rest(country: Any, destination: str) -> None:
    """Only the exact name of a destination is routed there."""
    assert Router(["USA", "International"]).destination_of({"country": country}) == destination


def test_route_without_destinations_is_international() -> None:
    """With a bucket only, everything is archived under International."""
    assert Router(()).destinations == ("International",)


@pytest.mark.parametrize("name", ["", "a/b", "!x", "x" * 129, "a\nb", "../x"])
def test_destinations_that_would_break_keys_are_refused(name: str) -> None:
    """A destination's name is a part of object keys."""
    with pytest.raises(ConfigurationError):
        Router([name, "International"])


def chunk_of(*datas: bytes, key: str = "k") -> Chunk:
    """Return a chunk of records at PLACE and behind it."""
    count = len(datas)
    numbers, subs = [str(PLACE.sequence_number)] * count, list(range(3, 3 + count))
    last = Position(PLACE.sequence_number, subs[-1])
    return Chunk(list(datas), [key] * count, numbers, subs, [1.7e9] * count, last=last)


def transform() -> Transform:
    """Return a transform of shard 0."""
    return Transform(Enricher("src", "shardId-000000000000"), Router(["USA", "International"]), DuplicateMarks({}))


@pytest.mark.parametrize(
    ("data", "key"),
    [(b'{"session_id":"s"}', "s"), (b'{"session_id":""}', "k"), (b'{"session_id":7}', "k"), (b'{"a":1}', "k")],
)
def test_partition_key_is_the_session_id(data: bytes, key: str) -> None:
    """The destination's partition key is the session id, or else the key that the record came with."""
    assert partition_keys_of([orjson.loads(data)], ["k"]) == [key]


@pytest.mark.parametrize(("key", "expected"), [("", "-"), ("k" * 257, "k" * 256), ("k" * 256, "k" * 256)])
def test_a_key_that_no_stream_takes_does_not_stop_the_shard(key: str, expected: str) -> None:
    """A member of a foreign aggregate may have any key; equal ones stay equal, so that their order is kept."""
    assert partition_keys_of([{"session_id": "s" * 257}], [key]) == [expected]


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b"{", b'{"browse_history":3}', b'{"a":NaN}'])
def test_bad_input_becomes_a_dead_letter_with_its_bytes(data: bytes) -> None:
    """What is no event is kept with its bytes, its place and a reason that does not repeat the data."""
    found = transform().apply(chunk_of(data), STAMP)
    assert (len(found.lines), len(found.dead_letters)) == (0, 1)
    line = orjson.loads(found.dead_letters[0].encode("shardId-000000000000", 1.7e9 + 1))
    assert base64.b64decode(line["rawData"]) == data
    assert line["sequenceNumber"] == str(PLACE.sequence_number)
    assert (line["subSequenceNumber"], line["attemptsMade"], line["arrivalTimestamp"]) == (3, 1, 1_700_000_000_000)
    assert line["attemptEndingTimestamp"] == 1_700_000_001_000
    assert line["errorCode"] == "malformed-event"


def test_a_defect_of_ours_is_a_dead_letter_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception of the pure function does not stop the shard for ever."""

    def fail(event: dict[str, Any]) -> Any:
        if event["event_id"] == "b":
            raise ZeroDivisionError
        return (0, 0, 0)

    monkeypatch.setattr(enrichment, "totals_of", fail)
    datas = [b'{"event_id":"%b","browse_history":null}' % name for name in (b"a", b"b", b"c")]
    found = transform().apply(chunk_of(*datas), STAMP)
    assert [orjson.loads(line)["event_id"] for line in found.lines.each()] == ["a", "c"]
    assert [(each.error_code, each.event_id) for each in found.dead_letters] == [("internal-error", "b")]
    assert found.dead_letters[0].position == (PLACE.sequence_number, 4)


def test_a_chunk_falls_apart_into_events_dead_letters_and_duplicates() -> None:
    """Each record ends in exactly one place, those that are left in reading order with their own columns."""
    chunk = chunk_of(
        b'{"event_id":"web.00.5","country":"USA"}',
        b"not JSON",
        b'{"event_id":"web.00.5","browse_history":7}',
        b'{"event_id":"web.00.6","country":["USA"],"session_id":"s"}',
        b'{"event_id":"web.00.7","browse_history":7}',
        b'{"country":"USA"}',
        b'{"event_id":"web.00.7"}',
        b"\xf3\x89\x9a\xc2 and so on",
    )
    chunk.refused[7] = ("bad-explicit-hash-key", "2 members")
    found = transform().apply(chunk, STAMP)
    assert [orjson.loads(line)["source"]["sub_sequence_number"] for line in found.lines.each()] == [3, 6, 8]
    assert found.destinations == ["USA", "International", "USA"]
    assert [each.get("session_id") for each in found.events] == [None, "s", None]
    assert list(found.indexes) == [0, 3, 5]
    codes = [(each.position.sub_sequence_number, each.error_code, each.event_id) for each in found.dead_letters]
    assert codes == [
        (4, "malformed-event", None),
        (7, "malformed-event", "web.00.7"),
        (10, "bad-explicit-hash-key", None),
    ]
    assert found.duplicates == 2


_HOSTILE = st.sampled_from(
    (
        b"",
        b"[]",
        b"7",
        b"{",
        b"\xff",
        b"\0",
        b"{}",
        b'{"a":NaN}',
        b'{"a":18446744073709551616}',
        b'{"a":1844674407370955161}',
        b'{"a":"18446744073709551616000"}',
        b"[" * 65 + b"]" * 65,
        b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"a":"' + b"[" * 99 + b'"}',
        b"[" * 5_000 + b"]" * 5_000,
        b'{"a":"' + b"x" * 5_000 + b'"}',
        b"{" + b",".join(b'"%d":0' % number for number in range(1_001)) + b"}",
        b'{"a":"' + b"x" * EVENT_BYTES_MAX + b'"}',
    )
)


@given(st.lists(st.binary(max_size=9) | _HOSTILE | st.just(b'{"a":1}'), max_size=8))
def test_events_are_decoded_alike_together_and_one_by_one(datas: list[bytes]) -> None:
    """What is refused, and with which message, does not depend on the neighbours in a chunk."""
    expected: list[tuple[dict[str, Any], str]] = []
    for data in datas:
        try:
            expected.append((decode_event(data), ""))
        except MalformedEventError as error:
            expected.append(({}, str(error)))
    events, refused = decode_events(datas)
    assert expected == [(event, str(refused.get(index, ""))) for index, event in enumerate(events)]
    decoded = decode(datas)
    assert (events, {**refused}.keys()) == (decoded.events, decoded.malformed.keys())
    assert [str(refused[index]) for index in refused] == [str(decoded.malformed[index]) for index in refused]


@pytest.mark.parametrize(
    "neighbour", [b'"18446744073709551616"', b"18446744073709551615", b"1", b"18446744073709551616"]
)
def test_digits_in_a_text_are_no_reason_to_look_at_each_event(neighbour: bytes) -> None:
    """A session id of hex digits may have nineteen decimal ones in a row; only an integer that is one is refused."""
    datas = [b'{"session_id":"a1234567890123456789b"}', b'{"a":%b}' % neighbour]
    decoded = decode(datas)
    is_right = neighbour != b"18446744073709551616"
    assert (decoded.survey is not None, not decoded.malformed) == (is_right, is_right)


@given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70), st.integers(0, 70), st.booleans()), max_size=6))
def test_no_event_hides_behind_the_products_of_another(shapes: list[tuple[int, int, int, bool]]) -> None:
    """Nesting is bounded per event, however many products its neighbours have, and brackets in their texts."""
    item = b'{"quantity":1,"in_shopping_cart":true}'
    datas = [
        b'{"a":%b,"t":"%b"%b}'
        % (
            b"[" * depth + b"]" * depth if depth else b"0",
            b"{" * brackets,
            b',"browse_history":[%b]' % b",".join([item] * products) if has_history else b"",
        )
        for depth, brackets, products, has_history in shapes
    ]
    events, refused = decode_events(datas)
    decoded = decode(datas)
    assert (events, refused.keys()) == (decoded.events, decoded.malformed.keys())
    assert decoded.survey is not None or any(
        depth + brackets + products > 60 for depth, brackets, products, _ in shapes
    )
    if decoded.survey is not None:
        assert not refused
        assert list(zip(*decoded.survey.totals, strict=True)) == [totals_of(event) for event in events]
