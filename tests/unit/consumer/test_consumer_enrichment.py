"""Enrichment, routing, dead letters: the pure way of an event."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from consumer.core.dead_letter import DeadLetter
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.enrichment import Enricher, timestamp_text, totals_of
from consumer.core.route import Router
from consumer.core.transform import Transform
from shared.errors import ConfigurationError, MalformedEventError
from shared.limits import BROWSE_HISTORY_ITEMS_MAX
from shared.records import Position, UserRecord

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


def enrich(data: bytes) -> bytes:
    """Enrich bytes as shard 0 of `src` would."""
    return Enricher("src", "shardId-000000000000").enrich(data, orjson.loads(data), PLACE, STAMP)


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


def record(data: bytes, key: str = "k") -> UserRecord:
    """Return a user record."""
    return UserRecord(data, key, None, PLACE, 1.7e9, is_last=True)


def transform() -> Transform:
    """Return a transform of shard 0."""
    return Transform(Enricher("src", "shardId-000000000000"), Router(["USA", "International"]), DuplicateMarks({}))


@pytest.mark.parametrize(
    ("data", "key"),
    [(b'{"session_id":"s"}', "s"), (b'{"session_id":""}', "k"), (b'{"session_id":7}', "k"), (b'{"a":1}', "k")],
)
def test_partition_key_is_the_session_id(data: bytes, key: str) -> None:
    """The destination's partition key is the session id, or else the key that the record came with."""
    outcome = transform().apply(record(data), STAMP)
    assert isinstance(outcome, tuple)
    assert outcome[2] == key


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"null", b"{", b'{"browse_history":3}', b'{"a":NaN}'])
def test_bad_input_becomes_a_dead_letter_with_its_bytes(data: bytes) -> None:
    """What is no event is kept with its bytes, its place and a reason that does not repeat the data."""
    outcome = transform().apply(record(data), STAMP)
    assert isinstance(outcome, DeadLetter)
    line = orjson.loads(outcome.encode("shardId-000000000000", 1.7e9 + 1))
    assert base64.b64decode(line["rawData"]) == data
    assert line["sequenceNumber"] == str(PLACE.sequence_number)
    assert (line["subSequenceNumber"], line["attemptsMade"], line["arrivalTimestamp"]) == (3, 1, 1_700_000_000_000)
    assert line["attemptEndingTimestamp"] == 1_700_000_001_000
    assert line["errorCode"] == "malformed-event"


def test_a_defect_of_ours_is_a_dead_letter_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected exception of the pure function does not stop the shard for ever."""

    def fail(*_: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(Enricher, "enrich", fail)
    outcome = transform().apply(record(b'{"event_id":"e"}'), STAMP)
    assert isinstance(outcome, DeadLetter)
    assert (outcome.error_code, outcome.event_id) == ("internal-error", "e")
