"""The processes of a simulated world: the real product code, started, killed, frozen, stopped and started again."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from shared.errors import HeadraceError
from shared.lifecycle import StopSignal
from tests.simulation.loop import WORLD_CONTEXT, Process, SimulationLoop
from tests.simulation.story import Story

_CRASHES_MAX: Final = 60  # of one actor, by errors that the product declares; more is a crash loop

# Given its clock and the signal that asks it to stop, runs one life of a process.
Life = Callable[["Machine", StopSignal], Coroutine[Any, Any, None]]


class Machine:
    """What survives a process on its machine: the clocks. One per actor."""

    def __init__(self, loop: SimulationLoop, epoch: float, origin: float) -> None:
        self._loop = loop
        self._epoch = epoch
        self._origin = origin
        self.wall_offset = 0.0
        self.lives = 0

    def monotonic(self) -> float:
        """Return seconds since some origin of this machine's own."""
        return self._origin + self._loop.time()

    def wall(self) -> float:
        """Return seconds since the epoch, as far off as this machine's clock is."""
        return self._epoch + self._loop.time() + self.wall_offset


class Actor:
    """A role in the world that is always filled: when its process ends, the next one is started a little later."""

    def __init__(
        self, name: str, life: Life, *, loop: SimulationLoop, chance: random.Random, story: Story, epoch: float
    ) -> None:
        self.name = name
        self.machine = Machine(loop, epoch, chance.uniform(0, 1e6))
        self.process: Process | None = None
        self.violations: list[str] = []
        self.restart_seconds_max = 15.0
        self.is_over = False
        self.is_away = False  # nobody takes its place until it comes
        self.on_start: Callable[[str], None] | None = None
        self._life = life
        self._loop = loop
        self._chance = chance
        self._story = story
        self.stop_seconds_max = float("inf")  # from SIGTERM to the end, whatever the services do
        self._stop: StopSignal | None = None
        self._asked_at = 0.0
        self._crashes = 0

    def start(self) -> None:
        """Start a process."""
        if self.is_over or self.is_away or self.is_running:
            return
        self.machine.lives += 1
        process = self.process = Process(f"{self.name}.{self.machine.lives}")
        process.on_exit = self._on_exit
        self._stop = StopSignal()
        self._story.tell(process.name, "starts")
        if self.on_start is not None:
            self.on_start(process.name)
        self._loop.spawn(process, self._live)

    def look_at_stop(self) -> None:
        """Take it for a violation if a process that was asked to stop, and was never frozen, has taken too long."""
        process, seconds = self.process, self._loop.time() - self._asked_at
        if self.is_stopping and process is not None and not process.frozen_until and seconds > self.stop_seconds_max:
            self.violations.append(f"{process.name} took {seconds:.0f} s to stop, more than {self.stop_seconds_max:g}")

    async def _live(self) -> None:
        process, stop = self.process, self._stop
        assert process is not None
        assert stop is not None
        try:
            await self._life(self.machine, stop)
        except* HeadraceError as group:
            self._crash(process, group, is_declared=True)
        except* Exception as group:  # noqa: BLE001 - whatever the product lets out is a finding
            self._crash(process, group, is_declared=False)
        else:
            self._story.tell(process.name, "ends")
            if not stop.requested.is_set():
                self.violations.append(f"{process.name} ended without being asked")
        self.look_at_stop()
        self._loop.kill(process)

    def _crash(self, process: Process, group: BaseExceptionGroup[Any], *, is_declared: bool) -> None:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        self._story.tell(process.name, f"crashes: {type(error).__name__}: {error}")
        self._story.count("crash")
        self._crashes += 1
        if not is_declared:
            self.violations.append(f"{process.name} crashed with {type(error).__name__}: {error}")
        elif self._crashes > _CRASHES_MAX:
            self.violations.append(f"{self.name} crashed {self._crashes} times, at last with {error}")
            self.is_over = True

    def _on_exit(self, process: Process) -> None:
        if process is self.process:
            seconds = self._chance.uniform(0.2, self.restart_seconds_max)
            self._loop.call_later(seconds, self.start, context=WORLD_CONTEXT)

    @property
    def _running(self) -> Process | None:
        return self.process if self.process is not None and self.process.alive else None

    def kill(self, why: str) -> bool:
        """SIGKILL, now or a few steps from now; False if nothing runs, as of all blows."""
        process = self._running
        if process is None:
            return False
        self._story.tell(process.name, f"is killed: {why}")
        process.kill_at_step = process.steps + self._chance.choice([1, 1, 2, 3, 5, 8])
        if self._chance.random() < 0.5:
            self._loop.kill(process)
        return True

    def end(self, why: str) -> None:
        """End the process at this very moment, if one runs."""
        process = self._running
        if process is not None:
            self._story.tell(process.name, f"is killed: {why}")
            self._loop.kill(process)

    def stop(self) -> bool:
        """SIGTERM; a second one hurries."""
        process = self._running
        if process is None or self._stop is None:
            return False
        self._story.tell(process.name, "is asked to hurry" if self._stop.requested.is_set() else "is asked to stop")
        if not self._stop.requested.is_set():
            self._asked_at = self._loop.time()
        self._stop.notify()
        return True

    def leave(self) -> None:
        """Be asked to stop, and stay away."""
        self.is_away = True
        if not self.is_stopping:
            self.stop()

    def fail(self) -> None:
        """Be killed, and stay away."""
        self.is_away = True
        self.end("the beginning of an outage")

    def come(self) -> None:
        """Start a process again after having left, once the last one has ended."""
        self.is_away = False
        if not self.is_running:
            self.start()

    @property
    def is_running(self) -> bool:
        """Whether a process runs, frozen or not."""
        return self._running is not None

    @property
    def is_stopping(self) -> bool:
        """Whether a process runs that was asked to stop."""
        return self._running is not None and self._stop is not None and self._stop.requested.is_set()

    def freeze(self, seconds: float) -> bool:
        """SIGSTOP for a while."""
        process = self._running
        if process is None:
            return False
        self._story.tell(process.name, f"freezes for {seconds:.1f} s")
        self._loop.freeze(process, seconds)
        return True
