"""When a shard may be read next: five calls and 2 MiB a second per shard, and less where nothing comes."""

from __future__ import annotations

from typing import Final

from shared.limits import SHARD_READ_BYTES_PER_SECOND, SHARD_READ_CALLS_PER_SECOND

_IDLE_GROWTH: Final = 2.0


class ReadPacer:
    """Answers with the time of the next GetRecords call.

    The limits are the service's (API reference of GetRecords, 2026): an answer of 10 MiB makes the calls of the next
    five seconds fail, which is 2 MiB a second; so the pause after an answer is its size at that rate.
    """

    def __init__(self, *, pause_seconds: float, idle_seconds: float) -> None:
        # A configured pause may be shorter than the service allows only where limits are off: it is taken as it is.
        self._pause = pause_seconds
        self._idle_max = max(idle_seconds, pause_seconds)
        self._idle = 0.0
        self._next = 0.0
        self._next_hurried = 0.0  # the same without what the shard rests because nothing comes
        self._owed = 0.0  # the pause that was left out behind a probe

    def next_deadline(self) -> float:
        """When the next call may be made, in seconds of the same clock as `now`."""
        return self._next

    def take_page(
        self, now: float, *, page_bytes: int, record_count: int, behind_milliseconds: int, is_probe: bool = False
    ) -> None:
        """Take note of an answer; an empty one at the tip lets the pause grow up to the idle pause.

        A probe, which asked for a single record, is followed at once by a call that asks for what there is; the pause
        behind that one is for both.
        """
        is_idle = not record_count and not behind_milliseconds
        self._idle = min(self._idle_max, max(self._pause, self._idle * _IDLE_GROWTH)) if is_idle else 0.0
        pause, self._owed = max(self._pause, self._idle) + self._owed, 0.0
        if is_probe and not is_idle:
            pause, self._owed = 0.0, pause
        self._next = now + max(pause, page_bytes / SHARD_READ_BYTES_PER_SECOND if self._pause else 0.0)
        self._next_hurried = self._next - max(0.0, self._idle - self._pause)

    def hurry(self) -> None:
        """Let the idle pause under way be no longer than any other, and those that follow grow anew."""
        self._next, self._idle = self._next_hurried, 0.0

    def take_throttle(self, now: float, delay: float) -> None:
        """Take note of a refused call: other readers of the shard count against its limits, too."""
        self._next = self._next_hurried = now + max(delay, self._pause, 1 / SHARD_READ_CALLS_PER_SECOND)
