"""The lab's three sums over an event's `browse_history`: of one event, or of a chunk's, in columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from shared.errors import MalformedEventError
from shared.limits import BROWSE_HISTORY_ITEMS_MAX

QUANTITY_MAX: Final = 10**15  # a thousand of them still fit into 64 bits, and a double holds each exactly

_NUMBER: Final = re.compile(r"[ \t]*\+?[0-9]{1,16}(\.[0-9]{1,16})?[ \t]*")
_HISTORIES: Final = (list, tuple)  # JSON makes no tuple: it stands for none

# Quantity, quantity in the shopping cart, products. A plain tuple, as one is made per event.
Totals = tuple[float, float, int]
# The same of many events, each a column.
TotalsColumns = tuple[list[int], list[int], list[int]]


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


def plain_totals(events: Sequence[Mapping[str, Any]]) -> TotalsColumns | None:
    """Return the columns of what `totals_of` returns; None if a history is out of the ordinary, or one no event."""
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
    except (KeyError, TypeError, AttributeError):  # a field is absent, or an item or an event is no object
        return None
    return totals, in_carts, products
