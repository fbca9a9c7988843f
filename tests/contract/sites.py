"""The places a script runs at: the fakes, the local cloud and moto, each behind the ports and an operator's hands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import pytest
from moto.server import ThreadedMotoServer

from infra.cloud.command import ACCESS_KEY, REGION, SECRET_KEY
from infra.cloud.server import LocalCloud
from shared.aws.error_map import aws_errors
from shared.aws.session import Aws, open_aws
from shared.limits import RETENTION_HOURS_DEFAULT
from shared.ports import FanOut, Kinesis, LeaseStore, ObjectStore
from tests.support.cloud_clock import HandClock
from tests.support.fake_fan_out import FakeFanOut
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_leases import FakeLeases
from tests.support.fake_objects import FakeObjects
from tests.support.network import PerfectNetwork

# Small pages, so that short scripts make the adapters walk several of them.
_PAGE_SIZES: Final = {
    "kinesis.ListShards": ("MaxResults", 3),
    "dynamodb.Scan": ("Limit", 2),
    "s3.ListObjectsV2": ("MaxKeys", 3),
}
_RETENTION_SECONDS: Final = RETENTION_HOURS_DEFAULT * 3_600

# moto's server takes a thread and a connection a request; where the local cloud asks the same moto, that is waste.
_MOTO_EVERY: Final = 4


class Site(Protocol):
    """One implementation of the services; `has_clock` tells whether the test turns its clock."""

    name: str
    has_clock: bool

    async def kinesis(self) -> Kinesis:
        """Return the port."""
        ...

    async def fan_out(self, stream: str) -> FanOut:
        """Return the port of a stream's registered consumers."""
        ...

    async def deregister_consumer(self, stream: str, name: str) -> None:
        """Remove a registered consumer."""
        ...

    async def create_stream(self, name: str, shard_count: int) -> None:
        """Make a stream."""
        ...

    async def delete_stream(self, name: str) -> None:
        """Remove it."""
        ...

    async def split_shard(self, stream: str, shard_id: str, at: int) -> None:
        """Split a shard in front of the hash key `at`."""
        ...

    async def merge_shards(self, stream: str, shard_id: str, adjacent_shard_id: str) -> None:
        """Merge two shards."""
        ...

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        ...

    def wall(self) -> float:
        """Return the site's clock, seconds since the epoch."""
        ...

    async def leases(self, table: str) -> LeaseStore:
        """Make a lease table and return the port."""
        ...

    async def objects(self, bucket: str) -> ObjectStore:
        """Make a bucket and return the port."""
        ...

    async def describe_object(self, bucket: str, key: str) -> tuple[str, str]:
        """Return an object's content type and encoding."""
        ...


class FakeSite:
    """The fakes of the simulator over a network without faults."""

    name = "fake"
    has_clock = True

    def __init__(self, wall: float) -> None:
        self._network = PerfectNetwork(wall=wall)
        self._kinesis = FakeKinesis(self._network)
        self._fan_out = FakeFanOut(self._kinesis)
        self._buckets: dict[str, FakeObjects] = {}
        self._closed_at: dict[tuple[str, str], float] = {}

    async def kinesis(self) -> Kinesis:
        """Return the port."""
        return self._kinesis

    async def fan_out(self, stream: str) -> FanOut:
        """Return the port."""
        return self._fan_out

    async def deregister_consumer(self, stream: str, name: str) -> None:
        """Remove a registered consumer."""
        self._fan_out.deregister(stream, name)

    async def create_stream(self, name: str, shard_count: int) -> None:
        """Make a stream."""
        self._kinesis.create_stream(name, shard_count)

    async def delete_stream(self, name: str) -> None:
        """Remove it."""
        del self._kinesis.streams[name]

    async def split_shard(self, stream: str, shard_id: str, at: int) -> None:
        """Split a shard."""
        self._kinesis.split_shard(stream, shard_id, at)
        self._closed_at[stream, shard_id] = self.wall()

    async def merge_shards(self, stream: str, shard_id: str, adjacent_shard_id: str) -> None:
        """Merge two shards."""
        self._kinesis.merge_shards(stream, shard_id, adjacent_shard_id)
        self._closed_at[stream, shard_id] = self._closed_at[stream, adjacent_shard_id] = self.wall()

    def turn(self, seconds: float) -> None:
        """Let time pass; the fake's retention is its operator's to apply."""
        self._network.advance(seconds)
        horizon = self.wall() - _RETENTION_SECONDS
        for name, stream in self._kinesis.streams.items():
            for shard_id, shard in list(stream.shards.items()):
                if self._closed_at.get((name, shard_id), self.wall()) <= horizon:
                    self._kinesis.forget_shard(name, shard_id)
                    continue
                old = sum(each.arrival_timestamp < horizon for each in shard.records[shard.trimmed :])
                self._kinesis.trim(name, shard_id, old)

    def wall(self) -> float:
        """Return the network's clock."""
        return self._network.wall()

    async def leases(self, table: str) -> LeaseStore:
        """Return an empty table."""
        return FakeLeases(self._network)

    async def objects(self, bucket: str) -> ObjectStore:
        """Return an empty bucket."""
        return self._buckets.setdefault(bucket, FakeObjects(self._network))

    async def describe_object(self, bucket: str, key: str) -> tuple[str, str]:
        """Return an object's content type and encoding."""
        found = self._buckets[bucket].objects[key]
        return found.content_type, found.content_encoding


