"""A deterministic asyncio event loop: virtual time, processes that die or freeze at any await, no threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import warnings
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
_CLOSE_ATTEMPTS_MAX = 50
_UNENDING: list[Any] = []  # coroutines that refuse to be closed: kept, as collecting them would complain
STEPS_PER_SECOND_MAX = 200_000


class SimulationError(Exception):
    """The simulated world can't go on."""


class DeadlockError(SimulationError):
    """Nothing is ready, nothing is scheduled, and the main task is not done."""


class LiveLockError(SimulationError):
    """Too many steps were made without virtual time moving on."""


class Process:
    """What would be an operating-system process: everything it runs dies and freezes together.

    Tasks, timers and callbacks belong to the process in whose context they were made. A killed process never runs
    again, not even its `finally` clauses: cancelling would run them, a crash does not.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen_until = 0.0
        self.steps = 0
        self.kill_at_step: int | None = None
        self.on_exit: Callable[[Process], None] | None = None
        self.deferred: list[Handle] = []
        self.tasks: list[Task] = []
        self._tasks_kept_max = 64

    def keep(self, task: Task) -> None:
        """Hold the task: a coroutine that is collected as garbage would run its `finally` clauses."""
        self.tasks.append(task)
        if len(self.tasks) > self._tasks_kept_max:
            self.tasks = [each for each in self.tasks if not each.done()]
            self._tasks_kept_max = max(64, 2 * len(self.tasks))

    def __repr__(self) -> str:
        return f"<Process {self.name}{'' if self.alive else ' dead'}>"


PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)
WORLD_CONTEXT = Context()  # in which the world outside all processes runs: the network, the services, the faults


def process_name() -> str:
    """Return the name of the process that asks."""
    process = PROCESS.get()
    assert process is not None
    return process.name


class Handle:
    """A callback that is ready or scheduled; what `call_soon`, `call_later` and `call_at` return."""

    __slots__ = ("_when", "args", "callback", "context", "is_cancelled", "process")

    def __init__(
        self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None, when: float
    ) -> None:
        self.context = copy_context() if context is None else context
        self.process = self.context.get(PROCESS)
        self.callback = callback
        self.args = args
        self._when = when
        self.is_cancelled = False

    def cancel(self) -> None:
        """Never run it."""
        self.is_cancelled = True
        self.args = ()

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.is_cancelled

    def when(self) -> float:
        """Return the virtual time at which it is due, seconds."""
        return self._when

    def __repr__(self) -> str:
        return f"<Handle {self.callback!r} of {self.process!r}>"


class Future(asyncio.Future[Any]):
    """A future whose place in a set does not depend on its address."""

    __slots__ = ("process", "serial")

    def __init__(self, *, loop: SimulationLoop) -> None:
        loop._serial = self.serial = loop._serial + 1  # `next_serial`, without a call
        self.process = PROCESS.get()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.serial

    def __eq__(self, other: object) -> bool:
        return self is other


class Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address: TaskGroup and `asyncio.wait` keep sets of tasks."""

    __slots__ = ("process", "serial")

    def __init__(
        self, coro: Coroutine[Any, Any, Any], *, loop: SimulationLoop, name: str | None, context: Context | None
    ) -> None:
        self.serial = loop.next_serial()
        self.process = PROCESS.get() if context is None else context.get(PROCESS)
        super().__init__(coro, loop=loop, name=name or f"task-{self.serial}", context=context)

    def __hash__(self) -> int:
        return self.serial

    def __eq__(self, other: object) -> bool:
        return self is other


