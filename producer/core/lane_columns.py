"""The lists of all lanes in one place, to be emptied into aggregates in one call of the compiled part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from producer.core.aggregates import Aggregates, Tickets
from producer.core.lane import NOT_WAITING, Lane, LaneBoard
from shared.compiled.columns import Columns, TakingLimits


@dataclass(slots=True)
class Left:
    """What a request leaves of the lanes that were ready."""

    size: int  # of those of which it takes nothing
    count: int
    untouched: list[Lane] = field(default_factory=list)  # these lanes
    touched: list[Lane] = field(default_factory=list)
    looked_at: int = 0  # so many of the first lanes


class LaneColumns:
    """The lists of all lanes, as the compiled part takes them."""

    __slots__ = ("_board", "_datas", "_keys", "_lanes")

    def __init__(self, lanes: list[Lane], board: LaneBoard, datas: list[list[bytes]], keys: list[list[str]]) -> None:
        self._lanes = lanes
        self._board = board
        self._datas = datas
        self._keys = keys

    def take(
        self,
        columns: Columns,
        lanes: Sequence[Lane],
        shard_ids: list[str | None],
        joins: bytes | None,
        limits: TakingLimits,
        left: Left,
        *,
        blocks: bool,
    ) -> Aggregates:
        """Empty lanes into the aggregates of their shards, the first ones until one needs a closer look.

        A shard id is None for a lane that needs that look; no other one has explicit hash keys. With `blocks`, those
        that are emptied are blocked. What is left of all that was ready is told to `left`.
        """
        tickets = self._written_tickets(lanes)
        indexes = [lane.index for lane in lanes]
        found, datas, keys, sizes, counts, taken, kept, left.looked_at = columns.take_lanes(
            indexes, shard_ids, joins, self._datas, self._keys, limits
        )
        emptied = [self._lanes[index] for index in taken]
        told = None if tickets is None else _joined(tickets, emptied, counts)
        for lane in emptied:
            lane.records.forget()
            lane.waits_since = NOT_WAITING
        board = self._board
        board.idle.update(taken)
        if blocks:
            for index in taken:
                board.free[index] = 0
        waiting = emptied if blocks else []
        together = Aggregates(found, datas, keys, sizes, told, counts if blocks else [0] * len(counts), waiting)
        left.untouched = [lanes[each] for each in kept]
        left.size -= sum(sizes)
        left.count -= together.count
        return together

    def _written_tickets(self, lanes: Sequence[Lane]) -> dict[int, Tickets] | None:
        """Return the tickets of some lanes, by their indexes; None if no record has one."""
        if self._board.ticket is None and not any(lane.records.tickets for lane in lanes):
            return None
        for lane in lanes:
            lane.records.fill_tickets(self._board.ticket)
        return {lane.index: lane.records.tickets or [] for lane in lanes}


def _joined(tickets: dict[int, Tickets], lanes: list[Lane], counts: list[int]) -> list[Tickets | None]:
    """Return the tickets of the records of lanes, of so many lanes together."""
    ends = accumulate(counts)
    return [
        [ticket for lane in lanes[end - count : end] for ticket in tickets[lane.index]]
        for end, count in zip(ends, counts, strict=True)
    ]
