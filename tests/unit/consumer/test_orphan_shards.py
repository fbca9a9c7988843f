"""A shard whose parent was trimmed before it ever had a row goes on where the rows of its hash keys ended."""

from __future__ import annotations

import random
from dataclasses import replace

from consumer.core.range_index import RangeIndex
from consumer.core.shard_graph import is_paused, rows_to_create
from infra.control.seek_plan import SeekTarget, followed_later, row_for
from shared.hash_key import FULL_RANGE, HashKeyRange, even_ranges
from shared.lease import AT_LATEST, AT_TRIM_HORIZON, SHARD_END, Checkpoint, CheckpointKind, Lease
from shared.records import Shard

_LOW, _HIGH = even_ranges(2)
_QUARTER = even_ranges(4)[0]
# s0 was split into s1, which is gone without a row, and s2; s3 is the child of s1.
_GRANDPARENT = Lease("s0", checkpoint=SHARD_END, hash_key_range=FULL_RANGE, marks={"a.1": 7}, closed_until=50.0)
_ORPHAN = Shard("s3", _QUARTER, parent_shard_id="s1")


def test_an_orphan_inherits_from_the_last_row_of_its_hash_keys() -> None:
    """Marks, generation, closed hours and the pause of its grandparent are its own."""
    grandparent = replace(_GRANDPARENT, generation=2, is_paused=True)
    (row,) = rows_to_create([_ORPHAN], {"s0": grandparent})
    assert row.checkpoint == AT_TRIM_HORIZON
    assert (row.marks, row.generation, row.closed_until) == ({"a.1": 7}, 2, 50.0)
    assert row.parents == ("s1", "s0")
    assert is_paused(row, {"s0": grandparent, "s3": row})


def test_an_orphan_waits_until_the_rows_before_it_are_finished() -> None:
    """Its marks would be too old, and its events overtake older ones."""
    assert rows_to_create([_ORPHAN], {"s0": replace(_GRANDPARENT, checkpoint=AT_TRIM_HORIZON)}) == ()


def test_an_orphan_waits_for_a_shard_before_it_that_has_no_row_yet() -> None:
    """Between the row that is being read and the shard that is gone there may be others (simulated seed 455)."""
    unread = replace(_GRANDPARENT, checkpoint=AT_TRIM_HORIZON)
    child = Shard("s1", FULL_RANGE, parent_shard_id="s0", ending_sequence_number=5)
    orphan = Shard("s4", _QUARTER, parent_shard_id="s2")
    assert rows_to_create([child, orphan], {"s0": unread}) == ()
    (row,) = rows_to_create([child, orphan], {"s0": _GRANDPARENT})
    assert row.shard_id == "s1"


def test_an_orphan_of_a_group_at_latest_is_read_whole() -> None:
    """What is left of a shard whose ancestor was followed comes after what was read."""
    (row,) = rows_to_create([_ORPHAN], {"s0": _GRANDPARENT}, AT_LATEST)
    assert row.checkpoint == AT_TRIM_HORIZON


def test_an_orphan_goes_where_its_grandparent_was_sent() -> None:
    """After a seek to a time the shard begins there, though the one between has never been seen."""
    (row,) = rows_to_create([_ORPHAN], {"s0": replace(_GRANDPARENT, start_timestamp=9.0)})
    assert (row.checkpoint.kind, row.start_timestamp) == (CheckpointKind.AT_TIMESTAMP, 9.0)


