"""The control plane of AWS's own delivery: Firehose delivery streams, their role and their log group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
from botocore.exceptions import ClientError

from shared.aws.control import Tags, open_control_clients, tags_from_wire, tags_to_wire
from shared.aws.error_map import aws_errors
from shared.errors import InvalidRequestError, ThrottledError

_ABSENT: Final = frozenset({"ResourceNotFoundException", "NoSuchEntity"})
_PRESENT: Final = frozenset({"ResourceAlreadyExistsException", "EntityAlreadyExists"})
_POLICY: Final = "deliver"
_LOG_STREAM: Final = "DestinationDelivery"  # the name that Firehose's console gives
_TAGS_PER_PAGE_MAX: Final = 50  # of a delivery stream, and as many as it can have


@dataclass(frozen=True, slots=True)
class DeliverySource:
    """What a delivery stream reads and where it writes; ARNs, prefixes that end in `/`, MiB and seconds."""

    stream_arn: str
    bucket_arn: str
    role_arn: str
    log_group: str
    prefix: str
    error_prefix: str
    buffer_mebibytes: int
    buffer_seconds: int


class DeliveryAdapter:
    """Delivery streams, roles and log groups by name; what does not exist is None."""

    def __init__(self, *, firehose: Any, iam: Any, logs: Any) -> None:
        self._firehose = firehose
        self._iam = iam
        self._logs = logs

    async def read_role(self, name: str) -> str | None:
        """Return the ARN of a role (GetRole)."""
        try:
            with aws_errors("iam", "GetRole", name):
                answer = await self._iam.get_role(RoleName=name)
        except InvalidRequestError as error:
            if error.code in _ABSENT:
                return None
            raise
        return str(answer["Role"]["Arn"])

    async def create_role(self, name: str, *, account: str, tags: Tags) -> None:
        """Make a role that Firehose may take on for this account only."""
        trust = {
            "Effect": "Allow",
            "Principal": {"Service": "firehose.amazonaws.com"},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:ExternalId": account}},
        }
        with aws_errors("iam", "CreateRole", name), _unless(_PRESENT):
            await self._iam.create_role(
                RoleName=name,
                Description="What the delivery streams of headrace may do",
                AssumeRolePolicyDocument=_policy([trust]),
                Tags=tags_to_wire(tags),
            )

    async def allow_role(self, name: str, statements: list[Mapping[str, Any]]) -> None:
        """Set what a role may do; replaces what it might do before."""
        with aws_errors("iam", "PutRolePolicy", name):
            await self._iam.put_role_policy(RoleName=name, PolicyName=_POLICY, PolicyDocument=_policy(statements))

    async def read_role_tags(self, name: str) -> Tags:
        """Return the tags of a role (it has at most 50: one page)."""
        with aws_errors("iam", "ListRoleTags", name):
            answer = await self._iam.list_role_tags(RoleName=name)
        return tags_from_wire(answer["Tags"])

    async def delete_role(self, name: str) -> None:
        """Remove a role and its policy."""
        with aws_errors("iam", "DeleteRolePolicy", name), _unless(_ABSENT):
            await self._iam.delete_role_policy(RoleName=name, PolicyName=_POLICY)
        with aws_errors("iam", "DeleteRole", name), _unless(_ABSENT):
            await self._iam.delete_role(RoleName=name)

    async def create_log_group(self, name: str, *, tags: Tags) -> None:
        """Make a log group with the one log stream that Firehose writes to; what exists is left alone."""
        with aws_errors("logs", "CreateLogGroup", name), _unless(_PRESENT):
            await self._logs.create_log_group(logGroupName=name, tags=dict(tags))
        with aws_errors("logs", "CreateLogStream", name), _unless(_PRESENT):
            await self._logs.create_log_stream(logGroupName=name, logStreamName=_LOG_STREAM)

    async def read_log_group_tags(self, name: str) -> Tags | None:
        """Return the tags of a log group; None if there is none."""
        try:
            with aws_errors("logs", "ListTagsLogGroup", name):
                answer = await self._logs.list_tags_log_group(logGroupName=name)
        except InvalidRequestError as error:
            if error.code in _ABSENT:
                return None
            raise
        return {str(key): str(value) for key, value in answer["tags"].items()}

    async def delete_log_group(self, name: str) -> None:
        """Remove a log group with what is in it."""
        with aws_errors("logs", "DeleteLogGroup", name), _unless(_ABSENT):
            await self._logs.delete_log_group(logGroupName=name)

    async def describe_delivery_stream(self, name: str) -> str | None:
        """Return the status of a delivery stream (DescribeDeliveryStream)."""
        try:
            with aws_errors("firehose", "DescribeDeliveryStream", name):
                answer = await self._firehose.describe_delivery_stream(DeliveryStreamName=name)
        except InvalidRequestError as error:
            if error.code in _ABSENT:
                return None
            raise
        return str(answer["DeliveryStreamDescription"]["DeliveryStreamStatus"])

    async def create_delivery_stream(self, name: str, source: DeliverySource, *, tags: Tags) -> None:
        """Start making a delivery stream from a data stream to S3.

        ThrottledError while Firehose can't take on the role: a new role takes seconds to be known everywhere.
        """
        logging = {"Enabled": True, "LogGroupName": source.log_group, "LogStreamName": _LOG_STREAM}
        delimiter = {"Type": "AppendDelimiterToRecord", "Parameters": []}
        try:
            with aws_errors("firehose", "CreateDeliveryStream", name):
                await self._firehose.create_delivery_stream(
                    DeliveryStreamName=name,
                    DeliveryStreamType="KinesisStreamAsSource",
                    KinesisStreamSourceConfiguration={
                        "KinesisStreamARN": source.stream_arn,
                        "RoleARN": source.role_arn,
                    },
                    ExtendedS3DestinationConfiguration={
                        "RoleARN": source.role_arn,
                        "BucketARN": source.bucket_arn,
                        "Prefix": source.prefix,
                        "ErrorOutputPrefix": source.error_prefix,
                        "BufferingHints": {
                            "SizeInMBs": source.buffer_mebibytes,
                            "IntervalInSeconds": source.buffer_seconds,
                        },
                        "CompressionFormat": "UNCOMPRESSED",
                        "CloudWatchLoggingOptions": logging,
                        # Our events are put without a newline; objects are to be one event a line.
                        "ProcessingConfiguration": {"Enabled": True, "Processors": [delimiter]},
                    },
                    Tags=tags_to_wire(tags),
                )
        except InvalidRequestError as error:
            if "assume role" in str(error):
                raise ThrottledError(str(error), hint=error.hint, code=error.code) from error
            raise

    async def read_delivery_stream_tags(self, name: str) -> Tags:
        """Return the tags of a delivery stream."""
        with aws_errors("firehose", "ListTagsForDeliveryStream", name):
            answer = await self._firehose.list_tags_for_delivery_stream(
                DeliveryStreamName=name, Limit=_TAGS_PER_PAGE_MAX
            )
        return tags_from_wire(answer["Tags"])

    async def delete_delivery_stream(self, name: str) -> None:
        """Start removing a delivery stream; what it has buffered is still written, as far as Firehose gets to it."""
        with aws_errors("firehose", "DeleteDeliveryStream", name):
            await self._firehose.delete_delivery_stream(DeliveryStreamName=name)


@asynccontextmanager
async def open_delivery() -> AsyncIterator[DeliveryAdapter]:
    """Open Firehose, IAM and CloudWatch Logs by AWS's own conventions; clients close with the block."""
    async with open_control_clients("firehose", "iam", "logs") as clients:
        yield DeliveryAdapter(**clients)


@contextmanager
def _unless(codes: frozenset[str]) -> Iterator[None]:
    """Take an answer with one of these codes for success: what was asked for is the case already."""
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in codes:
            raise


def _policy(statements: list[Any]) -> str:
    return orjson.dumps({"Version": "2012-10-17", "Statement": statements}).decode()
