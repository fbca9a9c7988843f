"""SQL over copies of archived objects, and how rows are written."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import random
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from consumer.core.enrichment import Enricher
from infra.query.copies import Download, Found, Selection, list_folder, select
from infra.query.database import Database
from infra.query.rows import TABLE_ROWS_MAX, csv_lines, json_lines, table_lines
from shared.errors import QueryError, SourceError, ThrottledError
from shared.event import decode_event
from shared.limits import MIB
from shared.ports import StoredObject
from tests.support.fake_objects import FakeObjects

SELECTION = Selection("archive/", "errors/")


def lines(*events: dict[str, Any]) -> bytes:
    """Return newline-delimited JSON."""
    return b"".join(orjson.dumps(each) + b"\n" for each in events)


def keep(folder: Path, key: str, body: bytes) -> None:
    """Write a copy of an object."""
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def found_in(folder: Path) -> Found:
    """Return what a copy of a bucket holds."""
    return select(list_folder(folder, ("archive/", "errors/")), SELECTION)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """Open a database over an archive with one object of each format, and one dead letter."""
    keep(tmp_path, "archive/destination=USA/dt=2026-11-21/hour=05/a.json.gz", gzip.compress(lines({"n": 1, "s": "a"})))
    keep(
        tmp_path,
        "archive/destination=USA/dt=2026-11-21/hour=06/b.json.zst",
        zstandard.compress(lines({"n": 2, "s": "b", "list": [{"x": 1}]})),
    )
    keep(tmp_path, "archive/destination=Côte d'Ivoire/dt=2026-11-21/hour=05/c.json", lines({"n": 3, "s": 'c"\x1b[2J'}))
    text = io.StringIO()
    csv.writer(text).writerows([["n", "s"], [4, "d,e"]])
    keep(tmp_path, "archive/destination=International/dt=2026-11-21/hour=05/d.csv", text.getvalue().encode())
    parquet = io.BytesIO()
    pq.write_table(pa.table({"n": [5], "s": ["f"]}), parquet)
    keep(tmp_path, "archive/destination=International/dt=2026-11-21/hour=05/e.parquet", parquet.getvalue())
    keep(tmp_path, "errors/processing-failed/dt=2026-11-21/hour=05/f.json", lines({"errorCode": "MalformedEvent"}))
    opened = Database(tmp_path)
    found = found_in(tmp_path)
    opened.show(found.archived, found.dead_letters)
    yield opened
    opened.close()


def rows_of(database: Database, sql: str) -> list[tuple[Any, ...]]:
    """Run a query to its end."""
    return list(database.run(sql)[1])


def test_every_format_is_in_the_events(database: Database) -> None:
    """One view shows all objects, whatever they were written as, with their destination."""
    rows = rows_of(database, "SELECT n, destination FROM events ORDER BY n")
    assert rows == [(1, "USA"), (2, "USA"), (3, "Côte d'Ivoire"), (4, "International"), (5, "International")]


def test_each_destination_and_the_dead_letters_have_a_view(database: Database) -> None:
    """A destination is a view of its own name, however strange."""
    assert rows_of(database, 'SELECT sum(n) FROM "USA"') == [(3,)]
    assert rows_of(database, 'SELECT count(*) FROM "Côte d\'Ivoire"') == [(1,)]
    assert rows_of(database, 'SELECT "errorCode" FROM dead_letters') == [("MalformedEvent",)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY (SELECT 1) TO '/tmp/headrace-query-test.csv'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ],
)
def test_a_query_reaches_nothing_but_the_copies(database: Database, sql: str) -> None:
    """SQL that somebody pasted can't read other files, write any, or open the door again."""
    with pytest.raises(QueryError):
        rows_of(database, sql)


@pytest.mark.parametrize("sql", ["", " ", "-- nothing", ";"])
def test_a_query_without_a_statement_is_told_as_such(database: Database, sql: str) -> None:
    """An empty text, e.g., of a variable that is not set, is a mistake of the query, not a defect."""
    with pytest.raises(QueryError, match="no statement"):
        rows_of(database, sql)


def test_a_mistake_in_the_query_names_the_views(database: Database) -> None:
    """The message is one line, and the hint says what there is."""
    with pytest.raises(QueryError) as failed:
        rows_of(database, "SELECT * FROM sales")
    assert re.fullmatch(r"The query failed: [^\n]+", str(failed.value))
    assert '"events", "dead_letters"' in failed.value.hint
    assert '"USA"' in failed.value.hint


