"""The operations on a stream's settings, tags and registered consumers."""

from __future__ import annotations

from typing import Any

from infra.cloud.core.api_error import invalid_argument
from infra.cloud.core.consumer import RegisteredConsumer
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.core.token import PageToken
from infra.cloud.fields import Fields

Answer = dict[str, Any]

_CONSUMERS_PAGE = 100


def increase_retention(engine: KinesisEngine, request: Fields) -> None:
    """IncreaseStreamRetentionPeriod."""
    hours = request.required_integer("RetentionPeriodHours")
    engine.settings.set_retention(request.stream(), hours, grow=True)


def decrease_retention(engine: KinesisEngine, request: Fields) -> None:
    """DecreaseStreamRetentionPeriod."""
    hours = request.required_integer("RetentionPeriodHours")
    engine.settings.set_retention(request.stream(), hours, grow=False)


def update_mode(engine: KinesisEngine, request: Fields) -> None:
    """UpdateStreamMode."""
    mode = request.required_nested("StreamModeDetails").required_text("StreamMode")
    engine.settings.set_mode(request.stream(), mode)


def update_record_size(engine: KinesisEngine, request: Fields) -> None:
    """UpdateMaxRecordSize."""
    engine.settings.set_record_bytes_max(request.stream(), request.required_integer("MaxRecordSizeInKiB"))


def update_distribution(engine: KinesisEngine, request: Fields) -> None:
    """UpdateStreamRecordDistributionStrategy."""
    strategy = request.required_text("RecordDistributionStrategy")
    engine.settings.set_distribution(request.stream(), strategy)


def update_warm_throughput(engine: KinesisEngine, request: Fields) -> Answer:
    """UpdateStreamWarmThroughput."""
    mibps = request.required_integer("WarmThroughputMiBps")
    engine.settings.set_warm_throughput(request.stream(), mibps)
    stream = engine.describe_stream(request.stream())
    throughput = {"TargetMiBps": mibps, "CurrentMiBps": mibps}
    return {"StreamARN": stream.arn, "StreamName": stream.name, "WarmThroughput": throughput}


def start_encryption(engine: KinesisEngine, request: Fields) -> None:
    """StartStreamEncryption."""
    if request.required_text("EncryptionType") != "KMS":
        invalid_argument("EncryptionType must be KMS.")
    engine.settings.set_encryption(request.stream(), request.required_text("KeyId"))


def stop_encryption(engine: KinesisEngine, request: Fields) -> None:
    """StopStreamEncryption."""
    engine.settings.set_encryption(request.stream(), None)


def enable_monitoring(engine: KinesisEngine, request: Fields) -> Answer:
    """EnableEnhancedMonitoring."""
    return _monitoring(engine, request, enable=True)


def disable_monitoring(engine: KinesisEngine, request: Fields) -> Answer:
    """DisableEnhancedMonitoring."""
    return _monitoring(engine, request, enable=False)


def _monitoring(engine: KinesisEngine, request: Fields, *, enable: bool) -> Answer:
    name = request.stream()
    before, after = engine.settings.set_metrics(name, request.texts("ShardLevelMetrics"), enable=enable)
    stream = engine.describe_stream(name)
    return {
        "StreamName": stream.name,
        "StreamARN": stream.arn,
        "CurrentShardLevelMetrics": before,
        "DesiredShardLevelMetrics": after,
    }


def describe_account_settings(_engine: KinesisEngine, _request: Fields) -> Answer:
    """DescribeAccountSettings: no commitment is ever made here."""
    return {"MinimumThroughputBillingCommitment": {"Status": "DISABLED"}}


# Tags and policy.


def add_tags(engine: KinesisEngine, request: Fields) -> None:
    """AddTagsToStream."""
    engine.settings.tag(request.stream(), request.pairs("Tags"))


def remove_tags(engine: KinesisEngine, request: Fields) -> None:
    """RemoveTagsFromStream."""
    engine.settings.untag(request.stream(), request.texts("TagKeys"))


