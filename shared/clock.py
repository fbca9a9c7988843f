"""The real clock."""

from __future__ import annotations

import time


class SystemClock:
    """The machine's clocks."""

    # Not wrapped: the producer asks for each record.
    monotonic = staticmethod(time.monotonic)  # seconds that never go back
    wall = staticmethod(time.time)  # seconds since the epoch, UTC
