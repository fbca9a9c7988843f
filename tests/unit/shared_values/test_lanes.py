"""Lanes and their parts: ranges of hash keys, named so that each name belongs to one range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.hash_key import even_ranges
from shared.lanes import LANES, PARTS_MAX, WHOLE, LaneDivision, lane_of, start_of
from shared.limits import HASH_KEY_MAX

HASH_KEYS = st.one_of(
    st.integers(0, HASH_KEY_MAX),
    st.builds(lambda lane, more: start_of(lane) + more, st.integers(0, LANES - 1), st.integers(0, 3)),
)


@given(HASH_KEYS, HASH_KEYS)
def test_a_lane_is_a_range_of_hash_keys(one: int, other: int) -> None:
    """Lanes are numbered in the order of the hash keys, so that boundaries at powers of two cut none."""
    assert 0 <= lane_of(one) < LANES
    assert (lane_of(one) <= lane_of(other)) or one > other
    assert [lane_of(part.start) for part in even_ranges(LANES)] == [*range(LANES)]
    assert LaneDivision.along(part.start for part in even_ranges(LANES)) == WHOLE


@given(st.lists(HASH_KEYS, max_size=30), st.lists(HASH_KEYS, max_size=9))
def test_parts_are_ranges_that_begin_at_boundaries(boundaries: list[int], hash_keys: list[int]) -> None:
    """Each hash key belongs to the part that begins last before it, whose name opens with its lane's."""
    division = LaneDivision.along(boundaries)
    starts, names = division.starts, division.names()
    assert len(division) == len(starts) == len(names) == len({*names}) == len({*starts})
    assert starts == tuple(sorted({*map(start_of, range(LANES)), *boundaries}))
    for hash_key in (*hash_keys, *boundaries, HASH_KEY_MAX, 0):
        index = division.index_of(hash_key)
        assert index == max(place for place, start in enumerate(starts) if start <= hash_key)
        assert names[index][:2] == f"{lane_of(hash_key):02x}"
        assert division.cuts_lane(lane_of(hash_key)) == (len(names[index]) > 2)
    assert LaneDivision(division.cuts) == division


def test_the_names_of_parts_are_numbered() -> None:
    """Two digits for a lane in one piece, two more for a part."""
    division = LaneDivision.along([start_of(1) + 1, start_of(1) + 2, start_of(3)])
    assert division.names()[:6] == ["00", "0100", "0101", "0102", "02", "03"]


def test_a_lane_has_as_many_parts_as_a_name_can_tell() -> None:
    """What comes behind the last boundary that counts is one part; nobody else is kept from his own."""
    division = LaneDivision.along([*range(1, 1_000), start_of(7) + 1])
    names = division.names()
    assert names[PARTS_MAX - 2 : PARTS_MAX + 1] == ["00fe", "00ff", "01"]
    assert division.index_of(999) == division.index_of(start_of(1) - 1) == PARTS_MAX - 1
    assert "0701" in names


@pytest.mark.parametrize("shards", [3, 12, 1_000, 10_000])
def test_parts_of_even_shards_fit_them(shards: int) -> None:
    """There are no more parts than lanes and shards together."""
    ranges = even_ranges(shards)
    division = LaneDivision.along(each.start for each in ranges)
    assert len(division) < LANES + shards
    assert {each.start for each in ranges} <= {*division.starts}
