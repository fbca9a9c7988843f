"""The simulation can fail: every planted bug is found, within 500 worlds or in one that once broke a promise."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.bug_table import SEEDS_MAX, recorded_seed
from tests.simulation.bugs import BUGS
from tests.simulation.options import record_search
from tests.simulation.planted.registry import broken_promises
from tests.simulation.regressions import REGRESSIONS
from tests.simulation.world import run_seed


def _seeds(name: str) -> Iterator[int]:
    """Yield the seed that found the bug when the table was written, then all others: most often the first is enough."""
    first = recorded_seed(name) or 0
    yield first
    yield from (seed for seed in (*REGRESSIONS, *range(SEEDS_MAX)) if seed != first)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if not bug.harmless])
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A check that can't fail is worth nothing."""
    BUGS[name].plant(monkeypatch)
    found = next((seed for seed in _seeds(name) if broken_promises(run_seed(seed, lines_max=1).violations)), None)
    if found != recorded_seed(name):
        record_search(request.node, name)
    assert found is not None, f"{name} broke the rule that {BUGS[name].rule}, and {SEEDS_MAX} worlds did not notice"
