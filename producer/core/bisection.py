"""Finds the one record for which the service refuses a whole request, as such a refusal names none."""

from __future__ import annotations

from collections import deque
from typing import Final

from producer.core.batch import OutgoingRecord

RECORD_CODES: Final = frozenset({"InvalidArgumentException", "ValidationException", "SerializationException"})
"""Codes of a refusal that may be about one record; any other (access, keys, no such stream) is about the stream."""

_UNPROVEN_MAX: Final = 8  # so many records refused by themselves, and none accepted: it is not about them
_NEVER: Final = float("-inf")


class Bisection:
    """Parts of refused requests, each to be sent as a request of its own.

    A part is halved at each refusal: n records of which b are bad cost fewer than 2 * b * (log2(n) + 1) requests before
    each bad one stands alone. An aggregate is then taken apart. A single record is condemned only if it is refused
    by itself and the stream has accepted a request that began after the first refusal the record was part of: otherwise
    the stream itself may refuse everything, and all that is pending would be condemned record by record.
    """

    def __init__(self) -> None:
        self._parts: list[list[OutgoingRecord]] = []  # the next one last
        self._alone: deque[OutgoingRecord] = deque()  # refused by themselves, the first refused first
        self._accepted_at = _NEVER

    @property
    def has_part(self) -> bool:
        """Whether something is to be sent that may tell something new."""
        return bool(self._parts or (self._alone and self._alone[0].refused_at <= self._accepted_at))

    def is_hopeless(self, others: int) -> bool:
        """Whether nothing speaks for the stream: too many records were refused, or there is none left to try.

        `others` counts the user records, beside those refused by themselves, that can be sent or are under way.
        """
        unproven = sum(each.refused_at > self._accepted_at for each in self._alone)
        return unproven >= _UNPROVEN_MAX or (unproven > 0 and not others)

    @property
    def alone_count(self) -> int:
        """How many records were refused by themselves and wait."""
        return len(self._alone)

    def refuse(self, records: list[OutgoingRecord], now: float) -> OutgoingRecord | None:
        """Take a refused request; return the stream record that is found by it."""
        for record in records:
            record.refused_at = min(record.refused_at, now)
        middle = len(records) // 2
        if middle:
            self._parts += (records[middle:], records[:middle])
            return None
        record = records[0]
        if record.is_aggregate or record.refused_at <= self._accepted_at:
            return record
        self._alone.append(record)
        return None

    def accept(self, taken_at: float) -> None:
        """Take note that the stream accepted a request that was taken at this time."""
        self._accepted_at = max(self._accepted_at, taken_at)

    def take(self) -> list[OutgoingRecord]:
        """Return the next part that may tell something new; empty if there is none."""
        if self._parts:
            return self._parts.pop()
        if self._alone and self._alone[0].refused_at <= self._accepted_at:
            return [self._alone.popleft()]
        return []

    def take_unproven(self) -> list[OutgoingRecord]:
        """Return a record to try again although nothing was accepted since, for when nothing else can be sent."""
        return [self._alone.popleft()] if self._alone else []