def test_objects_under_prefixes_of_other_partitions_are_read_together(tmp_path: Path) -> None:
    """The prefix of an archive may be changed; partitions that a key does not name are NULL."""
    keep(tmp_path, "archive/destination=USA/dt=2026-11-21/hour=05/a.json", lines({"n": 1}))
    keep(tmp_path, "archive/destination=USA/city=Rome/dt=2026-11-22/b.json", lines({"n": 2}))
    keep(tmp_path, "archive/2026/11/23/c.json", lines({"n": 3}))
    with closing(Database(tmp_path)) as database:
        database.show(found_in(tmp_path).archived, ())
        _, rows = database.run("SELECT n, destination, city, dt::VARCHAR, hour FROM events ORDER BY n")
        assert list(rows) == [
            (1, "USA", None, "2026-11-21", "05"),
            (2, "USA", "Rome", "2026-11-22", None),
            (3, None, None, None, None),
        ]


@pytest.mark.parametrize("name_of_folder", ["copy", "copy [1] of*?", "copy's"])
def test_characters_of_patterns_in_a_key_or_folder_stand_for_themselves(name_of_folder: str, tmp_path: Path) -> None:
    """A pattern would read other objects in the place of one, or some of them twice."""
    folder = tmp_path / name_of_folder
    folders = ("a*b", "aXb", "a?c", "aYc", "[ab]", "a")
    for number, name in enumerate(folders):
        keep(folder, f"archive/{name}/a.json", lines({"n": number}))
    with closing(Database(folder)) as database:
        database.show(found_in(folder).archived, ())
        _, rows = database.run("SELECT n FROM events ORDER BY n")
        assert [n for (n,) in rows] == list(range(len(folders)))


def test_destinations_whose_names_differ_in_case_only_share_a_view(tmp_path: Path) -> None:
    """SQL does not tell them apart, and one that is called like a fixed view has none of its own."""
    for number, name in enumerate(("USA", "usa", "Events")):
        keep(tmp_path, f"archive/destination={name}/a.json", lines({"n": number}))
    with closing(Database(tmp_path)) as database:
        database.show(found_in(tmp_path).archived, ())
        assert database.views == ("events", "dead_letters", "USA")
        for sql, count in (("SELECT count(*) FROM usa", 2), ("SELECT count(*) FROM EVENTS", 3)):
            assert next(database.run(sql)[1]) == (count,)


def test_an_empty_archive_answers_with_no_rows(tmp_path: Path) -> None:
    """A scheduled count of dead letters finds zero, not an error."""
    database = Database(tmp_path)
    database.show((), ())
    assert rows_of(database, "SELECT count(*) FROM dead_letters") == [(0,)]
    assert rows_of(database, "SELECT session_id FROM events") == []
    database.close()


@pytest.mark.parametrize(
    "body",
    [
        b"PAR1 and no parquet",
        gzip.compress(lines({"n": 1}) * 1_000, mtime=0)[:-20],
        gzip.compress(lines({"n": 1}), mtime=0) + b"rubbish behind its end",
        lines({"n": 1}) + b"{no JSON}\n",
        b"n,s\r\n1,caf\xe9\r\n",
    ],
    ids=["parquet", "cut off", "followed", "no JSON", "Latin-1"],
)
def test_an_object_that_is_damaged_is_named_in_one_line(body: bytes, tmp_path: Path) -> None:
    """Among many objects, the damaged one is told by its key, not by a copy's path that is gone afterwards."""
    for number in range(3):
        keep(tmp_path, f"archive/destination=USA/{number}.json", lines({"n": number}))
    keep(tmp_path, "archive/destination=USA/bad.json", body)
    found = found_in(tmp_path)
    database = Database(tmp_path)
    with pytest.raises(QueryError) as failed:
        database.show(found.archived, found.dead_letters)
    database.close()
    assert str(failed.value).startswith("The archive can't be read: object `archive/destination=USA/bad.json`: ")
    assert str(tmp_path) not in str(failed.value)
    assert "--since" in failed.value.hint


def test_a_folder_that_a_console_made_is_left_out() -> None:
    """S3's console makes an empty object with a slash at its end for each folder that somebody adds."""
    folder = StoredObject("archive/destination=USA/dt=2026-11-21/", 0)
    assert select([folder], SELECTION) == Found((), (), 0)
    with pytest.raises(SourceError, match="can't be kept"):
        select([StoredObject(folder.key, 1)], SELECTION)


