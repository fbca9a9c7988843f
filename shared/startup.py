"""The start of a command: until its own work begins, Ctrl-C ends the process at once, whatever is being imported."""

from __future__ import annotations

# Only what Python has loaded anyhow: everything imported here runs before the handler is in place.
import io
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = "error: Interrupted before it was done\n\nhint: What was made stays; run the same command again to go on"


def open_standard_streams() -> None:
    """Let stdin, stdout and stderr be open, on nothing, where the process was started without them (`>&-`).

    Otherwise the first file or socket that is opened would take their place, and get what is written there.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest one that is free, which is this
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 - the same
    if isinstance(sys.stdout, io.TextIOWrapper):  # data are UTF-8, whatever the locale of whoever started us
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")


def end_at_once_on_interrupt() -> None:
    """Let SIGINT end this process with exit code 130 from now on.

    A KeyboardInterrupt in the middle of an import is a traceback before `main` is reached, and later may leave a
    module half made, which then fails elsewhere under another name. Nothing is under way yet that needs an end. Where
    SIGINT is ignored, as in the background of a shell script, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _end)


def interrupt_as_usual() -> None:
    """Let SIGINT raise KeyboardInterrupt again: from now on there is work that has to end properly."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(signum: int, _frame: FrameType | None) -> NoReturn:
    try:
        os.write(2, INTERRUPTED.encode() + b"\n")
    finally:
        os._exit(128 + signum)
