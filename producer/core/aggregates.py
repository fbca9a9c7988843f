"""The aggregates of a request in columns: objects for each cost more than to send them, where they hold few events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from producer.core.lane import Lane
from producer.core.record_columns import RecordColumns, Ticket, size_of
from shared.aggregation import encode_plain
from shared.records import PutEntry

Tickets = list[Ticket | None]


class Aggregates:
    """User records without explicit hash keys, by the stream record that they travel in.

    `lanes` are those that wait for one of these, in their order: `lane_counts` of them for each, none where order is
    not kept. `sizes` are the bytes of data and keys. One that holds a single record is that record.
    """

    __slots__ = ("datas", "entries", "keys", "lane_counts", "lanes", "shard_ids", "sizes", "tickets")

    def __init__(
        self,
        shard_ids: list[str],
        datas: list[list[bytes]],
        keys: list[list[str]],
        sizes: list[int],
        tickets: list[Tickets | None] | None,
        lane_counts: list[int],
        lanes: list[Lane],
    ) -> None:
        self.shard_ids = shard_ids  # predicted
        self.datas = datas
        self.keys = keys
        self.sizes = sizes
        self.tickets = tickets
        self.lane_counts = lane_counts
        self.lanes = lanes
        self.entries: list[PutEntry] = []

    def __len__(self) -> int:
        return len(self.shard_ids)

    def write(self) -> list[int]:
        """Write the entries, and return the bytes of data and partition key of each."""
        self.entries = encode_plain(self.datas, self.keys)
        return [size_of(data, key) for data, key, _ in self.entries]

    @property
    def count(self) -> int:
        """How many user records there are."""
        return sum(map(len, self.datas))

    def part(self, index: int) -> RecordColumns:
        """Return the user records of one of these."""
        tickets = None if self.tickets is None else self.tickets[index]
        return RecordColumns.of(self.datas[index], self.keys[index], tickets, self.sizes[index])

    @property
    def members(self) -> Iterator[RecordColumns]:
        """Yield the user records of each."""
        return map(self.part, range(len(self)))

    @property
    def lanes_of_each(self) -> Iterator[Sequence[Lane]]:
        """Yield the lanes that wait for each."""
        ends = accumulate(self.lane_counts)
        return (self.lanes[end - count : end] for end, count in zip(ends, self.lane_counts, strict=True))
