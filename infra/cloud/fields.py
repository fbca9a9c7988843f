"""Reads the members of a request: each one of the right type and within bounds, or the call is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from infra.cloud.core.api_error import ApiError, validation_failed
from infra.cloud.wire import Dialect, malformed

_TEXT_MAX: Final = 32_768
_LIST_MAX: Final = 1_000
_YEAR_3000: Final = 32_503_680_000.0


@dataclass(frozen=True, slots=True)
class Fields:
    """The members of one request or of a map within it."""

    values: dict[str, Any]
    dialect: Dialect

    def text(self, name: str) -> str | None:
        """A string member; None if it is absent or null."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str) or len(value) > _TEXT_MAX:
            raise malformed(f"{name} is not a string of at most {_TEXT_MAX} characters.")
        return value

    def required_text(self, name: str) -> str:
        """A string member that has to be there."""
        value = self.text(name)
        if value is None:
            validation_failed("null", name[:1].lower() + name[1:], "Member must not be null")
        return value

    def integer(self, name: str) -> int | None:
        """An integer member; None if it is absent or null."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise malformed(f"{name} is not an integer.")
        return value

    def required_integer(self, name: str) -> int:
        """An integer member that has to be there."""
        value = self.integer(name)
        if value is None:
            validation_failed("null", name[:1].lower() + name[1:], "Member must not be null")
        return value

    def flag(self, name: str) -> bool:
        """A boolean member; false if it is absent."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise malformed(f"{name} is not a boolean.")
        return bool(value)

    def timestamp(self, name: str) -> float | None:
        """A timestamp in seconds since 1970; None if it is absent."""
        value = self.values.get(name)
        if value is None:
            return None
        seconds = self.dialect.read_timestamp(value)
        if seconds is None or not math.isfinite(seconds) or not 0 <= seconds <= _YEAR_3000:
            raise malformed(f"{name} is not a timestamp.")
        return seconds

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty if it is absent."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > _LIST_MAX or not all(isinstance(each, str) for each in value):
            raise malformed(f"{name} is not a list of at most {_LIST_MAX} strings.")
        return value

    def pairs(self, name: str) -> dict[str, str]:
        """A map of strings; empty if it is absent."""
        value = self.values.get(name)
        if value is None:
            return {}
        if (
            not isinstance(value, dict)
            or len(value) > _LIST_MAX
            or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items())
        ):
            raise malformed(f"{name} is not a map of at most {_LIST_MAX} strings.")
        return value

    def nested(self, name: str) -> Fields | None:
        """A map member; None if it is absent."""
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise malformed(f"{name} is not a structure.")
        return Fields(value, self.dialect)

    def required_nested(self, name: str) -> Fields:
        """A map member that has to be there."""
        value = self.nested(name)
        if value is None:
            validation_failed("null", name[:1].lower() + name[1:], "Member must not be null")
        return value

    def stream(self) -> str:
        """The stream that the request is about, by StreamName or StreamARN; they must agree if both are there."""
        name, arn = self.text("StreamName"), self.text("StreamARN")
        if name is not None and arn is not None and not arn.endswith(f":stream/{name}"):
            raise ApiError("InvalidArgumentException", "StreamARN and StreamName do not match.")
        chosen = name if arn is None else arn
        if chosen is None:
            raise ApiError("InvalidArgumentException", "Either StreamName or StreamARN should be provided.")
        return chosen
