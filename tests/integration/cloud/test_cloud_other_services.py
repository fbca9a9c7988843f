"""The services from moto work behind the same endpoint, one call after another."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from botocore.exceptions import ClientError


async def test_transactions_have_one_winner(clients: Any) -> None:
    """Of eight writers that put the same key if it is absent, in a transaction, exactly one wins, for each key."""
    async with clients.asynchronous("dynamodb") as dynamodb:
        await dynamodb.create_table(
            TableName="races",
            KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )

        async def try_to_win(key: int, writer: int) -> bool:
            item = {"k": {"S": str(key)}, "writer": {"N": str(writer)}}
            put = {"TableName": "races", "Item": item, "ConditionExpression": "attribute_not_exists(k)"}
            try:
                await dynamodb.transact_write_items(TransactItems=[{"Put": put}])
            except dynamodb.exceptions.TransactionCanceledException:
                return False
            return True

        tries = [(key, writer) for writer in range(8) for key in range(20)]
        won = await asyncio.gather(*(try_to_win(key, writer) for key, writer in tries))
        winners = {key: writer for (key, writer), is_won in zip(tries, won, strict=True) if is_won}
        assert sum(won) == 20
        items = (await dynamodb.scan(TableName="races"))["Items"]
        assert {int(each["k"]["S"]): int(each["writer"]["N"]) for each in items} == winners


async def test_if_none_match_has_one_winner(clients: Any) -> None:
    """Of ten writers of one S3 key with If-None-Match exactly one gets 200, the others 412."""
    async with clients.asynchronous("s3") as s3:
        await s3.create_bucket(Bucket="races")

        async def put(writer: int) -> int:
            try:
                await s3.put_object(Bucket="races", Key="a b/ü+%20", Body=str(writer).encode(), IfNoneMatch="*")
            except ClientError as error:
                status: int = error.response["ResponseMetadata"]["HTTPStatusCode"]
                return status
            return 200

        statuses = await asyncio.gather(*(put(writer) for writer in range(10)))
        assert sorted(statuses) == [200] + [412] * 9
        body = await (await s3.get_object(Bucket="races", Key="a b/ü+%20"))["Body"].read()
        assert statuses[int(body)] == 200


def test_s3_keeps_bytes_metadata_and_length(clients: Any) -> None:
    """A few megabytes come back whole, metadata with underscores too, and HEAD tells the length."""
    s3 = clients.sync("s3")
    s3.create_bucket(Bucket="plain")
    body = bytes(range(256)) * 16_384
    s3.put_object(Bucket="plain", Key="key", Body=body, Metadata={"my_key": "v"}, ContentEncoding="gzip")
    got = s3.get_object(Bucket="plain", Key="key")
    assert got["Body"].read() == body
    assert (got["Metadata"], got["ContentEncoding"]) == ({"my_key": "v"}, "gzip")
    assert s3.head_object(Bucket="plain", Key="key")["ContentLength"] == len(body)
    assert [each["Key"] for each in s3.list_objects_v2(Bucket="plain")["Contents"]] == ["key"]


def test_stack_makes_streams_in_our_kinesis(clients: Any) -> None:
    """Streams of a CloudFormation stack can be put to, follow an update, and go with the stack."""
    cloudformation, kinesis = clients.sync("cloudformation"), clients.sync("kinesis")

    def template(shards: int) -> str:
        streams = {
            "Fixed": {"Type": "AWS::Kinesis::Stream", "Properties": {"Name": "cf-fixed", "ShardCount": shards}},
            "Free": {
                "Type": "AWS::Kinesis::Stream",
                "Properties": {"Name": "cf-free", "StreamModeDetails": {"StreamMode": "ON_DEMAND"}},
            },
        }
        return orjson.dumps({"Resources": streams}).decode()

    def open_shards(name: str) -> int:
        summary = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
        count: int = summary["OpenShardCount"]
        return count

    cloudformation.create_stack(StackName="stack", TemplateBody=template(2))
    assert (open_shards("cf-fixed"), open_shards("cf-free")) == (2, 4)
    kinesis.put_record(StreamName="cf-fixed", Data=b"x", PartitionKey="k")
    cloudformation.update_stack(StackName="stack", TemplateBody=template(3))
    assert open_shards("cf-fixed") == 3
    cloudformation.delete_stack(StackName="stack")
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        open_shards("cf-fixed")


def test_services_of_the_pipeline_answer(clients: Any) -> None:
    """STS, IAM, SSM, CloudWatch and Firehose answer on the same endpoint."""
    assert clients.sync("sts").get_caller_identity()["Account"] == "123456789012"
    assert clients.sync("iam").list_roles()["Roles"] == []
    clients.sync("ssm").put_parameter(Name="p", Value="v", Type="String")
    clients.sync("cloudwatch").put_metric_data(Namespace="n", MetricData=[{"MetricName": "m", "Value": 1.0}])
    s3, firehose = clients.sync("s3"), clients.sync("firehose")
    s3.create_bucket(Bucket="hose")
    firehose.create_delivery_stream(
        DeliveryStreamName="d",
        ExtendedS3DestinationConfiguration={
            "RoleARN": "arn:aws:iam::123456789012:role/r",
            "BucketARN": "arn:aws:s3:::hose",
        },
    )
    put = firehose.put_record_batch(DeliveryStreamName="d", Records=[{"Data": b"line\n"}])
    assert put["FailedPutCount"] == 0
    assert len(s3.list_objects_v2(Bucket="hose")["Contents"]) == 1
