"""Which of the files beside a log came after which, by the names that logrotate and its kin give them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# `access.log.1` is newer than `access.log.2`; dates and times (six digits and more) grow.
_NUMBER: Final = re.compile(r"\.([0-9]{1,5})")
_DATE: Final = re.compile(r"[.-]([0-9][0-9T_.:-]{5,30})")


def _age(base: str, name: str) -> tuple[int, float, str] | None:
    """Return a sort key, oldest first; None for a name that rotation does not give."""
    suffix = name.removeprefix(base)
    if number := _NUMBER.fullmatch(suffix):
        return 1, -int(number[1]), ""
    if date := _DATE.fullmatch(suffix):
        return 0, 0, date[1]
    return None


def is_rotated(base: str, name: str) -> bool:
    """Whether this is a name that rotation gives a log called `base`; packed files (`.gz`) are none."""
    return _age(base, name) is not None


def oldest_first(base: str, names: Iterable[str]) -> list[str]:
    """Return all names in the order in which the files came: `base` last, names that rotation does not give first."""

    def age(name: str) -> tuple[int, float, str]:
        return (2, 0, "") if name == base else _age(base, name) or (-1, 0, name)

    return sorted(names, key=age)


def rotated_after(base: str, name: str, names: Iterable[str]) -> list[str]:
    """Return those of `names` that were rotated away from `base` after `name` was, oldest first.

    Packed files (`.gz`) are left out: they were read before they were packed, or never in time.
    """
    own = _age(base, name)
    if own is None:
        return []
    later = [(age, each) for each in names if (age := _age(base, each)) is not None and age > own]
    return [each for age, each in sorted(later) if age[0] == own[0]]
