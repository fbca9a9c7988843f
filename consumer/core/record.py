"""A record as a function of the user's own gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Record:
    """One record as its producer put it, after de-aggregation.

    `event` is the decoded JSON object, None if `data` is none within the bounds of an event. `event_id` is the event's
    own, None if it brought none: then a repetition by its producer can't be told. `arrival_timestamp` is in seconds
    since the epoch.
    """

    data: bytes
    event: Mapping[str, Any] | None
    event_id: str | None
    partition_key: str
    shard_id: str
    sequence_number: int
    sub_sequence_number: int
    arrival_timestamp: float
