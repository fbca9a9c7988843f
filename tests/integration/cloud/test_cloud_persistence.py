"""With a data folder, what was acknowledged is there after kill -9."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from infra.cloud.process import LocalCloudProcess


async def test_acknowledged_records_survive_kill_9(tmp_path: Path, clients_of: Any, read_stream: Any) -> None:
    """Killed in the middle of concurrent puts and a reshard, the server comes back with every acknowledged record."""
    folder = tmp_path / "data"
    acknowledged: set[tuple[str, bytes]] = set()
    first = await asyncio.to_thread(
        LocalCloudProcess(data_dir=folder, limits_enforced=False, status_delay_seconds=0.0).start
    )
    enough = asyncio.Event()
    try:
        async with clients_of(first.endpoint_url).asynchronous("kinesis") as kinesis:
            await kinesis.create_stream(StreamName="s", ShardCount=2)

            async def put(caller: int) -> None:
                for call in range(10_000):
                    bodies = [f"{caller}/{call}/{number}".encode() for number in range(100)]
                    records = [{"Data": each, "PartitionKey": each.decode()} for each in bodies]
                    answer = await kinesis.put_records(StreamName="s", Records=records)
                    acknowledged.update(
                        (outcome["SequenceNumber"], body)
                        for outcome, body in zip(answer["Records"], bodies, strict=True)
                    )
                    if len(acknowledged) >= 10_000:
                        enough.set()

            async def put_until_killed(caller: int) -> None:
                with contextlib.suppress(BotoCoreError, ClientError, OSError):
                    await put(caller)

            async with asyncio.TaskGroup() as group:
                for caller in range(4):
                    group.create_task(put_until_killed(caller))
                await kinesis.update_shard_count(StreamName="s", TargetShardCount=3, ScalingType="UNIFORM_SCALING")
                await enough.wait()
                await asyncio.to_thread(first.kill)
    finally:
        await asyncio.to_thread(first.stop)
    async with (
        LocalCloudProcess(data_dir=folder, limits_enforced=False) as second,
        clients_of(second.endpoint_url).asynchronous("kinesis") as kinesis,
    ):
        found = [(each["SequenceNumber"], each["Data"]) for each in await read_stream(kinesis, "s")]
    assert len(found) == len(set(found))
    assert acknowledged - set(found) == set()


async def test_tables_objects_and_uploads_survive_kill_9(tmp_path: Path, clients_of: Any) -> None:
    """Items, objects, an upload that was under way and a stack's stream are there again; what was deleted is not."""
    async with LocalCloudProcess(data_dir=tmp_path) as cloud:
        clients = clients_of(cloud.endpoint_url)
        async with clients.asynchronous("dynamodb") as dynamodb, clients.asynchronous("s3") as s3:
            await dynamodb.create_table(
                TableName="t",
                KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
            for key in ("stays", "goes"):
                await dynamodb.put_item(TableName="t", Item={"k": {"S": key}})
            await dynamodb.delete_item(TableName="t", Key={"k": {"S": "goes"}})
            await s3.create_bucket(Bucket="bucket")
            await s3.put_object(Bucket="bucket", Key="key", Body=b"body")
            upload = await s3.create_multipart_upload(Bucket="bucket", Key="parts")
            target = {"Bucket": "bucket", "Key": "parts", "UploadId": upload["UploadId"]}
            part = await s3.upload_part(PartNumber=1, Body=b"part", **target)
            done = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            await s3.complete_multipart_upload(MultipartUpload=done, **target)
        async with clients.asynchronous("cloudformation") as cloudformation:
            template = '{"Resources":{"S":{"Type":"AWS::Kinesis::Stream","Properties":{"Name":"cf","ShardCount":1}}}}'
            await cloudformation.create_stack(StackName="stack", TemplateBody=template)
        await asyncio.to_thread(cloud.kill)
    async with LocalCloudProcess(data_dir=tmp_path) as cloud:
        clients = clients_of(cloud.endpoint_url)
        async with clients.asynchronous("dynamodb") as dynamodb, clients.asynchronous("s3") as s3:
            assert (await dynamodb.scan(TableName="t"))["Items"] == [{"k": {"S": "stays"}}]
            bodies = [await (await s3.get_object(Bucket="bucket", Key=key))["Body"].read() for key in ("key", "parts")]
            assert bodies == [b"body", b"part"]
        async with clients.asynchronous("kinesis") as kinesis, clients.asynchronous("cloudformation") as stacks:
            assert (await kinesis.list_streams())["StreamNames"] == ["cf"]
            await stacks.delete_stack(StackName="stack")
            listed = (await kinesis.list_streams())["StreamSummaries"]
            assert [each["StreamStatus"] for each in listed] in ([], ["DELETING"])
