"""The byte budget: order of waiting, pressure on the largest, and no standstill."""

from __future__ import annotations

import asyncio

from consumer.budget import Budget


def ignore() -> None:
    """Be pressed and do nothing."""


async def settle() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_reservations_wait_in_their_order() -> None:
    """A small request does not overtake a large one that came first."""
    budget = Budget(100)
    first, large, small = (budget.open(ignore) for _ in range(3))
    await first.reserve(60)
    async with asyncio.TaskGroup() as group:
        waiting_large = group.create_task(large.reserve(80))
        waiting_small = group.create_task(small.reserve(20))
        await settle()
        assert not waiting_large.done()
        assert not waiting_small.done()
        first.settle()
    assert (large.reserved, small.reserved, budget.used) == (80, 20, 100)


async def test_the_largest_holder_is_pressed_once_while_somebody_waits() -> None:
    """Whoever holds most is asked to give back; the waiting read then goes on."""
    pressed: list[str] = []
    budget = Budget(100)
    small = budget.open(lambda: pressed.append("small"))
    large = budget.open(lambda: pressed.append("large"))
    reader = budget.open(ignore)
    small.hold(30)
    large.hold(60)
    async with asyncio.TaskGroup() as group:
        group.create_task(reader.reserve(50))
        await settle()
        assert pressed == ["large"]
        assert large.is_pressed
        large.free(60)
    assert (budget.used, pressed) == (80, ["large"])


async def test_anything_fits_into_an_empty_budget() -> None:
    """A request above the whole budget is cut to it and granted when nothing is in use."""
    budget = Budget(100)
    account = budget.open(ignore)
    await account.reserve(1_000)
    assert budget.used == 100
    account.settle()
    account.hold(500)
    account.free(500)
    assert budget.used == 0


async def test_a_cancelled_wait_gives_nothing_away() -> None:
    """Neither a cancelled request that waits nor one that was just granted leaks bytes."""
    budget = Budget(100)
    holder, waiter, next_one = (budget.open(ignore) for _ in range(3))
    await holder.reserve(100)
    task = asyncio.create_task(waiter.reserve(100))
    await settle()
    task.cancel()
    await settle()
    granted = asyncio.create_task(waiter.reserve(100))
    await settle()
    holder.settle()
    granted.cancel()
    await settle()
    await next_one.reserve(100)
    assert (waiter.reserved, budget.used) == (0, 100)
    next_one.close()
    assert budget.used == 0
