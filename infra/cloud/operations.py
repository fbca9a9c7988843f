"""Which function answers which Kinesis operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from infra.cloud import record_operations as records
from infra.cloud import setting_operations as settings
from infra.cloud import stream_operations as streams
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.fields import Fields

Operation = Callable[[KinesisEngine, Fields], dict[str, Any] | None]

OPERATIONS: Final[Mapping[str, Operation]] = {
    "AddTagsToStream": settings.add_tags,
    "CreateStream": streams.create_stream,
    "DecreaseStreamRetentionPeriod": settings.decrease_retention,
    "DeleteResourcePolicy": settings.delete_policy,
    "DeleteStream": streams.delete_stream,
    "DeregisterStreamConsumer": settings.deregister_consumer,
    "DescribeAccountSettings": settings.describe_account_settings,
    "DescribeLimits": streams.describe_limits,
    "DescribeStream": streams.describe_stream,
    "DescribeStreamConsumer": settings.describe_consumer,
    "DescribeStreamSummary": streams.describe_stream_summary,
    "DisableEnhancedMonitoring": settings.disable_monitoring,
    "EnableEnhancedMonitoring": settings.enable_monitoring,
    "GetRecords": records.get_records,
    "GetResourcePolicy": settings.get_policy,
    "GetShardIterator": records.get_shard_iterator,
    "IncreaseStreamRetentionPeriod": settings.increase_retention,
    "ListShards": streams.list_shards,
    "ListStreamConsumers": settings.list_consumers,
    "ListStreams": streams.list_streams,
    "ListTagsForResource": settings.list_tags_for_resource,
    "ListTagsForStream": settings.list_tags_for_stream,
    "MergeShards": streams.merge_shards,
    "PutRecord": records.put_record,
    "PutRecords": records.put_records,
    "PutResourcePolicy": settings.put_policy,
    "RegisterStreamConsumer": settings.register_consumer,
    "RemoveTagsFromStream": settings.remove_tags,
    "SplitShard": streams.split_shard,
    "StartStreamEncryption": settings.start_encryption,
    "StopStreamEncryption": settings.stop_encryption,
    "TagResource": settings.tag_resource,
    "UntagResource": settings.untag_resource,
    "UpdateMaxRecordSize": settings.update_record_size,
    "UpdateShardCount": streams.update_shard_count,
    "UpdateStreamMode": settings.update_mode,
    "UpdateStreamRecordDistributionStrategy": settings.update_distribution,
    "UpdateStreamWarmThroughput": settings.update_warm_throughput,
}
"""Operations that answer once; SubscribeToShard streams and is answered by the service itself."""

WAKING: Final = frozenset(
    {
        "PutRecord",
        "PutRecords",
        "SplitShard",
        "MergeShards",
        "UpdateShardCount",
        "DeleteStream",
        "DeregisterStreamConsumer",
    }
)
"""Operations after which a subscription may have something to push."""
