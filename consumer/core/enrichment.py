"""The lab's four attributes, event id, source and recommendations, added to an event's own bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, Final

import orjson

from consumer.core.lines import Lines
from shared.errors import MalformedEventError
from shared.event import EVENT_ID_FIELD, JSON_WHITESPACE, event_id_of
from shared.limits import BROWSE_HISTORY_ITEMS_MAX

QUANTITY_MAX: Final = 10**15  # a thousand of them still fit into 64 bits, and a double holds each exactly
ENRICHMENT_VERSION: Final = 1  # part of the format version of S3 objects

_NUMBER: Final = re.compile(r"[ \t]*\+?[0-9]{1,16}(\.[0-9]{1,16})?[ \t]*")
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
_HISTORIES: Final = (list, tuple)  # JSON makes no tuple: it stands for none
_last: Final = itemgetter(-1)
_NEWLINES_TO_SPACES: Final = bytes(0x20 if code in b"\r\n" else code for code in range(256))


# The lab's three sums over `browse_history`: quantity, quantity in the shopping cart, products. A plain tuple, as
# one is made per event.
Totals = tuple[float, float, int]


def timestamp_text(wall_seconds: float) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC with microseconds, e.g. `2026-11-21T02:27:00.123456Z`."""
    return datetime.fromtimestamp(wall_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def totals_of(event: Mapping[str, Any]) -> Totals:
    """Sum up `browse_history`; MalformedEventError where a sum would be a guess.

    An absent or null history counts as an empty one, an absent or null `in_shopping_cart` as false. A quantity is a
    number from 0 to 10^15 or a string that holds one; booleans, negative numbers, other texts and an absent quantity
    are refused, and so is an `in_shopping_cart` that is not a boolean.
    """
    history = event.get("browse_history")
    if history is None:
        return 0, 0, 0
    if type(history) is not list:
        raise MalformedEventError("`browse_history` is not a list")
    if len(history) > BROWSE_HISTORY_ITEMS_MAX:
        raise MalformedEventError(
            f"`browse_history` has {len(history):,} items; at most {BROWSE_HISTORY_ITEMS_MAX:,} are allowed"
        )
    total: float = 0
    in_cart: float = 0
    for item in history:
        if type(item) is not dict:
            raise MalformedEventError("an item of `browse_history` is not an object")
        quantity = item.get("quantity")
        if type(quantity) is not int or not 0 <= quantity <= QUANTITY_MAX:
            quantity = _number(quantity)
        total += quantity
        flag = item.get("in_shopping_cart")
        if flag is True:
            in_cart += quantity
        elif flag is not False and flag is not None:
            raise MalformedEventError("`in_shopping_cart` is neither true nor false")
    return total, in_cart, len(history)


def _number(value: object) -> float:
    """Read a quantity that is not a plain integer; messages never hold the value, which may be anything."""
    number: float
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        number = float(value) if "." in value else int(value)
    elif type(value) is float or type(value) is int:
        number = value
    else:
        raise MalformedEventError(f"`quantity` is {_kind(value)}, not a number", hint='Send 2 or "2"')
    if not 0 <= number <= QUANTITY_MAX:
        raise MalformedEventError(f"`quantity` is not between 0 and {QUANTITY_MAX:,}")
    return number


def _kind(value: object) -> str:
    if value is None:
        return "absent"
    return {bool: "a boolean", str: "a text", dict: "an object", list: "a list"}.get(type(value), "something else")


def _plain_totals(events: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int], list[int]] | None:
    """Return the columns of what `totals_of` returns; None if a history is out of the ordinary."""
    totals: list[int] = []
    in_carts: list[int] = []
    products: list[int] = []
    try:
        for event in events:
            total = in_cart = 0
            history = event.get("browse_history", ())
            if type(history) not in _HISTORIES or len(history) > BROWSE_HISTORY_ITEMS_MAX:
                return None
            for item in history:
                quantity, flag = item["quantity"], item["in_shopping_cart"]
                if type(quantity) is not int or not 0 <= quantity <= QUANTITY_MAX or type(flag) is not bool:
                    return None
                total += quantity
                if flag:
                    in_cart += quantity
            totals.append(total)
            in_carts.append(in_cart)
            products.append(len(history))
    except (KeyError, TypeError):  # a field is absent, or an item is no object
        return None
    return totals, in_carts, products


def _texts(values: Sequence[int]) -> list[bytes]:
    """Return whole numbers in decimal, in a tenth of the time of one by one."""
    return orjson.dumps(values)[1:-1].split(b",")


def _one_line(data: bytes) -> bytes:
    """Return an object's text without whitespace behind it, and with spaces for the newlines between its tokens."""
    return data.rstrip(JSON_WHITESPACE).translate(_NEWLINES_TO_SPACES)


# What enrichment takes of records, in columns: data, the events that `decode_events` made of it, sequence numbers in
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

    def enrich_all(self, columns: Columns, timestamp: bytes) -> tuple[Lines, dict[int, Exception]]:
        """Return the enriched events, each one line, and the errors, by index, of those that are left out of them.

        The source's bytes stay as they are and the new fields are spliced in before the closing brace. Newlines between
        tokens become spaces (JSON allows none elsewhere), so that a line is an event. Only an event that already
        holds one of the new fields is written anew, with the new values. The sequence number is a string, because it
        has more digits than a double holds.
        """
        together = self._enrich_together(columns, timestamp)
        if together is not None:
            return together, {}
        datas, events, numbers, subs = columns
        lines: list[bytes] = []
        failures: dict[int, Exception] = {}
        for at in range(0, len(datas), _RUN_EVENTS):
            run = slice(at, at + _RUN_EVENTS)
            part = (datas[run], events[run], numbers[run], subs[run])
            together = self._enrich_together(part, timestamp)
            lines += self._enrich_each(part, timestamp, at, failures) if together is None else together.each()
        return Lines((lines, b"\n")), failures

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

    def _enrich_together(self, columns: Columns, timestamp: bytes) -> Lines | None:
        """Do what `_enrich` does to all events at once; None if one of them is out of the ordinary.

        An event is ordinary if it is one line, is not empty, holds none of the new fields and counts whole quantities;
        and either each event has an id, or none.
        """
        datas, events, numbers, subs = columns
        names = set[str]().union(*events)
        if not names or not _FIELDS.isdisjoint(names) or not all(events):
            return None
        if {*map(_last, datas)} != {_BRACE}:
            datas = [data.rstrip(JSON_WHITESPACE) for data in datas]
        text = b"".join(datas)
        if b"\n" in text or b"\r" in text:
            return None
        has_ids = EVENT_ID_FIELD in names
        if has_ids and not all(type(event.get(EVENT_ID_FIELD)) is str and event[EVENT_ID_FIELD] for event in events):
            return None
        totals = _plain_totals(events)
        if totals is None:
            return None
        quantities, in_carts, products = map(_texts, totals)
        start, first, second, rest = _SPLICE
        number = "\n".join(numbers).encode("ascii").split(b"\n")
        sub = _texts(list(subs)) if any(subs) else b"0"
        new_id = () if has_ids else (self._new_id, number, b":", sub, b'"')
        heads = [data[:-1] for data in datas]
        added = (start % timestamp, quantities, first, in_carts, second, products, rest)
        return Lines((heads, *added, *new_id, self._source, number, _SUB, sub, b"}}\n"))

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
