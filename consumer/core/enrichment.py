"""The lab's four attributes, event id, source and recommendations, added to an event's own bytes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final

import orjson

from consumer.core.decoding import Survey, survey
from consumer.core.lines import CompiledLines, Lines, PlainLines, pick
from consumer.core.totals import totals_of
from shared.compiled import COLUMNS
from shared.compiled.columns import Pieces
from shared.event import EVENT_ID_FIELD, JSON_WHITESPACE, event_id_of

ENRICHMENT_VERSION: Final = 1  # part of the format version of S3 objects

# What enrichment writes; `event_id` is not here, because an event's own one is kept.
_FIELDS: Final = frozenset(
    (
        "processing_timestamp",
        "overall_product_quantity",
        "overall_in_shopping_cart",
        "total_different_products",
        "recommendations",
        "source",
    )
)
_SMALL: Final = range(1_000)
# The new fields, in the pieces that an event's own values come between.
_SPLICE: Final = (
    b',"processing_timestamp":"%b","overall_product_quantity":',
    b',"overall_in_shopping_cart":',
    b',"total_different_products":',
    b',"recommendations":[]',
)
_SUB: Final = b'","sub_sequence_number":'
_TOTALS: Final = b"%d".join(_SPLICE)
_ANY_TOTALS: Final = b"%a".join(_SPLICE)  # a sum may have a fraction
_RUN_EVENTS: Final = 32  # of a chunk with an event that is out of the ordinary: so many are handled like it
_BRACE: Final = ord("}")
_LINE_FEED: Final = ord("\n")
_CARRIAGE_RETURN: Final = ord("\r")
_head: Final = itemgetter(slice(-1))  # all but the last
_last: Final = itemgetter(-1)
_NEWLINES_TO_SPACES: Final = bytes(0x20 if code in b"\r\n" else code for code in range(256))


def timestamp_text(wall_seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC with microseconds, e.g. `2026-11-21T02:27:00.123456Z`."""
    return datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Texts:
    """Whole numbers in decimal, each within a text; small ones are looked up, in a tenth of the time of formatting."""

    __slots__ = ("_pattern", "_small")

    def __init__(self, pattern: bytes) -> None:
        self._pattern = pattern
        self._small = [pattern % number for number in _SMALL]

    def of(self, values: Sequence[int]) -> Sequence[bytes]:
        """Return the text of each; none is negative."""
        try:
            return pick(self._small, values)
        except IndexError:
            return list(map(self._pattern.__mod__, values))


# Sums, each with the piece that follows it, and sub-sequence numbers as they stand in a new id, and at a line's end.
_SUMS: Final = tuple(_Texts(b"%d" + piece) for piece in _SPLICE[1:])
_SUBS: Final = (_Texts(b':%d"'), _Texts(_SUB + b"%d}"))


def _are_texts(values: Sequence[object]) -> bool:
    """Whether each value is a text that is not empty."""
    return {*map(type, values)} <= {str} and all(values)


def _one_line(data: bytes) -> bytes:
    """Return an object's text without whitespace behind it, and with spaces for the newlines between its tokens."""
    return data.rstrip(JSON_WHITESPACE).translate(_NEWLINES_TO_SPACES)


# What enrichment takes of records, in columns: data, the events that `decode` made of it, sequence numbers in
# decimal digits, and sub-sequence numbers.
Columns = tuple[Sequence[bytes], Sequence[dict[str, Any]], Sequence[str], Sequence[int]]


