"""What the archive writes is what the audit and `headrace query` read, whatever the format and the extension."""

from __future__ import annotations

import asyncio
from contextlib import closing
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from infra.audit.object_events import events_of
from infra.query.content import content_of
from infra.query.copies import Found, Selection, list_folder, select
from infra.query.database import Database
from shared.errors import SourceError
from shared.settings import ArchiveFormat, Compression
from tests.unit.consumer.small_cloud import WALL, SmallCloud

EVENTS: Final = 12
ZONE: Final = ZoneInfo("Asia/Kolkata")  # half an hour beside UTC's hours
TEXTS: Final = ("plain", "", 'a "quoted", line\nand another', "[not a list", "Côte d'Ivoire", "{", "007", "null")


def archive_of(folder: Path, **settings: Any) -> SmallCloud:
    """Let a worker archive events, and lay a copy of the bucket into a folder."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put(
            *(
                {
                    "session_id": f"s{n % 3}",
                    "n": n,
                    "text": TEXTS[n % len(TEXTS)],
                    "country": "USA" if n % 2 else "Peru",
                }
                for n in range(EVENTS)
            )
        )
        await cloud.put({"session_id": "s", "browse_history": 7})
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, archive_time_zone="Asia/Kolkata", **settings))
        await asyncio.sleep(4)
        stop.set()
        await task

    cloud.run(story)
    for key, stored in cloud.objects.objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stored.body)
    return cloud


def found_in(folder: Path, since: float | None = None) -> Found:
    """Return what a query finds of arrivals from `since` on, seconds since the epoch."""
    begin = None if since is None else datetime.fromtimestamp(since, UTC)
    return select(
        list_folder(folder, ("archive/", "errors/")), Selection("archive/", "errors/", since=begin, zone=ZONE)
    )


@pytest.mark.parametrize("extension", ["", ".log-2"])
@pytest.mark.parametrize(
    ("archive_format", "compression"),
    [
        *((each, codec) for each in ("json", "csv") for codec in ("none", "gzip", "zstd")),
        *(("parquet", codec) for codec in ("none", "snappy", "gzip", "zstd")),
    ],
)
def test_every_format_is_read_back(archive_format: str, compression: str, extension: str, tmp_path: Path) -> None:
    """Each event comes out of the audit's reader and of the query as it went in; dead letters, too."""
    cloud = archive_of(
        tmp_path,
        archive_format=ArchiveFormat(archive_format),
        compression=Compression(compression),
        file_extension=extension,
    )
    expected = [(n, TEXTS[n % len(TEXTS)]) for n in range(EVENTS)]
    keys = [key for key in cloud.objects.objects if key.startswith("archive/")]
    events = list(chain.from_iterable(events_of(key, cloud.objects.objects[key].body) for key in keys))
    assert sorted((int(each["n"]), str(each["text"])) for each in events) == expected
    found = found_in(tmp_path)
    assert found.unknown == 0
    with closing(Database(tmp_path)) as database:
        database.show(found.archived, found.dead_letters)
        rows = list(database.run("SELECT n::INT, coalesce(text, ''), destination FROM events ORDER BY 1")[1])
        letters = list(database.run('SELECT "errorCode" FROM dead_letters')[1])
        by_view = list(database.run('SELECT count(*) FROM "USA"')[1])
    assert rows == [(n, text, "USA" if n % 2 else "International") for n, text in expected]
    assert len(letters) == 1
    assert by_view == [(EVENTS // 2,)]


def test_a_selection_goes_by_hours_of_the_zone(tmp_path: Path) -> None:
    """Keys in the archive's own time zone are taken for the instants they mean."""
    archive_of(tmp_path)
    now = found_in(tmp_path, WALL)
    assert len(now.archived) == 2
    assert {(each.begins, each.ends) for each in now.archived} == {
        (datetime.fromtimestamp(begin, UTC), datetime.fromtimestamp(begin + 3600, UTC))
        for begin in [(WALL + 1800) // 3600 * 3600 - 1800]
    }
    assert found_in(tmp_path, WALL + 2 * 3600).all == ()


@pytest.mark.parametrize("body", [b"\x1f\x8b but no gzip", b"\x28\xb5\x2f\xfd\xff\xff and no zstd"])
def test_a_damaged_file_is_named(body: bytes, tmp_path: Path) -> None:
    """A file that breaks off or never was what it begins as is an error that names it."""
    path = tmp_path / "a.json"
    path.write_bytes(body)
    with pytest.raises(SourceError, match=r"a\.json` is not readable as"):
        content_of(path, "archive/a.json")
