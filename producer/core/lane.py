"""The records of one lane that wait, and what all lanes of a producer have in common."""

from __future__ import annotations

from typing import Final

from producer.core.record_columns import RecordColumns, Ticket

NOT_WAITING: Final = float("inf")


class LaneBoard:
    """What is told of all lanes in one place, so that many records of many lanes are queued in one step."""

    __slots__ = ("free", "idle", "spilled", "ticket")

    def __init__(self, lanes: int) -> None:
        self.free = bytearray(b"\1" * lanes)  # 0 for a lane that is blocked
        self.idle = set(range(lanes))  # the lanes without records
        self.spilled = 0  # of all lanes
        self.ticket: Ticket | None = None  # of the records at the end of each lane whose ticket is not written down


class Lane:
    """The records of one lane that wait, in the order in which they were put.

    Somebody may append to the lists of data and keys; the new records then have the ticket of the board.
    """

    __slots__ = ("_board", "_spilled", "alone", "index", "ready_since", "records", "waits_since")

    def __init__(self, index: int, board: LaneBoard) -> None:
        self.index = index
        self.records = RecordColumns()
        self.alone = 0  # so many of the first records are to be sent unwrapped: one of them was refused
        self.ready_since = 0.0
        self.waits_since = NOT_WAITING  # the number of the first request that left it out, since it was part of one
        self._spilled = 0
        self._board = board

    @property
    def spilled(self) -> int:
        """Records on disk (or on their way there), which everything newer has to wait for."""
        return self._spilled

    @spilled.setter
    def spilled(self, value: int) -> None:
        self._board.spilled += value - self._spilled
        self._spilled = value

    @property
    def is_blocked(self) -> bool:
        """Whether nothing more may be sent at present."""
        return not self._board.free[self.index]

    @is_blocked.setter
    def is_blocked(self, value: bool) -> None:
        self._board.free[self.index] = not value

    def write_tickets(self) -> None:
        """Write down the tickets of the records that came with that of the board."""
        ticket = self._board.ticket
        if ticket is not None or self.records.tickets is not None:
            self.records.fill_tickets(ticket)

    def append(self, data: bytes, key: str, ticket: Ticket | None, explicit_hash_key: int | None) -> None:
        """Add a record, whatever the ticket of the board."""
        self.write_tickets()
        self.records.append(data, key, ticket, explicit_hash_key)
        self._board.idle.discard(self.index)

    def put_before(self, returned: RecordColumns) -> None:
        """Put records back in front of all that wait."""
        self.write_tickets()
        self.records.put_before(returned)
        self._board.idle.discard(self.index)

    def move_to(self, target: RecordColumns, count: int) -> None:
        """Move the first `count` records behind others."""
        self.write_tickets()
        self.waits_since = NOT_WAITING
        records = self.records
        if count == len(records.datas):
            target.extend(records)
            records.clear()
            self._board.idle.add(self.index)
        else:
            target.extend(records.take(count))

    def drop(self, count: int, size: int) -> None:
        """Remove the first `count` records, which have `size` bytes."""
        self.write_tickets()
        if count:
            self.waits_since = NOT_WAITING
        self.records.drop(count, size)
        if not self.records.datas:
            self._board.idle.add(self.index)
