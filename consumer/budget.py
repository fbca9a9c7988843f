"""A worker's memory for records read and not yet acknowledged: taken before reading, given back at the commit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Account:
    """One shard's part of the budget: what is reserved for a read under way, and what its batches hold."""

    def __init__(self, budget: Budget, on_pressure: Callable[[], None]) -> None:
        self._budget = budget
        self.on_pressure = on_pressure
        self.reserved = 0  # bytes, for reads under way
        self.held = 0  # bytes, of batches
        self.is_pressed = False  # asked to close its batch, because somebody waits

    async def reserve(self, amount: int) -> None:
        """Wait for `amount` bytes, first come, first served; an older reservation is given back first."""
        self.settle()
        await self._budget.acquire(min(amount, self._budget.bytes_max))
        self.reserved = min(amount, self._budget.bytes_max)

    def settle(self) -> None:
        """Give the reservation back."""
        amount, self.reserved = self.reserved, 0
        self._budget.release(amount)

    def hold(self, amount: int) -> None:
        """Take bytes without waiting, for what a read brought; may overdraw."""
        self.held += amount
        self._budget.charge(amount)

    def free(self, amount: int) -> None:
        """Give held bytes back."""
        self.held -= amount
        self.is_pressed = False
        self._budget.release(amount)

    def close(self) -> None:
        """Give everything back; the account is not used again."""
        self._budget.close(self)


class Budget:
    """Byte budget of a worker.

    A read is only made with a reservation of what the answer may bring (an estimate from recent answers, up to the
    service's 10 MiB), so what is in memory stays within `bytes_max`, plus by how much answers outgrow their estimate
    (at most 10 MiB a shard, once), plus two batches and a chunk per shard where lines outgrow their records.
    While somebody waits, the account that holds most is asked to close its batch: without that, batches waiting for
    more records and reads waiting for room would wait for each other.
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._accounts: list[Account] = []

    def open(self, on_pressure: Callable[[], None]) -> Account:
        """Open an account; `on_pressure` is called when its batch is to be closed."""
        account = Account(self, on_pressure)
        self._accounts.append(account)
        return account

    def close(self, account: Account) -> None:
        """Close an account and give back what it has."""
        self._accounts.remove(account)
        self.release(account.reserved + account.held)
        account.reserved = account.held = 0

    async def acquire(self, amount: int) -> None:
        """Take `amount` bytes, waiting for room."""
        if not self._waiting and self._fits(amount):
            self.used += amount
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (amount, future)
        self._waiting.append(entry)
        self._press()
        try:
            await future
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._grant()
            elif not future.cancelled():
                self.release(amount)
            raise

    def charge(self, amount: int) -> None:
        """Take bytes without waiting."""
        self.used += amount

    def release(self, amount: int) -> None:
        """Give bytes back and let those who wait go on, in their order."""
        self.used -= amount
        self._grant()
        if self._waiting:
            self._press()

    def _fits(self, amount: int) -> bool:
        # Somebody must always get on: with nothing in use, any amount fits.
        return self.used <= 0 or self.used + amount <= self.bytes_max

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            amount, future = self._waiting.popleft()
            if not future.done():
                self.used += amount
                future.set_result(None)

    def _press(self) -> None:
        if any(account.is_pressed for account in self._accounts):
            return
        largest = max(self._accounts, key=lambda account: account.held, default=None)
        if largest is not None and largest.held:
            largest.is_pressed = True
            largest.on_pressure()
