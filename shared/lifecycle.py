"""How a process ends: exit codes, and signals that first drain and then hurry."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from enum import IntEnum
from types import FrameType
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
    """Two events: `requested` by the first signal to end, `hurried` by the second; `cause` is the first signal."""

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
    """Turn SIGTERM, SIGINT and SIGHUP (unless `nohup` ignores it) into a StopSignal for as long as the block runs.

    Once asked to end, a process passes over one more of each that comes after the block: it has drained, and what is
    left to do, such as writing out stdout, would be cut off.
    """
    stop = StopSignal()
    loop = asyncio.get_running_loop()
    signals = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    for each in signals:
        loop.add_signal_handler(each, stop.notify, each)
    try:
        yield stop
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
            if stop.requested.is_set():
                signal.signal(each, _pass_over)


def _pass_over(signum: int, _frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_DFL)


def pass_over_to_the_end() -> None:
    """Let no signal that is passed over end the process: the interpreter takes its handlers away before its last."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(each) is _pass_over:
            signal.signal(each, signal.SIG_IGN)
