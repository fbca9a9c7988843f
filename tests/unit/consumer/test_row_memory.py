"""Missing lease rows are restored from the best knowledge, and finished ones stay for as long as they are needed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.core.row_memory import RowMemory, tombstones_to_delete
from shared.hash_key import even_ranges
from shared.lease import SHARD_END, Lease, TableRows
from shared.records import Shard

_DAY = 86_400.0


def _memory() -> tuple[RowMemory, Lease]:
    memory, row = RowMemory(patience_seconds=30), Lease("s", owner="w", epoch=4, version=7, successor="v")
    memory.look(TableRows((row,)), {}, {"s"}, now=0)
    memory.look(TableRows(), {}, {"s"}, now=10)
    return memory, row


def test_who_holds_a_missing_row_restores_it_at_once() -> None:
    """The holder's row, newer than the last look, comes back without owner and successor and at a higher epoch."""
    memory, row = _memory()
    held = Lease("s", owner="w", epoch=4, version=9)
    assert memory.to_restore({"s": held}, now=10) == (Lease("s", epoch=5, version=9),)
    assert row.version < held.version


def test_a_row_that_only_its_holder_has_seen_is_restored_too() -> None:
    """Made, taken and deleted between two looks: it is put back as it was, not begun anew."""
    memory = RowMemory(patience_seconds=30)
    held = Lease("s", owner="w", epoch=1, version=3)
    memory.look(TableRows(), {"s": held}, {"s"}, now=10)
    assert memory.is_left_to_others("s", now=10)
    assert memory.to_restore({"s": held}, now=10) == (Lease("s", epoch=2, version=3),)


def test_a_row_that_was_seen_between_two_looks_is_left_to_its_holder() -> None:
    """Whoever saw it in a round takes it for missing at the next look, and does not begin the shard anew."""
    memory = RowMemory(patience_seconds=30)
    memory.note(TableRows((Lease("s", owner="w", epoch=1, version=3),)))
    memory.look(TableRows(), {}, {"s"}, now=10)
    assert memory.is_left_to_others("s", now=10)
    assert memory.to_restore({}, now=41) == (Lease("s", epoch=2, version=3),)


def test_others_leave_a_missing_row_to_its_holder_for_a_while() -> None:
    """Whoever only saw the row, or held an older one, restores what it saw, after its patience."""
    memory, _ = _memory()
    for held in ({}, {"s": Lease("s", owner="w", epoch=3, version=9)}):
        assert memory.to_restore(held, now=40) == ()
        assert memory.to_restore(held, now=41) == (Lease("s", epoch=5, version=7),)


def test_a_row_that_came_back_is_not_restored() -> None:
    """Neither a row that is there again nor one of a shard that the stream no longer lists is written."""
    memory, row = _memory()
    memory.look(TableRows((row,)), {}, {"s"}, now=20)
    assert memory.to_restore({}, now=100) == ()
    memory.look(TableRows(), {}, set(), now=101)
    assert memory.to_restore({}, now=200) == ()
    assert not memory.is_left_to_others("s", now=200)


def test_a_damaged_row_is_left_for_a_while_to_whoever_may_know_it() -> None:
    """A worker that has just come would begin the shard anew, while its holder could put the row back as it was."""
    memory = RowMemory(patience_seconds=30)
    memory.look(TableRows(damaged=("s",)), {}, {"s"}, now=10)
    memory.look(TableRows(damaged=("s",)), {}, {"s"}, now=20)
    assert memory.is_left_to_others("s", now=40)
    assert not memory.is_left_to_others("s", now=41)
    memory.look(TableRows(), {}, {"s"}, now=42)
    assert not memory.is_left_to_others("s", now=42), "it is gone, as if there had never been one"


@pytest.mark.parametrize(
    ("age_seconds", "listed", "is_deleted"),
    [(2 * _DAY, (), False), (2 * _DAY + 1, (), True), (9 * _DAY, ("s",), False)],
)
def test_a_tombstone_goes_a_day_after_retention(age_seconds: float, listed: tuple[str, ...], is_deleted: bool) -> None:
    """With a day's retention a finished row is deleted after more than two, unless the stream still lists it."""
    row = Lease("s", checkpoint=SHARD_END, finished_at=0.0)
    shards = [Shard(name) for name in listed]
    found = tombstones_to_delete({"s": row}, shards, age_seconds, retention_seconds=_DAY)
    assert found == ((row,) if is_deleted else ())


def test_a_tombstone_waits_for_rows_of_its_children() -> None:
    """As long as a listed child has no row, it could still inherit the marks."""
    row = Lease("s", checkpoint=SHARD_END, finished_at=0.0, children=("c",))
    child = [Shard("c")]
    assert tombstones_to_delete({"s": row}, child, 9 * _DAY, _DAY) == ()
    assert tombstones_to_delete({"s": row, "c": Lease("c")}, child, 9 * _DAY, _DAY) == (row,)


def test_a_tombstone_waits_for_rows_of_whoever_has_its_hash_keys() -> None:
    """Its children were trimmed before they had rows: what comes after them inherits from it, by its hash keys.

    Without its marks, what a producer sent again was stored twice (simulated seed 233, with one more call at start).
    """
    lower, upper = even_ranges(2)
    row = Lease("s1", checkpoint=SHARD_END, finished_at=0.0, children=("s3",), hash_key_range=lower)
    shards = [Shard("s6", lower, parent_shard_id="s5"), Shard("s7", upper, parent_shard_id="s5")]
    others = {"s1": row, "s7": Lease("s7", hash_key_range=upper)}
    assert tombstones_to_delete(others, shards, 9 * _DAY, _DAY) == ()
    assert tombstones_to_delete({**others, "s6": Lease("s6")}, shards, 9 * _DAY, _DAY) == (row,)
    del others["s7"]
    assert tombstones_to_delete({**others, "s6": Lease("s6")}, shards, 9 * _DAY, _DAY) == (row,)
    unknown = replace(row, hash_key_range=None)  # an imported row may not tell
    assert tombstones_to_delete({"s1": unknown, "s6": Lease("s6")}, shards, 9 * _DAY, _DAY) == ()