class Enricher:
    """Enriches the events of one shard."""

    __slots__ = ("_new_id", "_source", "shard_id", "stream")

    def __init__(self, stream: str, shard_id: str) -> None:
        self.stream = stream
        self.shard_id = shard_id
        names = b'"stream":%b,"shard_id":%b' % (orjson.dumps(stream), orjson.dumps(shard_id))
        self._source = b',"source":{%b,"sequence_number":"' % names
        self._new_id = b',"event_id":%b' % orjson.dumps(f"{stream}:{shard_id}:")[:-1]

    def enrich_all(
        self, columns: Columns, timestamp: bytes, found: Survey | None = None
    ) -> tuple[Lines, dict[int, Exception]]:
        """Return the enriched events, each one line, and the errors, by index, of those that are left out of them.

        `found` is the survey of the events, where there is one.

        The source's bytes stay as they are and the new fields are spliced in before the closing brace. Newlines between
        tokens become spaces (JSON allows none elsewhere), so that a line is an event. Only an event that already
        holds one of the new fields is written anew, with the new values. The sequence number is a string, because it
        has more digits than a double holds.
        """
        together = self._enrich_together(columns, timestamp, found)
        if together is not None:
            return together, {}
        datas, events, numbers, subs = columns
        lines: list[bytes] = []
        failures: dict[int, Exception] = {}
        for at in range(0, len(datas), _RUN_EVENTS):
            run = slice(at, at + _RUN_EVENTS)
            part = (datas[run], events[run], numbers[run], subs[run])
            together = self._enrich_together(part, timestamp, None)
            lines += self._enrich_each(part, timestamp, at, failures) if together is None else together.each()
        return PlainLines((lines, b"\n")), failures

    def _enrich_each(
        self, columns: Columns, timestamp: bytes, start: int, failures: dict[int, Exception]
    ) -> list[bytes]:
        """Return the lines of events, of which the first has the index `start`, and add to the failures."""
        lines: list[bytes] = []
        for index, (data, event, number, sub) in enumerate(zip(*columns, strict=True), start):
            try:
                lines.append(self._enrich(data, event, number, sub, timestamp))
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - a part of the answer: who asked tells a defect from bad data
                failures[index] = error
        return lines

    def _enrich_together(self, columns: Columns, timestamp: bytes, found: Survey | None) -> Lines | None:
        """Do what `_enrich` does to all events at once; None if one of them is out of the ordinary.

        An event is ordinary if it is one line, is not empty, holds none of the new fields and counts whole quantities;
        and either each event has an id, or none.
        """
        datas, events, numbers, subs = columns
        if {*map(_last, datas)} != {_BRACE}:
            datas = [data.rstrip(JSON_WHITESPACE) for data in datas]
        found = found or survey(list(datas), list(events))
        if found is None or not all(events) or not _FIELDS.isdisjoint(found.names):
            return None
        if found.event_ids is not None and not _are_texts(found.event_ids):
            return None
        if COLUMNS is not None:
            return CompiledLines(COLUMNS, list(datas), self._pieces(timestamp, found, list(numbers), list(subs)))
        number = list(map(str.encode, numbers))
        id_sub, last_sub = (texts.of(subs) if any(subs) else texts.of((0,))[0] for texts in _SUBS)
        new_id = (self._new_id, number, id_sub) if found.event_ids is None else ()
        sums = [texts.of(column) for texts, column in zip(_SUMS, found.totals, strict=True)]
        start = (list(map(_head, datas)), _SPLICE[0] % timestamp)
        return PlainLines((*start, *sums, *new_id, self._source, number, last_sub, b"}\n"))

    def _pieces(self, timestamp: bytes, found: Survey, numbers: list[str], subs: list[int]) -> Pieces:
        """Return what stands behind the data of each event in place of its last brace, newline included."""
        quantities, in_carts, products = found.totals
        between = self._source
        behind: Pieces = (numbers, _SUB, subs, b"}}\n")
        if found.event_ids is None:
            between, behind = self._new_id, (numbers, b":", subs, b'"' + self._source, *behind)
        opening = (_SPLICE[0] % timestamp, quantities, _SPLICE[1], in_carts, _SPLICE[2], products)
        return (*opening, _SPLICE[3] + between, *behind)

    def _enrich(self, data: bytes, event: dict[str, Any], number: str, sub: int, timestamp: bytes) -> bytes:
        """Return one event's line without a newline; MalformedEventError where a sum would be a guess."""
        event_id = event.get(EVENT_ID_FIELD)
        has_id = type(event_id) is str and event_id != ""
        if not event or not _FIELDS.isdisjoint(event) or not (has_id or EVENT_ID_FIELD not in event):
            return self._rewrite(event, number, sub, timestamp)
        place = (number.encode("ascii"), b"%d" % sub)
        if data[-1] != _BRACE or _LINE_FEED in data or _CARRIAGE_RETURN in data:
            data = _one_line(data)
        totals = totals_of(event)
        is_whole = type(totals[0]) is int and type(totals[1]) is int
        added = (_TOTALS if is_whole else _ANY_TOTALS) % (timestamp, *totals)
        new_id = b"" if has_id else b'%b%b:%b"' % (self._new_id, *place)
        return b"".join((data[:-1], added, new_id, self._source, _SUB.join(place), b"}}"))

    def _rewrite(self, event: dict[str, Any], number: str, sub: int, timestamp: bytes) -> bytes:
        """Write the event anew: its own fields in their order, the new ones with their new values at the end."""
        quantity, in_cart, products = totals_of(event)
        enriched = {name: value for name, value in event.items() if name not in _FIELDS}
        enriched["processing_timestamp"] = timestamp.decode()
        enriched["overall_product_quantity"] = quantity
        enriched["overall_in_shopping_cart"] = in_cart
        enriched["total_different_products"] = products
        enriched["recommendations"] = []
        if event_id_of(event) is None:
            enriched[EVENT_ID_FIELD] = f"{self.stream}:{self.shard_id}:{number}:{sub}"
        enriched["source"] = {
            "stream": self.stream,
            "shard_id": self.shard_id,
            "sequence_number": number,
            "sub_sequence_number": sub,
        }
        # orjson's results keep 4 KiB of memory alive each; a copy keeps its own size.
        return bytes(memoryview(orjson.dumps(enriched)))
