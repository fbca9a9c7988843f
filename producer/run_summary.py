"""What a run of a source has done so far."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class RunSummary:
    """Counts of a run so far: lines = events + filtered + rejected, events = acknowledged + undelivered."""

    lines: int = 0
    events: int = 0
    filtered: Counter[str] = field(default_factory=Counter)  # by reason
    rejections: Counter[str] = field(default_factory=Counter)  # by error code
    acknowledged: int = 0
    undelivered: int = 0  # accepted and not acknowledged
    bytes_read: int = 0
    last_error: str = ""  # of the last call that failed; says why something is undelivered
    is_stopped: bool = False  # asked to, before the end of the source

    @property
    def rejected(self) -> int:
        """Lines and events that were rejected."""
        return self.rejections.total()

    @property
    def dead_lettered(self) -> int:
        """Lines and events in the dead letters."""
        return self.rejected
