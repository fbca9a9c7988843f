"""Picks out of a group of failures the one that says what happened."""

from __future__ import annotations

from shared.errors import HeadraceError, LeaseLostError


def first_failure(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the failure that decides: one that is not ours (a defect), then a lost lease, then the first of ours."""
    ours, foreign = failures.split(HeadraceError)
    lost = failures.subgroup(LeaseLostError)
    found: BaseException = foreign or lost or ours or failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
