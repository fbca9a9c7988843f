"""aiobotocore works against the local Kinesis: subscriptions, and many calls at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from botocore.exceptions import ClientError


async def consumer_of(kinesis: Any, name: str) -> str:
    """A new stream of one shard, and the ARN of a consumer of it."""
    await kinesis.create_stream(StreamName=name, ShardCount=1)
    summary = await kinesis.describe_stream_summary(StreamName=name)
    stream_arn = summary["StreamDescriptionSummary"]["StreamARN"]
    registered = await kinesis.register_stream_consumer(StreamARN=stream_arn, ConsumerName="c")
    arn: str = registered["Consumer"]["ConsumerARN"]
    return arn


async def test_subscription_pushes_until_the_shard_ends(clients: Any) -> None:
    """Records are pushed as they arrive, and the last event names the children and carries no position."""
    async with clients.asynchronous("kinesis") as kinesis:
        arn = await consumer_of(kinesis, "a-push")
        await kinesis.put_record(StreamName="a-push", Data=b"before", PartitionKey="k")
        answer = await kinesis.subscribe_to_shard(
            ConsumerARN=arn, ShardId="shardId-000000000000", StartingPosition={"Type": "TRIM_HORIZON"}
        )
        seen: list[bytes] = []
        last: dict[str, Any] = {}
        async with asyncio.timeout(20):
            async for event in answer["EventStream"]:
                last = event["SubscribeToShardEvent"]
                seen += [each["Data"] for each in last["Records"]]
                if seen == [b"before"]:
                    await kinesis.put_record(StreamName="a-push", Data=b"pushed", PartitionKey="k")
                if seen == [b"before", b"pushed"] and last.get("ContinuationSequenceNumber"):
                    await kinesis.split_shard(
                        StreamName="a-push", ShardToSplit="shardId-000000000000", NewStartingHashKey=str(2**127)
                    )
        assert seen == [b"before", b"pushed"]
        assert last.get("ContinuationSequenceNumber") is None
        assert [each["ShardId"] for each in last["ChildShards"]] == ["shardId-000000000001", "shardId-000000000002"]


async def test_second_subscription_at_once_is_refused(clients: Any) -> None:
    """Within 5 s of a subscription another one of the same consumer to the same shard is ResourceInUse."""
    async with clients.asynchronous("kinesis") as kinesis:
        arn = await consumer_of(kinesis, "a-twice")
        request = {
            "ConsumerARN": arn,
            "ShardId": "shardId-000000000000",
            "StartingPosition": {"Type": "LATEST"},
        }
        answer = await kinesis.subscribe_to_shard(**request)
        first = await anext(aiter(answer["EventStream"]))
        assert first["SubscribeToShardEvent"]["Records"] == []
        with pytest.raises(ClientError, match="ResourceInUseException"):
            await kinesis.subscribe_to_shard(**request)
        answer["EventStream"].close()


async def test_deleted_stream_ends_its_subscription_with_an_exception(clients: Any) -> None:
    """A subscriber learns that its stream is gone."""
    async with clients.asynchronous("kinesis") as kinesis:
        arn = await consumer_of(kinesis, "a-gone")
        answer = await kinesis.subscribe_to_shard(
            ConsumerARN=arn, ShardId="shardId-000000000000", StartingPosition={"Type": "LATEST"}
        )
        events = aiter(answer["EventStream"])
        async with asyncio.timeout(20):
            await anext(events)
            await kinesis.delete_stream(StreamName="a-gone", EnforceConsumerDeletion=True)
            with pytest.raises(ClientError, match="ResourceNotFoundException"):
                await anext(events)


async def test_concurrent_puts_lose_nothing(clients: Any, read_stream: Any) -> None:
    """Sixteen callers at a time: every acknowledged record is there once, with the number that was acknowledged."""
    async with clients.asynchronous("kinesis") as kinesis:
        await kinesis.create_stream(StreamName="a-many", ShardCount=4)
        acknowledged: dict[str, bytes] = {}

        async def put(caller: int) -> None:
            for call in range(4):
                bodies = [f"{caller}/{call}/{number}".encode() for number in range(250)]
                answer = await kinesis.put_records(
                    StreamName="a-many",
                    Records=[{"Data": each, "PartitionKey": each.decode()} for each in bodies],
                )
                assert answer["FailedRecordCount"] == 0
                for body, outcome in zip(bodies, answer["Records"], strict=True):
                    acknowledged[f"{outcome['ShardId']}/{outcome['SequenceNumber']}"] = body

        async with asyncio.TaskGroup() as group:
            for caller in range(16):
                group.create_task(put(caller))
        found = await read_stream(kinesis, "a-many")
    assert len(acknowledged) == 16_000
    assert sorted(each["Data"] for each in found) == sorted(acknowledged.values())