class WireSite:
    """A server on loopback, reached through the product's own adapters."""

    def __init__(self, name: str, aws: Aws, clients: dict[str, Any], clock: HandClock | None) -> None:
        self.name = name
        self.has_clock = clock is not None
        self.aws = aws
        self.clients = clients
        self._clock = clock

    async def kinesis(self) -> Kinesis:
        """Return the port."""
        return await self.aws.kinesis()

    async def fan_out(self, stream: str) -> FanOut:
        """Return the port."""
        return await self.aws.fan_out(stream)

    async def deregister_consumer(self, stream: str, name: str) -> None:
        """Remove a registered consumer."""
        kinesis = self.clients["kinesis"]
        arn = (await kinesis.describe_stream_summary(StreamName=stream))["StreamDescriptionSummary"]["StreamARN"]
        await kinesis.deregister_stream_consumer(StreamARN=arn, ConsumerName=name)

    async def create_stream(self, name: str, shard_count: int) -> None:
        """Make a stream."""
        await self.clients["kinesis"].create_stream(StreamName=name, ShardCount=shard_count)

    async def delete_stream(self, name: str) -> None:
        """Remove it."""
        await self.clients["kinesis"].delete_stream(StreamName=name)

    async def split_shard(self, stream: str, shard_id: str, at: int) -> None:
        """Split a shard."""
        with aws_errors("kinesis", "SplitShard", stream):
            await self.clients["kinesis"].split_shard(
                StreamName=stream, ShardToSplit=shard_id, NewStartingHashKey=str(at)
            )

    async def merge_shards(self, stream: str, shard_id: str, adjacent_shard_id: str) -> None:
        """Merge two shards."""
        with aws_errors("kinesis", "MergeShards", stream):
            await self.clients["kinesis"].merge_shards(
                StreamName=stream, ShardToMerge=shard_id, AdjacentShardToMerge=adjacent_shard_id
            )

    def turn(self, seconds: float) -> None:
        """Let time pass, where the test has the clock in its hand."""
        if self._clock is not None:
            self._clock.turn(seconds)

    def wall(self) -> float:
        """Return the clock in the test's hand."""
        return self._clock.now if self._clock is not None else 0.0

    async def leases(self, table: str) -> LeaseStore:
        """Make a lease table."""
        await self.clients["dynamodb"].create_table(
            TableName=table,
            AttributeDefinitions=[{"AttributeName": "leaseKey", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        return await self.aws.leases(table)

    async def objects(self, bucket: str) -> ObjectStore:
        """Make a bucket."""
        await self.clients["s3"].create_bucket(Bucket=bucket)
        return await self.aws.objects(bucket)

    async def describe_object(self, bucket: str, key: str) -> tuple[str, str]:
        """Return an object's content type and encoding."""
        answer = await self.clients["s3"].head_object(Bucket=bucket, Key=key)
        return answer["ContentType"], answer.get("ContentEncoding", "")


@dataclass(frozen=True, slots=True)
class Sites:
    """The servers of a test session; fakes are made fresh for every script."""

    cloud: WireSite
    moto: WireSite

    def fake(self) -> FakeSite:
        """Return fresh fakes whose clock agrees with the local cloud's."""
        return FakeSite(self.cloud.wall())

    def sharing_moto(self, seed: int) -> tuple[Site, ...]:
        """Return the sites of a script for what is moto's own in the local cloud, too: its server for one in four."""
        both: tuple[Site, ...] = (self.fake(), self.cloud)
        return (*both, self.moto) if seed % _MOTO_EVERY == 0 else both


@contextmanager
def _settings(endpoint_url: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint_url)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_REGION", REGION)
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/nonexistent/aws/config")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/aws/credentials")
        yield


async def _reach(
    stack: AsyncExitStack, name: str, endpoint_url: str, services: tuple[str, ...], clock: HandClock | None
) -> WireSite:
    with _settings(endpoint_url):
        aws = await stack.enter_async_context(open_aws())
        # The adapters' own clients, opened by the call that opens them in the product.
        clients = {each: await aws._client(each, name) for each in ("kinesis", "dynamodb", "s3")}
        await aws._fan_out_client(name)
    for place, (parameter, size) in _PAGE_SIZES.items():
        service = place.partition(".")[0]
        if service in services:
            _page_by(clients[service], place, parameter, size)
    return WireSite(name, aws, clients, clock)


def _page_by(client: Any, place: str, parameter: str, size: int) -> None:
    def shrink(params: dict[str, Any], **_context: Any) -> dict[str, Any]:
        return {**params, parameter: size}

    client.meta.events.register(f"provide-client-params.{place}", shrink)


@asynccontextmanager
async def open_sites() -> AsyncIterator[Sites]:
    """Start the local cloud, with its clock in our hand, and moto's own server, both on loopback."""
    clock = HandClock()
    # moto's state belongs to the process: the cloud resets it when it loads, so it loads first.
    cloud = LocalCloud(limits_enforced=False, status_delay_seconds=0.0)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(cloud)
        await cloud.warm_up()
        engine = cloud.kinesis.engine(REGION)
        engine._clock = engine.streams.clock = clock
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        stack.callback(server.stop)
        host, port = server.get_host_and_port()
        everything = ("kinesis", "dynamodb", "s3")
        yield Sites(
            cloud=await _reach(stack, "cloud", cloud.endpoint_url, everything, clock),
            # moto refuses the second page of ListShards (DIVERGENCES.md), so its pages stay whole there.
            moto=await _reach(stack, "moto", f"http://{host}:{port}", everything[1:], None),
        )
