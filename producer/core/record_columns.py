"""Queued user records in columns: an object for each would cost more than all that is done with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import repeat
from operator import is_
from typing import Any, Final, Self

from shared.compiled import COLUMNS
from shared.hash_key import hash_key_of
from shared.ports import Receipt

Ticket = tuple[Receipt, Any]  # who is told of a record's outcome, and with which token; one may serve many records

_NONE: Final = repeat(None)


class RecordColumns:
    """User records in the order in which they were put.

    `hash_keys` are the explicit ones. They and `tickets` are None if no record has one. The lists `datas` and `keys`
    stay the same objects for good, so that one may append to both of them by himself.
    """

    __slots__ = ("_size", "_sized", "datas", "hash_keys", "keys", "tickets")

    def __init__(self) -> None:
        self.datas: list[bytes] = []
        self.keys: list[str] = []
        self.tickets: list[Ticket | None] | None = None
        self.hash_keys: list[int | None] | None = None
        self._size = 0  # of so many of the first records:
        self._sized = 0

    def __len__(self) -> int:
        return len(self.datas)

    @property
    def size(self) -> int:
        """The bytes of data and keys."""
        sized, count = self._sized, len(self.datas)
        if sized != count:
            added = None if COLUMNS is None else COLUMNS.size_of_records(self.datas, self.keys, sized)
            self._size += bytes_of(self.datas[sized:], self.keys[sized:]) if added is None else added
            self._sized = count
        return self._size

    @classmethod
    def of(cls, datas: list[bytes], keys: list[str], tickets: list[Ticket | None] | None, size: int) -> Self:
        """Return records without explicit hash keys, of `size` bytes; the lists are kept, not copied."""
        columns = cls()
        columns.datas, columns.keys, columns.tickets = datas, keys, tickets
        columns._size, columns._sized = size, len(datas)
        return columns

    def append(self, data: bytes, key: str, ticket: Ticket | None = None, explicit_hash_key: int | None = None) -> None:
        """Add a record."""
        if self.hash_keys is not None:
            self.hash_keys.append(explicit_hash_key)
        elif explicit_hash_key is not None:
            self.hash_keys = [*[None] * len(self.datas), explicit_hash_key]
        if self.tickets is not None:
            self.tickets.append(ticket)
        elif ticket is not None:
            self.tickets = [*[None] * len(self.datas), ticket]
        self.datas.append(data)
        self.keys.append(key)

    def fill_tickets(self, ticket: Ticket | None) -> None:
        """Give a ticket to the records at the end that have none yet; None says that nobody is told of them."""
        if self.tickets is None:
            self.tickets = []
        missing = len(self.datas) - len(self.tickets)
        if missing:  # else nothing is done: this is asked for each record that is put by itself
            self.tickets += [ticket] * missing

    def extend(self, others: RecordColumns) -> None:
        """Add other records behind these."""
        size = self.size + others.size
        if self.hash_keys is not None or others.hash_keys is not None:
            own = self.hash_keys or [None] * len(self.datas)
            self.hash_keys = own + (others.hash_keys or [None] * len(others.datas))
        if self.tickets is not None or others.tickets is not None:
            held = self.tickets or [None] * len(self.datas)
            self.tickets = held + (others.tickets or [None] * len(others.datas))
        self.datas += others.datas
        self.keys += others.keys
        self._size, self._sized = size, len(self.datas)

    def put_before(self, others: RecordColumns) -> None:
        """Add other records in front of these."""
        size = self.size + others.size
        if self.hash_keys is not None or others.hash_keys is not None:
            own = self.hash_keys or [None] * len(self.datas)
            self.hash_keys = (others.hash_keys or [None] * len(others.datas)) + own
        if self.tickets is not None or others.tickets is not None:
            held = self.tickets or [None] * len(self.datas)
            self.tickets = (others.tickets or [None] * len(others.datas)) + held
        self.datas[:0] = others.datas
        self.keys[:0] = others.keys
        self._size, self._sized = size, len(self.datas)

    def single(self, index: int) -> RecordColumns:
        """Return a copy of one record."""
        single = RecordColumns()
        single.append(self.datas[index], self.keys[index], self.ticket(index), self.explicit(index))
        return single

    def part(self, start: int, stop: int) -> RecordColumns:
        """Return a copy of the records from `start` to before `stop`."""
        part = RecordColumns()
        part.datas = self.datas[start:stop]
        part.keys = self.keys[start:stop]
        part.tickets = None if self.tickets is None else self.tickets[start:stop]
        if self.hash_keys is not None:
            explicit = self.hash_keys[start:stop]
            part.hash_keys = None if all(map(is_, explicit, _NONE)) else explicit
        return part

    def take(self, count: int) -> RecordColumns:
        """Remove the first `count` records and return them."""
        taken = self.part(0, count)
        self.drop(count, taken.size)
        return taken

    def drop(self, count: int, size: int) -> None:
        """Remove the first `count` records, which have `size` bytes."""
        if count == len(self.datas):
            self.clear()
            return
        self._size, self._sized = self.size - size, len(self.datas) - count
        del self.datas[:count], self.keys[:count]
        if self.tickets is not None:
            del self.tickets[:count]
        if self.hash_keys is not None:
            del self.hash_keys[:count]

    def clear(self) -> None:
        """Remove all records."""
        self.datas.clear()
        self.keys.clear()
        self.forget()

    def forget(self) -> None:
        """Take note that somebody has taken all that was in the lists."""
        self.tickets = self.hash_keys = None
        self._size = self._sized = 0

    def explicit(self, index: int) -> int | None:
        """Return the explicit hash key of a record, if it has one."""
        return None if self.hash_keys is None else self.hash_keys[index]

    def ticket(self, index: int) -> Ticket | None:
        """Return who is told of a record's outcome, if anybody is."""
        return None if self.tickets is None else self.tickets[index]

    def effective_hash_keys(self) -> Iterator[int]:
        """Yield, per record, the hash key that decides on its shard."""
        for index, key in enumerate(self.keys):
            explicit = self.explicit(index)
            yield hash_key_of(key) if explicit is None else explicit

    def receipts(self) -> Iterable[tuple[Ticket, int]]:
        """Return who is to be told, and of how many records; records without a ticket are left out."""
        tickets = self.tickets
        if tickets is None:
            return ()
        first = tickets[0]
        if first is not None and all(map(is_, tickets, repeat(first))):  # mostly one serves all
            return ((first, len(tickets)),)
        by_identity = dict(zip(map(id, tickets), tickets, strict=True))
        counts = Counter(map(id, tickets))
        return [(each, counts[identity]) for identity, each in by_identity.items() if each is not None]


def size_of(data: bytes, key: str) -> int:
    """Return the bytes of a record's data and partition key."""
    return len(data) + (len(key) if key.isascii() else len(key.encode()))


def bytes_of(datas: Iterable[bytes], keys: Iterable[str]) -> int:
    """Return the bytes of many records' data and partition keys."""
    text = "".join(keys)
    return sum(map(len, datas)) + (len(text) if text.isascii() else len(text.encode()))
