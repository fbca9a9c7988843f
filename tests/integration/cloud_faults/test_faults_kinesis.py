"""Each effect on Kinesis as a real client sees it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from aiohttp import ClientPayloadError
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from tests.integration.cloud_faults.conftest import Trouble, TroubleOf

Reads = Callable[..., Any]
PUT = {"StreamName": "s", "PartitionKey": "k"}
PUT_FAULT = 'operation = "PutRecord"\n'


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    """Error type and HTTP status of a refusal."""
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


async def stream_of(trouble: Trouble, shards: int = 1) -> Any:
    """A client, after making the stream `s`."""
    client = await trouble.client("kinesis")
    await client.create_stream(StreamName="s", ShardCount=shards)
    return client


@pytest.mark.parametrize(
    ("effect", "seen", "stored"),
    [
        ('effect = "lose_reply"', HTTPClientError, [b"x"]),
        ('effect = "lose_request"', HTTPClientError, []),
        ('effect = "error"\ncode = "InternalFailure"', ("InternalFailure", 500), []),
        ('effect = "error"\ncode = "InternalFailure"\nlanded = true', ("InternalFailure", 500), [b"x"]),
        ('effect = "error"\ncode = "SomethingNewException"\nstatus = 418', ("SomethingNewException", 418), []),
        ('effect = "error"\ncode = "ExpiredTokenException"', ("ExpiredTokenException", 400), []),
        ('effect = "error"\ncode = "AccessDeniedException"', ("AccessDeniedException", 400), []),
        ('effect = "error"\ncode = "ServiceUnavailable"', ("ServiceUnavailable", 503), []),
        ('effect = "fail_records"', ("ProvisionedThroughputExceededException", 400), []),
    ],
)
async def test_whole_calls(
    trouble: Trouble, reads: Reads, effect: str, seen: type[Exception] | tuple[str, int], stored: list[bytes]
) -> None:
    """A put is lost, refused, or carried out without an answer, and the stream holds what that means."""
    client = await stream_of(trouble)
    await trouble.misbehave(f"[[rule]]\n{PUT_FAULT}{effect}")
    if isinstance(seen, tuple):
        with pytest.raises(ClientError) as caught:
            await client.put_record(Data=b"x", **PUT)
        assert code_of(caught) == seen
    else:
        with pytest.raises(seen):
            await client.put_record(Data=b"x", **PUT)
    assert await reads(client, "s") == stored
    assert await trouble.hits() == [1]


async def test_boto3_sees_a_lost_reply_as_well(trouble: Trouble, reads: Reads) -> None:
    """boto3 reports a closed connection, and the record is there."""
    client = await stream_of(trouble)
    await trouble.misbehave(f'[[rule]]\n{PUT_FAULT}effect = "lose_reply"')
    other = boto3.client(
        "kinesis",
        endpoint_url=trouble.cloud.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with pytest.raises(ConnectionClosedError):
        await asyncio.to_thread(other.put_record, Data=b"x", **PUT)
    assert await reads(client, "s") == [b"x"]


async def put_three(client: Any) -> list[str | None]:
    """Put records with the keys a, b and c; their error codes."""
    records = [{"Data": key.encode(), "PartitionKey": key} for key in "abc"]
    answer = await client.put_records(StreamName="s", Records=records)
    assert answer["FailedRecordCount"] == sum("ErrorCode" in each for each in answer["Records"])
    return [each.get("ErrorCode") for each in answer["Records"]]


async def test_single_records_of_a_key(trouble: Trouble, reads: Reads) -> None:
    """Inside PutRecords one key's records fail with the wanted code, their neighbours land."""
    client = await stream_of(trouble)
    await trouble.misbehave('[[rule]]\neffect = "fail_records"\npartition_key = "b"\ncode = "MadeUpException"')
    assert await put_three(client) == [None, "MadeUpException", None]
    assert await reads(client, "s") == [b"a", b"c"]


async def test_all_records_of_a_call(trouble: Trouble, reads: Reads) -> None:
    """A call all of whose records fail is still a success with failed records."""
    client = await stream_of(trouble)
    await trouble.misbehave('[[rule]]\neffect = "fail_records"')
    assert await put_three(client) == ["ProvisionedThroughputExceededException"] * 3
    assert await reads(client, "s") == []


