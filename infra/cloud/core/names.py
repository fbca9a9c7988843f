"""Names and ARNs of streams, consumers and shards: how they are written and read."""

from __future__ import annotations

import re
from typing import Final

from infra.cloud.core.api_error import invalid_argument, validation_failed

_STREAM_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,128}", re.ASCII)
_SHARD_ID: Final = re.compile(r"(?:shardId-)?([0-9]{1,12})", re.ASCII)
_STREAM_ARN: Final = re.compile(
    r"arn:aws[a-z-]*:kinesis:[a-z0-9-]{1,32}:[0-9]{12}:stream/([a-zA-Z0-9_.-]{1,128})", re.ASCII
)
_CONSUMER_ARN: Final = re.compile(
    r"(arn:aws[a-z-]*:kinesis:[a-z0-9-]{1,32}:[0-9]{12}:stream/[a-zA-Z0-9_.-]{1,128})"
    r"/consumer/([a-zA-Z0-9_.-]{1,128}):([0-9]{1,20})",
    re.ASCII,
)


def check_stream_name(name: str) -> str:
    """Return the name if it has the form that Kinesis asks for, else refuse the call."""
    if not _STREAM_NAME.fullmatch(name):
        validation_failed(
            name, "streamName", "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+ (1 to 128)"
        )
    return name


def check_consumer_name(name: str) -> str:
    """Return the consumer's name if it has the right form, else refuse the call."""
    if not _STREAM_NAME.fullmatch(name):
        validation_failed(
            name, "consumerName", "Member must satisfy regular expression pattern: [a-zA-Z0-9_.-]+ (1 to 128)"
        )
    return name


def stream_arn(region: str, account_id: str, name: str) -> str:
    """The ARN of a stream."""
    return f"arn:aws:kinesis:{region}:{account_id}:stream/{name}"


def stream_name_of(name_or_arn: str) -> str:
    """The stream's name, given its name or its ARN."""
    if not name_or_arn.startswith("arn:"):
        return check_stream_name(name_or_arn)
    match = _STREAM_ARN.fullmatch(name_or_arn)
    if match is None:
        validation_failed(name_or_arn, "streamARN", "Member must be the ARN of a stream")
    return match.group(1)


def is_consumer_arn(arn: str) -> bool:
    """Whether the ARN names a registered consumer rather than a stream."""
    return _CONSUMER_ARN.fullmatch(arn) is not None


def consumer_parts(arn: str) -> tuple[str, str]:
    """The stream's ARN and the consumer's name in a consumer's ARN."""
    match = _CONSUMER_ARN.fullmatch(arn)
    if match is None:
        validation_failed(arn, "consumerARN", "Member must be the ARN of a registered consumer")
    return match.group(1), match.group(2)


def shard_id_of(index: int) -> str:
    """`shardId-` and twelve digits."""
    return f"shardId-{index:012d}"


def shard_index_of(shard_id: str) -> int:
    """The number in a shard id; an ill-formed one is refused."""
    match = _SHARD_ID.fullmatch(shard_id)
    if match is None:
        invalid_argument(f"Could not parse shard id {shard_id[:128]!r}")
    return int(match.group(1))
