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
