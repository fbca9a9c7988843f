"""A local cloud that misbehaves as the test says, and real clients that see every answer of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from infra.cloud.core.fault_file import parse_faults
from infra.cloud.server import LocalCloud


@dataclass(slots=True)
class Trouble:
    """A running cloud, its control pages, and clients without retries of their own."""

    cloud: LocalCloud
    stack: AsyncExitStack
    http: aiohttp.ClientSession
    _clients: dict[str, Any] = field(default_factory=dict)

    async def client(self, service: str) -> Any:
        """An aiobotocore client."""
        if service not in self._clients:
            self._clients[service] = await self.stack.enter_async_context(
                get_session().create_client(
                    service,
                    endpoint_url=self.cloud.endpoint_url,
                    config=AioConfig(retries={"total_max_attempts": 1}),
                    region_name="us-east-1",
                    aws_access_key_id="local",
                    aws_secret_access_key="local",
                )
            )
        return self._clients[service]

    async def control(self, method: str, page: str, body: str | bytes = b"", **headers: str) -> tuple[int, Any]:
        """Status and JSON of one call to a control page."""
        url = f"{self.cloud.endpoint_url}/_headrace/{page}"
        async with self.http.request(method, url, data=body, headers=headers) as answer:
            return answer.status, await answer.json(content_type=None)

    async def misbehave(self, toml: str) -> None:
        """Let these faults begin now."""
        status, answer = await self.control("PUT", "faults", toml)
        assert status == 200, answer

    async def hits(self) -> list[int]:
        """The hits of the rules, or of the steps if there are no rules."""
        _, answer = await self.control("GET", "faults")
        return [each["hits"] for each in answer["rules"] or answer["steps"]]


TroubleOf = Callable[..., AbstractAsyncContextManager[Trouble]]


@pytest.fixture
def trouble_of() -> TroubleOf:
    """Make a cloud with faults from the start."""

    @asynccontextmanager
    async def make(toml: str = "") -> AsyncIterator[Trouble]:
        cloud = LocalCloud(limits_enforced=False, status_delay_seconds=0.0, faults=parse_faults(toml.encode()))
        async with cloud, aiohttp.ClientSession() as http, AsyncExitStack() as stack:
            yield Trouble(cloud, stack, http)

    return make


@pytest.fixture
async def trouble(trouble_of: TroubleOf) -> AsyncIterator[Trouble]:
    """A cloud in which nothing goes wrong yet."""
    async with trouble_of() as made:
        yield made


@pytest.fixture
def reads() -> Callable[..., Any]:
    """Read every record of a stream's first shard: (client, stream)."""

    async def read(client: Any, stream: str, shard_id: str = "shardId-000000000000") -> list[bytes]:
        start = await client.get_shard_iterator(StreamName=stream, ShardId=shard_id, ShardIteratorType="TRIM_HORIZON")
        page = await client.get_records(ShardIterator=start["ShardIterator"])
        return [each["Data"] for each in page["Records"]]

    return read
