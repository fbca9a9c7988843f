"""pytest's options and summary of the simulation, and its last word: whether a full run was as hard as it should be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

SEEDS_PER_TEST: Final = 10
_PROPERTY: Final = "simulation"
_SEARCHED: Final = "planted bug that had to be searched for"


@dataclass(slots=True)
class _Total:
    """What the worlds of a session went through."""

    seeds: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    failed_seeds: list[int] = field(default_factory=list)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --sim-seeds, --sim-first-seed and --sim-seed."""
    group = parser.getgroup("simulation")
    group.addoption("--sim-seeds", type=int, default=None, help="how many simulated worlds to run")
    group.addoption("--sim-first-seed", type=int, default=0, help="the seed of the first one")
    group.addoption("--sim-seed", type=int, default=None, help="run this one world and print its story")


def record_outcomes(node: pytest.Item, outcomes: list[Any]) -> None:
    """Attach what worlds went through to a test's report, so that it reaches the summary from any xdist worker."""
    counts: Counter[str] = Counter()
    for each in outcomes:
        counts.update(each.counts)
    failed = [each.seed for each in outcomes if each.violations]
    node.user_properties.append(
        (_PROPERTY, (len(outcomes), sum(each.virtual_seconds for each in outcomes), dict(counts), failed))
    )


def record_search(node: pytest.Item, bug: str) -> None:
    """Note that the seed in the table does not find a bug any more, so that all seeds are tried on every run."""
    node.user_properties.append((_SEARCHED, bug))


def _tell_searches(terminalreporter: Any) -> None:
    passed = terminalreporter.stats.get("passed", ())
    bugs = [value for each in passed for name, value in getattr(each, "user_properties", ()) if name == _SEARCHED]
    if bugs:
        terminalreporter.section("planted bugs")
        terminalreporter.write_line(f"{len(bugs)} had to be searched for, which takes time: {', '.join(sorted(bugs))}")
        terminalreporter.write_line("python -m tests.simulation.bug_table writes down the seeds that find them now")


def _total(terminalreporter: Any) -> _Total:
    total = _Total()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in getattr(report, "user_properties", ()):
                if name == _PROPERTY and report.when == "call":
                    total.seeds += value[0]
                    total.seconds += value[1]
                    total.counts.update(value[2])
                    total.failed_seeds += value[3]
    return total


def _gaps(total: _Total) -> list[str]:
    from tests.simulation.coverage import SEEDS_DEFAULT, gaps  # noqa: PLC0415 - the product is imported with it

    return gaps(total.counts) if total.seeds >= SEEDS_DEFAULT else []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a full run whose worlds were too kind."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and not hasattr(session.config, "workerinput") and _gaps(_total(reporter)):
        session.exitstatus = exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print seeds, virtual hours, faults by kind, what a full run should have met, and the seeds that failed."""
    _tell_searches(terminalreporter)
    total = _total(terminalreporter)
    if not total.seeds:
        return
    write = terminalreporter.write_line
    terminalreporter.section("simulated worlds")
    write(f"{total.seeds:,} worlds, {total.seconds / 3600:,.1f} virtual hours; faults and what came of them:")
    for kind, count in sorted(total.counts.items()):
        write(f"  {count:>9,}  {kind}")
    from tests.simulation.coverage import HITS_MIN, SEEDS_DEFAULT  # noqa: PLC0415 - the product is imported with it

    if total.seeds < SEEDS_DEFAULT:
        write(f"fewer than {SEEDS_DEFAULT:,} worlds: not judged whether each kind of fault struck {HITS_MIN:,} times")
    for gap in _gaps(total):
        write(f"TOO KIND: {gap}", red=True)
    write(f"{len(total.failed_seeds):,} seeds failed")
    for seed in total.failed_seeds:
        write(f"  {seed}: pytest -p no:xdist tests/simulation/test_worlds.py --sim-seed {seed}", red=True)