class SimulationLoop(asyncio.AbstractEventLoop):
    """The loop. `time()` is virtual seconds from 0; it moves only when nothing is left to do at the present instant.

    Everything asyncio offers on top of callbacks works (tasks, timeouts, task groups, locks, queues). Threads, sockets,
    signals and subprocesses are refused. `call_soon` is first in, first out, as asyncio documents; chance enters at the
    network and the disk, never here.
    """

    def __init__(self, *, steps_per_second_max: int = STEPS_PER_SECOND_MAX) -> None:
        self.steps = 0
        self.failures: list[str] = []
        self._steps_per_second_max = steps_per_second_max
        self._steps_max = steps_per_second_max  # until the next virtual second
        self._second = 0
        self._now = 0.0
        self._serial = 0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._closed = False
        self._running = False
        self._world = Process("world")
        self._processes: list[Process] = [self._world]

    # What asyncio asks of a loop.

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now

    def next_serial(self) -> int:
        """Return the next of the numbers that tell tasks, futures and timers apart."""
        self._serial += 1
        return self._serial

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        """Run the callback after those that are ready already."""
        handle = Handle(callback, args, context, self._now)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        """Run the callback after `delay` virtual seconds."""
        when = self._now + delay if delay > 0 else self._now
        handle = Handle(callback, args, context, when)
        if not self._closed:
            self._serial += 1
            heappush(self._timers, (when, self._serial, handle))
        return handle

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> Any:
        """Run the callback at the virtual time `when`."""
        handle = Handle(callback, args, context, when)
        if not self._closed:
            heappush(self._timers, (when, self.next_serial(), handle))
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> NoReturn:
        """Refuse: there is one thread."""
        raise SimulationError("threads are refused in the simulation")

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> NoReturn:
        """Refuse: a thread would bring real time and real scheduling in."""
        raise SimulationError(f"threads are refused in the simulation; {func!r} asked for one")

    def create_future(self) -> Future:
        """Return a future of this loop."""
        return Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None, **_: Any
    ) -> Any:
        """Schedule a coroutine as a task of the process of its context."""
        if self._closed:
            coro.close()
            raise SimulationError("the loop is closed")
        task = Task(coro, loop=self, name=name, context=context)
        (task.process or self._world).keep(task)
        return task

    # No debug mode: it looks at addresses and stack frames. Each future asks, so no function of Python's says False.
    get_debug = staticmethod(bool)

    def set_debug(self, enabled: bool) -> None:
        """Ignore the wish."""

    def is_running(self) -> bool:
        """Whether `run` is under way."""
        return self._running

    def is_closed(self) -> bool:
        """Whether the loop is at its end."""
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep the failure of a callback or of a task that nobody awaited; the world reads `failures` at its end."""
        task = context.get("task") or context.get("future")
        process = getattr(task, "process", None)
        if self._closed or (process is not None and not process.alive):
            return
        error = context.get("exception")
        self.failures.append(f"{context.get('message', '')}: {type(error).__name__}: {error}")

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Treat it as every other failure."""
        self.call_exception_handler(context)

    async def shutdown_asyncgens(self) -> None:
        """Nothing to do: `close` ends what is left."""

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """Nothing to count: cancelled timers are dropped when they come to the front."""

    # Processes.

    def spawn(self, process: Process, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run `main()` as the first task of a process."""
        context = Context()
        context.run(PROCESS.set, process)
        self._processes.append(process)
        return context.run(self.create_task, main(), context=context)

    def kill(self, process: Process) -> None:
        """End a process here and now: none of its callbacks ever runs again (SIGKILL)."""
        if process.alive:
            process.alive = False
            if process.on_exit is not None:
                self.call_soon(process.on_exit, process, context=WORLD_CONTEXT)

    def freeze(self, process: Process, seconds: float) -> None:
        """Stop a process for a while (SIGSTOP, a paused VM); what falls due meanwhile runs when it wakes."""
        process.frozen_until = max(process.frozen_until, self._now + seconds)

    def _defer(self, process: Process, handle: Handle) -> None:
        if not process.deferred:
            self.call_at(process.frozen_until, self._thaw, process, context=WORLD_CONTEXT)
        process.deferred.append(handle)

    def _thaw(self, process: Process) -> None:
        if process.frozen_until > self._now:
            self.call_at(process.frozen_until, self._thaw, process, context=WORLD_CONTEXT)
            return
        deferred, process.deferred = process.deferred, []
        self._ready.extendleft(reversed(deferred))

    # Running.

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run the world's main coroutine to its end and return its result.

        Raises DeadlockError, LiveLockError, or what `main` raises.
        """
        # Collecting cycles would run finalisers at moments that depend on the memory of everything before.
        is_collecting = gc.isenabled()
        gc.disable()
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._finalise_generator)
        asyncio._set_running_loop(self)
        self._running = True
        try:
            task = WORLD_CONTEXT.copy().run(self.create_task, main)
            self._run_until(task)
            return task.result()
        finally:
            self._running = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)
            if is_collecting:
                gc.enable()

    def _run_until(self, task: Task) -> None:  # noqa: C901, PLR0912 - most of what a world costs is here: no calls
        """Run what is ready, then move time on to the next timer, until the task is done."""
        timers, ready = self._timers, self._ready
        while not task.done():
            while timers and timers[0][2].is_cancelled:
                heappop(timers)
            if not ready:
                if not timers:
                    raise DeadlockError(f"at {self._now:.3f} s nothing is ready and nothing is scheduled")
                self._move_on(timers[0][0])
            now = self._now
            while timers and timers[0][0] <= now:
                ready.append(heappop(timers)[2])
            for _ in range(len(ready)):
                handle = ready.popleft()
                if handle.is_cancelled:
                    continue
                process = handle.process
                if process is not None:
                    if not process.alive:
                        continue
                    if process.frozen_until > now:
                        self._defer(process, handle)
                        continue
                    process.steps += 1
                    if process.kill_at_step is not None and process.steps >= process.kill_at_step:
                        self.kill(process)
                        continue
                self.steps += 1
                if self.steps > self._steps_max:
                    raise LiveLockError(self._live_lock(handle))
                try:
                    handle.context.run(handle.callback, *handle.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:  # noqa: BLE001 - a loop keeps going; the failure is kept and judged
                    self.call_exception_handler({"message": repr(handle), "exception": error})

    def _move_on(self, when: float) -> None:
        self._now = max(self._now, when)
        if int(self._now) != self._second:
            self._second, self._steps_max = int(self._now), self.steps + self._steps_per_second_max

    def _live_lock(self, handle: Handle) -> str:
        return f"{self._steps_per_second_max:,} steps inside one virtual second at {self._now:.3f} s: {handle!r}"

    def _finalise_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.create_task(generator.aclose())

    def close(self) -> None:
        """End everything that is left, quietly: what runs now can no longer touch the world."""
        self._closed = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for process in self._processes:
                for task in process.tasks:
                    _end(task.get_coro())
                process.tasks.clear()
                process.deferred.clear()
        self._ready.clear()
        self._timers.clear()


def _end(coro: Any) -> None:
    """Close a coroutine and those it awaits, innermost first, however often they await in their clean-up."""
    for _ in range(_CLOSE_ATTEMPTS_MAX):
        chain = [coro]
        while (awaited := getattr(chain[-1], "cr_await", None)) is not None and hasattr(awaited, "cr_await"):
            chain.append(awaited)
        try:
            chain[-1].close()
        except BaseException:  # noqa: BLE001, S112 - clean-up that fails in a world that is over is of no interest
            continue
        if len(chain) == 1:
            return
        # What awaited it goes on with its own clean-up; a frame that ended is no longer in the next chain.
        with contextlib.suppress(BaseException):
            chain[-2].throw(GeneratorExit)
    _UNENDING.append(coro)
