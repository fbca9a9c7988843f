"""How the producers of a consumer's destination streams are set up."""

from __future__ import annotations

from typing import Any, Self

import pytest

from consumer import api
from consumer.api import EventConsumer
from infra.pipeline import destination_settings, open_worker
from shared.errors import ConfigurationError
from shared.limits import DESTINATION_AGGREGATE_BYTES_MAX_DEFAULT, KIB
from shared.records import Wire
from shared.settings import ConsumerSettings
from shared.telemetry import SilentTelemetry

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


class _AskedError(Exception):
    """Ends the opening once the port was asked for."""


class _Aws:
    """Keeps how the Kinesis port is asked for."""

    def __init__(self) -> None:
        self.wires: dict[str, Wire] = {}

    async def kinesis(self, puts: Wire = Wire.JSON, reads: Wire = Wire.JSON) -> Any:
        self.wires = {"puts": puts, "reads": reads}
        raise _AskedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


async def test_the_wires_that_are_set_are_those_of_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts and reads are each written as their own setting says, by the worker as by the library."""
    monkeypatch.setenv("HEADRACE_READ_WIRE", "cbor")
    settings, aws = ConsumerSettings(source_stream="s", dest_streams=_DESTINATIONS), _Aws()
    with pytest.raises(_AskedError):
        async with open_worker(aws, settings, SilentTelemetry()):  # type: ignore[arg-type]  # a stand-in
            pass
    assert aws.wires == {"puts": Wire.JSON, "reads": Wire.CBOR}
    monkeypatch.setattr(api, "open_aws", lambda **_: aws)
    aws.wires = {}
    with pytest.raises(_AskedError):
        async with EventConsumer("s", app="group"):
            pass
    assert aws.wires["reads"] is Wire.CBOR
