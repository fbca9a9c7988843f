"""Open the AWS clients of one process, with their own retries off, and hand out the adapters."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from shared.aws.error_map import aws_errors
from shared.aws.kcl_table import KclTableAdapter
from shared.aws.kinesis import KinesisAdapter
from shared.aws.leases import LeaseAdapter
from shared.aws.objects import ObjectAdapter

_CONNECT_TIMEOUT_SECONDS: Final = 5


def _timestamp(value: Any) -> Any:
    """Keep epoch seconds as they are: botocore's own parser costs more than the rest of GetRecords together."""
    return float(value) if isinstance(value, (int, float)) else value


def region_of(environment: Mapping[str, str]) -> str | None:
    """Return the region that `AWS_REGION` names, None to let botocore look further.

    AWS's tools and SDKs, containers and functions set AWS_REGION (SDK reference guide, "AWS Region"); botocore alone
    reads only AWS_DEFAULT_REGION and the profile.
    """
    return environment.get("AWS_REGION") or None


class Aws:
    """The adapters over three clients; a client is opened at its first use, each with a connection pool of its own."""

    def __init__(self, stack: AsyncExitStack, call_timeout_seconds: float, connections_max: int) -> None:
        self._stack = stack
        self._call_timeout_seconds = call_timeout_seconds
        self._session = get_session()
        self._session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
        self._config = AioConfig(
            connect_timeout=min(_CONNECT_TIMEOUT_SECONDS, call_timeout_seconds),
            read_timeout=call_timeout_seconds,
            max_pool_connections=connections_max,
            # Our policy must see every ambiguity: a hidden retry could land twice.
            retries={"total_max_attempts": 1, "mode": "standard"},
            # Requests are built by this package only; validation costs a quarter of a PutRecords call.
            parameter_validation=False,
        )
        self._clients: dict[str, Any] = {}

    async def kinesis(self) -> KinesisAdapter:
        """Return the Kinesis port."""
        return KinesisAdapter(await self._client("kinesis", "stream"))

    async def leases(self, table: str) -> LeaseAdapter:
        """Return the lease store over one DynamoDB table."""
        return LeaseAdapter(await self._client("dynamodb", table), table)

    async def objects(self, bucket: str) -> ObjectAdapter:
        """Return the object store over one bucket."""
        return ObjectAdapter(await self._client("s3", bucket), bucket, self._call_timeout_seconds)

    async def kcl_table(self, table: str) -> KclTableAdapter:
        """Return the items of a lease table that the Kinesis Client Library made."""
        return KclTableAdapter(await self._client("dynamodb", table), table)

    async def _client(self, service: str, resource: str) -> Any:
        if service not in self._clients:
            with aws_errors(service, "CreateClient", resource):
                context = self._session.create_client(service, region_name=region_of(os.environ), config=self._config)
                self._clients[service] = await self._stack.enter_async_context(context)
        return self._clients[service]


@asynccontextmanager
async def open_aws(*, call_timeout_seconds: float = 10, connections_max: int = 64) -> AsyncIterator[Aws]:
    """Open AWS by its own conventions (environment, profile, instance role); clients close with the block.

    Raises CredentialsError at the first client where no region is set, and at the first call without credentials.
    """
    async with AsyncExitStack() as stack:
        yield Aws(stack, call_timeout_seconds, connections_max)