def test_one_event_that_grows_does_not_hide_the_others(tmp_path: Path) -> None:
    """An event that has a field of ours is written anew, and its numbers with all of their digits."""
    data = b'{"source":0,"event_id":"big","a":[' + b"1e15," * 1_000_000 + b"0]}"
    columns = ([data], [decode_event(data)], ["1"], [0])
    found, failures = Enricher("s", "shardId-0").enrich_all(columns, b"2026-11-21T05:00:00.000000Z")
    assert not failures
    (line,) = found.each()
    assert len(line) > 17 * MIB
    keep(tmp_path, "archive/destination=USA/dt=2026-11-21/hour=05/a.json", line + b"\n" + lines({"event_id": "small"}))
    text = io.StringIO()
    csv.writer(text).writerows([["event_id", "a"], ["cell", orjson.dumps(orjson.loads(line)["a"]).decode()]])
    keep(tmp_path, "archive/destination=USA/dt=2026-11-21/hour=05/b.csv", text.getvalue().encode())
    with closing(Database(tmp_path)) as database:
        found_here = found_in(tmp_path)
        database.show(found_here.archived, found_here.dead_letters)
        _, rows = database.run("SELECT event_id FROM events ORDER BY event_id")
        assert list(rows) == [("big",), ("cell",), ("small",)]


def test_json_lines_hold_instants_and_large_numbers(database: Database) -> None:
    """What JSON has no type for is text, and a sum of more than 64 bits is still a number."""
    names, rows = database.run("SELECT 170141183460469231731687303715884105727 AS huge, DATE '2026-11-21' AS day")
    assert [orjson.loads(line)["day"] for line in json_lines(names, rows)] == ["2026-11-21"]
    names, rows = database.run("SELECT TIMESTAMPTZ '2026-11-21 05:00:00Z' AS at, 1 AS n")
    assert [orjson.loads(line)["n"] for line in json_lines(names, rows)] == [1]


def test_a_table_is_aligned_and_lets_no_control_character_through(database: Database) -> None:
    """Numbers stand to the right; what an event holds can't move a terminal's cursor."""
    names, rows = database.run('SELECT s, n * 1000 AS "thousands" FROM events WHERE n IN (1, 3) ORDER BY n')
    assert list(table_lines(names, rows)) == [
        "s       thousands",
        "------  ---------",
        "a            1000",
        'c"\N{REPLACEMENT CHARACTER}[2J       3000',
    ]


def test_a_long_table_says_that_it_was_cut(database: Database) -> None:
    """A table ends at its limit and names the way to see the rest."""
    names, rows = database.run("SELECT * FROM range(1001)")
    printed = list(table_lines(names, rows))
    assert len(printed) == 2 + TABLE_ROWS_MAX + 1
    assert printed[-1].startswith("... more than 1,000 rows")


def test_csv_lines_can_be_read_back(database: Database) -> None:
    """Commas, quotes and nested values survive."""
    names, rows = database.run("SELECT s, list FROM events WHERE n IN (2, 4) ORDER BY n")
    read = list(csv.reader(csv_lines(names, rows)))
    assert read == [["s", "list"], ["b", '[{"x": 1}]'], ["d,e", ""]]


async def test_a_download_copies_every_object_under_its_key(tmp_path: Path) -> None:
    """What was fetched is what is stored, also after the store was throttled."""
    objects = FakeObjects()
    keys = [f"archive/destination=USA/{number}.json" for number in range(20)]
    for number, key in enumerate(keys):
        await objects.put_object(key, lines({"n": number}), content_type="application/x-ndjson")
    refusals = iter([True, False, True])
    read = objects.get_object

    async def get_object(key: str) -> bytes:
        if next(refusals, False):
            raise ThrottledError("SlowDown")
        return await read(key)

    objects.get_object = get_object  # type: ignore[method-assign]  # a store that is busy now and then

    async def no_pause(_seconds: float) -> None:
        await asyncio.sleep(0)

    download = Download(objects, random=random.Random(1), sleep=no_pause, folder=tmp_path)
    found = select(await download.list_prefixes(("archive/", "errors/", "archive/destination")), SELECTION)
    await download.fetch(found.all)
    assert sorted(each.key for each in found.archived) == sorted(keys)
    assert {key: (tmp_path / key).read_bytes() for key in keys} == {
        key: stored.body for key, stored in objects.objects.items()
    }


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    """A typing mistake is told."""
    with pytest.raises(SourceError, match="is no folder"):
        list_folder(tmp_path / "nowhere", ("archive/",))
