"""Log lines of failures that come again at each look: a bad hour must not fill the log."""

from __future__ import annotations

from typing import Final

from shared.ports import Clock, Telemetry

_SECONDS_MIN: Final = 10.0  # between two lines about the same
_LINES_MAX: Final = 8  # within that time, however often the error changes


class FailureLog:
    """Says each failure at once, and while it is the same not again within 10 s; 8 different ones in that time."""

    def __init__(self, telemetry: Telemetry, clock: Clock) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._told: dict[tuple[str, str, str], float] = {}  # when each was said the last time

    def warning(self, event: str, path: str, error: Exception) -> None:
        """Say something unexpected happened to a file and nothing was lost."""
        if self._is_new(event, path, error):
            self._telemetry.warning(event, path=path, error=str(error))

    def error(self, event: str, path: str, error: Exception) -> None:
        """Say that an operator is needed for a file."""
        if self._is_new(event, path, error):
            self._telemetry.error(event, path=path, error=str(error))

    def _is_new(self, event: str, path: str, error: Exception) -> bool:
        key = event, path, str(error)
        now = self._clock.monotonic()
        self._told = {each: at for each, at in self._told.items() if now - at < _SECONDS_MIN}
        if key in self._told or len(self._told) >= _LINES_MAX:
            return False
        self._told[key] = now
        return True
