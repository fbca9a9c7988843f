"""What metrics say of themselves, and that each of them says something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from shared.metrics import COUNTERS, GAUGES
from shared.telemetry import StructlogTelemetry

ROOT = Path(__file__).parents[3]
CALL = re.compile(r'telemetry\.(count|gauge)\(\s*"(\w+)"')


def named(kind: str) -> set[str]:
    """Return the metrics that the product's code names."""
    paths = [path for part in ("producer", "consumer", "infra", "shared") for path in (ROOT / part).rglob("*.py")]
    return {name for path in paths for found, name in CALL.findall(path.read_text()) if found == kind}


@pytest.mark.parametrize(("kind", "texts"), [("count", COUNTERS), ("gauge", GAUGES)])
def test_each_metric_says_what_it_means(kind: str, texts: dict[str, str]) -> None:
    """In words, and nothing is explained that is not there."""
    assert named(kind) == texts.keys()
    assert all(" " in text for text in texts.values())


def test_metrics_show_their_texts() -> None:
    """As help in what Prometheus reads."""
    telemetry = StructlogTelemetry()
    telemetry.count("duplicates_dropped", 2)
    telemetry.gauge("producer_records_pending", 7)
    lines = generate_latest(telemetry.registry).decode().splitlines()
    assert f"# HELP headrace_duplicates_dropped_total {COUNTERS['duplicates_dropped']}" in lines
    assert f"# HELP headrace_producer_records_pending {GAUGES['producer_records_pending']}" in lines
