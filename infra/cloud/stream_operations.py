"""The control operations on streams and shards: from a request's members to the engine and back."""

from __future__ import annotations

from typing import Any, Final

from infra.cloud.core.api_error import invalid_argument, validation_failed
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.core.listing import ShardFilter
from infra.cloud.core.names import shard_id_of, shard_index_of
from infra.cloud.core.registry import SHARD_QUOTA
from infra.cloud.core.shard import Shard
from infra.cloud.core.stream import ON_DEMAND, PROVISIONED, USER_PARTITION_KEY, Stream
from infra.cloud.core.token import PageToken
from infra.cloud.fields import Fields
from shared.limits import KIB, LIST_SHARDS_COUNT_MAX, RECORD_BYTES_MAX_DEFAULT

Answer = dict[str, Any]

_DESCRIBE_SHARDS_DEFAULT: Final = 100
_DESCRIBE_SHARDS_MAX: Final = 10_000
_LIST_STREAMS_DEFAULT: Final = 100
_ON_DEMAND_QUOTA: Final = 50


def _page_size(value: int | None, default: int, largest: int, member: str) -> int:
    if value is None:
        return default
    if not 1 <= value <= largest:
        validation_failed(value, member, f"Member must have value between 1 and {largest}")
    return value


def _mode(request: Fields) -> str:
    details = request.nested("StreamModeDetails")
    return PROVISIONED if details is None else details.required_text("StreamMode")


def create_stream(engine: KinesisEngine, request: Fields) -> None:
    """CreateStream."""
    kib = request.integer("MaxRecordSizeInKiB")
    engine.create_stream(
        request.required_text("StreamName"),
        request.integer("ShardCount"),
        mode=_mode(request),
        tags=request.pairs("Tags"),
        record_bytes_max=RECORD_BYTES_MAX_DEFAULT if kib is None else kib * KIB,
        distribution=request.text("RecordDistributionStrategy") or USER_PARTITION_KEY,
        warm_throughput_mibps=request.integer("WarmThroughputMiBps"),
    )


def delete_stream(engine: KinesisEngine, request: Fields) -> None:
    """DeleteStream."""
    force = request.flag("EnforceConsumerDeletion")
    engine.delete_stream(request.stream(), enforce_consumer_deletion=force)


def list_streams(engine: KinesisEngine, request: Fields) -> Answer:
    """ListStreams."""
    limit = _page_size(request.integer("Limit"), _LIST_STREAMS_DEFAULT, 10_000, "limit")
    after = request.text("ExclusiveStartStreamName") or ""
    token = request.text("NextToken")
    if token is not None:
        page_token = PageToken.decode(token)
        if page_token is None:
            invalid_argument("NextToken is invalid.")
        after = page_token.last
    streams = [each for each in engine.streams.all() if each.name > after]
    page = streams[:limit]
    now = engine.streams.clock()
    answer: Answer = {
        "StreamNames": [each.name for each in page],
        "HasMoreStreams": len(streams) > limit,
        "StreamSummaries": [
            {
                "StreamName": each.name,
                "StreamARN": each.arn,
                "StreamStatus": each.status(now),
                "StreamModeDetails": {"StreamMode": each.mode},
                "StreamCreationTimestamp": request.dialect.timestamp(each.created_at),
            }
            for each in page
        ],
    }
    if len(streams) > limit:
        answer["NextToken"] = PageToken(0, now, page[-1].name).encode()
    return answer


def _described(engine: KinesisEngine, request: Fields, stream: Stream) -> Answer:
    description: Answer = {
        "StreamName": stream.name,
        "StreamARN": stream.arn,
        "StreamStatus": stream.status(engine.streams.clock()),
        "StreamModeDetails": {"StreamMode": stream.mode},
        "RetentionPeriodHours": stream.retention_hours,
        "StreamCreationTimestamp": request.dialect.timestamp(stream.created_at),
        "EnhancedMonitoring": [{"ShardLevelMetrics": stream.metrics}],
        "EncryptionType": stream.encryption_type,
    }
    if stream.kms_key_id is not None:
        description["KeyId"] = stream.kms_key_id
    return description


def describe_stream(engine: KinesisEngine, request: Fields) -> Answer:
    """DescribeStream."""
    name = request.stream()
    limit = _page_size(request.integer("Limit"), _DESCRIBE_SHARDS_DEFAULT, _DESCRIBE_SHARDS_MAX, "limit")
    stream = engine.describe_stream(name)
    shards = engine.shards_of(name)
    start = request.text("ExclusiveStartShardId")
    if start is not None:
        after = shard_index_of(start)
        shards = [each for each in shards if each.index > after]
    description = _described(engine, request, stream)
    description["Shards"] = [shard_answer(each) for each in shards[:limit]]
    description["HasMoreShards"] = len(shards) > limit
    return {"StreamDescription": description}