async def test_single_records_of_a_shard(trouble: Trouble) -> None:
    """A shard that is throttled on request refuses its records and no other's."""
    client = await stream_of(trouble, shards=2)
    await trouble.misbehave('[[rule]]\neffect = "fail_records"\nshard = "shardId-000000000001"')
    records = [
        {"Data": b"x", "PartitionKey": "k", "ExplicitHashKey": str(hash_key)} for hash_key in (0, 2**127, 2**127 - 1)
    ]
    answer = await client.put_records(StreamName="s", Records=records)
    assert [each.get("ShardId") for each in answer["Records"]] == ["shardId-000000000000", None, "shardId-000000000000"]


async def test_partial_failure_with_a_lost_reply(trouble: Trouble, reads: Reads) -> None:
    """Faults of records and of the call come together: what was not refused has landed, and nobody knows."""
    client = await stream_of(trouble)
    await trouble.misbehave(
        '[[rule]]\neffect = "fail_records"\npartition_key = "a"\n'
        '[[rule]]\noperation = "PutRecords"\neffect = "lose_reply"'
    )
    with pytest.raises(HTTPClientError):
        await put_three(client)
    assert await reads(client, "s") == [b"b", b"c"]


async def test_late_landing(trouble: Trouble, reads: Reads) -> None:
    """A put is cut first and lands afterwards, behind a put that was sent later."""
    client = await stream_of(trouble)
    await trouble.misbehave(f'[[rule]]\n{PUT_FAULT}effect = "land_late"\nseconds = 0.3\nnth = 1')
    with pytest.raises(HTTPClientError):
        await client.put_record(Data=b"late", **PUT)
    await client.put_record(Data=b"second", **PUT)
    assert await reads(client, "s") == [b"second"]
    while (await trouble.control("GET", "faults"))[1]["late_landings"]["outstanding"]:
        pass
    assert await reads(client, "s") == [b"second", b"late"]


async def test_late_landing_with_an_error(trouble: Trouble) -> None:
    """The client of a late landing can be given an error instead of a cut."""
    client = await stream_of(trouble)
    await trouble.misbehave(f'[[rule]]\n{PUT_FAULT}effect = "land_late"\nseconds = 0\ncode = "InternalFailure"')
    with pytest.raises(ClientError) as caught:
        await client.put_record(Data=b"x", **PUT)
    assert code_of(caught) == ("InternalFailure", 500)


async def test_latency(trouble: Trouble) -> None:
    """Delays before and after landing add up to what the client waits."""
    client = await stream_of(trouble)
    await trouble.misbehave(
        '[[rule]]\neffect = "delay"\nseconds = 0.1\n[[rule]]\neffect = "delay"\nseconds_min = 0.1\nseconds_max = 0.11\n'
        'where = "after"'
    )
    began = time.monotonic()
    await client.put_record(Data=b"x", **PUT)
    assert time.monotonic() - began >= 0.2


async def test_expired_iterator(trouble: Trouble) -> None:
    """An iterator that was expired stays so; a new one at the same place works."""
    client = await stream_of(trouble)
    await client.put_record(Data=b"x", **PUT)
    place = {"StreamName": "s", "ShardId": "shardId-000000000000", "ShardIteratorType": "TRIM_HORIZON"}
    iterator = (await client.get_shard_iterator(**place))["ShardIterator"]
    await trouble.misbehave('[[rule]]\neffect = "expire_iterator"\nnth = 1')
    for _ in range(2):
        with pytest.raises(ClientError) as caught:
            await client.get_records(ShardIterator=iterator)
        assert code_of(caught) == ("ExpiredIteratorException", 400)
    fresh = (await client.get_shard_iterator(**place))["ShardIterator"]
    assert len((await client.get_records(ShardIterator=fresh))["Records"]) == 1


async def test_empty_and_short_pages(trouble: Trouble) -> None:
    """Pages can be empty although there is more, and short; following the iterators still finds every record once."""
    client = await stream_of(trouble)
    for number in range(5):
        await client.put_record(Data=str(number).encode(), **PUT)
    await trouble.misbehave(
        '[[rule]]\neffect = "empty_page"\nevery = 2\n[[rule]]\neffect = "short_page"\nrecords_max = 2'
    )
    start = await client.get_shard_iterator(
        StreamName="s", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )
    iterator, pages = start["ShardIterator"], []
    for _ in range(5):
        page = await client.get_records(ShardIterator=iterator)
        pages.append([each["Data"] for each in page["Records"]])
        assert (page["MillisBehindLatest"] > 0) or pages[-1]
        iterator = page["NextShardIterator"]
    assert pages == [[b"0", b"1"], [], [b"2", b"3"], [], [b"4"]]


