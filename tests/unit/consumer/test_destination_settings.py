"""How the producers of a consumer's destination streams are set up."""

from __future__ import annotations

import pytest

from infra.pipeline import destination_settings
from shared.errors import ConfigurationError
from shared.limits import DESTINATION_AGGREGATE_BYTES_MAX_DEFAULT, KIB

_DESTINATIONS = {"USA": "usa", "International": "rest"}


def test_aggregates_of_enriched_events_are_larger_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default grows with the events; what an operator sets stays, be it the producer's own default."""
    monkeypatch.delenv("HEADRACE_PRODUCER_AGGREGATE_BYTES_MAX", raising=False)
    assert destination_settings(_DESTINATIONS).aggregate_bytes_max == DESTINATION_AGGREGATE_BYTES_MAX_DEFAULT
    monkeypatch.setenv("HEADRACE_PRODUCER_AGGREGATE_BYTES_MAX", str(50 * KIB))
    assert destination_settings(_DESTINATIONS).aggregate_bytes_max == 50 * KIB


def test_events_are_not_put_without_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ordering `none` is refused where there are destination streams, and only there."""
    monkeypatch.setenv("HEADRACE_PRODUCER_ORDERING", "none")
    with pytest.raises(ConfigurationError, match="ORDERING"):
        destination_settings(_DESTINATIONS)
    destination_settings({})
