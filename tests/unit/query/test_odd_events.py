"""One event that SQL can't read as it is must not make the whole archive unreadable."""

from __future__ import annotations

import gzip
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from infra.query.copies import Selection, list_folder, select
from infra.query.database import Database
from shared.errors import QueryError

FOLDER = "archive/destination=USA/dt=2026-11-21/hour=05/"
GOOD = b'{"n":1,"s":{"a":1}}\n'


def answer(folder: Path, sql: str, objects: dict[str, bytes]) -> list[tuple[Any, ...]]:
    """Return the rows of a query over some objects of the archive."""
    (folder / FOLDER).mkdir(parents=True)
    for name, body in objects.items():
        (folder / FOLDER / name).write_bytes(body)
    found = select(list_folder(folder, ("archive/",)), Selection("archive/", "errors/"))
    with closing(Database(folder)) as database:
        database.show(found.archived, found.dead_letters)
        return list(database.run(sql)[1])


@pytest.mark.parametrize(
    ("odd", "sql", "expected"),
    [
        pytest.param(b'{"n":7,"n":8}\n', "SELECT n FROM events ORDER BY n", [(1,), (1,), (8,)], id="twice"),
        pytest.param(
            b'{"s":{"a":7,"\\u0061":8}}\n', "SELECT s.a FROM events ORDER BY 1", [(1,), (1,), (8,)], id="twice inside"
        ),
        pytest.param(b'{"s":[{"b":7,"b":8}]}\n', "SELECT count(n) FROM events", [(2,)], id="twice in a list"),
        pytest.param(
            b'{"s":{"A":7}}\n', "SELECT s.a FROM events ORDER BY 1", [(1,), (1,), (7,)], id="other case than elsewhere"
        ),
        pytest.param(
            b'{"s":{"a":7,"A":8}}\n',
            "SELECT s.a, s.A_1 FROM events ORDER BY 1",
            [(1, None), (1, None), (7, 8)],
            id="differing in case",
        ),
        pytest.param(
            b'{"":7}\n', 'SELECT n, "_" FROM events ORDER BY n', [(1, None), (1, None), (None, 7)], id="empty"
        ),
        pytest.param(
            b'{"s":{"a":7,"a":8,"k\\u0000":1,"":2}, "x": 1e300}\n{"":1,"":2}\n',
            "SELECT count(*), count(n) FROM events",
            [(4, 2)],
            id="several",
        ),
    ],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_an_odd_event_is_read_and_so_are_the_others(
    tmp_path: Path, odd: bytes, sql: str, expected: list[tuple[Any, ...]], compress: Any
) -> None:
    """Whether it comes first or last, in the same object or another one; of a name that comes twice the last counts."""
    assert answer(tmp_path, sql, {"a.json": compress(odd + GOOD), "b.json": compress(GOOD)}) == expected


def test_an_odd_event_does_not_hide_a_damaged_object(tmp_path: Path) -> None:
    """Nothing of it would be known otherwise."""
    with pytest.raises(QueryError, match=r"object `.*b\.json`"):
        answer(tmp_path, "FROM events", {"a.json": b'{"n":1,"n":2}\n' + GOOD, "b.json": GOOD + b'{"n":\n'})
    (tmp_path / "other").mkdir()
    whole = gzip.compress(GOOD * 50)
    with pytest.raises(QueryError, match=r"object `.*b\.json`"):
        answer(tmp_path / "other", "FROM events", {"a.json": b'{"n":1,"n":2}\n', "b.json": whole[: len(whole) // 2]})


def test_healthy_maps_stay_maps(tmp_path: Path) -> None:
    """Only where an event can't be read otherwise, names of nested objects become columns."""
    events = b"".join(orjson.dumps({"s": {f"k{at}": at}}) + b"\n" for at in range(400))
    assert answer(tmp_path, "SELECT s['k7'] FROM events WHERE s['k7'] IS NOT NULL", {"a.json": events}) == [(7,)]


def test_an_event_of_many_names_leaves_the_others_their_columns(tmp_path: Path) -> None:
    """Where names come seldom on average, DuckDB makes one column of all events."""
    many = orjson.dumps({f"k{at}": at for at in range(1_000)}) + b"\n"
    sql = "SELECT count(n), sum(k999) FROM events"
    assert answer(tmp_path, sql, {"a.json": many + GOOD * 30, "b.json": GOOD * 30}) == [(60, 999)]
