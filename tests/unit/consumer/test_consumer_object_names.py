"""Object keys: prefix expressions, uniqueness, bounds; and the pinned format of a flush."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.core.flush_format import FlushFormat
from consumer.core.object_format import Codec, FormatKind, ObjectFormat
from consumer.core.object_key import ObjectNames, ObjectRange, error_slot
from consumer.core.partition import NO_VALUE, Partitioner, sanitise
from consumer.core.schema import Schema
from shared.errors import ConfigurationError
from shared.records import Position

NEW_YORK = ZoneInfo("America/New_York")
ERRORS = "errors/!{firehose:error-output-type}/"
ARRIVAL = 1_795_228_020.0  # 2026-11-21T02:27:00Z
RANGE = ObjectRange("shardId-000000000000", Position(100), Position(200, 7))


def names(prefix: str, errors: str = ERRORS, destinations: tuple[str, ...] = ("USA",)) -> ObjectNames:
    """Return names under a prefix."""
    return ObjectNames(archive_prefix=prefix, error_prefix=errors, destinations=destinations, extension=".json.gz")


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ""),
        ("a/", "a/"),
        ("d=!{destination}/", "d=USA/"),
        ("!{timestamp:yyyy-MM-dd}/h=!{timestamp:HH}/", "2026-11-21/h=02/"),
        ("!{timestamp:yyyy/MM/dd'T'HH:mm:ss}/", "2026/11/21T02:27:00/"),
        ("!{timestamp:'it''s' ''yyyy%%}/", "it's '2026%%/"),
        ("!{timestamp:'year='yyyy'/dd='dd}/", "year=2026/dd=21/"),
        ("\u00e9/", "\u00e9/"),
        ("!{timestamp:yy-M-d H:m:s.SSS}/", "26-11-21 2:27:0.000/"),
        ("!{timestamp:EEEE EEE MMMM MMM DDD}/", "Saturday Sat November Nov 325/"),
        ("!{timestamp:hh a Z}/", "02 AM +0000/"),
    ],
)
def test_prefix_expressions_are_evaluated(prefix: str, expected: str) -> None:
    """Timestamps are the arrival of the oldest record in UTC; quotes make text."""
    assert names(prefix).key("USA", RANGE, ARRIVAL) == f"{expected}shardId-000000000000-100-200.7.json.gz"


def test_the_time_zone_is_that_of_the_setting() -> None:
    """The hour in a key is the local one; dead letters keep their own extension."""
    named = ObjectNames(
        archive_prefix="!{timestamp:yyyy-MM-dd'T'HHZ}/",
        error_prefix=ERRORS + "!{timestamp:HH}/",
        destinations=("USA",),
        extension=".dat",
        error_extension=".json.gz",
        zone=NEW_YORK,
    )
    assert named.key("USA", RANGE, ARRIVAL) == "2026-11-20T21-0500/shardId-000000000000-100-200.7.dat"
    assert named.key(error_slot("x"), RANGE, ARRIVAL) == "errors/x/21/shardId-000000000000-100-200.7.json.gz"


def test_dead_letters_have_their_own_prefix() -> None:
    """The error type takes its place in the error prefix."""
    key = names("a/").key(error_slot("processing-failed"), RANGE, ARRIVAL)
    assert key == "errors/processing-failed/shardId-000000000000-100-200.7.json.gz"


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("!{firehose:random-string}/", "differently at each attempt"),
        ("!{timestamp:yyy}/", "not supported"),
        ("!{timestamp:DDDD}/", "not supported"),
        ("!{timestamp:YYYY}/", "not supported"),
        ("!{timestamp:z}/", "not supported"),
        ("!{timestamp:'yyyy}/", "not closed"),
        ("!{firehose:error-output-type}/", "not an expression"),
        ("!{partitionKeyFromQuery:x}/", "needs a query"),
        ("!{partitionKeyFromLambda:x}/", "needs a query"),
        ("a/!{event:}/", "does not name a field"),
        ("a/!{event:a..b}/", "does not name a field"),
        ("a/!{event:a}!{event:b}/", "where one expression ends"),
        ("a/!{event:a}-!{timestamp:H}/", "where one expression ends"),
        ("a/!{timestamp:H}!{event:a}/", "where one expression ends"),
        ("a/" + "".join(f"!{{event:f{n}}}/" for n in range(6)), "at most 5 fields"),
        ("!{event:a}/", "one name"),
        ("err!{event:a}/", "one name"),
        ("!{}/", "not an expression"),
        ("a/!{destination", "not closed"),
        ("a\n/", "can't be printed"),
        ("x" * 1_000, "bytes"),
        ("/a/", "between two slashes"),
        ("a//b", "between two slashes"),
        ("../a/", "between two slashes"),
        ("a/!{timestamp:}/", "between two slashes"),
        ("a/./", "between two slashes"),
    ],
)
def test_prefixes_that_can_not_work_are_refused(prefix: str, reason: str) -> None:
    """A prefix is refused at the start, with the reason and a remedy, and not at the first flush."""
    with pytest.raises(ConfigurationError, match=reason) as refused:
        names(prefix)
    assert refused.value.hint


def test_prefixes_that_would_give_two_objects_one_key_are_refused() -> None:
    """Two slots never share a key: the second PUT would pass for the first."""
    with pytest.raises(ConfigurationError, match="destinations apart"):
        names("a/", destinations=("USA", "International"))
    with pytest.raises(ConfigurationError, match="error types apart"):
        names("a/", errors="errors/")
    with pytest.raises(ConfigurationError, match="one name"):
        names("x/!{destination}/", "x/!{firehose:error-output-type}/", ("processing-failed", "International"))


def test_a_format_survives_its_text() -> None:
    """What is pinned with a pending flush reads back as it was written."""
    schema = Schema({"a": "int64", "b": [{"c": "string"}]}, is_declared=False)
    for kind in FormatKind:
        for codec in Codec:
            described = FlushFormat(
                ObjectFormat(kind, codec, schema if kind is not FormatKind.JSON else None),
                destinations=("USA", "Inter national"),
                slots=("USA/x", "!x"),
                fields=("a.b",),
            )
            assert FlushFormat.parse(described.text) == described


def test_a_format_that_an_older_release_pinned_is_read() -> None:
    """A flush that was prepared before an upgrade is finished after it."""
    text = '{"version":1,"compression":"none","destinations":["USA"],"slots":["USA"]}'
    assert FlushFormat.parse(text) == FlushFormat(ObjectFormat(codec=Codec.NONE), ("USA",), ("USA",), version=1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("abc", "abc"),
        ("", NO_VALUE),
        (None, NO_VALUE),
        ([1], NO_VALUE),
        ({}, NO_VALUE),
        (7, "7"),
        (-1.5, "-1.5"),
        (True, "true"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("../../errors", "..%2F..%2Ferrors"),
        ("a b", "a%20b"),
        ("50%", "50%25"),
        ("Zürich", "Z%C3%BCrich"),
        ("a\n\0", "a%0A%00"),
        ("x" * 64, "x" * 64),
    ],
)
def test_values_are_made_fit_for_a_key(value: object, expected: str) -> None:
    """No value of an event leads out of its folder or changes the form of a key."""
    assert sanitise(value) == expected


@given(st.text(), st.text())
def test_different_values_stay_different_and_bounded(first: str, second: str) -> None:
    """Two values share a partition only if they are equal; every result is one plain part of a path."""
    for value in (first, second):
        found = sanitise(value)
        assert re.fullmatch(r"[A-Za-z0-9_.~%-]{1,64}", found)
        assert found.strip(".")
        assert sanitise(value * 50 + "x") != sanitise(value * 50 + "y")
    assert (sanitise(first) == sanitise(second)) == (first == second)


def test_events_are_partitioned_by_their_fields() -> None:
    """Each combination of values has a key of its own; nested fields are named with dots."""
    prefix = "a/!{destination}/city=!{event:address.city}/n=!{event:n}/!{timestamp:yyyy}/"
    named = names(prefix)
    partitioner = Partitioner(named.fields)
    slot = partitioner.slot("USA", {"address": {"city": "Ulm/x"}, "n": 5})
    assert named.key(slot, RANGE, ARRIVAL).startswith("a/USA/city=Ulm%2Fx/n=5/2026/shardId-")
    assert partitioner.slot("USA", {"address": 7}) == f"USA/{NO_VALUE}/{NO_VALUE}"
    slots = [partitioner.slot("USA", {"address": {"city": a}, "n": b}) for a in ("1", "11") for b in (1, 11)]
    assert len(set(named.keys(dict.fromkeys(slots, ARRIVAL), RANGE))) == 4


@pytest.mark.parametrize("text", ["", "1", "{}", "[]", '{"compression":"zip"}', '{"compression":"gzip"}'])
def test_a_damaged_format_is_a_value_error(text: str) -> None:
    """Only a ValueError leaves the parser."""
    with pytest.raises(ValueError, match=r"."):
        FlushFormat.parse(text)