async def test_script(trouble: Trouble) -> None:
    """The third PutRecord loses its reply, then the next ListShards is refused; nothing else happens."""
    client = await stream_of(trouble)
    await trouble.misbehave(
        f'[[step]]\n{PUT_FAULT}nth = 3\neffect = "lose_reply"\n'
        '[[step]]\noperation = "ListShards"\neffect = "error"\ncode = "LimitExceededException"'
    )
    await client.list_shards(StreamName="s")
    for _ in range(2):
        await client.put_record(Data=b"x", **PUT)
    with pytest.raises(HTTPClientError):
        await client.put_record(Data=b"x", **PUT)
    with pytest.raises(ClientError) as caught:
        await client.list_shards(StreamName="s")
    assert code_of(caught) == ("LimitExceededException", 400)
    await client.put_record(Data=b"x", **PUT)
    assert await trouble.hits() == [1, 1]


async def test_subscription_is_cut_midway(trouble: Trouble) -> None:
    """SubscribeToShard ends without an error after the wanted number of events; the next one goes on."""
    client = await stream_of(trouble)
    summary = (await client.describe_stream_summary(StreamName="s"))["StreamDescriptionSummary"]
    consumer = (await client.register_stream_consumer(StreamARN=summary["StreamARN"], ConsumerName="c"))["Consumer"]
    await client.put_record(Data=b"x", **PUT)
    await trouble.misbehave('[[rule]]\noperation = "SubscribeToShard"\neffect = "cut_midway"\nevents = 1')
    answer = await client.subscribe_to_shard(
        ConsumerARN=consumer["ConsumerARN"],
        ShardId="shardId-000000000000",
        StartingPosition={"Type": "TRIM_HORIZON"},
    )
    found: list[bytes] = []

    async def follow() -> None:
        async for event in answer["EventStream"]:
            found.extend(each["Data"] for each in event["SubscribeToShardEvent"]["Records"])

    with pytest.raises((HTTPClientError, ClientPayloadError)):
        await follow()
    answer["EventStream"].close()
    assert found == [b"x"]


@pytest.mark.parametrize(
    ("effect", "seen"),
    [('effect = "error"\ncode = "ResourceInUseException"', ClientError), ('effect = "lose_reply"', HTTPClientError)],
)
async def test_subscription_is_refused_or_cut_at_once(trouble: Trouble, effect: str, seen: type[Exception]) -> None:
    """A subscription can be refused, or be cut before its first message."""
    client = await stream_of(trouble)
    summary = (await client.describe_stream_summary(StreamName="s"))["StreamDescriptionSummary"]
    consumer = (await client.register_stream_consumer(StreamARN=summary["StreamARN"], ConsumerName="c"))["Consumer"]
    await trouble.misbehave(f'[[rule]]\noperation = "SubscribeToShard"\n{effect}')
    with pytest.raises(seen):
        await client.subscribe_to_shard(
            ConsumerARN=consumer["ConsumerARN"],
            ShardId="shardId-000000000000",
            StartingPosition={"Type": "TRIM_HORIZON"},
        )
    assert await trouble.hits() == [1]


async def reshard_until(trouble: Trouble, hits: int) -> list[dict[str, Any]]:
    """Ask until the first schedule was carried out so often; the shards then."""
    while (await trouble.control("GET", "faults"))[1]["reshards"][0]["hits"] < hits:
        pass
    shards: list[dict[str, Any]] = (await trouble.control("GET", "state"))[1]["streams"][0]["shards"]
    return shards


async def test_reshards_on_a_schedule(trouble_of: TroubleOf) -> None:
    """Shards split by the clock, and the children and the closed parent are listed."""
    async with trouble_of() as trouble:
        await stream_of(trouble)
        await trouble.misbehave('[[reshard]]\nstream = "s"\nkind = "split"\nevery_seconds = 0.1\ntimes_max = 2')
        shards = await reshard_until(trouble, 2)
    assert [each["open"] for each in shards].count(True) == 3
    assert len(shards) == 5


async def test_seeded_run_is_repeatable(trouble_of: TroubleOf) -> None:
    """Two fresh clouds with one file strike the same calls of the same sequence."""
    rule = f'seed = 42\n[[rule]]\n{PUT_FAULT}probability = 0.4\neffect = "error"\ncode = "InternalFailure"'

    async def run() -> list[bool]:
        async with trouble_of(rule) as trouble:
            client = await stream_of(trouble)
            refused = []
            for _ in range(40):
                try:
                    await client.put_record(Data=b"x", **PUT)
                except ClientError:
                    refused.append(True)
                else:
                    refused.append(False)
            return refused

    first = await run()
    assert first == await run()
    assert 0 < sum(first) < 40
