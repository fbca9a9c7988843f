"""The promises, under misfortune: the real producers and workers in thousands of seeded worlds."""

from __future__ import annotations

import pytest

from tests.simulation.coverage import SEEDS_DEFAULT
from tests.simulation.options import SEEDS_PER_TEST, record_outcomes
from tests.simulation.regressions import REGRESSIONS
from tests.simulation.world import Outcome, run_seed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Split the wanted seeds over tests, so that xdist can share them out."""
    if "seeds" not in metafunc.fixturenames:
        return
    config = metafunc.config
    one = config.getoption("--sim-seed", default=None)
    if one is not None:
        chunks = [range(one, one + 1)]
    else:
        first = config.getoption("--sim-first-seed", default=0)
        end = first + (config.getoption("--sim-seeds", default=None) or SEEDS_DEFAULT)
        chunks = [range(start, min(start + SEEDS_PER_TEST, end)) for start in range(first, end, SEEDS_PER_TEST)]
    metafunc.parametrize("seeds", chunks, ids=[f"{each.start}-{each.stop - 1}" for each in chunks])


def _judge(outcomes: list[Outcome], *, with_story: bool) -> None:
    failed = [each for each in outcomes if each.violations]
    lines = []
    for each in failed:
        lines.append(f"seed {each.seed} (replay: pytest tests/simulation/test_worlds.py --sim-seed {each.seed}):")
        lines += [f"  {violation[:1_000]}" for violation in each.violations]
        if with_story:
            lines += [f"  | {line}" for line in each.story]
    assert not failed, "\n".join(lines)


@pytest.mark.slow
def test_every_promise_holds_in_every_world(seeds: range, request: pytest.FixtureRequest) -> None:
    """Nothing is lost, doubled in S3 or out of order, and nothing is stuck, whatever the seed deals out."""
    is_single = request.config.getoption("--sim-seed", default=None) is not None
    outcomes = [run_seed(seed, lines_max=200_000 if is_single else 1) for seed in seeds]
    record_outcomes(request.node, outcomes)
    if is_single:
        print("\n".join(outcomes[0].story))  # noqa: T201 - the story is what was asked for
    _judge(outcomes, with_story=is_single)


def test_seeds_that_once_failed_hold() -> None:
    """What the simulation found before must stay fixed."""
    outcomes = [run_seed(seed, lines_max=1) for seed in REGRESSIONS]
    _judge(outcomes, with_story=False)