def list_tags_for_stream(engine: KinesisEngine, request: Fields) -> Answer:
    """ListTagsForStream."""
    after = request.text("ExclusiveStartTagKey") or ""
    tags = [(key, value) for key, value in engine.settings.tags(request.stream()) if key > after]
    limit = request.integer("Limit")
    count = len(tags) if limit is None else max(1, limit)
    return {
        "Tags": [{"Key": key, "Value": value} for key, value in tags[:count]],
        "HasMoreTags": len(tags) > count,
    }


def tag_resource(engine: KinesisEngine, request: Fields) -> None:
    """TagResource: a stream's or consumer's ARN."""
    engine.settings.tag(request.required_text("ResourceARN"), request.pairs("Tags"))


def untag_resource(engine: KinesisEngine, request: Fields) -> None:
    """UntagResource."""
    engine.settings.untag(request.required_text("ResourceARN"), request.texts("TagKeys"))


def list_tags_for_resource(engine: KinesisEngine, request: Fields) -> Answer:
    """ListTagsForResource."""
    tags = engine.settings.tags(request.required_text("ResourceARN"))
    return {"Tags": [{"Key": key, "Value": value} for key, value in tags]}


def put_policy(engine: KinesisEngine, request: Fields) -> None:
    """PutResourcePolicy."""
    engine.settings.set_policy(request.required_text("ResourceARN"), request.required_text("Policy"))


def get_policy(engine: KinesisEngine, request: Fields) -> Answer:
    """GetResourcePolicy."""
    return {"Policy": engine.settings.policy(request.required_text("ResourceARN"))}


def delete_policy(engine: KinesisEngine, request: Fields) -> None:
    """DeleteResourcePolicy."""
    engine.settings.set_policy(request.required_text("ResourceARN"), None)


# Consumers.


def _consumer_answer(engine: KinesisEngine, request: Fields, consumer: RegisteredConsumer) -> Answer:
    return {
        "ConsumerName": consumer.name,
        "ConsumerARN": consumer.arn,
        "ConsumerStatus": consumer.status(engine.streams.clock()),
        "ConsumerCreationTimestamp": request.dialect.timestamp(consumer.created_at),
    }


def register_consumer(engine: KinesisEngine, request: Fields) -> Answer:
    """RegisterStreamConsumer."""
    consumer = engine.consumers.register(
        request.required_text("StreamARN"), request.required_text("ConsumerName"), request.pairs("Tags")
    )
    answer = _consumer_answer(engine, request, consumer)
    answer["ConsumerStatus"] = "CREATING"  # what AWS answers even if the consumer is ready at once
    return {"Consumer": answer}


def deregister_consumer(engine: KinesisEngine, request: Fields) -> None:
    """DeregisterStreamConsumer."""
    engine.consumers.deregister(request.text("StreamARN"), request.text("ConsumerName"), request.text("ConsumerARN"))


def describe_consumer(engine: KinesisEngine, request: Fields) -> Answer:
    """DescribeStreamConsumer."""
    stream, consumer = engine.consumers.find(
        request.text("StreamARN"), request.text("ConsumerName"), request.text("ConsumerARN")
    )
    answer = _consumer_answer(engine, request, consumer)
    answer["StreamARN"] = stream.arn
    return {"ConsumerDescription": answer}


def list_consumers(engine: KinesisEngine, request: Fields) -> Answer:
    """ListStreamConsumers."""
    after = ""
    token = request.text("NextToken")
    if token is not None:
        page_token = PageToken.decode(token)
        if page_token is None:
            invalid_argument("NextToken is invalid.")
        after = page_token.last
    stream_arn = request.required_text("StreamARN")
    consumers = [each for each in engine.consumers.list_consumers(stream_arn) if each.name > after]
    limit = request.integer("MaxResults")
    count = _CONSUMERS_PAGE if limit is None else max(1, limit)
    page = consumers[:count]
    answer: Answer = {"Consumers": [_consumer_answer(engine, request, each) for each in page]}
    if len(consumers) > count:
        stream = engine.describe_stream(stream_arn)
        answer["NextToken"] = PageToken(stream.uid, engine.streams.clock(), page[-1].name).encode()
    return answer
