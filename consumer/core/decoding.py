"""The events of a chunk, decoded and summed up all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

from consumer.core.totals import QUANTITY_MAX, TotalsColumns, plain_totals
from shared.compiled import COLUMNS
from shared.errors import MalformedEventError
from shared.event import (
    DIGIT_RUN,
    DIGITS_AS_ZEROS,
    EVENT_ID_FIELD,
    SHORT_BYTES,
    are_modest,
    decode_events,
    have_small_integers,
)
from shared.limits import BROWSE_HISTORY_ITEMS_MAX, EVENT_DEPTH_MAX

_OPENINGS: Final = b"[{"


class Survey(NamedTuple):
    """What is known of events that are one line each and have `plain_totals`."""

    names: set[str]  # of the fields of any of them
    totals: TotalsColumns
    event_ids: list[object] | None  # what each has for one; None if no event has the field


class Decoded(NamedTuple):
    """The events of a chunk; a refused one is empty, with its error by index.

    `survey` is None if an event is refused or out of the ordinary.
    """

    events: list[dict[str, Any]]
    malformed: dict[int, MalformedEventError]
    survey: Survey | None


def decode(datas: Sequence[bytes]) -> Decoded:
    """Decode events as `shared.event.decode_event` does.

    The checks look at all of them at once. Only where one of them finds something, each event is decoded by itself.
    """
    return _decode_together(datas) or Decoded(*decode_events(datas), None)


def survey(datas: list[bytes], events: list[Any]) -> Survey | None:
    """Look at decoded events and their data; None if one of them is out of the ordinary, or no object."""
    if COLUMNS is not None:
        return None if COLUMNS.look_at(datas)[2] else _survey(events)
    return None if _has_newline(b"".join(datas)) else _survey(events)


def _has_newline(text: bytes) -> bool:
    return b"\n" in text or b"\r" in text


def _survey(events: list[Any]) -> Survey | None:
    if COLUMNS is not None:
        found = COLUMNS.survey(events, BROWSE_HISTORY_ITEMS_MAX, QUANTITY_MAX)
        return None if found is None else Survey(found[0], found[1:4], found[4])
    totals = plain_totals(events)
    if totals is None:
        return None
    names = set().union(*events)
    return Survey(names, totals, [event.get(EVENT_ID_FIELD) for event in events] if EVENT_ID_FIELD in names else None)


def _look_at(datas: list[bytes]) -> tuple[int, bool, bool] | None:
    """Return how many opening brackets texts have, and whether there is a newline, and as many digits as are too many.

    None if one is too long for all that is bounded by its length.
    """
    if COLUMNS is not None:
        longest, openings, has_newline, has_digits = COLUMNS.look_at(datas)
        return None if longest > SHORT_BYTES else (openings, has_newline, has_digits)
    if max(map(len, datas), default=0) > SHORT_BYTES:
        return None
    text = b"".join(datas)
    digits = text.translate(DIGITS_AS_ZEROS, _OPENINGS)
    return len(text) - len(digits), _has_newline(text), digits.rfind(DIGIT_RUN) >= 0


def _decode_together(datas: Sequence[bytes]) -> Decoded | None:
    """Return the events; None if one of them is to be refused, or might be."""
    datas = list(datas) if not isinstance(datas, list) else datas
    look = _look_at(datas)
    if look is None:
        return None
    openings, has_newline, has_digits = look
    try:
        events = list(map(orjson.loads, datas))
    except orjson.JSONDecodeError:
        return None
    found = None if has_newline else _survey(events)
    if has_digits and not have_small_integers(datas):
        return None
    is_flat = found is not None and _openings_max(openings, found.totals[2]) <= EVENT_DEPTH_MAX
    if not is_flat and not ({*map(type, events)} <= {dict} and are_modest(datas)):
        return None
    return Decoded(events, {}, found)


def _openings_max(openings: int, products: Sequence[int]) -> int:
    """Return a bound on the opening brackets of any event, by those of all together and the products of each.

    An event has one, and with products another one and one for each of these. If that is nearly all that there are,
    then no event has many.
    """
    count = len(products)
    others = openings - sum(products) - count - (count - products.count(0))
    return 2 + max(products, default=0) + others
