"""pytest's options and summary of the simulation."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import pytest

SEEDS_DEFAULT: Final = 2_000
SEEDS_PER_TEST: Final = 10
_PROPERTY: Final = "simulation"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --sim-seeds, --sim-first-seed and --sim-seed."""
    group = parser.getgroup("simulation")
    group.addoption("--sim-seeds", type=int, default=SEEDS_DEFAULT, help="how many simulated worlds to run")
    group.addoption("--sim-first-seed", type=int, default=0, help="the seed of the first one")
    group.addoption("--sim-seed", type=int, default=None, help="run this one world and print its story")


def record_outcomes(node: pytest.Item, outcomes: list[Any]) -> None:
    """Attach what worlds went through to a test's report, so that it reaches the summary from any xdist worker."""
    counts: Counter[str] = Counter()
    for each in outcomes:
        counts.update(each.counts)
    node.user_properties.append(
        (_PROPERTY, (len(outcomes), sum(each.virtual_seconds for each in outcomes), dict(counts)))
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print seeds, virtual hours and faults by kind."""
    seeds, seconds, counts = 0, 0.0, Counter[str]()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in getattr(report, "user_properties", ()):
                if name == _PROPERTY and report.when == "call":
                    seeds += value[0]
                    seconds += value[1]
                    counts.update(value[2])
    if not seeds:
        return
    terminalreporter.section("simulated worlds")
    terminalreporter.write_line(f"{seeds:,} worlds, {seconds / 3600:,.1f} virtual hours; faults and what came of them:")
    for kind, count in sorted(counts.items()):
        terminalreporter.write_line(f"  {count:>9,}  {kind}")
