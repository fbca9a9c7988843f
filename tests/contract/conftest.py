"""The contract suite's option, its servers and its seeds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from tests.contract.sites import Sites, open_sites

# Scripts by kind in an ordinary run; `--contract-seeds N` runs N of each kind instead.
SEEDS: Final = {"reshard_seed": 120, "plain_seed": 30, "lease_seed": 50, "object_seed": 40, "fan_out_seed": 40}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --contract-seeds."""
    group = parser.getgroup("contract")
    group.addoption("--contract-seeds", type=int, default=None, help="how many random scripts of each kind to run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that asks for a seed its seeds, which are the same on every run and stand in the test's id."""
    # The option is unknown where this folder is not named on the command line.
    wanted: int | None = metafunc.config.getoption("--contract-seeds", None)
    for name, count in SEEDS.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, range(count if wanted is None else wanted))


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sites() -> AsyncIterator[Sites]:
    """Give the servers, started once: scripts keep apart by the names of their streams, tables and buckets."""
    async with open_sites() as opened:
        yield opened
