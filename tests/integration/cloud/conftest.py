"""One local cloud process for all tests of it, and clients that talk to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import boto3
import pytest
from aiobotocore.session import get_session
from botocore.config import Config

from infra.cloud.process import LocalCloudProcess

_CREDENTIALS = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}


@pytest.fixture(scope="session")
def cloud() -> Iterator[LocalCloudProcess]:
    """A cloud without throughput limits, in a process of its own."""
    with LocalCloudProcess(limits_enforced=False, status_delay_seconds=0.0) as process:
        yield process


class Clients:
    """Makes clients for an endpoint; botocore's own retries are off, so that every answer is seen."""

    def __init__(self, endpoint_url: str) -> None:
        self.endpoint_url = endpoint_url

    def sync(self, service: str) -> Any:
        """A boto3 client."""
        config = Config(retries={"total_max_attempts": 1})
        return boto3.client(service, endpoint_url=self.endpoint_url, config=config, **_CREDENTIALS)

    @asynccontextmanager
    async def asynchronous(self, service: str) -> AsyncIterator[Any]:
        """An aiobotocore client."""
        from aiobotocore.config import AioConfig  # noqa: PLC0415 (only here)

        config = AioConfig(retries={"total_max_attempts": 1}, max_pool_connections=40)
        async with get_session().create_client(
            service, endpoint_url=self.endpoint_url, config=config, **_CREDENTIALS
        ) as client:
            yield client


@pytest.fixture
def clients(cloud: LocalCloudProcess) -> Clients:
    """Clients of the shared cloud."""
    return Clients(cloud.endpoint_url)


@pytest.fixture
def clients_of() -> type[Clients]:
    """Clients of a cloud that the test starts itself."""
    return Clients


async def _read_shard(client: Any, name: str, shard_id: str) -> list[dict[str, Any]]:
    start = await client.get_shard_iterator(StreamName=name, ShardId=shard_id, ShardIteratorType="TRIM_HORIZON")
    iterator: str | None = start["ShardIterator"]
    records: list[dict[str, Any]] = []
    while iterator is not None:
        page = await client.get_records(ShardIterator=iterator)
        records += page["Records"]
        iterator = page.get("NextShardIterator") if page["MillisBehindLatest"] or page["Records"] else None
    return records


@pytest.fixture
def read_stream() -> Any:
    """A coroutine function that reads every record of every shard: (client, stream name)."""

    async def read(client: Any, name: str) -> list[dict[str, Any]]:
        shards = (await client.list_shards(StreamName=name))["Shards"]
        found = await asyncio.gather(*(_read_shard(client, name, each["ShardId"]) for each in shards))
        return [record for records in found for record in records]

    return read
