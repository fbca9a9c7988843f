"""One local cloud in a process of its own for all tests of the AWS adapters in this process."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from infra.cloud.process import LocalCloudProcess
from shared.aws.session import Aws, open_aws


@pytest.fixture(scope="session")
def cloud() -> Iterator[LocalCloudProcess]:
    """Start the local cloud; it ends with the session."""
    with LocalCloudProcess(limits_enforced=False) as process:
        yield process


@pytest.fixture
def point_to_cloud(cloud: LocalCloudProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the AWS settings of this process to the local cloud."""
    for name, value in cloud.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def aws(point_to_cloud: None) -> AsyncIterator[Aws]:
    """Open the adapters as the product does."""
    async with open_aws() as opened:
        yield opened


@pytest.fixture
def unique() -> str:
    """Return a name that no other test uses."""
    return f"t-{uuid.uuid4().hex[:12]}"
