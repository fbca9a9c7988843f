"""The control pages: faults are replaced and counted, streams are resharded and shown, and only this machine may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from infra.cloud.misbehaviour import GoodBehaviour
from infra.cloud.process import LocalCloudProcess
from infra.cloud.server import LocalCloud
from shared.errors import ConfigurationError, ServiceError
from tests.integration.cloud_faults.conftest import Trouble, TroubleOf

RULE = '[[rule]]\nname = "broken"\noperation = "ListStreams"\neffect = "error"\ncode = "InternalFailure"'


async def test_faults_are_replaced_counted_and_taken_back(trouble: Trouble) -> None:
    """PUT begins a plan with counts at zero, GET shows them, DELETE ends it."""
    client = await trouble.client("kinesis")
    status, answer = await trouble.control("PUT", "faults", f"seed = 9\n{RULE}")
    assert (status, answer["seed"]) == (200, 9)
    with pytest.raises(ClientError):
        await client.list_streams()
    _, answer = await trouble.control("GET", "faults")
    assert answer["rules"] == [{"name": "broken", "effect": "error", "matches": 1, "hits": 1}]
    _, answer = await trouble.control("DELETE", "faults")
    assert answer["rules"] == []
    assert (await client.list_streams())["StreamNames"] == []


async def test_faults_as_json_and_by_name(trouble: Trouble) -> None:
    """A plan may be sent as JSON, or be one of the ready-made ones."""
    status, answer = await trouble.control(
        "PUT", "faults", b'{"rule": [{"effect": "lose_reply", "operation": "PutRecords", "nth": 3}]}'
    )
    assert (status, answer["rules"][0]["effect"]) == (200, "lose_reply")
    status, answer = await trouble.control("PUT", "faults?name=bad-day")
    assert (status, len(answer["reshards"])) == (200, 1)


@pytest.mark.parametrize(
    ("method", "page", "body", "status", "error"),
    [
        ("PUT", "faults", '[[rule]]\neffect = "lose_reply"\nprobabilty = 1', 400, "faults: rule 1 has unknown keys"),
        ("PUT", "faults?name=/etc/passwd", "", 400, "no ready-made faults have that name"),
        ("POST", "faults", "", 405, "faults takes GET, PUT, DELETE"),
        ("GET", "nothing", "", 404, "no such page"),
        ("POST", "reshard", "{", 400, "the body is not JSON"),
        ("POST", "reshard", "[]", 400, "faults: the body is not a table"),
        ("POST", "reshard", '{"kind": "split"}', 400, "`stream` is missing"),
        ("POST", "reshard", '{"stream": "none", "kind": "split"}', 409, "Stream none under account"),
    ],
)
async def test_mistakes_are_answered(
    trouble: Trouble, method: str, page: str, body: str, status: int, error: str
) -> None:
    """A mistake is an answer that names it, and what was there stays."""
    await trouble.misbehave(RULE)
    got, answer = await trouble.control(method, page, body)
    assert (got, answer["error"].startswith(error)) == (status, True), answer
    assert (await trouble.control("GET", "faults"))[1]["rules"][0]["name"] == "broken"


async def test_reshard_and_state(trouble: Trouble) -> None:
    """A stream is split, merged and scaled at once, and the state shows its shards and records."""
    client = await trouble.client("kinesis")
    await client.create_stream(StreamName="s", ShardCount=1)
    await client.put_record(StreamName="s", Data=b"xyz", PartitionKey="k")
    split = await trouble.control("POST", "reshard", '{"stream": "s", "kind": "split"}')
    assert split == (200, {"stream": "s", "done": f"split shardId-000000000000 at {2**127}"})
    _, merged = await trouble.control("POST", "reshard", '{"stream": "s", "kind": "merge"}')
    assert merged["done"] == "merged shardId-000000000001 and shardId-000000000002"
    _, scaled = await trouble.control("POST", "reshard", '{"stream": "s", "kind": "count", "shard_count": 2}')
    assert scaled["done"] == "scaled from 1 to 2 shards"
    _, state = await trouble.control("GET", "state")
    stream = state["streams"][0]
    assert (stream["stream"], stream["region"], stream["open_shards"]) == ("s", "us-east-1", 2)
    assert [(each["records"], each["bytes"], each["open"]) for each in stream["shards"][:2]] == [
        (1, 4, False),
        (0, 0, False),
    ]
    refused = await trouble.control("POST", "reshard", '{"stream": "s", "kind": "count", "shard_count": 9}')
    assert (refused[0], refused[1]["code"]) == (409, "InvalidArgumentException")


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
async def test_only_this_machine(trouble: Trouble, headers: dict[str, str]) -> None:
    """Neither a foreign page nor a name that was bent to loopback reaches the control pages."""
    status, _ = await trouble.control("DELETE", "faults", **headers)
    assert status == 403


async def test_own_misbehaviour_and_faults_exclude_each_other() -> None:
    """Who brings a misbehaviour of their own can't load faults as well, and has no page for them."""
    async with LocalCloud(misbehaviour=GoodBehaviour()) as cloud:
        assert cloud._control.answer("GET", "/_headrace/faults", "", b"").status == 404
    async with LocalCloud() as cloud:
        plan = cloud._injector.plan if cloud._injector is not None else None
    with pytest.raises(ConfigurationError):
        await LocalCloud(misbehaviour=GoodBehaviour(), faults=plan).start()


def test_process_takes_a_file_of_faults(tmp_path: Path) -> None:
    """A cloud in a process of its own misbehaves by a file from its start."""
    path = tmp_path / "faults.toml"
    path.write_text(RULE)
    with LocalCloudProcess(faults_path=path, status_delay_seconds=0.0) as cloud:
        settings: dict[str, Any] = {
            "endpoint_url": cloud.endpoint_url,
            "region_name": "us-east-1",
            "aws_access_key_id": "local",
            "aws_secret_access_key": "local",
        }
        client = boto3.client("kinesis", config=Config(retries={"total_max_attempts": 1}), **settings)
        with pytest.raises(ClientError):
            client.list_streams()


def test_a_wrong_file_ends_the_process_with_its_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A misspelt key ends the command at once, with the key and what there is."""
    path = tmp_path / "faults.toml"
    path.write_text("[[rules]]\n")
    with pytest.raises(ServiceError, match=r"ended before it listened \(exit code 2\)"):
        LocalCloudProcess(faults_path=path).start()
    message = capfd.readouterr().err
    assert message == (
        "error: faults: the file has unknown keys: `rules`\n\nhint: known there: reshard, rule, seed, step\n"
    )


async def test_late_landings_are_dropped_at_the_end(trouble_of: TroubleOf) -> None:
    """A cloud that stops does not wait for what was to land in ten minutes."""
    async with trouble_of('[[rule]]\noperation = "CreateStream"\neffect = "land_late"\nseconds = 600') as trouble:
        client = await trouble.client("kinesis")
        with pytest.raises(HTTPClientError):
            await client.create_stream(StreamName="s", ShardCount=1)
        assert (await trouble.control("GET", "faults"))[1]["late_landings"]["outstanding"] == 1
