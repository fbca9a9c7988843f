"""Looks at the first unread record of a shard without reading on: what tells how far behind its reader is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from consumer.retrier import Retrier
from infra.control.group import ATTEMPTS_MAX
from shared.errors import IteratorExpiredError, StreamNotFoundError
from shared.lease import CheckpointKind, Lease
from shared.ports import Kinesis
from shared.records import LATEST, TRIM_HORIZON, RecordPage, Start, StartKind, StreamRecord

_PAGES_MAX: Final = 5  # a page may be empty although records wait
_PAUSE_SECONDS: Final = 0.25  # the service allows five calls per second and shard, and its reader needs some


@dataclass(frozen=True, slots=True)
class Peek:
    """What is at a place: the first record, or none; `is_end`: nothing is there and nothing will come."""

    record: StreamRecord | None
    behind_milliseconds: int
    is_end: bool

    def age_seconds(self, now: float) -> float:
        """The age of the first record, or how far behind the tip the place is."""
        arrived = now - self.record.arrival_timestamp if self.record is not None else 0.0
        return max(0.0, arrived, self.behind_milliseconds / 1000)


async def peek(kinesis: Kinesis, retrier: Retrier, stream: str, shard_id: str, start: Start) -> Peek | None:
    """Return what is at `start`; None if the shard is past retention. One call, a few if it answers empty."""
    try:
        iterator = await retrier.call(
            "get_shard_iterator",
            lambda: kinesis.get_shard_iterator(stream, shard_id, start),
            attempts_max=ATTEMPTS_MAX,
        )
        return await _first(kinesis, retrier, stream, iterator)
    except StreamNotFoundError:
        return None
    except IteratorExpiredError:
        return Peek(None, 0, is_end=False)


async def _first(kinesis: Kinesis, retrier: Retrier, stream: str, iterator: str) -> Peek:
    page = RecordPage(next_iterator=iterator)
    for turn in range(_PAGES_MAX):
        if turn:
            await asyncio.sleep(_PAUSE_SECONDS)
        place = page.next_iterator
        assert place is not None
        page = await retrier.call(
            "get_records",
            lambda place=place: kinesis.get_records(stream, place, 1),  # type: ignore[misc] # mypy on defaults
            attempts_max=ATTEMPTS_MAX,
        )
        if page.records:
            return Peek(page.records[0], page.behind_milliseconds, is_end=False)
        if page.next_iterator is None:
            return Peek(None, 0, is_end=True)
        if not page.behind_milliseconds:
            break
    return Peek(None, page.behind_milliseconds, is_end=False)


def unread_start(row: Lease, application_timestamp: float) -> Start:
    """Return where the first unread record of a row is: behind the stored one, unlike where a worker begins."""
    kind = row.checkpoint.kind
    if kind is CheckpointKind.NUMBER:
        return Start(StartKind.AFTER_SEQUENCE_NUMBER, sequence_number=row.checkpoint.position.sequence_number)
    if kind is CheckpointKind.AT_TIMESTAMP:
        own = row.start_timestamp
        return Start(StartKind.AT_TIMESTAMP, timestamp=application_timestamp if own is None else own)
    return LATEST if kind is CheckpointKind.LATEST else TRIM_HORIZON
