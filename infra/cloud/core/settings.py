"""What can be set on a stream: retention, mode, sizes, tags, encryption, metrics, policy."""

from __future__ import annotations

from typing import Final

from infra.cloud.core.api_error import ApiError, invalid_argument, limit_exceeded, not_found
from infra.cloud.core.names import consumer_parts, is_consumer_arn
from infra.cloud.core.registry import Registry
from infra.cloud.core.stream import AUTO, ON_DEMAND, PROVISIONED, USER_PARTITION_KEY, Stream
from shared.limits import (
    KIB,
    RECORD_BYTES_MAX_CEILING,
    RECORD_BYTES_MAX_DEFAULT,
    RETENTION_HOURS_DEFAULT,
    RETENTION_HOURS_MAX,
)

METRICS: Final = (
    "IncomingBytes",
    "IncomingRecords",
    "OutgoingBytes",
    "OutgoingRecords",
    "WriteProvisionedThroughputExceeded",
    "ReadProvisionedThroughputExceeded",
    "IteratorAgeMilliseconds",
)
TAGS_MAX: Final = 50
_TAG_KEY_MAX: Final = 128
_TAG_VALUE_MAX: Final = 256
_POLICY_BYTES_MAX: Final = 20_480
_WARM_MIBPS_MAX: Final = 10_240


