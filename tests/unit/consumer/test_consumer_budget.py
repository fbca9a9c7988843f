"""The byte budget: order of waiting, pressure on the largest, and no standstill."""

from __future__ import annotations

import asyncio

from consumer.budget import Budget, Turn


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


async def test_what_is_larger_than_the_budget_goes_alone() -> None:
    """One read at a time may go beyond the budget, all of it in the book; the next one waits for its end."""
    budget = Budget(100)
    first, second = (budget.open(ignore) for _ in range(2))
    await first.reserve(1_000)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(second.reserve(1_000))
        await settle()
        assert (budget.used, waiting.done()) == (1_000, False)
        first.take_page(40)
    assert (first.page, second.reserved, budget.used) == (40, 1_000, 1_040)
    second.settle()
    first.settle()
    assert budget.used == 0


async def test_nobody_goes_beyond_the_budget_while_more_than_half_of_it_is_in_use() -> None:
    """A large read waits until enough batches were closed on request, one after the other."""
    pressed: list[int] = []
    budget = Budget(100)
    holders = [budget.open(lambda number=number: pressed.append(number)) for number in range(3)]  # type: ignore[misc] # a default binds the number
    reader = budget.open(ignore)
    for holder, amount in zip(holders, (30, 29, 28), strict=True):
        holder.hold(amount)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(reader.reserve(1_000))
        await settle()
        assert (pressed, waiting.done()) == ([0], False)
        holders[0].free(30)
        await settle()
        assert (pressed, waiting.done()) == ([0, 1], False)
        holders[1].free(29)
    assert budget.used == 1_028


async def test_batches_are_closed_once_they_hold_more_than_the_budget() -> None:
    """Pages at work become lines without asking: then the largest batch is closed though nobody waits."""
    pressed: list[str] = []
    budget = Budget(100)
    small, large = budget.open(lambda: pressed.append("small")), budget.open(lambda: pressed.append("large"))
    large.hold(60)
    small.hold(40)
    assert pressed == []
    small.hold(1)
    assert pressed == ["large"]


async def test_a_small_read_overtakes_large_ones_but_not_for_ever() -> None:
    """Small reads pass a large one that finds no room, until a hundred have; then it is its turn."""
    budget = Budget(100)
    holder, large, small = (budget.open(ignore) for _ in range(3))
    await holder.reserve(60)
    waiting = asyncio.create_task(large.reserve(80))
    await settle()
    for _ in range(100):
        await small.reserve(10, Turn.SMALL)
    late = asyncio.create_task(small.reserve(10, Turn.SMALL))
    await settle()
    assert (waiting.done(), late.done()) == (False, False)
    holder.settle()
    await asyncio.gather(waiting, late)
    assert budget.used == 90


async def test_a_replay_goes_on_whatever_is_in_use() -> None:
    """A batch that has to be rebuilt whole can't give anything back before; it is not asked to, and reads on alone."""
    pressed: list[str] = []
    budget = Budget(100)
    replay, other, reader = budget.open(lambda: pressed.append("replay")), budget.open(ignore), budget.open(ignore)
    replay.is_replaying = True
    replay.hold(500)
    await replay.reserve(50)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(other.reserve(50))
        await settle()
        replay.take_page(50)
        await settle()
        assert not waiting.done()
        await replay.reserve(50)
        assert pressed == []
        replay.close()
    await reader.reserve(50)
    assert budget.used == 100


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
