"""The C library's allocator in a process that gets and drops megabytes, of answers or requests, all the time."""

from __future__ import annotations

import os
from functools import cache
from typing import Final

from shared.limits import MIB

# Of mallopt(3), in glibc.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_BYTES_MIN: Final = 8 * MIB  # a block of this size is got from the system by itself, and given back at once
_FREE_BYTES_MAX: Final = 16 * MIB  # kept at the end of the heap
_ADAPTED_BYTES_MAX: Final = 31 * MIB  # glibc learns nothing from a block of more than 32 MiB with its head
# What an operator sets from outside; MALLOC_ARENA_MAX, which many images have, is about something else.
_SETTINGS: Final = frozenset(
    ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
)


def tune_allocator() -> None:
    """Keep some freed memory instead of giving it back at each page of records and getting it anew, page by page.

    That is a sixth of what it costs to read them. Nothing is done where the C library is another one, or its allocator
    is set from outside.
    """
    import ctypes  # noqa: PLC0415 - a thirtieth of a command's start, for those who tune

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not _SETTINGS.isdisjoint(os.environ):
        return
    mallopt(_MMAP_THRESHOLD, _MMAP_BYTES_MIN)
    mallopt(_TRIM_THRESHOLD, _FREE_BYTES_MAX)


@cache  # what was kept for one size is kept for the process, and a producer is not always the only one in it
def keep_freed_memory(size: int) -> None:
    """Have glibc keep twice `size` bytes that lie free at the end of the heap, in a process that is not ours to tune.

    Elsewhere, and where the thresholds are set, it does nothing. glibc gives those bytes back after each request and
    takes them again page by page for the next one, which is a tenth of the cost of a put. The bound is twice the
    largest block that was ever freed, of 32 MiB at most (mallopt(3), M_MMAP_THRESHOLD): so one is taken and freed.
    Nobody writes into it, so that it takes no memory: bytes of zeros are the system's, a bytearray writes its own.
    """
    block = bytes(min(size, _ADAPTED_BYTES_MAX))
    del block
