"""What every test gets: no AWS settings of the machine, and sockets to loopback only."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from shared.compiled.columns import Columns
from tests.simulation.options import (  # noqa: F401 - pytest finds them here
    pytest_addoption,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from tests.support.ways import compiled_part

# The same examples for the same modules loaded, whose texts and numbers are among them, and no verdict by time.
settings.register_profile("headrace", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("headrace")

_LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True)
def scrubbed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the machine says about AWS, headrace, colours and CI, so that results do not depend on it."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "HEADRACE_")) or name in {"CI", "NO_COLOR", "BOTO_CONFIG"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/aws/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/aws/credentials")


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to anything but loopback: a test that needs the network is a defect."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(_LOOPBACK):
            msg = f"a test tried to connect to {address[0]}"
            raise AssertionError(msg)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def columns() -> Columns:
    """Return the compiled part; without it, the test is skipped."""
    return compiled_part()
