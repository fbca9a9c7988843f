"""Whether an answer surely comes from the stream that the shard map is of, or perhaps from another one of its name."""

from __future__ import annotations

from typing import Final

# To delete a stream and make another one takes longer: whoever had an answer so lately speaks to the same one.
SURE_SECONDS: Final = 10.0


class MapTrust:
    """Remembers when the map was known to be right."""

    def __init__(self) -> None:
        self._sure_at = float("inf")
        self._anew_at = float("-inf")

    def is_sure(self, taken_at: float) -> bool:
        """Whether a request that was made then speaks for the map of now, so that a predicted shard is the same one."""
        return self._anew_at <= taken_at <= self._sure_at + SURE_SECONDS

    def accept(self, taken_at: float) -> None:
        """Take note that the stream accepted something of a request that was made then."""
        if self.is_sure(taken_at):
            self._sure_at = max(self._sure_at, taken_at)

    def look(self, seen_at: float) -> None:
        """Take note that a map is right that was asked for then."""
        self._sure_at = seen_at

    def begin_anew(self, now: float) -> None:
        """Take note that the stream is another one, or gone: no request until now is of the map that follows."""
        self._anew_at = now
