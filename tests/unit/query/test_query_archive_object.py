"""What a key says about its object, and which objects a selection takes."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from infra.query.archive_object import ArchiveObject
from infra.query.copies import Selection, select
from shared.errors import ConfigurationError, SourceError
from shared.ports import StoredObject

USA = "archive/destination=USA/dt=2026-11-21/hour=05/shardId-000000000000-1-2.json.gz"
LETTER = "errors/processing-failed/dt=2026-11-21/hour=05/shardId-000000000000-1-2.json.gz"


def at(text: str) -> datetime:
    """Return an instant of the day of the keys."""
    return datetime.fromisoformat(f"2026-11-21T{text}").replace(tzinfo=UTC)


def test_a_default_key_tells_everything() -> None:
    """Destination and hour are read from a key of the default prefix."""
    assert ArchiveObject.parse(USA, 7) == ArchiveObject(USA, 7, "USA", at("05:00"), at("06:00"))


def test_hours_are_those_of_the_time_zone() -> None:
    """The same key is another hour elsewhere, and the hour that a clock set back repeats is two hours long."""
    berlin = ZoneInfo("Europe/Berlin")
    parsed = ArchiveObject.parse(USA, 7, berlin)
    assert parsed is not None
    assert (parsed.begins, parsed.ends) == (at("04:00"), at("05:00"))
    repeated = ArchiveObject.parse("archive/dt=2026-10-25/hour=02/x.json", 1, berlin)
    assert repeated is not None
    assert repeated.begins == datetime(2026, 10, 25, 0, tzinfo=UTC)
    assert repeated.ends == datetime(2026, 10, 25, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    "key", ["x/a.json", "x/a.json.zst", "x/a.csv.gz", "x/a.parquet", "x/shardId-000000000001-17.3-29.0.g1.log-2"]
)
def test_an_object_is_known_by_its_extension_or_its_name(key: str) -> None:
    """Every extension of ours is known, and any other behind a shard and its positions; such a key tells no hour."""
    assert ArchiveObject.parse(key, 1) == ArchiveObject(key, 1, None, None, None)


def test_an_unknown_extension_is_no_object_of_the_archive() -> None:
    """What the archive does not write is left to its owner."""
    assert ArchiveObject.parse("archive/notes.txt", 1) is None


@pytest.mark.parametrize("key", ["archive/../x.json", "/etc/x.json", "a//b.json", "a/\0.json", "./x.json"])
def test_a_key_that_leads_out_of_a_folder_is_refused(key: str) -> None:
    """A hostile key never becomes a path."""
    with pytest.raises(SourceError):
        ArchiveObject.parse(key, 1)


@pytest.mark.parametrize("day", ["2026-13-01", "today", "2026-11-21T"])
def test_a_day_that_is_none_tells_no_hour(day: str) -> None:
    """Only a real day and hour narrow a selection."""
    parsed = ArchiveObject.parse(f"archive/dt={day}/hour=05/x.json", 1)
    assert parsed is not None
    assert parsed.begins is None


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        ("06:14", None, True),  # a flush that was opened at 05:59 may be open until 06:14
        ("06:15", None, False),
        (None, "05:00", False),
        (None, "05:01", True),
        ("04:00", "05:30", True),
    ],
)
def test_hours_are_left_out_only_where_nothing_can_be_in_them(
    since: str | None, until: str | None, *, expected: bool
) -> None:
    """An object is named after its oldest record, so that younger ones reach into the next hour."""
    parsed = ArchiveObject.parse(USA, 1)
    assert parsed is not None
    assert parsed.may_hold(since and at(since), until and at(until)) is expected  # type: ignore[arg-type]  # "" is not passed


def test_dead_letters_are_told_from_events_even_below_one_prefix() -> None:
    """With errors below the archive's prefix they are still not events."""
    stored = [StoredObject(USA, 5), StoredObject("archive/" + LETTER, 3), StoredObject("archive/notes.txt", 1)]
    found = select(stored, Selection("archive/", "archive/errors/"))
    assert [each.key for each in found.archived] == [USA]
    assert [each.key for each in found.dead_letters] == ["archive/" + LETTER]
    assert found.unknown == 1


def test_an_archive_without_a_prefix_holds_everything_but_the_errors() -> None:
    """A prefix that begins with an expression has no constant beginning."""
    found = select([StoredObject(LETTER, 3), StoredObject("destination=USA/x.json", 5)], Selection("", "errors/"))
    assert [each.key for each in found.archived] == ["destination=USA/x.json"]
    assert [each.key for each in found.dead_letters] == [LETTER]


def test_more_bytes_than_allowed_are_refused_before_any_is_fetched() -> None:
    """A query must not fill the disk unasked."""
    with pytest.raises(ConfigurationError, match="2 objects hold 8 bytes; the limit is 7"):
        select([StoredObject(USA, 5), StoredObject(LETTER, 3)], Selection("archive/", "errors/", bytes_max=7))
