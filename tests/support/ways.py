"""Runs the tests of a module twice: with the compiled part of headrace, and as if it were not there."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from shared.compiled import COLUMNS
from shared.compiled.columns import Columns

COMPILED = "compiled"
PYTHON = "python"


def compiled_part() -> Columns:
    """Return the compiled part, or skip the test."""
    if COLUMNS is None:
        pytest.skip("headrace was installed without its compiled part: there was no C compiler")
    return COLUMNS


def without_compiled(patch: pytest.MonkeyPatch) -> None:
    """Have every module of ours go without the compiled part."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {"shared", "producer", "consumer"} and getattr(module, "COLUMNS", None) is COLUMNS:
            patch.setattr(module, "COLUMNS", None)


@pytest.fixture(scope="module", autouse=True, params=[COMPILED, PYTHON])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Import this into a test module to have each of its tests run both ways."""
    if request.param == COMPILED:
        compiled_part()
        yield COMPILED
        return
    with pytest.MonkeyPatch.context() as patch:
        without_compiled(patch)
        yield PYTHON
