"""The promises, under misfortune: the real producers and workers in thousands of seeded worlds."""

from __future__ import annotations

import pytest

from tests.simulation.coverage import SEEDS_DEFAULT
from tests.simulation.options import SEEDS_PER_TEST, record_outcomes
from tests.simulation.world import Outcome, run_seed

# Seeds that once broke a promise; each stays here with what it found. What a seed means changes with the worlds, so
# that each of these is a test of its own, too, or a planted bug.
REGRESSIONS: dict[int, str] = {
    62000021: "a worker with a byte per second more than another one never got its part of the shards",
    61: "a process frozen at a call took an old answer for the end of a renamed file",
    166: "a log cut and grown while the reader waited for room in the buffer was read on inside a line",
    301: "a worker that lost a lease while it released it never took that shard again",
    734: "an hour that only a seek wrote into was never complete",
    745: "a record that killed nobody was condemned for the deaths that another shard's record had caused",
    1208: "a disk failing at a restart moved the bookmark to the beginning of the first file",
    2044: "a worker that died after the first row at LATEST left a parent that held its child up for ever",
    1992: "a log cut and grown past the reader's place while reads failed was read on inside a line",
    7001002: "a row that was made, taken and deleted between two syncs was begun anew by its own holder",
    7502916: "a repetition in one shard was taken for the first copy, which another had before it began at LATEST",
    7002436: "an empty rotated file that was removed before it was read hid the file that was rotated after it",
    11000341: "a worker that was ended while its destinations were away waited for each of them in turn",
    12000374: "a seek left a child that came, and was stored in part, while it was being planned",
    9200033: "an audit of columns without the country took two series of objects for one, and told of disorder",
    7500212: "a worker at LATEST left during the audit; its successor began too early: that one's clock was slow",
}


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
