"""Keeps the process's heap as large as it was: requests of megabytes come and go all the time."""

from __future__ import annotations


def keep_freed_memory(size: int) -> None:
    """Have glibc keep twice `size` bytes that lie free at the end of the heap; elsewhere, do nothing.

    It gives them back after each request and takes them again page by page for the next one, which is a tenth of the
    cost of a put. The bound is twice the largest block that was ever freed, 32 MiB at most (mallopt(3),
    M_MMAP_THRESHOLD): so one is taken and freed. Nobody writes into it, so that it takes no memory.
    """
    block = bytearray(size)
    del block
