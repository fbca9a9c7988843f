"""What a full run has to go through: every kind of fault often, every crash with every recovery at least once."""

from __future__ import annotations

from collections import Counter
from typing import Final

from tests.simulation.crash_sites import ENDINGS, possible_pairs
from tests.simulation.faults import BLOWS, RATES_MAX

SEEDS_DEFAULT: Final = 2_000
HITS_MIN: Final = 1_000

FAULT_KINDS: Final = (
    *RATES_MAX,
    *(kind for kind in BLOWS if kind not in {"at_call", "reshard"}),
    *(f"{ending}_at_call" for ending in sorted({each for endings in ENDINGS.values() for each in endings})),
    "split",
    "merge",
    "burst",
    "second_signal",
    "stranger",
    "service_away",
    "lease_lost_in_service_outage",
)


def gaps(counts: Counter[str]) -> list[str]:
    """Return what a run over the default seeds should have met, and did not; one line each."""
    rare = [
        f"{kind} struck {counts[kind]:,} times, fewer than {HITS_MIN:,}"
        for kind in FAULT_KINDS
        if counts[kind] < HITS_MIN
    ]
    return rare + [f"never seen: {name}" for name in possible_pairs() if not counts[name]]
