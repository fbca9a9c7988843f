"""Which series of objects a key belongs to: its destination and partition, without the times in the key."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from consumer.core.object_key import OBJECT_NAME
from consumer.core.timestamp_pattern import parse_timestamp_pattern

_EXPRESSION: Final = re.compile(r"!\{([^{}]*)\}")
_RUN: Final = re.compile(r"([0-9]+)|([A-Za-z]+)|[^0-9A-Za-z]")
_SAMPLE: Final = datetime(2000, 1, 1, tzinfo=UTC)
# Of a value or a destination, neither of which has any of these; as little as fits, as digits of a time may follow.
_VALUE: Final = "([^/=,:;]+?)"


class Series:
    """Tells objects of one destination and partition from all others; within a series, order is kept.

    The events can't tell: columns leave fields out, and CSV shows all of them as text. `prefix` is archive_prefix with
    its expressions. An object that was named by another one is in the series of its folder, which has only its own.
    """

    def __init__(self, prefix: str) -> None:
        pattern, at = "", 0
        for match in _EXPRESSION.finditer(prefix):
            pattern += re.escape(prefix[at : match.start()]) + _part(match.group(1))
            at = match.end()
        self._pattern = re.compile(pattern + re.escape(prefix[at:]))

    def of(self, key: str) -> str:
        """Return the series of an object."""
        name = OBJECT_NAME.search(key)
        folder = key[: name.start()] if name is not None else key
        match = self._pattern.fullmatch(folder)
        return f"other {folder}" if match is None else "/".join(["values", *match.groups()])


def _part(expression: str) -> str:
    """Return what an expression is in keys: a value, or the shape of a time."""
    kind, _, argument = expression.partition(":")
    if kind != "timestamp":
        return _VALUE
    return _RUN.sub(_shape, parse_timestamp_pattern(argument, "archive_prefix")(_SAMPLE))


def _shape(run: re.Match[str]) -> str:
    if run[1]:
        return "[0-9]+"
    if run[2]:
        return "[A-Za-z]+"
    return "[+-]" if run[0] in "+-" else re.escape(run[0])
