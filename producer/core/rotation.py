"""Which of the files beside a log came after which, by the names that logrotate and its kin give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
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


def in_order(base: str, names: Iterable[str]) -> list[str]:
    """Return those of `names` that rotation gives a log called `base`, oldest first; packed files (`.gz`) are none."""
    aged = [(age, name) for name in names if (age := _age(base, name)) is not None]
    return [name for _, name in sorted(aged)]


def first_to_read(base: str, known: Mapping[str, int | None]) -> str | None:
    """Return which of the files that a bookmark names has to be read first.

    `known` are those with an inode of the bookmark's: their names, and the generation of the file of which they have
    the first bytes, too; None if they have other ones (cut since, or the inode of a removed file). The names that
    rotation gives tell the order. Under another name, only the generation does; without one it is another log's file.
    """
    regular = [*in_order(base, known), *([base] if base in known else [])]
    others = [(each, name) for name, each in known.items() if each is not None and name not in regular]
    if not others:
        return regular[0] if regular else None
    generation, aside = min(others)
    own = known[regular[0]] if regular else None
    return aside if own is None or own > generation else regular[0]


def rotated_after(base: str, name: str, names: Iterable[str]) -> list[str]:
    """Return those of `names` that were rotated away from `base` after `name` was, oldest first.

    Packed files (`.gz`) are left out: they were read before they were packed, or never in time.
    """
    own = _age(base, name)
    if own is None:
        return []
    later = [(age, each) for each in names if (age := _age(base, each)) is not None and age > own]
    return [each for age, each in sorted(later) if age[0] == own[0]]
