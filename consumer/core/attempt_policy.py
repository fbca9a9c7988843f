"""How a shard is read after attempts that ended with the process: in ever smaller pieces, down to the one record.

A record that kills the process (memory, a crash in native code) can't be caught. The lease row counts the attempts
at what lies behind the checkpoint; whatever commits resets it. An attempt names its process, since one that only lost
its lease goes on to live: it takes its attempt back (`without_attempt`), and none of its own is a death to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consumer.core.chunk import CHUNK_RECORDS
from shared.lease import Lease, LeaseChange

TRUSTED_ATTEMPTS: Final = 3  # a process may die for other reasons
_SMALLER_BITS: Final = 2  # a piece is a quarter of the last
_FIRST_SUSPECTS: Final = 20_000  # records; two whole pages
# Attempts at one record alone, after which it is not tried again: two, since another shard may have killed one.
_ALONE_ATTEMPTS: Final = 3
_ALONE_FROM: Final = 6  # attempts at which pieces have one record: 64, 16, 4, 1

_NAMES_MAX: Final = 16  # more than end a search, or halt a replay

assert CHUNK_RECORDS >> _SMALLER_BITS * (_ALONE_FROM - TRUSTED_ATTEMPTS + 1) == 1


@dataclass(frozen=True, slots=True)
class AttemptPolicy:
    """What follows from the attempts that a lease row counts when its shard is taken."""

    attempts: int

    @property
    def is_careful(self) -> bool:
        """Whether each piece is committed before the next is looked at."""
        return self.attempts >= TRUSTED_ATTEMPTS

    @property
    def records_max(self) -> int:
        """How many records a piece has."""
        if not self.is_careful:
            return CHUNK_RECORDS
        quarters = self.attempts - TRUSTED_ATTEMPTS + 1
        return max(1, CHUNK_RECORDS >> (_SMALLER_BITS * quarters))

    @property
    def is_condemned(self) -> bool:
        """Whether the very next record has killed too often: it becomes a dead letter without being looked at."""
        return self.attempts >= _ALONE_FROM + _ALONE_ATTEMPTS

    @property
    def suspects(self) -> int:
        """How many records are read carefully: those of the piece that killed; any of them, when it had no end."""
        if self.attempts <= TRUSTED_ATTEMPTS:
            return _FIRST_SUSPECTS if self.is_careful else 0
        return self.records_max << _SMALLER_BITS

    @property
    def after_commit(self) -> int:
        """How many attempts a commit leaves in the row: the next piece is to be as small."""
        return 0 if not self.is_careful or self.is_condemned else min(self.attempts, _ALONE_FROM)


def attempts_before(row: Lease, process: str) -> int:
    """Return how many attempts in a row may have ended with their process: all but the one of `process`, which asks."""
    return row.attempts if process not in row.attempted_by else max(0, row.attempts - 1)


def with_attempt(row: Lease, process: str) -> LeaseChange | None:
    """Return what counts an attempt of a process; None if it has one in the row: it can't die twice."""
    if process in row.attempted_by:
        return None
    names = tuple(sorted((*row.attempted_by[: _NAMES_MAX - 1], process)))
    return LeaseChange(attempts=row.attempts + 1, attempted_by=names)


def without_attempt(row: Lease, process: str) -> LeaseChange | None:
    """Return what takes back the attempt of a process that lives; None if it has none in the row."""
    if process not in row.attempted_by:
        return None
    names = tuple(name for name in row.attempted_by if name != process)
    return LeaseChange(attempts=attempts_before(row, process), attempted_by=names)
