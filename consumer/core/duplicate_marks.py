"""Drops events that were delivered before: a high-water mark per (source, lane), bounded in size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Final, cast

import orjson

from shared.compiled import COLUMNS
from shared.compiled.columns import IdRun
from shared.event import OFFSET_MAX, EventId
from shared.lease import Marks
from shared.limits import KIB

MARKS_BYTES_MAX: Final = 96 * KIB  # of a lease row's 400 KB, before compression; each renewal pays for the row's size
_ENTRY_OVERHEAD: Final = 24  # an offset's digits, quotes, colon and comma
_OFFSET_DIGITS_MAX: Final = 19
_NO_LANE: Final = ".-"


def _places_of(event_ids: Sequence[str]) -> tuple[Sequence[str], Sequence[int]] | None:
    """Return "SOURCE.LANE" and offset of each id; None if one of them may have another form."""
    keys, _, numbers = zip(*map(str.rpartition, event_ids, repeat(".")), strict=True)
    digits = "".join(numbers)
    if not (digits.isascii() and digits.isdecimal()) or min(numbers) < "1":
        return None
    return None if max(map(len, numbers)) >= _OFFSET_DIGITS_MAX else (keys, orjson.loads(f"[{','.join(numbers)}]"))


class DuplicateMarks:
    """The highest offset seen per "SOURCE.LANE"; an offset at or below it is a duplicate.

    A producer's offsets rise per lane and a lane has one stream record in flight, so what comes late is a repetition.
    Events without an id of ours, or without a lane, are never taken for duplicates. Sources are kept in the order
    in which they were last new; when the marks outgrow `bytes_max`, the source that was silent longest is forgotten
    whole, and its repetitions, if any come after that, go through. The order is a part of the stored mapping, so
    that a new owner, reading the same records from the same marks, forgets the same source.
    """

    def __init__(self, marks: Marks, *, bytes_max: int = MARKS_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._offsets: dict[str, int] = {}
        self._sources: dict[str, list[str]] = {}  # source -> its keys, the one that was new last at the end
        self._newest = ""
        self._bytes = 0
        self.forgotten = 0
        for key, offset in marks.items():
            self._add(key, offset)

    def repeated(self, event_ids: Sequence[object]) -> set[int]:
        """Return which of these events, by index, were seen; all of them are from now on. What is no text is no id."""
        texts = cast("Sequence[str]", event_ids)
        runs = None if COLUMNS is None else COLUMNS.id_runs(list(event_ids))
        if runs is not None:
            return self._repeated_in(runs, texts)
        places = _places_of(texts) if {*map(type, event_ids)} == {str} else None
        if places is None:
            return {index for index, each in enumerate(event_ids) if type(each) is str and self.is_duplicate(each)}
        found: set[int] = set()
        marks, newest = self._offsets, self._newest + "."
        key, mark, highest = "", -1, -1  # of a run of events of one source and lane, as neighbours mostly are
        for index, (own, offset) in enumerate(zip(*places, strict=True)):
            if own != key or mark < 0:
                if highest > mark:
                    newest = self._raise(key, highest, newest)
                key, mark = own, marks.get(own, -1)
                if mark < 0:
                    self.is_duplicate(texts[index])  # it isn't: its lane is new, or it has none
                    mark, newest = marks.get(own, -1), self._newest + "."
                    highest = mark
                    continue
                highest = mark
            if offset > highest:
                highest = offset
            else:
                found.add(index)
        if highest > mark:
            self._raise(key, highest, newest)
        return found

    def _repeated_in(self, runs: Sequence[IdRun], event_ids: Sequence[str]) -> set[int]:
        """Do what `repeated` does, run by run."""
        found: set[int] = set()
        marks, newest = self._offsets, self._newest + "."
        for key, start, stop, first, last in runs:
            mark = marks.get(key, -1)
            if mark < first:
                if mark < 0:
                    self.is_duplicate(event_ids[start])  # it isn't: its lane is new, or it has none
                    newest = self._newest + "."
                    if key not in marks:  # nor has any of the others
                        continue
                if marks[key] < last:
                    newest = self._raise(key, last, newest)
            elif mark >= last:
                found.update(range(start, stop))
            else:
                found.update(at for at in range(start, stop) if self.is_duplicate(event_ids[at]))
                newest = self._newest + "."
        return found

    def _raise(self, key: str, offset: int, newest: str) -> str:
        """Take note of a higher offset; return what keys of the source begin with that was new last, now `newest`."""
        self._offsets[key] = offset
        if key.startswith(newest):
            return newest
        source = key.rpartition(".")[0]
        self._renew(source)
        return source + "."

    def is_duplicate(self, event_id: str) -> bool:
        """Whether the event was seen; if not, it is from now on."""
        key, _, digits = event_id.rpartition(".")
        if key not in self._offsets:
            return self._is_new(event_id, key)
        if len(digits) > _OFFSET_DIGITS_MAX or not (digits.isascii() and digits.isdecimal()):
            return False
        offset = int(digits)
        if offset > OFFSET_MAX or (digits[0] == "0" and offset):
            return False
        if offset <= self._offsets[key]:
            return True
        self._offsets[key] = offset
        self._renew(key.rpartition(".")[0])
        return False

    def snapshot(self) -> Marks:
        """Return the marks as they are now, sources in the order in which they are forgotten."""
        offsets = self._offsets
        return {key: offsets[key] for keys in self._sources.values() for key in keys}

    def _renew(self, source: str) -> None:
        """Take note that the source had something new."""
        if source != self._newest:
            self._sources[source] = self._sources.pop(source)
            self._newest = source

    def _is_new(self, event_id: str, key: str) -> bool:
        if key.endswith(_NO_LANE):
            return False
        parsed = EventId.parse(event_id)
        if parsed is not None and parsed.lane is not None:
            self._add(key, parsed.offset)
        return False

    def _add(self, key: str, offset: int) -> None:
        source = key.rpartition(".")[0]
        keys = self._sources.pop(source, [])
        keys.append(key)
        self._sources[source] = keys
        self._newest = source
        self._offsets[key] = offset
        self._bytes += len(key) + _ENTRY_OVERHEAD
        while self._bytes > self._bytes_max and len(self._sources) > 1:
            self._forget(next(iter(self._sources)))

    def _forget(self, source: str) -> None:
        for key in self._sources.pop(source):
            del self._offsets[key]
            self._bytes -= len(key) + _ENTRY_OVERHEAD
        self.forgotten += 1
