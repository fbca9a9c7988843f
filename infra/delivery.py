"""AWS's own delivery beside ours: a Firehose delivery stream per destination, with its role, log group and bucket."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from infra.resource import READY, Report, is_marked
from shared.aws.control import ControlAdapter, Tags
from shared.aws.delivery import DeliveryAdapter, DeliverySource
from shared.errors import ConfigurationError, ServiceError

# As the lab has it.
PREFIX: Final = "firehose/"
ERROR_PREFIX: Final = "errors/"
BUFFER_MEBIBYTES: Final = 1
BUFFER_SECONDS: Final = 60

_BUCKET_CHARACTERS_MAX: Final = 63
_ROLE_CHARACTERS_MAX: Final = 64
_FAILED: Final = frozenset({"CREATING_FAILED", "DELETING_FAILED"})


def delivery_names(app: str, bucket: str, destination: str) -> tuple[str, str]:
    """Return the names of a destination's delivery stream and bucket; ConfigurationError if they are too long."""
    slug = re.sub(r"[^a-z0-9]+", "-", destination.lower()).strip("-") or "other"
    name, bucket_name = f"{app}-{slug}-delivery-stream", f"{bucket}-{slug}"
    for what, text, limit in (("delivery stream", name, 64), ("bucket", bucket_name, _BUCKET_CHARACTERS_MAX)):
        if len(text) > limit:
            raise ConfigurationError(
                f"The {what} of `{destination}` would be called `{text}`: {len(text)} characters, {limit} are allowed",
                hint="Choose a shorter --app or --bucket",
            )
    return name, bucket_name


def role_name(app: str) -> str:
    """Return the name of the role that the delivery streams of an application take on."""
    return f"{app}-firehose"[-_ROLE_CHARACTERS_MAX:]


class Role:
    """The role of the delivery streams on its way to being there, or gone; it may read streams and write buckets."""

    def __init__(
        self,
        control: ControlAdapter,
        delivery: DeliveryAdapter,
        name: str,
        *,
        streams: Sequence[str],
        buckets: Sequence[str],
        tags: Tags,
        report: Report,
    ) -> None:
        self._control = control
        self._delivery = delivery
        self.name = name
        self._streams = streams
        self._buckets = buckets
        self._tags = tags
        self._report = report
        self._is_ours = False
        self.is_kept = False
        self.arn = ""  # once it can be used

    async def advance(self) -> bool:
        """See Resource."""
        arn = await self._delivery.read_role(self.name)
        if arn is None:
            account = await self._control.read_account()
            await self._delivery.create_role(self.name, account=account, tags=self._tags)
            self._is_ours = True
            return False
        states = [await self._control.describe_stream(each) for each in self._streams]
        if any(state is None for state in states):
            return False
        if self._is_ours or is_marked(await self._delivery.read_role_tags(self.name), self._tags):
            arns = [state.arn for state in states if state is not None]
            await self._delivery.allow_role(self.name, role_statements(arns, self._buckets))
        self._report(f"Role `{self.name}`: " + ("ready" if self._is_ours else "exists"))
        self.arn = arn
        return True

    async def retire(self) -> bool:
        """See Resource."""
        if await self._delivery.read_role(self.name) is None:
            self._report(f"Role `{self.name}`: gone")
        elif is_marked(await self._delivery.read_role_tags(self.name), self._tags):
            await self._delivery.delete_role(self.name)
            return False
        else:
            self.is_kept = True
            self._report(f"Role `{self.name}`: left alone, it was not made for this application")
        return True


def role_statements(stream_arns: Sequence[str], buckets: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return what Firehose needs to read streams and write buckets (Firehose developer guide, "Controlling access")."""
    partition = stream_arns[0].split(":")[1]
    bucket_arns = [f"arn:{partition}:s3:::{each}" for each in buckets]
    region, account = stream_arns[0].split(":")[3:5]
    return [
        {
            "Effect": "Allow",
            "Action": [
                "kinesis:DescribeStream",
                "kinesis:GetRecords",
                "kinesis:GetShardIterator",
                "kinesis:ListShards",
            ],
            "Resource": list(stream_arns),
        },
        {
            "Effect": "Allow",
            "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
            "Resource": bucket_arns,
        },
        {
            "Effect": "Allow",
            "Action": ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"],
            "Resource": [f"{each}/{prefix}*" for each in bucket_arns for prefix in (PREFIX, ERROR_PREFIX)],
        },
        {
            "Effect": "Allow",
            "Action": "logs:PutLogEvents",
            "Resource": f"arn:{partition}:logs:{region}:{account}:log-group:/aws/kinesisfirehose/*",
        },
    ]


class DeliveryStream:
    """A delivery stream, and its log group, on their way to being there, or gone."""

    def __init__(
        self,
        control: ControlAdapter,
        delivery: DeliveryAdapter,
        name: str,
        *,
        stream: str,
        bucket: str,
        role: Role,
        tags: Tags,
        report: Report,
    ) -> None:
        self._control = control
        self._delivery = delivery
        self.name = name
        self._stream = stream
        self._bucket = bucket
        self._role = role
        self._tags = tags
        self._report = report
        self._is_ours = False
        self.is_kept = False

    @property
    def _log_group(self) -> str:
        return f"/aws/kinesisfirehose/{self.name}"

    async def advance(self) -> bool:
        """See Resource."""
        status = await self._delivery.describe_delivery_stream(self.name)
        if status is None:
            return await self._create()
        if status in _FAILED:
            raise ServiceError(
                f"Delivery stream `{self.name}` is {status}",
                hint="`headrace provision --delete --firehose` removes it; its CloudWatch log says why",
            )
        if status not in READY:
            return False
        self._report(f"Delivery stream `{self.name}`: " + ("ready" if self._is_ours else "exists"))
        return True

    async def _create(self) -> bool:
        state = await self._control.describe_stream(self._stream)
        if not self._role.arn or state is None or state.status not in READY:
            return False
        if not await self._control.has_bucket(self._bucket):
            return False
        await self._delivery.create_log_group(self._log_group, tags=self._tags)
        source = DeliverySource(
            stream_arn=state.arn,
            bucket_arn=f"arn:{state.arn.split(':')[1]}:s3:::{self._bucket}",
            role_arn=self._role.arn,
            log_group=self._log_group,
            prefix=PREFIX,
            error_prefix=ERROR_PREFIX,
            buffer_mebibytes=BUFFER_MEBIBYTES,
            buffer_seconds=BUFFER_SECONDS,
        )
        await self._delivery.create_delivery_stream(self.name, source, tags=self._tags)
        self._is_ours = True
        self._report(f"Delivery stream `{self.name}`: being made, `{self._stream}` to bucket `{self._bucket}`")
        return False

    async def retire(self) -> bool:
        """See Resource."""
        status = await self._delivery.describe_delivery_stream(self.name)
        if status is None:
            tags = await self._delivery.read_log_group_tags(self._log_group)
            if tags is not None and is_marked(tags, self._tags):
                await self._delivery.delete_log_group(self._log_group)
            self._report(f"Delivery stream `{self.name}`: gone")
            return True
        if status == "DELETING":
            return False
        if not is_marked(await self._delivery.read_delivery_stream_tags(self.name), self._tags):
            self.is_kept = True
            self._report(f"Delivery stream `{self.name}`: left alone, it was not made for this application")
            return True
        await self._delivery.delete_delivery_stream(self.name)
        return False
