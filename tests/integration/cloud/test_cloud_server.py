"""The server itself: bounds, refusals, injected faults, and how its process starts and ends."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from infra.cloud.misbehaviour import Admission, Call, CarryOut, Reply
from infra.cloud.process import LocalCloudProcess
from infra.cloud.server import LocalCloud
from infra.cloud.service_request import ServiceRequest

TARGET = {"X-Amz-Target": "Kinesis_20131202.ListStreams", "Content-Type": "application/x-amz-json-1.1"}


async def post(url: str, body: bytes | io.BytesIO = b"{}", **headers: str) -> tuple[int, dict[str, Any]]:
    """One POST and the JSON that it is answered with."""
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers={**TARGET, **headers}) as got:
        answer: dict[str, Any] = await got.json(content_type=None)
        return got.status, answer


async def test_in_process_cloud_answers_and_stops() -> None:
    """The cloud is an async context manager on a free port, and says that it is alive."""
    async with LocalCloud() as cloud, aiohttp.ClientSession() as session:
        async with session.get(f"{cloud.endpoint_url}/_headrace/health") as answer:
            assert await answer.json() == {"status": "ok"}
        url = cloud.endpoint_url
        assert (await post(url))[0] == 200
    with pytest.raises(aiohttp.ClientConnectorError):
        await post(url)


async def test_body_beyond_its_bound_is_refused() -> None:
    """More than 16 MiB for Kinesis is a 413 in JSON."""
    async with LocalCloud() as cloud:
        status, answer = await post(cloud.endpoint_url, io.BytesIO(b"x" * (16 * 1024 * 1024 + 1)))
    assert (status, answer["__type"]) == (413, "RequestEntityTooLarge")


@pytest.mark.parametrize(
    ("origin", "status"),
    [("https://example.com", 403), ("null", 403), ("http://localhost:3000", 200), ("http://127.0.0.1", 200)],
)
async def test_foreign_web_pages_are_kept_out(origin: str, status: int) -> None:
    """A page of somebody else can't drive the cloud through the browser; one of this machine can."""
    async with LocalCloud() as cloud:
        assert (await post(cloud.endpoint_url, b"{}", Origin=origin))[0] == status


async def test_control_pages_of_moto_are_closed() -> None:
    """Moto's own reset and state pages would go around the journal."""
    async with LocalCloud() as cloud:
        assert (await post(f"{cloud.endpoint_url}/moto-api/reset"))[0] == 403


async def test_kinesis_works_without_moto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, Kinesis answers and the other services say what to install."""
    monkeypatch.setattr("infra.cloud.server.missing_modules", lambda: ["moto", "flask"])
    async with LocalCloud() as cloud:
        assert (await post(cloud.endpoint_url))[0] == 200
        status, answer = await post(cloud.endpoint_url, b"{}", **{"X-Amz-Target": "DynamoDB_20120810.ListTables"})
    assert status == 501
    assert answer["message"] == "only Kinesis is served: moto, flask not installed; pip install 'headrace[local]'"


class Troublemaker:
    """Refuses the first call, loses the reply of the second, and lets the third through."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    async def answer(self, request: ServiceRequest, carry_out: CarryOut) -> Reply | None:
        """Refuse the first call, lose the second reply."""
        self.calls.append(request.call)
        if len(self.calls) == 1:
            return Reply(503, b'{"__type":"ServiceUnavailable"}')
        reply = await carry_out(request)
        return None if len(self.calls) == 2 else reply

    async def admit(self, _request: ServiceRequest) -> Admission:
        """Let subscriptions be."""
        return Admission()


async def test_faults_are_injected_at_one_place() -> None:
    """A call can be refused before it lands, and its reply can be lost after it landed."""
    trouble = Troublemaker()
    create = b'{"StreamName":"s","ShardCount":1}'
    target = {"X-Amz-Target": "Kinesis_20131202.CreateStream"}
    async with LocalCloud(misbehaviour=trouble) as cloud:
        assert (await post(cloud.endpoint_url, create, **target))[0] == 503
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(cloud.endpoint_url, create, **target)
        assert (await post(cloud.endpoint_url))[1]["StreamNames"] == ["s"]
    assert [(each.service, each.operation) for each in trouble.calls] == [
        ("kinesis", "CreateStream"),
        ("kinesis", "CreateStream"),
        ("kinesis", "ListStreams"),
    ]


def run_cloud(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m infra.cloud` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "infra.cloud", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_port_in_use_is_one_line_and_a_hint(cloud: LocalCloudProcess) -> None:
    """A taken port ends the command with 1, one line and a hint, and no traceback."""
    port = cloud.endpoint_url.rpartition(":")[2]
    ended = run_cloud("--port", port)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == (
        f"error: the local cloud can't listen on 127.0.0.1 port {port}: address already in use\n\n"
        "hint: choose another with --port, or --port 0 for any free one\n"
    )


def test_sigterm_ends_with_zero_and_stdout_is_data(tmp_path: Path) -> None:
    """Stdout has the five export lines and nothing else; SIGTERM ends the process with 0."""
    child = subprocess.Popen(
        [sys.executable, "-m", "infra.cloud", "--port", "0", "--data-dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        lines = [child.stdout.readline().rstrip("\n") for _ in range(5)]
        child.send_signal(signal.SIGTERM)
        rest, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert rest == ""
    names = ["ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "REGION", "DEFAULT_REGION"]
    assert [each.partition("=")[0] for each in lines] == [f"export AWS_{name}" for name in names]


def test_child_ends_when_its_parent_lets_go() -> None:
    """A server started with --ends-with-stdin does not outlive the pipe to its parent."""
    child = subprocess.Popen(
        [sys.executable, "-m", "infra.cloud", "--port", "0", "--ends-with-stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        child.stdin.close()
        assert child.wait(30) == 0


async def test_limits_hold_over_the_wire() -> None:
    """With limits, the 1,001st record of a second fails alone within its PutRecords."""
    async with LocalCloud(status_delay_seconds=0.0) as cloud:
        target = "Kinesis_20131202."
        await post(
            cloud.endpoint_url, b'{"StreamName":"s","ShardCount":1}', **{"X-Amz-Target": f"{target}CreateStream"}
        )
        body = b'{"StreamName":"s","Records":[' + b",".join([b'{"Data":"","PartitionKey":"k"}'] * 500) + b"]}"
        answers = await asyncio.gather(
            *(post(cloud.endpoint_url, body, **{"X-Amz-Target": f"{target}PutRecords"}) for _ in range(8))
        )
    failed = sum(answer["FailedRecordCount"] for _, answer in answers)
    assert 1_000 <= failed <= 3_000
    codes = {each.get("ErrorCode") for _, answer in answers for each in answer["Records"]}
    assert codes == {None, "ProvisionedThroughputExceededException"}
