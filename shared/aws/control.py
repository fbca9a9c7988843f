"""The control plane as provisioning needs it: make, look at and remove streams, lease tables and buckets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from shared.aws.error_map import aws_errors
from shared.aws.session import region_of
from shared.errors import BucketNotFoundError, StreamNotFoundError, TableNotFoundError

_HOME_REGION: Final = "us-east-1"  # the one region whose buckets take no LocationConstraint
_CONNECT_TIMEOUT_SECONDS: Final = 5
_CALL_TIMEOUT_SECONDS: Final = 20
_ATTEMPTS: Final = 3
_UNTAGGED: Final = frozenset({"NoSuchTagSet", "NoSuchTagSetError"})

Tags = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream as the control plane sees it; `status` is the API's word."""

    status: str
    open_shard_count: int
    on_demand: bool
    arn: str = ""


@dataclass(frozen=True, slots=True)
class TableState:
    """What provisioning wants to know of a table; `has_lease_key`: its rows are found by the text `leaseKey` alone."""

    status: str
    has_lease_key: bool
    arn: str = ""


class ControlAdapter:
    """Streams, tables and buckets by name; what does not exist is None, every other refusal is an error of ours."""

    def __init__(self, *, kinesis: Any, dynamodb: Any, s3: Any, sts: Any) -> None:
        self._kinesis = kinesis
        self._dynamodb = dynamodb
        self._s3 = s3
        self._sts = sts

    async def read_account(self) -> str:
        """Return the number of the account that the credentials belong to (GetCallerIdentity)."""
        with aws_errors("sts", "GetCallerIdentity", "of the credentials"):
            answer = await self._sts.get_caller_identity()
        return str(answer["Account"])

    async def describe_stream(self, name: str) -> StreamState | None:
        """Look at a stream (DescribeStreamSummary)."""
        try:
            with aws_errors("kinesis", "DescribeStreamSummary", name):
                answer = await self._kinesis.describe_stream_summary(StreamName=name)
        except StreamNotFoundError:
            return None
        summary = answer["StreamDescriptionSummary"]
        mode = summary.get("StreamModeDetails", {}).get("StreamMode")
        return StreamState(
            status=summary["StreamStatus"],
            open_shard_count=summary["OpenShardCount"],
            on_demand=mode == "ON_DEMAND",
            arn=summary["StreamARN"],
        )

    async def create_stream(self, name: str, *, shards: int | None, tags: Tags) -> None:
        """Start making a stream of `shards` shards; None makes it on-demand."""
        capacity: dict[str, Any] = (
            {"StreamModeDetails": {"StreamMode": "ON_DEMAND"}}
            if shards is None
            else {"ShardCount": shards, "StreamModeDetails": {"StreamMode": "PROVISIONED"}}
        )
        with aws_errors("kinesis", "CreateStream", name):
            await self._kinesis.create_stream(StreamName=name, Tags=dict(tags), **capacity)

    async def read_stream_tags(self, name: str) -> Tags:
        """Return the tags of a stream (it has at most 50: one page)."""
        with aws_errors("kinesis", "ListTagsForStream", name):
            answer = await self._kinesis.list_tags_for_stream(StreamName=name)
        return tags_from_wire(answer["Tags"])

    async def deregister_consumer(self, stream: str, name: str) -> bool:
        """Start removing a registered consumer (DeregisterStreamConsumer); return whether there is one still."""
        try:
            with aws_errors("kinesis", "DescribeStreamSummary", stream):
                answer = await self._kinesis.describe_stream_summary(StreamName=stream)
            consumer = {"StreamARN": answer["StreamDescriptionSummary"]["StreamARN"], "ConsumerName": name}
            with aws_errors("kinesis", "DescribeStreamConsumer", stream):
                found = await self._kinesis.describe_stream_consumer(**consumer)
            if found["ConsumerDescription"]["ConsumerStatus"] != "DELETING":
                with aws_errors("kinesis", "DeregisterStreamConsumer", stream):
                    await self._kinesis.deregister_stream_consumer(**consumer)
        except StreamNotFoundError:
            return False
        return True

    async def delete_stream(self, name: str) -> None:
        """Start removing a stream and its records; a stream with registered consumers is refused."""
        with aws_errors("kinesis", "DeleteStream", name):
            await self._kinesis.delete_stream(StreamName=name)

    async def describe_table(self, name: str) -> TableState | None:
        """Describe a table (DescribeTable); None if there is none."""
        try:
            with aws_errors("dynamodb", "DescribeTable", name):
                table = (await self._dynamodb.describe_table(TableName=name))["Table"]
        except TableNotFoundError:
            return None
        is_text = {"AttributeName": "leaseKey", "AttributeType": "S"} in table["AttributeDefinitions"]
        is_key = table["KeySchema"] == [{"AttributeName": "leaseKey", "KeyType": "HASH"}]
        return TableState(str(table["TableStatus"]), has_lease_key=is_text and is_key, arn=table["TableArn"])

    async def create_lease_table(self, name: str, *, tags: Tags) -> None:
        """Start making a table with the key `leaseKey`, paid per request."""
        with aws_errors("dynamodb", "CreateTable", name):
            await self._dynamodb.create_table(
                TableName=name,
                AttributeDefinitions=[{"AttributeName": "leaseKey", "AttributeType": "S"}],
                KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
                BillingMode="PAY_PER_REQUEST",
                Tags=tags_to_wire(tags),
            )

    async def read_table_tags(self, name: str, arn: str) -> Tags:
        """Return the tags of a table that was described; none if it is gone since."""
        try:
            with aws_errors("dynamodb", "ListTagsOfResource", name):
                answer = await self._dynamodb.list_tags_of_resource(ResourceArn=arn)
        except TableNotFoundError:
            return {}
        return tags_from_wire(answer.get("Tags", ()))

    async def delete_table(self, name: str) -> None:
        """Start removing a table with its rows."""
        with aws_errors("dynamodb", "DeleteTable", name):
            await self._dynamodb.delete_table(TableName=name)

    async def has_bucket(self, name: str) -> bool:
        """Whether the bucket exists and is ours to use; AccessDeniedError if it is somebody else's."""
        try:
            with aws_errors("s3", "HeadBucket", name):
                await self._s3.head_bucket(Bucket=name)
        except BucketNotFoundError:
            return False
        return True

    async def create_bucket(self, name: str, *, tags: Tags) -> None:
        """Make a private, encrypted, versioned bucket in the region of the client."""
        request: dict[str, Any] = {"Bucket": name}
        if self._s3.meta.region_name != _HOME_REGION:
            request["CreateBucketConfiguration"] = {"LocationConstraint": self._s3.meta.region_name}
        with aws_errors("s3", "CreateBucket", name):
            await self._s3.create_bucket(**request)
        with aws_errors("s3", "PutBucketTagging", name):
            await self._s3.put_bucket_tagging(Bucket=name, Tagging={"TagSet": tags_to_wire(tags)})
        await self.protect_bucket(name)

    async def protect_bucket(self, name: str) -> None:
        """Block public access, encrypt with a bucket key, keep versions; may be repeated."""
        blocked = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        with aws_errors("s3", "PutPublicAccessBlock", name):
            await self._s3.put_public_access_block(
                Bucket=name, PublicAccessBlockConfiguration=dict.fromkeys(blocked, True)
            )
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}, "BucketKeyEnabled": True}
        with aws_errors("s3", "PutBucketEncryption", name):
            await self._s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})
        with aws_errors("s3", "PutBucketVersioning", name):
            await self._s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})

    async def read_bucket_tags(self, name: str) -> Tags:
        """Return the tags of a bucket."""
        with aws_errors("s3", "GetBucketTagging", name):
            try:
                answer = await self._s3.get_bucket_tagging(Bucket=name)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in _UNTAGGED:
                    return {}
                raise
        return tags_from_wire(answer["TagSet"])

    async def empty_bucket(self, name: str) -> int:
        """Delete up to 1,000 object versions; return how many there were, 0 once the bucket is empty."""
        with aws_errors("s3", "ListObjectVersions", name):
            answer = await self._s3.list_object_versions(Bucket=name)
        found = [
            {"Key": each["Key"], "VersionId": each["VersionId"]}
            for each in (*answer.get("Versions", ()), *answer.get("DeleteMarkers", ()))
        ]
        if found:
            with aws_errors("s3", "DeleteObjects", name):
                await self._s3.delete_objects(Bucket=name, Delete={"Objects": found, "Quiet": True})
        return len(found)

    async def delete_bucket(self, name: str) -> bool:
        """Remove a bucket; False if it still holds objects or versions of them."""
        with aws_errors("s3", "DeleteBucket", name):
            try:
                await self._s3.delete_bucket(Bucket=name)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == "BucketNotEmpty":
                    return False
                raise
        return True


@asynccontextmanager
async def open_control() -> AsyncIterator[ControlAdapter]:
    """Open the control plane by AWS's own conventions; clients close with the block."""
    async with open_control_clients("kinesis", "dynamodb", "s3", "sts") as clients:
        yield ControlAdapter(**clients)


@asynccontextmanager
async def open_control_clients(*services: str) -> AsyncIterator[dict[str, Any]]:
    """Open one client per service name.

    Unlike on the data plane, the SDK may retry: making and removing by name is idempotent.
    """
    config = AioConfig(
        connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        read_timeout=_CALL_TIMEOUT_SECONDS,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
    )
    session = get_session()
    async with AsyncExitStack() as stack:
        clients: dict[str, Any] = {}
        for service in services:
            with aws_errors(service, "CreateClient", service):
                clients[service] = await stack.enter_async_context(
                    session.create_client(service, region_name=region_of(os.environ), config=config)
                )
        yield clients


def tags_to_wire(tags: Tags) -> list[dict[str, str]]:
    """Return tags as most services take them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def tags_from_wire(wire: Any) -> Tags:
    """Read tags as most services answer them."""
    return {str(each["Key"]): str(each["Value"]) for each in wire}
