"""Object keys: prefix expressions, uniqueness, bounds; and the pinned format of a flush."""

from __future__ import annotations

import pytest

from consumer.core.flush_format import FlushFormat
from consumer.core.object_key import ObjectNames, ObjectRange, error_slot
from shared.errors import ConfigurationError
from shared.records import Position

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
    ],
)
def test_prefix_expressions_are_evaluated(prefix: str, expected: str) -> None:
    """Timestamps are the arrival of the oldest record in UTC; quotes make text."""
    assert names(prefix).key("USA", RANGE, ARRIVAL) == f"{expected}shardId-000000000000-100-200.7.json.gz"


def test_dead_letters_have_their_own_prefix() -> None:
    """The error type takes its place in the error prefix."""
    key = names("a/").key(error_slot("processing-failed"), RANGE, ARRIVAL)
    assert key == "errors/processing-failed/shardId-000000000000-100-200.7.json.gz"


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("!{firehose:random-string}/", "differently at each attempt"),
        ("!{timestamp:YYYY}/", "not supported"),
        ("!{timestamp:yyy}/", "not supported"),
        ("!{timestamp:DDD}/", "not supported"),
        ("!{timestamp:'yyyy}/", "not closed"),
        ("!{firehose:error-output-type}/", "not an expression"),
        ("!{partitionKeyFromQuery:x}/", "not an expression"),
        ("!{}/", "not an expression"),
        ("a/!{destination", "not closed"),
        ("a\n/", "can't be printed"),
        ("x" * 1_000, "bytes"),
    ],
)
def test_prefixes_that_can_not_work_are_refused(prefix: str, reason: str) -> None:
    """A prefix is refused at the start, with the reason, and not at the first flush."""
    with pytest.raises(ConfigurationError, match=reason):
        names(prefix)


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
    described = FlushFormat(is_compressed=True, destinations=("USA", "Inter national"), slots=("USA", "!x"))
    assert FlushFormat.parse(described.text) == described


@pytest.mark.parametrize("text", ["", "1", "{}", "[]", '{"compression":"zip"}', '{"compression":"gzip"}'])
def test_a_damaged_format_is_a_value_error(text: str) -> None:
    """Only a ValueError leaves the parser."""
    with pytest.raises(ValueError, match=r"."):
        FlushFormat.parse(text)
