"""Keeps a second producer from a bookmark: it would send all events again, under other ids, or move the place back."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import ConfigurationError
from shared.ports import Telemetry


@contextmanager
def lock_bookmark(path: str, telemetry: Telemetry) -> Iterator[None]:
    """Hold a bookmark until the block ends, or the process, however it ends; ConfigurationError if somebody has it.

    Where nothing can be locked (a full disk, a network file system) it warns and goes on: a log is followed all the
    same, and a second producer is a mistake that nobody may have made.
    """
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        telemetry.warning("bookmark_not_locked", path=path, error=error.strerror or str(error))
        yield
        return
    try:
        _lock(descriptor, path, telemetry)
        yield
    finally:
        os.close(descriptor)  # which unlocks it


def _lock(descriptor: int, path: str, telemetry: Telemetry) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigurationError(
            f"the bookmark {path} is in use by another producer of the same source and stream",
            hint="End that one first, or give this one a --state-dir of its own: it sends all once more",
        ) from error
    except OSError as error:
        telemetry.warning("bookmark_not_locked", path=path, error=error.strerror or str(error))
