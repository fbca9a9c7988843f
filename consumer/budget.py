"""A worker's memory for records read and not yet acknowledged: taken before reading, given back at the commit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

_OVERTAKES_MAX: Final = 100  # small reads between two that go in order


class Turn(Enum):
    """Who goes first when there is room."""

    REPLAY = "replay"  # of what can't be stored before it is whole: before all others, and alone if there is no room
    SMALL = "small"  # at the tip, or the first look at a shard: before large ones, but not for ever
    IN_ORDER = "in order"


class Account:
    """One shard's part of the budget: what is reserved for a read under way, its page, and what its batches hold."""

    def __init__(self, budget: Budget, on_pressure: Callable[[], None]) -> None:
        self._budget = budget
        self.on_pressure = on_pressure
        self.reserved = 0  # bytes, for a read under way
        self.page = 0  # bytes, of the page that is being worked on
        self.held = 0  # bytes, of batches
        self.is_pressed = False  # asked to close its batch, because somebody waits
        self.is_replaying = False  # its batch can't be closed before it is whole

    async def reserve(self, amount: int, turn: Turn = Turn.IN_ORDER) -> None:
        """Wait for `amount` bytes; an older reservation and the page before are given back first."""
        self.settle()
        await self._budget.acquire(amount, Turn.REPLAY if self.is_replaying else turn)
        self.reserved = amount

    def take_page(self, amount: int) -> None:
        """Put what a page takes in the place of what was reserved for it; it may be more."""
        reserved, self.reserved, self.page = self.reserved, 0, amount
        self._budget.turn(reserved, amount)

    def settle(self) -> None:
        """Give the reservation and the page back."""
        reserved, page = self.reserved, self.page
        self.reserved = self.page = 0
        self._budget.release(reserved=reserved, page=page)

    def hold(self, amount: int) -> None:
        """Take bytes without waiting, for what a read brought; may overdraw."""
        self.held += amount
        self._budget.charge(amount)

    def free(self, amount: int) -> None:
        """Give held bytes back."""
        self.held -= amount
        self.is_pressed = False
        self._budget.release(held=amount)

    def close(self) -> None:
        """Give everything back; the account is not used again."""
        self._budget.close(self)


class Budget:
    """Byte budget of a worker.

    A read is only made with a reservation of what its answer takes at most (consumer/core/read_estimate.py), and what
    it did take stays in the book for as long as the page is worked on. So what is in memory stays within `bytes_max`,
    plus what the pages at work become as lines of batches: at most two batches and a chunk per shard, and less, as
    whoever holds most is asked to close its batch while somebody waits or batches alone hold more than the budget.

    A read that does not fit may go beyond the budget if it is the only one under way and at most half of the budget is
    in use; a replay whatever is in use, since only its end gives anything back. So nobody waits for ever, whatever the
    budget: calls end, pages are worked off, batches are closed on request, and no more than `_OVERTAKES_MAX` small
    reads go before a large one.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._reserved = 0
        self._pages = 0
        self._held = 0
        self._waiting: dict[Turn, deque[tuple[int, asyncio.Future[None]]]] = {turn: deque() for turn in Turn}
        self._overtakes = 0
        self._accounts: list[Account] = []

    @property
    def used(self) -> int:
        """Bytes that are reserved or in use."""
        return self._reserved + self._pages + self._held

    def open(self, on_pressure: Callable[[], None]) -> Account:
        """Open an account; `on_pressure` is called when its batch is to be closed."""
        account = Account(self, on_pressure)
        self._accounts.append(account)
        return account

    def close(self, account: Account) -> None:
        """Close an account and give back what it has."""
        self._accounts.remove(account)
        reserved, page, held = account.reserved, account.page, account.held
        account.reserved = account.page = account.held = 0
        self.release(reserved=reserved, page=page, held=held)

    async def acquire(self, amount: int, turn: Turn) -> None:
        """Take `amount` bytes for a read, waiting for room."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry, queue = (amount, future), self._waiting[turn]
        queue.append(entry)
        self._go_on()
        try:
            await future
        except asyncio.CancelledError:
            if entry in queue:
                queue.remove(entry)
                self._go_on()
            elif not future.cancelled():
                self.release(reserved=amount)
            raise

    def turn(self, reserved: int, page: int) -> None:
        """Put a page in the place of a reservation."""
        self._pages += page
        self.release(reserved=reserved)

    def charge(self, amount: int) -> None:
        """Take bytes for a batch without waiting."""
        self._held += amount
        if self._held > self.bytes_max:
            self._press()

    def release(self, *, reserved: int = 0, page: int = 0, held: int = 0) -> None:
        """Give bytes back and let those who wait go on."""
        self._reserved -= reserved
        self._pages -= page
        self._held -= held
        self._go_on()

    def _go_on(self) -> None:
        while (turn := self._next_turn()) is not None:
            amount, future = self._waiting[turn][0]
            if not future.done():
                if not self._fits(amount, turn):
                    self._ask_for_room()
                    return
                self._reserved += amount
                future.set_result(None)
                self._count_overtakes(turn)
            self._waiting[turn].popleft()

    def _next_turn(self) -> Turn | None:
        """Return whose turn it is among those who wait."""
        last = (Turn.IN_ORDER, Turn.SMALL) if self._overtakes >= _OVERTAKES_MAX else (Turn.SMALL, Turn.IN_ORDER)
        return next((turn for turn in (Turn.REPLAY, *last) if self._waiting[turn]), None)

    def _count_overtakes(self, turn: Turn) -> None:
        if turn is Turn.IN_ORDER:
            self._overtakes = 0
        elif turn is Turn.SMALL and self._waiting[Turn.IN_ORDER]:
            self._overtakes += 1

    def _fits(self, amount: int, turn: Turn) -> bool:
        if self.used + amount <= self.bytes_max:
            return True
        is_roomy = turn is Turn.REPLAY or 2 * (self._held + self._pages) <= self.bytes_max
        return not self._reserved and is_roomy

    def _ask_for_room(self) -> None:
        # Below a quarter, calls and pages under way are what is waited for, which end by themselves.
        if 4 * self._held > self.bytes_max:
            self._press()

    def _press(self) -> None:
        accounts = [account for account in self._accounts if account.held and not account.is_replaying]
        if accounts and not any(account.is_pressed for account in accounts):
            largest = max(accounts, key=lambda account: account.held)
            largest.is_pressed = True
            largest.on_pressure()
