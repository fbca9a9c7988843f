"""A hole in the ring of hash keys is told of if it stays, not if another one comes as it goes."""

from __future__ import annotations

from consumer.core.ring_holes import RingHoles
from shared.hash_key import HashKeyRange, even_ranges

FIRST, SECOND, THIRD, FOURTH = even_ranges(4)


def test_a_hole_that_stays_is_told_of_with_what_is_left_of_it() -> None:
    """It may become smaller, or larger; it is gone when a look does not find it."""
    holes = RingHoles(10.0)
    wide = HashKeyRange(FIRST.start, SECOND.end)
    assert holes.look([wide], 0.0) == []
    assert holes.look([SECOND, FOURTH], 10.0) == []
    assert holes.look([SECOND, FOURTH], 10.5) == [SECOND]
    assert holes.look([wide, FOURTH], 20.5) == [wide, FOURTH]
    assert holes.look([], 21.0) == []
    assert holes.look([wide, FOURTH], 22.0) == []


def test_holes_that_come_and_go_are_not_told_of() -> None:
    """As in a resharding: at each look there is one, but never the same."""
    holes = RingHoles(10.0)
    for turn in range(20):
        assert holes.look([(FIRST, SECOND, THIRD, FOURTH)[turn % 4]], 5.0 * turn) == []


def test_two_holes_that_become_one_have_the_age_of_the_older() -> None:
    """No hash key of it was covered since then."""
    holes = RingHoles(10.0)
    assert holes.look([FIRST], 0.0) == []
    assert holes.look([FIRST, THIRD], 6.0) == []
    whole = HashKeyRange(FIRST.start, THIRD.end)
    assert holes.look([whole], 10.5) == [whole]


def test_many_holes_cost_no_look_at_each_pair() -> None:
    """Ten thousand shards, every other one without a row."""
    holes = RingHoles(1.0)
    every_other = even_ranges(20_000)[::2]
    assert holes.look(every_other, 0.0) == []
    assert holes.look(every_other, 2.0) == list(every_other)
