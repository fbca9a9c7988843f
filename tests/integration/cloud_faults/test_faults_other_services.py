"""Faults of DynamoDB and S3 as a real client sees them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from botocore.exceptions import ClientError, HTTPClientError

from tests.integration.cloud_faults.conftest import Trouble


async def table_of(trouble: Trouble) -> Any:
    """A client, after making the table `leases`."""
    client = await trouble.client("dynamodb")
    await client.create_table(
        TableName="leases",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return client


async def bucket_of(trouble: Trouble) -> Any:
    """A client, after making the bucket `archive`."""
    client = await trouble.client("s3")
    await client.create_bucket(Bucket="archive")
    return client


async def stored(client: Any) -> list[str]:
    """The keys of the bucket."""
    return [each["Key"] for each in (await client.list_objects_v2(Bucket="archive")).get("Contents", ())]


async def test_conditional_write_lands_with_its_reply_lost(trouble: Trouble) -> None:
    """A fenced write is carried out though its client hears nothing; an unfenced one is left alone."""
    client = await table_of(trouble)
    await trouble.misbehave(
        '[[rule]]\nservice = "dynamodb"\ntable = "leases"\nconditional = true\neffect = "lose_reply"'
    )
    await client.put_item(TableName="leases", Item={"id": {"S": "a"}})
    with pytest.raises(HTTPClientError):
        await client.put_item(
            TableName="leases", Item={"id": {"S": "b"}}, ConditionExpression="attribute_not_exists(id)"
        )
    items = (await client.scan(TableName="leases"))["Items"]
    assert sorted(each["id"]["S"] for each in items) == ["a", "b"]


async def test_table_is_throttled(trouble: Trouble) -> None:
    """DynamoDB's error comes in DynamoDB's form."""
    client = await table_of(trouble)
    await trouble.misbehave(
        '[[rule]]\noperation = "GetItem"\neffect = "error"\ncode = "ProvisionedThroughputExceededException"'
    )
    with pytest.raises(client.exceptions.ProvisionedThroughputExceededException):
        await client.get_item(TableName="leases", Key={"id": {"S": "a"}})


@pytest.mark.parametrize(
    ("code", "status"), [("ConditionalRequestConflict", 409), ("SlowDown", 503), ("ExpiredToken", 400)]
)
async def test_object_is_refused(trouble: Trouble, code: str, status: int) -> None:
    """S3's errors come as its XML with their status, for the named objects only."""
    client = await bucket_of(trouble)
    await trouble.misbehave(
        f'[[rule]]\noperation = "PutObject"\nbucket = "archive"\nkey_prefix = "a/"\neffect = "error"\ncode = "{code}"'
    )
    with pytest.raises(ClientError) as caught:
        await client.put_object(Bucket="archive", Key="a/1", Body=b"x")
    answer = caught.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    await client.put_object(Bucket="archive", Key="b/1", Body=b"x")
    assert await stored(client) == ["b/1"]


async def test_object_lands_with_its_reply_lost(trouble: Trouble) -> None:
    """An object is stored though its client hears nothing, and If-None-Match then says so."""
    client = await bucket_of(trouble)
    await trouble.misbehave('[[step]]\noperation = "PutObject"\ntimes = 2\neffect = "lose_reply"')
    # aiohttp itself repeats a PUT once when a kept connection turns out to be closed.
    with pytest.raises(HTTPClientError):
        await client.put_object(Bucket="archive", Key="a", Body=b"x")
    assert await stored(client) == ["a"]
    await trouble.misbehave("")
    with pytest.raises(ClientError) as caught:
        await client.put_object(Bucket="archive", Key="a", Body=b"x", IfNoneMatch="*")
    assert caught.value.response["Error"]["Code"] == "PreconditionFailed"


async def test_object_lands_late(trouble: Trouble) -> None:
    """An object whose PUT was refused appears afterwards."""
    client = await bucket_of(trouble)
    await trouble.misbehave(
        '[[rule]]\noperation = "PutObject"\neffect = "land_late"\nseconds = 0.2\ncode = "InternalError"'
    )
    with pytest.raises(ClientError):
        await client.put_object(Bucket="archive", Key="a", Body=b"x")
    names = await stored(client)
    # On a busy machine the delay may be over by now; what is there before it landed would be a landing in time.
    assert names == [] or (await trouble.control("GET", "faults"))[1]["late_landings"]["landed"]
    while (await trouble.control("GET", "faults"))[1]["late_landings"]["landed"] == 0:
        pass
    while not await stored(client):
        pass
    assert await stored(client) == ["a"]


async def test_slow_body(trouble: Trouble) -> None:
    """A body trickles at the wanted rate and is whole."""
    client = await bucket_of(trouble)
    await client.put_object(Bucket="archive", Key="a", Body=b"x" * 4_096)
    await trouble.misbehave('[[rule]]\noperation = "GetObject"\neffect = "slow_body"\nbytes_per_second = 20480')
    began = time.monotonic()
    body = await (await client.get_object(Bucket="archive", Key="a"))["Body"].read()
    assert body == b"x" * 4_096
    assert time.monotonic() - began >= 0.15


async def test_body_is_cut_midway(trouble: Trouble) -> None:
    """A body that breaks off is an error of the reader, not a shorter object."""
    client = await bucket_of(trouble)
    await client.put_object(Bucket="archive", Key="a", Body=b"x" * 200_000)
    await trouble.misbehave('[[rule]]\noperation = "GetObject"\neffect = "cut_midway"')
    async with (await client.get_object(Bucket="archive", Key="a"))["Body"] as body:
        with pytest.raises((HTTPClientError, ClientPayloadError)):
            await body.read()


async def test_operations_of_s3_are_told_apart(trouble: Trouble) -> None:
    """A rule about one S3 operation leaves the others alone, though none is named on the wire."""
    client = await bucket_of(trouble)
    await client.put_object(Bucket="archive", Key="a", Body=b"x")
    calls = {
        "HeadObject": lambda: client.head_object(Bucket="archive", Key="a"),
        "GetObject": lambda: client.get_object(Bucket="archive", Key="a"),
        "GetObjectTagging": lambda: client.get_object_tagging(Bucket="archive", Key="a"),
        "ListObjectsV2": lambda: client.list_objects_v2(Bucket="archive"),
        "ListBuckets": client.list_buckets,
        "HeadBucket": lambda: client.head_bucket(Bucket="archive"),
        "CreateMultipartUpload": lambda: client.create_multipart_upload(Bucket="archive", Key="m"),
        "DeleteObjects": lambda: client.delete_objects(Bucket="archive", Delete={"Objects": [{"Key": "z"}]}),
        "CopyObject": lambda: client.copy_object(Bucket="archive", Key="c", CopySource="archive/a"),
        "DeleteObject": lambda: client.delete_object(Bucket="archive", Key="z"),
    }
    for name in calls:
        await trouble.misbehave(f'[[rule]]\noperation = "{name}"\neffect = "error"\ncode = "SlowDown"\nstatus = 503')
        refused = set()
        for each, call in calls.items():
            try:
                await call()
            except ClientError:
                refused.add(each)
        assert refused == {name}
