"""boto3 works against the local Kinesis as against AWS."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError


@pytest.fixture
def kinesis(clients: Any) -> Any:
    """A boto3 client."""
    return clients.sync("kinesis")


def arn_of(kinesis: Any, name: str) -> str:
    """The ARN of a stream."""
    arn: str = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamARN"]
    return arn


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    """The error type of a refusal."""
    code: str = error.value.response["Error"]["Code"]
    return code


def test_put_and_get_by_name_and_by_arn(kinesis: Any) -> None:
    """Records come back with data, key, number and time, whether the stream is named or given by ARN."""
    kinesis.create_stream(StreamName="b-put", ShardCount=1, Tags={"team": "a"})
    arn = arn_of(kinesis, "b-put")
    first = kinesis.put_record(StreamName="b-put", Data=b"\x00one", PartitionKey="k")
    second = kinesis.put_record(
        StreamARN=arn, Data=b"two", PartitionKey="k", SequenceNumberForOrdering=first["SequenceNumber"]
    )
    place = {"ShardId": first["ShardId"], "ShardIteratorType": "AT_SEQUENCE_NUMBER"}
    iterator = kinesis.get_shard_iterator(StreamARN=arn, StartingSequenceNumber=first["SequenceNumber"], **place)
    page = kinesis.get_records(ShardIterator=iterator["ShardIterator"], StreamARN=arn)
    assert [(each["Data"], each["SequenceNumber"]) for each in page["Records"]] == [
        (b"\x00one", first["SequenceNumber"]),
        (b"two", second["SequenceNumber"]),
    ]
    assert page["MillisBehindLatest"] == 0
    assert kinesis.list_tags_for_stream(StreamARN=arn)["Tags"] == [{"Key": "team", "Value": "a"}]


def test_reshard_and_read_to_the_end(kinesis: Any) -> None:
    """A split shard ends without a next iterator, names its children, and their merge has two parents."""
    kinesis.create_stream(StreamName="b-split", ShardCount=1)
    kinesis.put_record(StreamName="b-split", Data=b"x", PartitionKey="k")
    kinesis.split_shard(StreamName="b-split", ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127))
    iterator = kinesis.get_shard_iterator(
        StreamName="b-split", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    page = kinesis.get_records(ShardIterator=iterator)
    assert "NextShardIterator" not in page
    assert [each["ShardId"] for each in page["ChildShards"]] == ["shardId-000000000001", "shardId-000000000002"]
    kinesis.merge_shards(
        StreamName="b-split", ShardToMerge="shardId-000000000001", AdjacentShardToMerge="shardId-000000000002"
    )
    latest = kinesis.list_shards(StreamName="b-split", ShardFilter={"Type": "AT_LATEST"})["Shards"]
    assert [(each["ParentShardId"], each["AdjacentParentShardId"]) for each in latest] == [
        ("shardId-000000000001", "shardId-000000000002")
    ]


def test_shards_are_listed_in_pages_by_token_alone(kinesis: Any) -> None:
    """A following page is asked for by NextToken alone; together with the name it is refused, as AWS does."""
    kinesis.create_stream(StreamName="b-pages", ShardCount=7)
    page = kinesis.list_shards(StreamName="b-pages", MaxResults=3)
    token, found = page["NextToken"], [each["ShardId"] for each in page["Shards"]]
    with pytest.raises(ClientError) as caught:
        kinesis.list_shards(StreamName="b-pages", NextToken=token)
    assert code_of(caught) == "InvalidArgumentException"
    while "NextToken" in page:
        page = kinesis.list_shards(NextToken=page["NextToken"], MaxResults=3)
        found += [each["ShardId"] for each in page["Shards"]]
    assert found == [f"shardId-{index:012}" for index in range(7)]
    described = kinesis.get_paginator("describe_stream").paginate(
        StreamName="b-pages", PaginationConfig={"PageSize": 2}
    )
    assert [each["ShardId"] for page in described for each in page["StreamDescription"]["Shards"]] == found


def test_streams_are_listed_in_pages(kinesis: Any) -> None:
    """The paginator of ListStreams finds every stream once."""
    names = [f"b-list-{number}" for number in range(5)]
    for name in names:
        kinesis.create_stream(StreamName=name, StreamModeDetails={"StreamMode": "ON_DEMAND"})
    pages = kinesis.get_paginator("list_streams").paginate(PaginationConfig={"PageSize": 2})
    found = [name for page in pages for name in page["StreamNames"]]
    assert [name for name in found if name.startswith("b-list-")] == names
    assert kinesis.describe_stream_summary(StreamName="b-list-0")["StreamDescriptionSummary"]["OpenShardCount"] == 4


def test_settings_are_kept_and_shown(kinesis: Any) -> None:
    """Retention, record size, mode, distribution, encryption, metrics, tags and policy come back as set."""
    kinesis.create_stream(StreamName="b-set", ShardCount=1)
    arn = arn_of(kinesis, "b-set")
    kinesis.increase_stream_retention_period(StreamName="b-set", RetentionPeriodHours=48)
    kinesis.update_max_record_size(StreamARN=arn, MaxRecordSizeInKiB=10_240)
    kinesis.update_stream_mode(StreamARN=arn, StreamModeDetails={"StreamMode": "ON_DEMAND"})
    kinesis.update_stream_record_distribution_strategy(StreamARN=arn, RecordDistributionStrategy="AUTO")
    kinesis.start_stream_encryption(StreamName="b-set", EncryptionType="KMS", KeyId="alias/aws/kinesis")
    metrics = kinesis.enable_enhanced_monitoring(StreamName="b-set", ShardLevelMetrics=["ALL"])
    assert len(metrics["DesiredShardLevelMetrics"]) == 7
    kinesis.tag_resource(ResourceARN=arn, Tags={"a": "1", "b": "2"})
    kinesis.untag_resource(ResourceARN=arn, TagKeys=["a"])
    assert kinesis.list_tags_for_resource(ResourceARN=arn)["Tags"] == [{"Key": "b", "Value": "2"}]
    kinesis.put_resource_policy(ResourceARN=arn, Policy="{}")
    assert kinesis.get_resource_policy(ResourceARN=arn)["Policy"] == "{}"
    summary = kinesis.describe_stream_summary(StreamARN=arn)["StreamDescriptionSummary"]
    assert summary["RetentionPeriodHours"] == 48
    assert summary["MaxRecordSizeInKiB"] == 10_240
    assert summary["StreamModeDetails"] == {"StreamMode": "ON_DEMAND"}
    assert summary["RecordDistributionStrategy"] == "AUTO"
    assert (summary["EncryptionType"], summary["KeyId"]) == ("KMS", "alias/aws/kinesis")
    large = kinesis.put_record(StreamName="b-set", Data=b"x" * 9_000_000, PartitionKey="k")
    assert large["EncryptionType"] == "KMS"
    assert kinesis.describe_limits()["OnDemandStreamCount"] >= 1


def test_consumers_are_registered_and_removed(kinesis: Any) -> None:
    """A consumer is found by either name, listed, and gone after its removal."""
    kinesis.create_stream(StreamName="b-efo", ShardCount=1)
    arn = arn_of(kinesis, "b-efo")
    consumer = kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="c")["Consumer"]
    described = kinesis.describe_stream_consumer(ConsumerARN=consumer["ConsumerARN"])["ConsumerDescription"]
    assert (described["ConsumerStatus"], described["StreamARN"]) == ("ACTIVE", arn)
    assert [each["ConsumerName"] for each in kinesis.list_stream_consumers(StreamARN=arn)["Consumers"]] == ["c"]
    kinesis.deregister_stream_consumer(StreamARN=arn, ConsumerName="c")
    assert kinesis.list_stream_consumers(StreamARN=arn)["Consumers"] == []
    kinesis.delete_stream(StreamName="b-efo")
    with pytest.raises(ClientError) as caught:
        kinesis.describe_stream(StreamName="b-efo")
    assert code_of(caught) == "ResourceNotFoundException"


def test_operation_that_is_missing_is_said_so(kinesis: Any) -> None:
    """An operation that the local Kinesis lacks is a typed 400, not a page of HTML that SDKs retry."""
    with pytest.raises(ClientError) as caught:
        kinesis.list_channels()
    assert code_of(caught) == "UnknownOperationException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
