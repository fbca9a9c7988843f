"""The lab's four attributes, event id, source and recommendations, added to an event's own bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from shared.errors import MalformedEventError
from shared.event import EVENT_ID_FIELD, JSON_WHITESPACE, event_id_of
from shared.limits import BROWSE_HISTORY_ITEMS_MAX
from shared.records import Position

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
_QUANTITY: Final = b',"processing_timestamp":"%b","overall_product_quantity":'
_TOTALS: Final = b'%d,"overall_in_shopping_cart":%d,"total_different_products":%d,"recommendations":[]'
_ANY_TOTALS: Final = _TOTALS.replace(b"%d", b"%a")  # a sum may have a fraction
_SUB: Final = b'","sub_sequence_number":'
_BRACE: Final = ord("}")
_LINE_FEED: Final = ord("\n")
_CARRIAGE_RETURN: Final = ord("\r")
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
        quantity = _number(item.get("quantity"))
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


def _totals_text(event: Mapping[str, Any]) -> bytes:
    """Return what `totals_of` does as JSON, the fields' names between; reads at once what nearly every event has."""
    total = in_cart = 0
    try:
        history = event["browse_history"]
        if type(history) is not list or len(history) > BROWSE_HISTORY_ITEMS_MAX:
            return _ANY_TOTALS % totals_of(event)
        for item in history:
            quantity, flag = item["quantity"], item["in_shopping_cart"]
            if type(quantity) is not int or not 0 <= quantity <= QUANTITY_MAX or type(flag) is not bool:
                return _ANY_TOTALS % totals_of(event)
            total += quantity
            if flag:
                in_cart += quantity
    except (KeyError, TypeError):  # a field is absent, or an item is no object
        return _ANY_TOTALS % totals_of(event)
    return _TOTALS % (total, in_cart, len(history))


def _one_line(data: bytes) -> bytes:
    """Return an object's text without whitespace behind it, and with spaces for the newlines between its tokens."""
    return data.rstrip(JSON_WHITESPACE).translate(_NEWLINES_TO_SPACES)


# What enrichment takes of a record: data, the event that `decode_events` made of it, sequence and sub-sequence number.
Row = tuple[bytes, dict[str, Any], int, int]


class Enricher:
    """Enriches the events of one shard."""

    __slots__ = ("_new_id", "_source", "shard_id", "stream")

    def __init__(self, stream: str, shard_id: str) -> None:
        self.stream = stream
        self.shard_id = shard_id
        names = b'"stream":%b,"shard_id":%b' % (orjson.dumps(stream), orjson.dumps(shard_id))
        self._source = b',"source":{%b,"sequence_number":"' % names
        self._new_id = b',"event_id":%b' % orjson.dumps(f"{stream}:{shard_id}:")[:-1]

    def event_id(self, position: Position) -> str:
        """Return the id of an event that brought none: its place in the source stream."""
        return f"{self.stream}:{self.shard_id}:{position.sequence_number}:{position.sub_sequence_number}"

    def enrich_all(self, rows: Iterable[Row], timestamp: bytes) -> tuple[list[bytes], dict[int, Exception]]:
        """Return the enriched events, each one line without a newline; where it fails, no bytes and the error by index.

        The source's bytes stay as they are and the new fields are spliced in before the closing brace. Newlines between
        tokens become spaces (JSON allows none elsewhere), so that a line is an event. Only an event that already
        holds one of the new fields is written anew, with the new values. The sequence number is a string, because it
        has more digits than a double holds.
        """
        stamp, new_id, source = _QUANTITY % timestamp, self._new_id, self._source
        lines: list[bytes] = []
        failures: dict[int, Exception] = {}
        number, text = -1, b""
        for data, event, sequence_number, sub_sequence_number in rows:
            if sequence_number != number:
                # All members of an aggregate share it, and it takes long to write.
                number, text = sequence_number, b"%d" % sequence_number
            try:
                if data[-1] != _BRACE or _LINE_FEED in data or _CARRIAGE_RETURN in data:
                    data = _one_line(data)  # noqa: PLW2901 - it is the same record
                event_id = event.get(EVENT_ID_FIELD)
                is_spliced = event and _FIELDS.isdisjoint(event)
                if is_spliced and event_id and type(event_id) is str:
                    sums, sub = _totals_text(event), b"%d" % sub_sequence_number
                    line = b"".join((data[:-1], stamp, sums, source, text, _SUB, sub, b"}}"))
                elif is_spliced and event_id is None and EVENT_ID_FIELD not in event:
                    sums, sub = _totals_text(event), b"%d" % sub_sequence_number
                    line = b"".join(
                        (data[:-1], stamp, sums, new_id, text, b":", sub, b'"', source, text, _SUB, sub, b"}}")
                    )
                else:
                    line = self._rewrite(event, Position(number, sub_sequence_number), timestamp)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001 - a part of the answer: who asked tells a defect from bad data
                failures[len(lines)] = error
                line = b""
            lines.append(line)
        return lines, failures

    def _rewrite(self, event: dict[str, Any], position: Position, timestamp: bytes) -> bytes:
        """Write the event anew: its own fields in their order, the new ones with their new values at the end."""
        quantity, in_cart, products = totals_of(event)
        enriched = {name: value for name, value in event.items() if name not in _FIELDS}
        enriched["processing_timestamp"] = timestamp.decode()
        enriched["overall_product_quantity"] = quantity
        enriched["overall_in_shopping_cart"] = in_cart
        enriched["total_different_products"] = products
        enriched["recommendations"] = []
        if event_id_of(event) is None:
            enriched[EVENT_ID_FIELD] = self.event_id(position)
        enriched["source"] = {
            "stream": self.stream,
            "shard_id": self.shard_id,
            "sequence_number": str(position.sequence_number),
            "sub_sequence_number": position.sub_sequence_number,
        }
        # orjson's results keep 4 KiB of memory alive each; a copy keeps its own size.
        return bytes(memoryview(orjson.dumps(enriched)))
