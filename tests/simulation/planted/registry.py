"""Planted bugs: each breaks one rule of the product by patching it, to prove that the simulation would notice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Bug:
    """A broken rule. `harmless` says why nothing can be noticed, for those that another rule makes up for."""

    name: str
    rule: str
    plant: Callable[[Patch], None]
    harmless: str = ""


BUGS: Final[dict[str, Bug]] = {}


def bug(rule: str, *, harmless: str = "") -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a planted bug under its function's name; `rule` is the rule that it breaks."""

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        BUGS[plant.__name__] = Bug(plant.__name__, rule, plant, harmless)
        return plant

    return register


def broken_promises(violations: list[str]) -> list[str]:
    """Return what a world with a planted bug has broken; AssertionError where the bug does not fit the code any more.

    A patch that is called with other arguments than it takes breaks promises as well, but not as the bug would.
    """
    misfits = [each for each in violations if "TypeError" in each and "<locals>" in each]
    assert not misfits, f"the planted bug has to be given its new arguments: {misfits[0]}"
    return violations
