"""What a function of the user's own says of the records it was given, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence

from consumer.core.record import Record


class Retry(Exception):  # noqa: N818 - it is an answer as much as an error: returned for a record, or raised
    """Not now: something that the record needs is not to be had. It is handed over again, for as long as it takes."""


class Reject(Exception):  # noqa: N818 - see Retry
    """Not ever: the record can't be processed. It becomes a dead letter without another attempt."""


# What is returned for one record; None: it is done.
Outcome = Retry | Reject | None


class OutcomeError(Exception):
    """What was returned can't be brought together with the records: a defect of the function."""


def lanes_of(records: Sequence[Record], lanes_max: int) -> list[list[Record]]:
    """Deal records out to at most `lanes_max` lists of like length: all of one partition key to one, in their order."""
    lanes: list[list[Record]] = []
    by_key: dict[str, list[Record]] = {}
    for record in records:
        lane = by_key.get(record.partition_key)
        if lane is None:
            if len(lanes) < lanes_max:
                lane = []
                lanes.append(lane)
            else:
                lane = min(lanes, key=len)
            by_key[record.partition_key] = lane
        lane.append(record)
    return lanes


def judge(
    records: Sequence[Record], outcomes: Sequence[Outcome] | None
) -> tuple[list[tuple[Record, Reject]], list[Record]]:
    """Return which records are rejected and why, and which are to be handed over again.

    From the first `Retry` of a key on, all records of the key come again, whatever was said of them: otherwise one that
    is tried again would be done after those that follow it. The list may end at a `Retry`: the records behind it come
    again. OutcomeError if outcomes are otherwise not one per record.
    """
    if outcomes is None:
        return [], []
    if not isinstance(outcomes, Sequence):
        raise OutcomeError(f"a {type(outcomes).__name__} was returned, neither None nor a list")
    missing = len(records) - len(outcomes)
    if missing > 0 and outcomes and isinstance(outcomes[-1], Retry):
        outcomes = [*outcomes, *[outcomes[-1]] * missing]
    elif missing:
        raise OutcomeError(f"{len(outcomes):,} outcomes were returned for {len(records):,} records")
    rejected: list[tuple[Record, Reject]] = []
    again: list[Record] = []
    held_back: set[str] = set()
    for record, outcome in zip(records, outcomes, strict=True):
        if record.partition_key in held_back or isinstance(outcome, Retry):
            held_back.add(record.partition_key)
            again.append(record)
        elif isinstance(outcome, Reject):
            rejected.append((record, outcome))
        elif outcome is not None:
            raise OutcomeError(f"an outcome is a {type(outcome).__name__}, neither None nor Retry nor Reject")
    return rejected, again
