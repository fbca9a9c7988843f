"""Queued user records in columns: an object for each would cost more than all that is done with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from operator import is_
from typing import Any, Final

from shared.hash_key import hash_key_of
from shared.ports import Receipt

Ticket = tuple[Receipt, Any]  # who is told of a record's outcome, and with which token; one may serve many records

_NONE: Final = repeat(None)


class RecordColumns:
    """User records in the order in which they were put.

    `size` is the bytes of data and keys. `hash_keys` are the explicit ones. They and `tickets` are None if no record
    has one.
    """

    __slots__ = ("datas", "hash_keys", "keys", "size", "tickets")

    def __init__(self) -> None:
        self.datas: list[bytes] = []
        self.keys: list[str] = []
        self.tickets: list[Ticket | None] | None = None
        self.hash_keys: list[int | None] | None = None
        self.size = 0

    def __len__(self) -> int:
        return len(self.datas)

    def append(self, data: bytes, key: str, ticket: Ticket | None, explicit_hash_key: int | None, size: int) -> None:
        """Add a record; `size` is that of its data and key."""
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
        self.size += size

    def extend(self, others: RecordColumns) -> None:
        """Add other records behind these."""
        if self.hash_keys is not None or others.hash_keys is not None:
            own = self.hash_keys or [None] * len(self.datas)
            self.hash_keys = own + (others.hash_keys or [None] * len(others.datas))
        if self.tickets is not None or others.tickets is not None:
            held = self.tickets or [None] * len(self.datas)
            self.tickets = held + (others.tickets or [None] * len(others.datas))
        self.datas += others.datas
        self.keys += others.keys
        self.size += others.size

    def take_all(self) -> RecordColumns:
        """Remove all records and return them."""
        taken = RecordColumns.__new__(RecordColumns)
        taken.datas, taken.keys, taken.tickets = self.datas, self.keys, self.tickets
        taken.hash_keys, taken.size = self.hash_keys, self.size
        self.datas, self.keys, self.tickets, self.hash_keys, self.size = [], [], None, None, 0
        return taken

    def single(self, index: int) -> RecordColumns:
        """Return a copy of one record."""
        single = RecordColumns.__new__(RecordColumns)
        data, key = self.datas[index], self.keys[index]
        single.datas = [data]
        single.keys = [key]
        ticket, explicit = self.ticket(index), self.explicit(index)
        single.tickets = None if ticket is None else [ticket]
        single.hash_keys = None if explicit is None else [explicit]
        single.size = len(data) + (len(key) if key.isascii() else len(key.encode()))
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
        part.size = sum(map(len, part.datas)) + len("".join(part.keys).encode())
        return part

    def take(self, count: int) -> RecordColumns:
        """Remove the first `count` records and return them."""
        taken = self.part(0, count)
        self._delete(count, taken.size)
        return taken

    def drop(self, count: int) -> None:
        """Remove the first `count` records."""
        if count == len(self.datas):
            self._delete(count, self.size)
        elif count:
            self._delete(count, self.part(0, count).size)

    def _delete(self, count: int, size: int) -> None:
        del self.datas[:count], self.keys[:count]
        if self.tickets is not None:
            del self.tickets[:count]
        if self.hash_keys is not None:
            del self.hash_keys[:count]
        if not self.datas:
            self.tickets = self.hash_keys = None
        self.size -= size

    @property
    def is_plain(self) -> bool:
        """Whether no record has a ticket or an explicit hash key."""
        return self.tickets is None and self.hash_keys is None

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
        return ((each, 1) for each in tickets if each is not None)
