"""How a process ends: exit codes, and signals that first drain and then hurry."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Any, TypeVar

from shared.startup import interrupt_as_usual

T = TypeVar("T")


class ExitCode(IntEnum):
    """What the exit status of every command means."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNDELIVERED = 3
    INTERRUPTED = 128 + signal.SIGINT
    PIPE_CLOSED = 128 + signal.SIGPIPE


class StopSignal:
    """Two events: `requested` by the first SIGTERM or SIGINT, `hurried` by the second; `cause` is the first signal."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.hurried = asyncio.Event()
        self.cause: signal.Signals | None = None

    def notify(self, cause: signal.Signals | None = None) -> None:
        """Take one more signal."""
        if self.requested.is_set():
            self.hurried.set()
        else:
            self.cause = cause
        self.requested.set()


def run_work(work: Coroutine[Any, Any, T]) -> T:
    """Run the work of a command, for which everything is imported, to its end; Ctrl-C cancels it from now on."""
    interrupt_as_usual()
    return asyncio.run(work)


@asynccontextmanager
async def stop_on_signals() -> AsyncIterator[StopSignal]:
    """Turn SIGTERM and SIGINT into a StopSignal for as long as the block runs."""
    stop = StopSignal()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        loop.add_signal_handler(each, stop.notify, each)
    try:
        yield stop
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
