"""Log lines about the same are said now and then, others at once, and not too many of those."""

from __future__ import annotations

from shared.log_limit import LogLimit


def test_the_same_is_said_again_after_a_while() -> None:
    """Another line is not held back by it, and what was not said does not begin the time anew."""
    limit = LogLimit(10)
    said = [(at, about) for at in range(25) for about in ("a", "b") if limit.admits(about, at)]
    assert said == [(0, "a"), (0, "b"), (10, "a"), (10, "b"), (20, "a"), (20, "b")]


def test_lines_that_differ_each_time_have_a_bound() -> None:
    """So many within the time, and more once the first of them is over."""
    limit = LogLimit(10, lines_max=3)
    assert [at for at in range(14) if limit.admits(f"error {at}", at)] == [0, 1, 2, 10, 11, 12]
