"""Keeps two producers from one folder of spilled records, and tells of records that nobody will send."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ConfigurationError
from shared.ports import Telemetry


@contextmanager
def lock_spill(folder: str) -> Iterator[None]:
    """Hold a folder until the block ends, or the process, however it ends; ConfigurationError if somebody else has it.

    Two that write to the same files would damage what was accepted.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(f"{folder}/lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(f"can't be locked: {error.strerror or error}", folder) from error
    owner = os.getpid()
    try:
        _lock(descriptor, folder)
        try:
            yield
        finally:
            if os.getpid() == owner:  # not by closing alone: a process that was forked meanwhile has it open, too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _unusable("is in use by another producer", folder) from error
    except OSError as error:
        raise _unusable(f"can't be locked: {error.strerror or error}", folder) from error


def _unusable(why: str, folder: str) -> ConfigurationError:
    return ConfigurationError(
        f"the spill in {folder} {why}",
        hint="Set HEADRACE_PRODUCER_STATE_DIR to a folder of its own for each process, or spill_bytes_max to 0",
    )


def report_left_behind(folder: str, telemetry: Telemetry) -> None:
    """Warn of spilled records of a former process if this one has no spill, and so won't send them."""
    try:
        size = sum(each.stat().st_size for each in Path(folder).glob("*.spill"))
    except OSError:
        return  # a folder that can't be looked at tells nothing, and nobody needs it
    if size:
        telemetry.warning(
            "spill_left_behind",
            folder=folder,
            bytes=size,
            hint="Start with HEADRACE_PRODUCER_SPILL_BYTES_MAX above 0 to have them sent",
        )
