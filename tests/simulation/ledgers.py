"""The books of every producer that lives in a world, looked at from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from producer.producer import Producer
from tests.simulation.loop import PROCESS, Process
from tests.simulation.story import Story

_FAILURE: Final = "a ledger does not balance: "


class _Book:
    """One producer, and what was seen of it by counting calls: what it took, and for how much it gave receipts."""

    def __init__(self, producer: Producer, process: Process | None) -> None:
        self.producer = producer
        self.process = process


class Ledgers:
    """Opens a book for every producer that is entered, and balances those of living processes."""

    def __init__(self, story: Story) -> None:
        self.violations: list[str] = []
        self._story = story
        self._books: list[_Book] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See every producer that is opened inside the block."""
        enter: Callable[[Producer], Any] = Producer.__aenter__

        async def enter_seen(producer: Producer) -> Producer:
            self._books.append(_Book(producer, PROCESS.get()))
            entered: Producer = await enter(producer)
            return entered

        Producer.__aenter__ = enter_seen  # type: ignore[method-assign] - for the time of one world
        try:
            yield
        finally:
            Producer.__aenter__ = enter  # type: ignore[method-assign]

    def look(self) -> None:
        """Reckon up every living producer's books; each failure is told once."""
        self._books = [each for each in self._books if each.process is not None and each.process.alive]
        for book in self._books:
            self._story.count("ledger_looked_at")
            ledger = book.producer.ledger
            pending = ledger.queued + ledger.in_flight + ledger.spilled
            if ledger.accepted != ledger.acknowledged + ledger.undeliverable + pending:
                self.violations.append(f"{_FAILURE}{ledger}")
                self._books.remove(book)
                return