def test_only_the_nearest_rows_of_the_same_hash_keys_count() -> None:
    """Neither rows beside the shard, nor later ones, nor the ancestors of an ancestor have a say."""
    nearest = Lease("s1", checkpoint=SHARD_END, hash_key_range=_LOW, parents=("s0",), marks={"a.1": 9})
    beside = Lease("s2", hash_key_range=_HIGH, parents=("s0",), marks={"a.1": 99})
    later = Lease("s5", hash_key_range=HashKeyRange(_QUARTER.start, _QUARTER.start), marks={"a.1": 999})
    unknown = Lease("s00", checkpoint=Checkpoint(CheckpointKind.LATEST))  # imported without its range
    rows = {each.shard_id: each for each in (_GRANDPARENT, nearest, beside, later, unknown)}
    (row,) = rows_to_create([Shard("s4", _QUARTER, parent_shard_id="s3")], rows)
    assert (row.parents, row.marks) == (("s3", "s1"), {"a.1": 9})


def test_a_shard_of_a_group_that_is_new_begins_at_once() -> None:
    """Whatever was before it: this group has read none of it."""
    (row,) = rows_to_create([_ORPHAN], {})
    assert (row.parents, row.marks) == (("s1",), {})
    (row,) = rows_to_create([_ORPHAN], {}, AT_LATEST)
    assert row.checkpoint == AT_LATEST


def test_a_seek_leaves_an_orphan_to_the_workers() -> None:
    """Its row is made, with what it inherits, once the shard before it is read."""
    assert followed_later([_ORPHAN], {"s0": _GRANDPARENT}, []) == {"s3"}
    assert row_for(_ORPHAN, SeekTarget(), {}).parents == ("s1",)


class _CountedKey(int):
    """A hash key that counts how often it is compared."""

    count = 0

    def __lt__(self, other: object) -> bool:
        _CountedKey.count += 1
        return int(self) < other  # type: ignore[operator] - what int compares with

    def __le__(self, other: object) -> bool:
        _CountedKey.count += 1
        return int(self) <= other  # type: ignore[operator] - what int compares with

    def __gt__(self, other: object) -> bool:
        _CountedKey.count += 1
        return int(self) > other  # type: ignore[operator] - what int compares with

    def __ge__(self, other: object) -> bool:
        _CountedKey.count += 1
        return int(self) >= other  # type: ignore[operator] - what int compares with

    __hash__ = int.__hash__


def test_many_orphans_are_not_compared_with_every_shard() -> None:
    """A stream of a thousand shards was split twice, and the shards between are gone: rows cost a few looks each."""
    closed, children = (
        [HashKeyRange(_CountedKey(each.start), _CountedKey(each.end)) for each in even_ranges(count)]
        for count in (1_024, 4_096)
    )
    rows = {
        f"s0{number:04}": Lease(f"s0{number:04}", checkpoint=SHARD_END, hash_key_range=covered)
        for number, covered in enumerate(closed)
    }
    shards = [
        Shard(f"s2{number:04}", covered, parent_shard_id=f"s1{number // 2:04}")
        for number, covered in enumerate(children)
    ]
    _CountedKey.count = 0
    created = rows_to_create(shards, rows, AT_LATEST)
    assert _CountedKey.count < 200 * len(shards), "eleven levels, in a few steps each, twice"
    assert [row.parents for row in created[:5]] == [
        ("s10000", "s00000"),
        ("s10000", "s00000"),
        ("s10001", "s00000"),
        ("s10001", "s00000"),
        ("s10002", "s00001"),
    ]
    assert len(created) == len(shards)


def test_an_index_finds_what_a_look_at_each_finds() -> None:
    """Whatever overlaps: nested ranges, equal ones, single keys, and none at all."""
    chance = random.Random(5)
    for count in (0, 1, 2, 3, 7, 8, 9, 33):
        bounds = [sorted((chance.randrange(40), chance.randrange(40))) for _ in range(count)]
        ranges = {f"s{number}": HashKeyRange(start, end) for number, (start, end) in enumerate(bounds)}
        index = RangeIndex(ranges.items())
        for start in range(40):
            for end in range(start, 40):
                wanted = HashKeyRange(start, end)
                found = list(index.overlapping(wanted))
                assert sorted(found) == sorted(name for name, each in ranges.items() if each.overlaps(wanted))
