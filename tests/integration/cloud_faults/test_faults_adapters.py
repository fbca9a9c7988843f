"""The product's own adapters on a cloud that misbehaves: whatever happens is one of our errors."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from shared.aws.session import Aws, open_aws
from shared.errors import AmbiguousCallError, ServiceError
from shared.records import TRIM_HORIZON, PutEntry
from tests.integration.cloud_faults.conftest import Trouble

CUT = '[[rule]]\noperation = "{}"\neffect = "cut_midway"'


@pytest.fixture
async def aws(trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Aws]:
    """The adapters, pointed to the cloud by environment variables as a user does it."""
    variables = {"ENDPOINT_URL": trouble.cloud.endpoint_url, "REGION": "us-east-1"}
    for name, value in {**variables, "ACCESS_KEY_ID": "local", "SECRET_ACCESS_KEY": "local"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    async with open_aws() as opened:
        yield opened


async def test_object_that_breaks_off(trouble: Trouble, aws: Aws) -> None:
    """An object whose body breaks off in the middle is an error that is tried again, and not a defect."""
    await (await trouble.client("s3")).create_bucket(Bucket="archive")
    objects = await aws.objects("archive")
    await objects.put_object("a", b"x" * 200_000, content_type="text/plain")
    await trouble.misbehave(CUT.format("GetObject"))
    with pytest.raises(AmbiguousCallError):
        await objects.get_object("a")
    await trouble.misbehave("")
    assert len(await objects.get_object("a")) == 200_000


@pytest.mark.parametrize("effect", ["cut_midway", "lose_reply", "lose_request"])
async def test_kinesis_calls_that_break_off(trouble: Trouble, aws: Aws, effect: str) -> None:
    """Puts, reads and listings that break off are ambiguous calls, each to be tried again."""
    await (await trouble.client("kinesis")).create_stream(StreamName="s", ShardCount=1)
    kinesis = await aws.kinesis()
    iterator = await kinesis.get_shard_iterator("s", "shardId-000000000000", TRIM_HORIZON)
    await trouble.misbehave(f'[[rule]]\nservice = "kinesis"\neffect = "{effect}"')
    for call in (
        lambda: kinesis.put_records("s", [PutEntry(b"x", "k")]),
        lambda: kinesis.get_records("s", iterator, 10),
        lambda: kinesis.list_shards("s"),
        lambda: kinesis.get_shard_iterator("s", "shardId-000000000000", TRIM_HORIZON),
    ):
        with pytest.raises(ServiceError) as caught:
            await call()
        assert isinstance(caught.value, AmbiguousCallError), caught.value
