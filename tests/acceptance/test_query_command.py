"""`headrace query` as a user has it, over a copy of a bucket."""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.acceptance.conftest import Shell

KEY = "archive/destination=USA/dt=2026-11-21/hour=05/shardId-000000000000-1-2.json.gz"


def test_a_query_over_a_folder_prints_rows(shell: Shell, tmp_path: Path) -> None:
    """SQL in, rows out; a mistake is one line with a hint and exit code 1."""
    path = tmp_path / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(b'{"session_id":"a"}\n{"session_id":"b"}\n'))
    sql = "SELECT destination, count(*) AS n FROM events GROUP BY ALL"
    done = shell.run("headrace", "query", sql, "--folder", str(tmp_path), "--output", "json")
    assert (done.code, done.out, done.err) == (0, '{"destination":"USA","n":2}\n', "")
    failed = shell.run("headrace", "query", "SELECT 1 FROM nowhere", "--folder", str(tmp_path))
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.startswith("error: The query failed: Catalog Error: ")
    assert '\n\nhint: The views are "events", "dead_letters", "USA"\n' in failed.err


def test_an_archive_without_objects_is_named(shell: Shell, tmp_path: Path) -> None:
    """Its events have no columns of their own: what fails for want of one is told why, what does not has no rows."""
    counted = shell.run(
        "headrace", "query", "SELECT count(*) AS n FROM events", "--folder", str(tmp_path), "--output", "json"
    )
    assert (counted.code, counted.out) == (0, '{"n":0}\n')
    place = f"There are no objects yet below `archive/destination=` in folder `{tmp_path}`"
    assert counted.err == f"{place}\n"
    failed = shell.run("headrace", "query", "SELECT n FROM events", "--folder", str(tmp_path))
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.startswith(f"error: {place}. The query failed: Binder Error: ")
    assert "flush_seconds" in failed.err
    later = shell.run("headrace", "query", "SELECT n FROM events", "--folder", str(tmp_path), "--since", "2026-11-21")
    assert "no objects of these hours below" in later.err