class StreamSettings:
    """The control operations that change a stream without touching its shards."""

    def __init__(self, streams: Registry) -> None:
        self._streams = streams

    def set_retention(self, stream_name: str, hours: int, *, grow: bool) -> None:
        """IncreaseStreamRetentionPeriod and DecreaseStreamRetentionPeriod: 24 to 8,760 hours."""
        stream = self._streams.active(stream_name)
        verb, current = ("Increase" if grow else "Decrease"), stream.retention_hours
        if not RETENTION_HOURS_DEFAULT <= hours <= RETENTION_HOURS_MAX:
            bound = (
                f"Minimum allowed retention period is {RETENTION_HOURS_DEFAULT} hours"
                if hours < RETENTION_HOURS_DEFAULT
                else f"Maximum allowed retention period is {RETENTION_HOURS_MAX} hours"
            )
            invalid_argument(f"{bound}. Requested retention period ({hours} hours) is out of bounds.")
        if (grow and hours < current) or (not grow and hours > current):
            wrong = "less" if grow else "greater"
            invalid_argument(
                f"Requested retention period ({hours} hours) for stream {stream.name} can not be {wrong} than "
                f"existing retention period ({current} hours). {verb}StreamRetentionPeriod does not apply."
            )
        stream.retention_hours = hours
        self._streams.changed(stream)

    def set_mode(self, stream_name: str, mode: str) -> None:
        """UpdateStreamMode: the shards stay as they are."""
        stream = self._streams.active(stream_name)
        if mode not in {PROVISIONED, ON_DEMAND}:
            invalid_argument(f"Unknown stream mode {mode[:64]!r}.")
        if mode == PROVISIONED and stream.distribution == AUTO:
            invalid_argument("RecordDistributionStrategy AUTO is only supported in the ON_DEMAND mode.")
        stream.mode = mode
        self._streams.busy(stream)
        self._streams.changed(stream)

    def set_record_bytes_max(self, stream_name: str, kib: int) -> None:
        """UpdateMaxRecordSize: 1,024 to 10,240 KiB."""
        stream = self._streams.active(stream_name)
        if not RECORD_BYTES_MAX_DEFAULT <= kib * KIB <= RECORD_BYTES_MAX_CEILING:
            raise ApiError("ValidationException", f"MaxRecordSizeInKiB must be from 1024 to 10240, not {kib}.")
        stream.record_bytes_max = kib * KIB
        self._streams.changed(stream)

    def set_distribution(self, stream_name: str, distribution: str) -> None:
        """UpdateStreamRecordDistributionStrategy: AUTO (the service chooses the shard) or USER_PARTITION_KEY."""
        stream = self._streams.active(stream_name)
        if distribution not in {AUTO, USER_PARTITION_KEY}:
            invalid_argument(f"Unknown record distribution strategy {distribution[:64]!r}.")
        if distribution == AUTO and stream.mode != ON_DEMAND:
            invalid_argument("RecordDistributionStrategy AUTO is only supported in the ON_DEMAND mode.")
        stream.distribution = distribution
        self._streams.changed(stream)

    def set_warm_throughput(self, stream_name: str, mibps: int) -> None:
        """UpdateStreamWarmThroughput: kept and shown, without effect on the limits."""
        stream = self._streams.active(stream_name)
        if not 0 <= mibps <= _WARM_MIBPS_MAX:
            invalid_argument(f"WarmThroughputMiBps must be from 0 to {_WARM_MIBPS_MAX}, not {mibps}.")
        stream.warm_throughput_mibps = mibps
        self._streams.changed(stream)

    def set_encryption(self, stream_name: str, key_id: str | None) -> None:
        """StartStreamEncryption (with a key) and StopStreamEncryption (None): kept and shown, nothing is encrypted."""
        stream = self._streams.active(stream_name)
        stream.kms_key_id = key_id
        self._streams.busy(stream)
        self._streams.changed(stream)

    def set_metrics(self, stream_name: str, metrics: list[str], *, enable: bool) -> tuple[list[str], list[str]]:
        """Enable- or DisableEnhancedMonitoring; returns the shard-level metrics before and after."""
        stream = self._streams.active(stream_name)
        unknown = [each for each in metrics if each != "ALL" and each not in METRICS]
        if unknown or not metrics:
            invalid_argument(f"Unknown shard-level metrics {[each[:64] for each in unknown][:8]}.")
        named = set(METRICS) if "ALL" in metrics else set(metrics)
        before = list(stream.metrics)
        kept = set(before) | named if enable else set(before) - named
        stream.metrics = [each for each in METRICS if each in kept]
        self._streams.changed(stream)
        return before, list(stream.metrics)

    # Tags.

    @staticmethod
    def set_tags(target: dict[str, str], tags: dict[str, str]) -> None:
        """Add tags to a set of at most 50, with keys to 128 and values to 256 characters."""
        for key, value in tags.items():
            if not 1 <= len(key) <= _TAG_KEY_MAX or len(value) > _TAG_VALUE_MAX:
                invalid_argument("A tag key has 1 to 128 characters, a value at most 256.")
        if len(set(target) | set(tags)) > TAGS_MAX:
            limit_exceeded(f"A stream or consumer has at most {TAGS_MAX} tags.")
        target.update(tags)

    def tag(self, name_or_arn: str, tags: dict[str, str]) -> None:
        """AddTagsToStream and TagResource (a consumer's ARN too)."""
        stream, target = self._tags_of(name_or_arn)
        self.set_tags(target, tags)
        self._streams.changed(stream)

    def untag(self, name_or_arn: str, keys: list[str]) -> None:
        """RemoveTagsFromStream and UntagResource; unknown keys are ignored."""
        stream, target = self._tags_of(name_or_arn)
        for key in keys:
            target.pop(key, None)
        self._streams.changed(stream)

    def tags(self, name_or_arn: str) -> list[tuple[str, str]]:
        """ListTagsForStream and ListTagsForResource, sorted by key."""
        return sorted(self._tags_of(name_or_arn)[1].items())

    def _tags_of(self, name_or_arn: str) -> tuple[Stream, dict[str, str]]:
        if not is_consumer_arn(name_or_arn):
            stream = self._streams.any_state(name_or_arn)
            return stream, stream.tags
        stream_arn, name = consumer_parts(name_or_arn)
        stream = self._streams.any_state(stream_arn)
        consumer = stream.consumers.get(name)
        if consumer is None:
            not_found(f"Consumer {name} of stream {stream.name} not found.")
        return stream, consumer.tags

    # Policy.

    def set_policy(self, arn: str, policy: str | None) -> None:
        """PutResourcePolicy (a text) and DeleteResourcePolicy (None): kept and shown, nothing is checked against it."""
        stream = self._streams.any_state(consumer_parts(arn)[0] if is_consumer_arn(arn) else arn)
        if policy is not None and len(policy) > _POLICY_BYTES_MAX:
            invalid_argument(f"A policy has at most {_POLICY_BYTES_MAX} characters, not {len(policy)}.")
        stream.policy = policy
        self._streams.changed(stream)

    def policy(self, arn: str) -> str:
        """GetResourcePolicy."""
        stream = self._streams.any_state(consumer_parts(arn)[0] if is_consumer_arn(arn) else arn)
        if stream.policy is None:
            not_found(f"Stream {stream.name} has no resource policy.")
        return stream.policy
