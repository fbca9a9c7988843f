"""The lab's four attributes, event id, source and recommendations, added to an event's own bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

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
_SPLICE: Final = (
    b'%b,"processing_timestamp":"%b","overall_product_quantity":%b,"overall_in_shopping_cart":%b,'
    b'"total_different_products":%d,"recommendations":[]%b%b%b","sub_sequence_number":%d}}'
)
_BRACE: Final = ord("}")
_LINE_FEED: Final = ord("\n")
_CARRIAGE_RETURN: Final = ord("\r")
_NEWLINES_TO_SPACES: Final = bytes(0x20 if code in b"\r\n" else code for code in range(256))


class Totals(NamedTuple):
    """The lab's three sums over `browse_history`."""

    quantity: float
    in_shopping_cart: float
    products: int


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
        return Totals(0, 0, 0)
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
    return Totals(total, in_cart, len(history))


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


class Enricher:
    """Enriches the events of one shard."""

    __slots__ = ("_number", "_number_text", "_source", "shard_id", "stream")

    def __init__(self, stream: str, shard_id: str) -> None:
        self.stream = stream
        self.shard_id = shard_id
        names = b'"stream":%b,"shard_id":%b' % (orjson.dumps(stream), orjson.dumps(shard_id))
        self._source = b',"source":{' + names + b',"sequence_number":"'
        self._number = -1
        self._number_text = b""

    def event_id(self, position: Position) -> str:
        """Return the id of an event that brought none: its place in the source stream."""
        return f"{self.stream}:{self.shard_id}:{position.sequence_number}:{position.sub_sequence_number}"

    def enrich(self, data: bytes, event: dict[str, Any], position: Position, timestamp: bytes) -> bytes:
        """Return the enriched event as one line without a newline; MalformedEventError from the sums.

        `event` is what `decode_event` made of `data`. The source's bytes stay as they are and the new fields are
        spliced in before the closing brace. Newlines between tokens become spaces (JSON allows none elsewhere), so
        that a line is an event. Only an event that already holds one of the new fields is written anew, with the new
        values. The sequence number is a string, because it has more digits than a double holds.
        """
        quantity, in_cart, products = totals_of(event)
        has_id = event_id_of(event) is not None
        if not event or not _FIELDS.isdisjoint(event) or (not has_id and EVENT_ID_FIELD in event):
            return self._rewrite(event, Totals(quantity, in_cart, products), position, timestamp)
        if data[-1] != _BRACE:
            data = data.rstrip(JSON_WHITESPACE)
        if _LINE_FEED in data or _CARRIAGE_RETURN in data:
            data = data.translate(_NEWLINES_TO_SPACES)
        number, sub_sequence_number = position
        if number != self._number:
            # All members of an aggregate share it, and it takes longer to write than all the rest.
            self._number, self._number_text = number, b"%d" % number
        return _SPLICE % (
            data[:-1],
            timestamp,
            b"%d" % quantity if type(quantity) is int else repr(quantity).encode(),
            b"%d" % in_cart if type(in_cart) is int else repr(in_cart).encode(),
            products,
            b"" if has_id else b',"event_id":' + orjson.dumps(self.event_id(position)),
            self._source,
            self._number_text,
            sub_sequence_number,
        )

    def _rewrite(self, event: dict[str, Any], totals: Totals, position: Position, timestamp: bytes) -> bytes:
        """Write the event anew: its own fields in their order, the new ones with their new values at the end."""
        enriched = {name: value for name, value in event.items() if name not in _FIELDS}
        enriched["processing_timestamp"] = timestamp.decode()
        enriched["overall_product_quantity"] = totals.quantity
        enriched["overall_in_shopping_cart"] = totals.in_shopping_cart
        enriched["total_different_products"] = totals.products
        enriched["recommendations"] = []
        if event_id_of(event) is None:
            enriched[EVENT_ID_FIELD] = self.event_id(position)
        enriched["source"] = {
            "stream": self.stream,
            "shard_id": self.shard_id,
            "sequence_number": str(position.sequence_number),
            "sub_sequence_number": position.sub_sequence_number,
        }
        return orjson.dumps(enriched)
