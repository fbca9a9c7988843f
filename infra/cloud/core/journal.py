"""The port through which the engine tells what has to survive a restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

StreamState = dict[str, Any]
"""Everything about a stream but its records, as JSON values; see `Stream.state`."""


class Landed(NamedTuple):
    """A record that a shard accepted."""

    shard_index: int
    data: bytes
    partition_key: str


class Journal(Protocol):
    """Keeps what it is told, in order, before the call that caused it is answered; raises OSError if it can't."""

    def stream_changed(self, state: StreamState) -> None:
        """A stream was made or anything but its records changed."""

    def stream_deleted(self, uid: int) -> None:
        """A stream is gone, with its records."""

    def records_appended(self, uid: int, arrival: float, landed: Sequence[Landed]) -> None:
        """Records are about to be appended, in this order; `arrival` in seconds since 1970."""
