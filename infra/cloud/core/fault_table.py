"""Reads one table of a file of faults: each value of the right type and within bounds, and nothing left over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from shared.errors import ConfigurationError

TEXT_MAX: Final = 1_024
_LIST_MAX: Final = 1_000
_SHOWN_MAX: Final = 80


class FaultTable:
    """The keys of one table, taken one by one; every mistake is a ConfigurationError that names place and key."""

    def __init__(self, values: object, place: str) -> None:
        if not isinstance(values, dict):
            raise ConfigurationError(f"faults: {place} is not a table")
        self.place = place
        self._values: Mapping[str, object] = values
        self._known: set[str] = set()

    def wrong(self, key: str, problem: str, hint: str = "") -> ConfigurationError:
        """The error about one key."""
        return ConfigurationError(f"faults: {self.place}: `{key}` {problem}", hint=hint)

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self._values

    def _take(self, key: str) -> object:
        self._known.add(key)
        return self._values.get(key)

    def text(self, key: str) -> str | None:
        """A string of 1 to 1,024 characters."""
        value = self._take(key)
        if value is None:
            return None
        if not isinstance(value, str) or not 1 <= len(value) <= TEXT_MAX:
            raise self.wrong(key, f"is {_shown(value)}; a string of 1 to {TEXT_MAX} characters is needed")
        return value

    def choice(self, key: str, allowed: Collection[str]) -> str | None:
        """One of a few words."""
        value = self.text(key)
        if value is not None and value not in allowed:
            raise self.wrong(key, f"is {_shown(value)}", hint=f"one of: {', '.join(sorted(allowed))}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A string, or a list of strings."""
        value = self._take(key)
        if value is None:
            return ()
        found = [value] if isinstance(value, str) else value
        if (
            not isinstance(found, list)
            or not 1 <= len(found) <= _LIST_MAX
            or not all(isinstance(each, str) and 1 <= len(each) <= TEXT_MAX for each in found)
        ):
            raise self.wrong(key, f"is {_shown(value)}; a string or a list of strings is needed")
        return tuple(found)

    def integer(self, key: str, low: int, high: int) -> int | None:
        """A whole number within bounds."""
        value = self._take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(key, f"is {_shown(value)}; a whole number from {low} to {high} is needed")
        return value

    def number(self, key: str, low: float, high: float) -> float | None:
        """A number within bounds; never NaN."""
        value = self._take(key)
        return None if value is None else self._number(key, value, low, high)

    def numbers(self, key: str, low: float, high: float) -> tuple[float, ...]:
        """A number, or a list of numbers."""
        value = self._take(key)
        if value is None:
            return ()
        found = value if isinstance(value, list) else [value]
        if not 1 <= len(found) <= _LIST_MAX:
            raise self.wrong(key, f"has {len(found)} numbers; 1 to {_LIST_MAX} are needed")
        return tuple(self._number(key, each, low, high) for each in found)

    def _number(self, key: str, value: object, low: float, high: float) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self.wrong(key, f"is {_shown(value)}; a number from {low:g} to {high:g} is needed")
        return float(value)

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value = self._take(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, f"is {_shown(value)}; true or false is needed")
        return value

    def tables(self, key: str, count_max: int) -> list[object]:
        """A list of tables, not looked into yet."""
        value = self._take(key)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > count_max:
            raise self.wrong(key, f"is not a list of at most {count_max} tables", hint=f"write [[{key}]]")
        return value

    def close(self) -> None:
        """Refuse what nobody asked for: a misspelt key would silently do nothing."""
        unknown = sorted(set(self._values) - self._known)
        if unknown:
            names = ", ".join(f"`{each[:_SHOWN_MAX]}`" for each in unknown[:10])
            raise ConfigurationError(
                f"faults: {self.place} has unknown keys: {names}",
                hint=f"known there: {', '.join(sorted(self._known))}",
            )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
