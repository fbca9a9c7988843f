"""Finds the one record for which the service refuses a whole request, as such a refusal names none."""

from __future__ import annotations

from collections import deque
from typing import Final

from producer.core.batch import OutgoingRecord

RECORD_CODES: Final = frozenset({"InvalidArgumentException", "ValidationException", "SerializationException"})
"""Codes of a refusal that may be about one record; any other (access, keys, no such stream) is about the stream."""

_UNPROVEN_MAX: Final = 8  # so many records refused by themselves, and none accepted: it is not about them
_TRIES_MAX: Final = 20  # refusals that follow each other at once: about as many as find one record of 500
_REFUSALS_MAX: Final = 32  # in a row that tell of records: 9 find one of 500, and 16 calls may be under way
_AT_ONCE_SECONDS: Final = 1.0  # later, a success no longer tells what the service would have said before
_NEVER: Final = float("-inf")


class Bisection:
    """Parts of refused requests, each to be sent as a request of its own.

    A part is halved at each refusal: n records of which b are bad cost fewer than 2 * b * (log2(n) + 1) requests before
    each bad one stands alone. An aggregate is then taken apart. A single record is condemned only if it is refused
    by itself and the stream had accepted a request that began after the first refusal the record was part of, and has
    refused few since: otherwise the stream itself may refuse everything, and all that is pending would be condemned
    record by record. While records wait for that, small and large parts take turns.

    Where nothing speaks for the stream, the next record of its lane is tried at once (`follow`), and the next, as long
    as `goes_on`. Once one lands, those it has overtaken are condemned: none of them could be sent any more in its
    order. If none does, they go back to their lane (`go_back`), and the first one waits again; so does one that could
    not be sent at once (`late`), as the stream may have been mended meanwhile.
    """

    def __init__(self) -> None:
        self._parts: list[list[OutgoingRecord]] = []  # the next one last
        self._alone: deque[OutgoingRecord] = deque()  # refused by themselves, the first refused first
        self._following: deque[tuple[float, OutgoingRecord]] = deque()  # to be tried at once, and since when
        self._accepted_at = _NEVER
        self._tries = _TRIES_MAX
        self._refusals = 0  # so many since something was accepted
        self._vain_sizes: list[int] = []  # of what went back to its lane last
        self._rests = 0  # so many pauses were made since, as the stream seemed to refuse everything

    @property
    def has_part(self) -> bool:
        """Whether something is to be sent that may tell something new."""
        return bool(self._following or self._parts or self._has_last_try)

    @property
    def _has_last_try(self) -> bool:
        return bool(self._alone) and self._alone[0].refused_at <= self._accepted_at

    def is_hopeless(self, others: int) -> bool:
        """Whether nothing speaks for the stream: too many records were refused, or there is none left to try.

        `others` counts the user records, beside those refused by themselves, that can be sent or are under way.
        """
        unproven = sum(each.refused_at > self._accepted_at for each in self._alone)
        return unproven >= _UNPROVEN_MAX or (unproven > 0 and not others)

    @property
    def alone_count(self) -> int:
        """How many records were refused by themselves and wait."""
        return sum(1 + len(each.overtaken) for each in self._alone)

    @property
    def lent_sizes(self) -> list[int]:
        """The bytes of the records that wait for what comes next, so that it must find room beside them."""
        return [*(each.wire_bytes for each in self._alone), *self._vain_sizes]

    def refuse(self, records: list[OutgoingRecord], reason: tuple[str, str], now: float) -> OutgoingRecord | None:
        """Take a refused request; return the stream record that is found by it."""
        self._tries -= 1
        self._refusals += 1
        for record in records:
            record.refused_at = min(record.refused_at, now)
            record.refusal = reason
        middle = len(records) // 2
        if middle:
            self._parts += (records[middle:], records[:middle])
            return None
        record = records[0]
        if record.is_aggregate or (record.is_last_try and self._refusals <= _REFUSALS_MAX):
            return record
        if record.is_last_try:
            record.refused_at = now
        self._alone.append(record)
        return None

    def accept(self, taken_at: float) -> None:
        """Take note that the stream accepted a request that was taken at this time."""
        self._accepted_at = max(self._accepted_at, taken_at)
        self._tries = _TRIES_MAX
        self._refusals = 0
        self._rests = 0

    def take(self) -> list[OutgoingRecord]:
        """Return the next part that may tell something new; empty if there is none."""
        part = self._next_part()
        for record in part:
            record.is_last_try = record.refused_at <= self._accepted_at
        return part

    def _next_part(self) -> list[OutgoingRecord]:
        if self._following:
            return [self._following.popleft()[1]]
        if self._parts:
            return self._parts.pop(0 if self._alone and self._refusals % 2 else -1)
        return [self._alone.popleft()] if self._has_last_try else []

    def take_unproven(self) -> list[OutgoingRecord]:
        """Return a record to try again although nothing was accepted since, for when nothing else can be sent.

        One that others wait behind is preferred: they may tell something.
        """
        record = next((each for each in self._alone if any(lane.records.datas for lane in each.lanes)), None)
        if record is None:
            return [self._alone.popleft()] if self._alone else []
        self._alone.remove(record)
        return [record]

    @property
    def goes_on(self) -> bool:
        """Whether the next request may follow a refusal at once, as it is another one."""
        return self._tries > 0

    def end(self) -> None:
        """Take note that there is no other request to make."""
        self._tries = 0

    def rest(self, *, is_hopeless: bool) -> None:
        """Set how many refusals may follow each other after a pause: more after many that told nothing."""
        self._rests += is_hopeless
        others = max(2, _UNPROVEN_MAX - len(self._alone))
        self._tries = others + min(others, self._rests // 4) if is_hopeless else 1

    def follow(self, following: OutgoingRecord, now: float) -> None:
        """Try this one at once: it is the next of the lane of the record that was refused just now."""
        refused = self._alone.pop()
        following.overtaken = [*refused.overtaken, refused]
        self._following.append((now, following))

    def late(self, now: float) -> list[OutgoingRecord]:
        """Return what had to be tried at once and was not, and what was tried before, each after what is behind it."""
        returned: list[OutgoingRecord] = []
        while self._following and now - self._following[0][0] > _AT_ONCE_SECONDS:
            self._alone.append(self._following.popleft()[1])
            returned += self.go_back()
        return returned

    def stop(self, following: OutgoingRecord) -> list[OutgoingRecord]:
        """Take one back that surely did not land, though it was not refused; return what goes back to its lane."""
        self._alone.append(following)
        return self.go_back()

    def go_back(self) -> list[OutgoingRecord]:
        """Return what was tried in vain behind the record that was refused first, the last one first."""
        tried = self._tried
        if tried:
            self._alone[-1] = tried[-1].overtaken[-1]
        self._vain_sizes = [each.wire_bytes for each in tried]
        return tried

    @property
    def _tried(self) -> list[OutgoingRecord]:
        """What was tried last, the last one first, and can go back to its lane: it was refused at once.

        One that failed otherwise before may have landed: it stays, and what it has overtaken can't be sent any more.
        """
        tried = []
        refused = self._alone[-1]
        while refused.overtaken and not refused.attempts:
            tried.append(refused)
            refused = refused.overtaken[-1]
        return tried
