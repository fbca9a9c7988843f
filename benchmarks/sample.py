"""What the benchmarks send and read: session events of about 307 bytes, and a page of them as GetRecords answers it."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

STREAM: Final = "benchmark"
SEQUENCE_NUMBER: Final = "49646986683135544286507457936321625675700192471156785154"
EVENTS: Final = 10_000
AGGREGATES_ITERATOR: Final = "KPL"  # that asks for the page with aggregates
OWN_ITERATOR: Final = "OWN"  # and for the one with event ids, too
PAGE_END: Final = {"NextShardIterator": "AAA", "MillisBehindLatest": 1_000}
_PLACES: Final = (("Washington", "USA"), ("Nantes", "France"), ("Las Vegas", "USA"), ("Zürich", "Switzerland"))


def make_events(count: int = EVENTS) -> list[dict[str, Any]]:
    """Return `count` distinct events, the same ones each time; as compact JSON they have 307 bytes on average."""
    chance = random.Random(7)  # noqa: S311 - the same sample for every contender
    events = []
    for _ in range(count):
        digits = f"{chance.getrandbits(128):032x}"
        city, country = chance.choice(_PLACES)
        events.append(
            {
                "session_id": "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])),
                "customer_number": chance.randrange(100, 99_999),
                "city": city,
                "country": country,
                "credit_limit": chance.randrange(250_000),
                "browse_history": [_product(chance) for _ in range(2)],
            }
        )
    return events


def _product(chance: random.Random) -> dict[str, Any]:
    first, second, third = chance.randrange(10, 99), chance.randrange(1_000, 9_999), chance.randrange(10**8)
    in_cart = chance.random() < 0.3  # noqa: PLR2004 - three in ten
    return {
        "product_code": f"S{first}_{second}-{third:08}",
        "quantity": chance.randrange(60),
        "in_shopping_cart": in_cart,
    }


def make_records() -> list[dict[str, Any]]:
    """Return the records of a page, the most that it can have, one event each; times in seconds, data as they are."""
    return [
        {
            "SequenceNumber": str(int(SEQUENCE_NUMBER) + number),
            "ApproximateArrivalTimestamp": (1_763_683_200_123 + number) / 1_000,
            "Data": json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode(),
            "PartitionKey": event["session_id"],
        }
        for number, event in enumerate(make_events())
    ]


def make_page(records_in: Sequence[Mapping[str, Any]] = ()) -> bytes:
    """Return records, those of `make_records` unless given, as a GetRecords answer."""
    records = [{**record, "Data": base64.b64encode(record["Data"]).decode()} for record in records_in or make_records()]
    return json.dumps({"Records": records, **PAGE_END}, separators=(",", ":")).encode()
