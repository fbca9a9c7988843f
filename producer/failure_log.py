"""Log lines of failures that come again at each look: a bad hour must not fill the log."""

from __future__ import annotations

from typing import Final

from shared.log_limit import LimitedLog
from shared.ports import Clock, Telemetry

_SECONDS_MIN: Final = 10.0  # between two lines about the same
_LINES_MAX: Final = 8  # within that time, however often the error changes


class FailureLog:
    """Says each failure at once, and while it is the same not again within 10 s; 8 different ones in that time."""

    def __init__(self, telemetry: Telemetry, clock: Clock) -> None:
        self._log = LimitedLog(telemetry, clock, seconds_min=_SECONDS_MIN, lines_max=_LINES_MAX)

    def warning(self, event: str, path: str, error: Exception) -> None:
        """Say something unexpected happened to a file and nothing was lost."""
        self._log.warning(event, about=(path, str(error)), path=path, error=str(error))

    def error(self, event: str, path: str, error: Exception) -> None:
        """Say that an operator is needed for a file."""
        self._log.error(event, about=(path, str(error)), path=path, error=str(error))