def describe_stream_summary(engine: KinesisEngine, request: Fields) -> Answer:
    """DescribeStreamSummary."""
    name = request.stream()
    stream = engine.describe_stream(name)
    description = _described(engine, request, stream)
    description["OpenShardCount"] = sum(each.is_open for each in engine.shards_of(name))
    description["ConsumerCount"] = len(stream.consumers)
    description["MaxRecordSizeInKiB"] = stream.record_bytes_max // KIB
    description["RecordDistributionStrategy"] = stream.distribution
    if stream.warm_throughput_mibps is not None:
        mibps = stream.warm_throughput_mibps
        description["WarmThroughput"] = {"TargetMiBps": mibps, "CurrentMiBps": mibps}
    return {"StreamDescriptionSummary": description}


def shard_answer(shard: Shard) -> Answer:
    """A shard as DescribeStream and ListShards show it."""
    numbers = {"StartingSequenceNumber": shard.starting_sequence_number}
    if shard.ending_sequence_number is not None:
        numbers["EndingSequenceNumber"] = shard.ending_sequence_number
    answer: Answer = {
        "ShardId": shard.shard_id,
        "HashKeyRange": {
            "StartingHashKey": str(shard.hash_range.start),
            "EndingHashKey": str(shard.hash_range.end),
        },
        "SequenceNumberRange": numbers,
    }
    for member, parent in zip(("ParentShardId", "AdjacentParentShardId"), shard.parents, strict=False):
        answer[member] = shard_id_of(parent)
    return answer


def list_shards(engine: KinesisEngine, request: Fields) -> Answer:
    """ListShards; a page after the first is asked for by NextToken alone (StreamARN is let through: KCL sends it)."""
    count = _page_size(request.integer("MaxResults"), LIST_SHARDS_COUNT_MAX, 10_000, "maxResults")
    token = request.text("NextToken")
    if token is None:
        wanted = request.nested("ShardFilter")
        page = engine.list_shards(
            request.stream(),
            wanted=None if wanted is None else _filter(wanted),
            exclusive_start_shard_id=request.text("ExclusiveStartShardId"),
            count_max=count,
        )
    else:
        for member in ("StreamName", "ExclusiveStartShardId", "StreamCreationTimestamp", "ShardFilter"):
            if request.values.get(member) is not None:
                invalid_argument(f"NextToken and {member} cannot be provided together.")
        page = engine.list_shards_page(token, count_max=count)
    answer: Answer = {"Shards": [shard_answer(each) for each in page.shards]}
    if page.next_token is not None:
        answer["NextToken"] = page.next_token
    return answer


def _filter(wanted: Fields) -> ShardFilter:
    return ShardFilter(wanted.required_text("Type"), wanted.text("ShardId"), wanted.timestamp("Timestamp"))


def split_shard(engine: KinesisEngine, request: Fields) -> None:
    """SplitShard."""
    engine.split_shard(
        request.stream(), request.required_text("ShardToSplit"), request.required_text("NewStartingHashKey")
    )


def merge_shards(engine: KinesisEngine, request: Fields) -> None:
    """MergeShards."""
    engine.merge_shards(
        request.stream(),
        request.required_text("ShardToMerge"),
        request.required_text("AdjacentShardToMerge"),
    )


def update_shard_count(engine: KinesisEngine, request: Fields) -> Answer:
    """UpdateShardCount."""
    name = request.stream()
    if request.required_text("ScalingType") != "UNIFORM_SCALING":
        validation_failed(
            request.required_text("ScalingType"),
            "scalingType",
            "Member must satisfy enum value set: [UNIFORM_SCALING]",
        )
    target = request.required_integer("TargetShardCount")
    current = engine.update_shard_count(name, target)
    stream = engine.describe_stream(name)
    return {
        "StreamName": stream.name,
        "StreamARN": stream.arn,
        "CurrentShardCount": current,
        "TargetShardCount": target,
    }


def describe_limits(engine: KinesisEngine, _request: Fields) -> Answer:
    """DescribeLimits."""
    on_demand = sum(each.mode == ON_DEMAND for each in engine.streams.all())
    return {
        "ShardLimit": SHARD_QUOTA,
        "OpenShardCount": engine.streams.open_shard_count(PROVISIONED),
        "OnDemandStreamCount": on_demand,
        "OnDemandStreamCountLimit": max(_ON_DEMAND_QUOTA, on_demand),
    }
