"""Memory that a page of records has used is used again by the next one."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

_PAGES = """
import resource
from shared.allocator import keep_freed_memory, tune_allocator
{tuning}
def use():
    kept = [b"x" * (4 << 20) for _ in range(3)]
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(tuning: str, **environment: str) -> int:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", _PAGES.format(tuning=tuning)],
        env=kept | environment,
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_used_again() -> None:
    """Twelve megabytes that are used and dropped again and again are got from the system once."""
    assert 10 * _faults("tune_allocator()") < _faults("")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
@pytest.mark.parametrize("size", [16 << 20, 40 << 20])  # of the copies of a request of 4 and of 10 MiB
def test_a_guest_keeps_freed_memory_however_large_its_requests(size: int) -> None:
    """In a process of somebody else's, too, what requests have freed is used again, up to the largest request."""
    assert 10 * _faults(f"keep_freed_memory({size})") < _faults("")


def test_a_guest_gets_no_page_for_it() -> None:
    """What is taken and freed for the bound is never written: not one of its 8,000 pages is got from the system."""
    program = """
import resource
from shared.allocator import keep_freed_memory
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
keep_freed_memory(31 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True, timeout=60)
    assert int(done.stdout) < 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_who_sets_the_allocator_from_outside_is_left_alone() -> None:
    """An operator's own limits hold."""
    own = {"MALLOC_TRIM_THRESHOLD_": "131072"}
    assert 2 * _faults("tune_allocator()", **own) > _faults("", **own)
