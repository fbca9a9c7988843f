"""The part of Java's DateTimeFormatter patterns that object keys are made of, as in Firehose's `!{timestamp:...}`."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Final

from shared.errors import ConfigurationError

_TOKEN: Final = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']")
# Of our own, not strftime's, which follow the locale of the process.
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_SHORT: Final = 3  # letters of a short name
_FULL: Final = 4  # repetitions of a letter that ask for the full name
_HALF_DAY: Final = 12
_DIGITS_MAX: Final = 9

_Part = Callable[[datetime], str]
Formatter = Callable[[datetime], str]


def _year(count: int) -> _Part:
    if count == 2:  # noqa: PLR2004 - Java: two letters are the reduced form
        return lambda instant: f"{instant.year % 100:02}"
    return lambda instant: f"{instant.year:0{count}}"


def _month(count: int) -> _Part:
    if count < _SHORT:
        return lambda instant: f"{instant.month:0{count}}"
    return lambda instant: _MONTHS[instant.month - 1][: _SHORT if count == _SHORT else None]


def _weekday(count: int) -> _Part:
    return lambda instant: _DAYS[instant.weekday()][: None if count == _FULL else _SHORT]


def _fraction(count: int) -> _Part:
    return lambda instant: f"{instant.microsecond:06}000"[:count]


def _number(value: Callable[[datetime], int]) -> Callable[[int], _Part]:
    return lambda count: lambda instant: f"{value(instant):0{count}}"


# Letter -> how many may stand together, and what they make of an instant.
_LETTERS: Final[dict[str, tuple[frozenset[int], Callable[[int], _Part]]]] = {
    "y": (frozenset({1, 2, 4}), _year),
    "u": (frozenset({1, 2, 4}), _year),
    "M": (frozenset({1, 2, 3, 4}), _month),
    "d": (frozenset({1, 2}), _number(lambda instant: instant.day)),
    "D": (frozenset({1, 2, 3}), _number(lambda instant: instant.timetuple().tm_yday)),
    "E": (frozenset({1, 2, 3, 4}), _weekday),
    "a": (frozenset({1}), lambda _count: lambda instant: "AM" if instant.hour < _HALF_DAY else "PM"),
    "h": (frozenset({1, 2}), _number(lambda instant: (instant.hour - 1) % _HALF_DAY + 1)),
    "H": (frozenset({1, 2}), _number(lambda instant: instant.hour)),
    "m": (frozenset({1, 2}), _number(lambda instant: instant.minute)),
    "s": (frozenset({1, 2}), _number(lambda instant: instant.second)),
    "S": (frozenset(range(1, _DIGITS_MAX + 1)), _fraction),
    "Z": (frozenset({1, 2, 3}), lambda _count: lambda instant: instant.strftime("%z")),
}


def parse_timestamp_pattern(pattern: str, setting: str) -> Formatter:
    """Return what writes an instant as `pattern` says; ConfigurationError, naming `setting`, if it can't be read."""
    parts: list[_Part] = []
    at = 0
    while at < len(pattern):
        match = _TOKEN.match(pattern, at)
        if match is None:
            raise ConfigurationError(
                f"{setting}: a quote in timestamp pattern `{pattern[:60]}` is not closed",
                hint="Put text into two single quotes; two of them side by side stand for one",
            )
        parts.append(_part(match, pattern, setting))
        at = match.end()
    return lambda instant: "".join(part(instant) for part in parts)


def _part(match: re.Match[str], pattern: str, setting: str) -> _Part:
    text, quoted, letter = match.group(), match.group(1), match.group(2)
    if quoted is not None:
        literal = quoted.replace("''", "'") if len(text) > len("''") else "'"
        return lambda _instant: literal
    if letter is None:
        return lambda _instant: text
    counts, make = _LETTERS.get(letter, (frozenset(), None))
    if make is None or len(text) not in counts:
        hint = "Use y M d D E a h H m s S Z as in Java's DateTimeFormatter, and text in 'single quotes'"
        if letter == "Y":
            hint = "Y is the year of the week, which is wrong around New Year; use yyyy"
        raise ConfigurationError(
            f"{setting}: `{text[:20]}` in timestamp pattern `{pattern[:60]}` is not supported", hint=hint
        )
    return make(len(text))
