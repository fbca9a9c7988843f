"""A key tells the series of its object: values of the prefix count, times and positions do not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from consumer.core.object_key import ObjectNames, ObjectRange
from consumer.core.partition import SLOT_SEPARATOR, Partitioner
from infra.audit.core.series import Series
from shared.records import Position

_TIMES = (
    0.0,
    datetime(2026, 1, 2, 3, 4, 5, 6, UTC).timestamp(),
    datetime(2027, 12, 31, 23, 59, tzinfo=UTC).timestamp(),
)
_NAME = "shardId-000000000001-100-200.7.g2.json.gz"


def _keys(prefix: str, destination: str, value: str = "") -> list[str]:
    """Return the keys that one slot gets in the course of time."""
    names = ObjectNames(
        archive_prefix=prefix,
        error_prefix="errors/!{firehose:error-output-type}/",
        destinations=["USA", "International", "U.S.-1"],
        extension=".csv",
    )
    event = {"value": value, "other": {"value": value[::-1]}}
    slot = Partitioner(names.fields).slot(destination, event) if names.fields else destination
    assert slot.split(SLOT_SEPARATOR)[0] == destination
    covered = ObjectRange("shardId-000000000000", Position(7, 1), Position(9))
    return [names.key(slot, covered, when) for when in _TIMES]


@pytest.mark.parametrize(
    "prefix",
    [
        "archive/destination=!{destination}/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/",
        "archive/!{timestamp:yyyy/MM/dd/HH}/!{destination}/",
        "archive/!{destination}-!{timestamp:yyyy-MM-dd}-",
        "archive/!{timestamp:EEE, d MMM ''yy 'at' h a Z}/!{destination}!{timestamp:SSS}/",
        "archive.d/(!{destination})/v=!{event:value},w=!{event:other.value}/!{timestamp:DDD}/",
        "archive/!{destination}/!{event:value}/!{timestamp:MMMM}/!{event:value}/",
    ],
)
def test_a_series_is_what_the_slot_is(prefix: str) -> None:
    """Keys of one slot are one series at all times; keys of different slots never are."""
    series = Series(prefix)
    seen: dict[str, tuple[str, str]] = {}
    for destination in ("USA", "International", "U.S.-1"):
        for value in ("a", "b", "10", "a/b", "!{x}", "", "ü" * 100) if "{event" in prefix else ("",):
            found = {series.of(key) for key in _keys(prefix, destination, value)}
            assert len(found) == 1
            assert seen.setdefault(found.pop(), (destination, value)) == (destination, value)


def test_an_object_of_another_prefix_is_in_the_series_of_its_folder() -> None:
    """What was named before the prefix was changed: two objects of one folder are one series, others are not."""
    series = Series("archive/!{destination}/!{timestamp:HH}/")
    keys = [f"archive/{folder}{_NAME}" for folder in ("USA/x/", "USA/y/", "")]
    assert len({series.of(key) for key in keys}) == 3
    assert series.of(keys[0]) == series.of(keys[0].replace("-100-", "-150-"))
    assert series.of(f"archive/USA/01/{_NAME}") == series.of(f"archive/USA/02/{_NAME}")
    assert series.of(f"archive/USA/x/{_NAME}") != series.of(f"archive/USA/01/{_NAME}")
