"""Open the AWS clients of one process, with their own retries off, and hand out the adapters."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from shared.aws.error_map import aws_errors
from shared.aws.fan_out import FanOutAdapter
from shared.aws.kcl_table import KclTableAdapter
from shared.aws.kinesis import KinesisAdapter
from shared.aws.leases import LeaseAdapter
from shared.aws.objects import ObjectAdapter, WriteOptions
from shared.errors import ConfigurationError
from shared.limits import SHARDS_PER_STREAM_MAX, SUBSCRIPTION_SILENCE_SECONDS_MAX
from shared.ports import Telemetry
from shared.records import Wire

_CONNECT_TIMEOUT_SECONDS: Final = 5
_SILENCE_MARGIN_SECONDS: Final = 15  # so that the reader's own patience ends first


def _timestamp(value: Any) -> Any:
    """Keep epoch seconds as they are: botocore's own parser costs more than the rest of GetRecords together."""
    return float(value) if isinstance(value, (int, float)) else value


def _counter_of(telemetry: Telemetry) -> Callable[..., None]:
    """Return what counts each request of a client just before it is made, a scan's every page for itself."""

    def count(model: Any, **_: Any) -> None:
        telemetry.count("dynamodb_requests", operation=model.name)

    return count


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

    async def kinesis(self, puts: Wire = Wire.JSON, reads: Wire = Wire.JSON) -> KinesisAdapter:
        """Return the Kinesis port; `puts` and `reads` are how the calls that carry records are written."""
        return KinesisAdapter(await self._client("kinesis", "stream"), puts, reads)

    async def fan_out(self, stream: str) -> FanOutAdapter:
        """Return the port of enhanced fan-out."""
        return FanOutAdapter(await self._fan_out_client(stream), stream, self._call_timeout_seconds)

    async def _fan_out_client(self, stream: str) -> Any:
        """Return a client that is made for subscriptions.

        A subscription keeps its connection, and one more than the pool has would wait without a time-out until
        another ends: so the pool has room for any stream. A read time-out below the silence between two events would
        end subscriptions that are well.
        """
        config = self._config.merge(
            AioConfig(
                read_timeout=SUBSCRIPTION_SILENCE_SECONDS_MAX + _SILENCE_MARGIN_SECONDS,
                max_pool_connections=SHARDS_PER_STREAM_MAX,
            )
        )
        return await self._client("kinesis", stream, name="fan_out", config=config)

    async def leases(self, table: str, telemetry: Telemetry | None = None, *, pool: str = "") -> LeaseAdapter:
        """Return the lease store over one DynamoDB table; `telemetry` counts the requests that are made.

        A `pool` has connections of its own.
        """
        client = await self._client("dynamodb", table, name=f"dynamodb {pool}" if pool else "")
        if telemetry is not None:
            client.meta.events.register("before-call.dynamodb", _counter_of(telemetry), unique_id="requests-counted")
        return LeaseAdapter(client, table)

    async def objects(self, bucket: str, options: WriteOptions | None = None) -> ObjectAdapter:
        """Return the object store over one bucket."""
        return ObjectAdapter(await self._client("s3", bucket), bucket, self._call_timeout_seconds, options)

    async def kcl_table(self, table: str) -> KclTableAdapter:
        """Return the items of a lease table that the Kinesis Client Library made."""
        return KclTableAdapter(await self._client("dynamodb", table), table)

    async def _client(self, service: str, resource: str, *, name: str = "", config: AioConfig | None = None) -> Any:
        """Return the client of a service, or another one of it under a `name` and with a `config` of its own."""
        key = name or service
        if key not in self._clients:
            with aws_errors(service, "CreateClient", resource):
                context = self._session.create_client(
                    service, region_name=region_of(os.environ), config=config or self._config
                )
                try:
                    self._clients[key] = await self._stack.enter_async_context(context)
                except ValueError as error:  # botocore's word for an address that is none
                    message = f"The client of {service} can't be made: {error}"
                    raise ConfigurationError(
                        message, hint="Check AWS_ENDPOINT_URL and the AWS configuration"
                    ) from error
        return self._clients[key]


@asynccontextmanager
async def open_aws(*, call_timeout_seconds: float = 10, connections_max: int = 64) -> AsyncIterator[Aws]:
    """Open AWS by its own conventions (environment, profile, instance role); clients close with the block.

    Raises CredentialsError at the first client where no region is set, and at the first call without credentials.
    """
    async with AsyncExitStack() as stack:
        yield Aws(stack, call_timeout_seconds, connections_max)
