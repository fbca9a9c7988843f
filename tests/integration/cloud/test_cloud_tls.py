"""The TLS port: the Kinesis Producer Library connects in no other way."""

from __future__ import annotations

import socket

import aiohttp
import pytest

from infra.cloud.server import LocalCloud
from shared.errors import AddressError

# What KPL 1.0.4 sends first.
HEADERS = {"X-Amz-Target": "Kinesis_20131202.ListShards", "Content-Type": "application/x-amz-json-1.1"}


async def test_same_cloud_answers_on_both_ports() -> None:
    """A stream that is made over plain HTTP is there over TLS."""
    async with LocalCloud(tls_port=0, status_delay_seconds=0) as cloud, aiohttp.ClientSession() as session:
        create = {**HEADERS, "X-Amz-Target": "Kinesis_20131202.CreateStream"}
        async with session.post(cloud.endpoint_url, json={"StreamName": "s", "ShardCount": 2}, headers=create) as made:
            assert made.status == 200
        url = f"https://127.0.0.1:{cloud.tls_port}"
        async with session.post(url, json={"StreamName": "s"}, headers=HEADERS, ssl=False) as listed:
            answer = await listed.json(content_type=None)
    assert [each["ShardId"] for each in answer["Shards"]] == ["shardId-000000000000", "shardId-000000000001"]


async def test_certificate_is_nobodys() -> None:
    """A client that verifies certificates refuses the connection: nothing suggests that this is AWS."""
    async with LocalCloud(tls_port=0) as cloud, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.post(f"https://127.0.0.1:{cloud.tls_port}", headers=HEADERS)


async def test_taken_tls_port_is_named() -> None:
    """The error names the port that is taken, and the option."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=str(port)) as caught:
            await LocalCloud(tls_port=port).start()
    assert "--tls-port" in caught.value.hint
