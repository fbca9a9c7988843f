"""The deterministic loop: asyncio works on it, time is virtual, processes die and freeze as real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.simulation.loop import (
    DeadlockError,
    LiveLockError,
    Process,
    SimulationError,
    SimulationLoop,
)


@pytest.fixture(name="loop")
def _loop() -> Iterator[SimulationLoop]:
    loop = SimulationLoop()
    yield loop
    loop.close()


def test_a_sleep_of_a_year_takes_no_time(loop: SimulationLoop) -> None:
    """Virtual time must move by exactly what is slept."""
    loop.run(asyncio.sleep(365 * 86_400))
    assert loop.time() == 365 * 86_400


def test_a_timeout_cuts_off_at_its_time(loop: SimulationLoop) -> None:
    """`asyncio.timeout` must fire at its virtual deadline."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await asyncio.Event().wait()
        return loop.time()

    assert loop.run(main()) == 2.5


def test_queues_conditions_and_task_groups_work(loop: SimulationLoop) -> None:
    """What the product builds on must behave as on a real loop."""

    async def main() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        condition = asyncio.Condition()
        seen: list[int] = []

        async def produce() -> None:
            for number in range(5):
                await queue.put(number)
                await asyncio.sleep(0.1)

        async def consume() -> None:
            while len(seen) < 5:
                seen.append(await queue.get())
            async with condition:
                condition.notify_all()

        async def wait() -> None:
            async with condition:
                await condition.wait_for(lambda: len(seen) == 5)

        async with asyncio.TaskGroup() as group:
            for each in (produce, consume, wait):
                group.create_task(each())
        return seen

    assert loop.run(main()) == [0, 1, 2, 3, 4]


def test_a_failing_member_cancels_its_task_group_in_a_fixed_order(loop: SimulationLoop) -> None:
    """The order in which a task group cancels must not follow addresses."""

    def run_once() -> list[int]:
        world = SimulationLoop()
        order: list[int] = []

        async def member(number: int) -> None:
            try:
                await asyncio.sleep(100)
            finally:
                order.append(number)

        async def fail() -> None:
            await asyncio.sleep(1)
            raise ValueError

        async def main() -> None:
            with pytest.raises(ExceptionGroup):  # noqa: PT012 - the group raises at its end
                async with asyncio.TaskGroup() as group:
                    for number in range(50):
                        group.create_task(member(number))
                    group.create_task(fail())

        world.run(main())
        world.close()
        return order

    assert run_once() == run_once()


def test_a_killed_process_runs_no_finally(loop: SimulationLoop) -> None:
    """A kill must differ from a cancellation: nothing of the process runs any more, whatever it was doing."""
    ran: list[str] = []
    process = Process("victim")

    async def generator() -> AsyncIterator[int]:
        try:
            while True:
                await asyncio.sleep(1)
                yield 1
        finally:
            ran.append("generator")

    async def child() -> None:
        try:
            async for _ in generator():
                pass
        finally:
            ran.append("child")

    async def victim() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())
        finally:
            ran.append("victim")

    async def main() -> None:
        loop.spawn(process, victim)
        await asyncio.sleep(5.5)
        loop.kill(process)
        await asyncio.sleep(100)
        assert ran == []

    loop.run(main())


def test_a_process_dies_at_the_step_it_was_told(loop: SimulationLoop) -> None:
    """A kill at a step must hit between two awaits that share an instant."""
    reached: list[int] = []
    process = Process("victim")
    process.kill_at_step = 4
    exits: list[str] = []
    process.on_exit = lambda each: exits.append(each.name)

    async def victim() -> None:
        for number in range(100):
            reached.append(number)
            await asyncio.sleep(0)

    async def main() -> None:
        loop.spawn(process, victim)
        await asyncio.sleep(1)

    loop.run(main())
    assert (reached, exits) == ([0, 1, 2], ["victim"])


def test_a_frozen_process_does_later_what_fell_due(loop: SimulationLoop) -> None:
    """A frozen process must do nothing, and on waking do everything in its order."""
    ticks: list[float] = []
    process = Process("sleeper")

    async def sleeper() -> None:
        while True:
            await asyncio.sleep(1)
            ticks.append(loop.time())

    async def main() -> None:
        loop.spawn(process, sleeper)
        await asyncio.sleep(2.5)
        loop.freeze(process, 10)
        await asyncio.sleep(11.5)

    loop.run(main())
    assert ticks == [1, 2, 12.5, 13.5]


def test_children_belong_to_the_process_of_their_parent(loop: SimulationLoop) -> None:
    """Tasks and timers of tasks must die with the process that made them, and others must live."""
    ticks: list[str] = []
    first, second = Process("first"), Process("second")

    async def tick(name: str) -> None:
        while True:
            await asyncio.sleep(1)
            ticks.append(name)

    def parent(name: str) -> object:
        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(tick(name))

        return run

    async def main() -> None:
        loop.spawn(first, parent("first"))
        loop.spawn(second, parent("second"))
        await asyncio.sleep(1.5)
        loop.kill(first)
        await asyncio.sleep(1)

    loop.run(main())
    assert ticks == ["first", "second", "second"]


def test_threads_and_sockets_are_refused(loop: SimulationLoop) -> None:
    """Nothing real may get in."""

    async def main() -> None:
        with pytest.raises(SimulationError, match="threads"):
            await asyncio.to_thread(print)
        with pytest.raises(NotImplementedError):
            await asyncio.open_connection("127.0.0.1", 1)

    loop.run(main())


def test_a_live_lock_is_caught() -> None:
    """A loop that never waits for time must end as an error, not hang."""
    loop = SimulationLoop(steps_per_second_max=1_000)

    async def main() -> None:
        while True:  # noqa: ASYNC110 - the busy wait is the case
            await asyncio.sleep(0)

    with pytest.raises(LiveLockError, match="1,000 steps"):
        loop.run(main())
    loop.close()


def test_a_deadlock_is_caught(loop: SimulationLoop) -> None:
    """Waiting for what can never come must end as an error."""
    with pytest.raises(DeadlockError):
        loop.run(asyncio.Event().wait())


def test_a_failing_callback_is_kept(loop: SimulationLoop) -> None:
    """An exception in a callback must not vanish."""

    def fail() -> None:
        raise ValueError("broken")

    async def main() -> None:
        asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(1)

    loop.run(main())
    assert len(loop.failures) == 1
    assert "ValueError: broken" in loop.failures[0]
