"""How fast the local cloud takes and gives records: `python -m benchmarks.local_cloud [--records N] [--callers N]`.

The server is a process of its own. The client sends prebuilt bodies over raw keep-alive connections, so that its share
is near zero. Reported: records/s for each 100,000 put, the server's CPU seconds per million, and the same for reading
everything back.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

import orjson

from infra.cloud.process import LocalCloudProcess

_BATCH: Final = 500
_RECORD_BYTES: Final = 300
_WINDOW: Final = 100_000
_SHARDS: Final = 4
_BODIES: Final = 40
_STREAM: Final = "benchmark"


@dataclass(slots=True)
class _Connection:
    """One keep-alive HTTP/1.1 connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, endpoint_url: str) -> Self:
        url = urlsplit(endpoint_url)
        return cls(*await asyncio.open_connection(url.hostname, url.port, limit=1 << 24))

    async def call(self, request: bytes) -> bytes:
        self.writer.write(request)
        await self.writer.drain()
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        body = await self.reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(body[:500].decode())
        return body

    async def ask(self, operation: str, **members: Any) -> dict[str, Any]:
        body = await self.call(_request(operation, members))
        answer: dict[str, Any] = orjson.loads(body or b"{}")
        return answer


def _request(operation: str, members: dict[str, Any]) -> bytes:
    body = orjson.dumps(members)
    head = (
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-amz-json-1.1\r\n"
        f"X-Amz-Target: Kinesis_20131202.{operation}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _put_requests() -> list[bytes]:
    requests = []
    for number in range(_BODIES):
        records = []
        for index in range(_BATCH):
            seed = hashlib.sha256(f"{number}/{index}".encode()).digest()
            data = (seed * (_RECORD_BYTES // len(seed) + 1))[:_RECORD_BYTES]
            key = f"session-{number * _BATCH + index}"
            records.append({"Data": base64.b64encode(data).decode(), "PartitionKey": key})
        requests.append(_request("PutRecords", {"StreamName": _STREAM, "Records": records}))
    return requests


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


async def _put_window(connections: list[_Connection], requests: list[bytes], calls: int) -> None:
    turns = iter(range(calls))

    async def work(connection: _Connection) -> None:
        for turn in turns:
            answer = await connection.call(requests[turn % len(requests)])
            if b'"FailedRecordCount":0' not in answer:
                raise RuntimeError(answer[:500].decode())

    async with asyncio.TaskGroup() as group:
        for connection in connections:
            group.create_task(work(connection))


async def _drain(connection: _Connection) -> int:
    count = 0
    for shard in (await connection.ask("ListShards", StreamName=_STREAM))["Shards"]:
        start = await connection.ask(
            "GetShardIterator", StreamName=_STREAM, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )
        iterator = start["ShardIterator"]
        while True:
            answer = await connection.call(_request("GetRecords", {"ShardIterator": iterator, "Limit": 10_000}))
            count += answer.count(b'"SequenceNumber"')
            if b'"MillisBehindLatest":0' in answer:
                break
            iterator = orjson.loads(answer)["NextShardIterator"]
    return count


async def _measure(cloud: LocalCloudProcess, records: int, callers: int) -> None:
    connections = [await _Connection.open(cloud.endpoint_url) for _ in range(callers)]
    await connections[0].ask("CreateStream", StreamName=_STREAM, ShardCount=_SHARDS)
    await asyncio.sleep(0.5)
    requests = _put_requests()
    cpu_start, done = _cpu_seconds(cloud.pid), 0
    while done < records:
        size = min(_WINDOW, records - done)
        cpu, began = _cpu_seconds(cloud.pid), time.perf_counter()
        await _put_window(connections, requests, size // _BATCH)
        took, burnt = time.perf_counter() - began, _cpu_seconds(cloud.pid) - cpu
        done += size
        _print(f"put {done:>9,}: {size / took:>9,.0f} records/s, {burnt / size * 1e6:5.1f} CPU-s per million")
    total = (_cpu_seconds(cloud.pid) - cpu_start) / done * 1e6
    _print(f"put total: {total:.1f} server CPU-s per million, resident {_resident_mib(cloud.pid):,.0f} MiB")
    cpu, began = _cpu_seconds(cloud.pid), time.perf_counter()
    count = await _drain(connections[0])
    took, burnt = time.perf_counter() - began, _cpu_seconds(cloud.pid) - cpu
    _print(f"got {count:>9,}: {count / took:>9,.0f} records/s, {burnt / count * 1e6:5.1f} CPU-s per million")
    for connection in connections:
        connection.writer.close()


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run the benchmark; the server is started and ended here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--callers", type=int, default=4)
    parser.add_argument("--persist", action="store_true", help="with a data folder, to see what keeping costs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "cloud" if options.persist else None
        with LocalCloudProcess(limits_enforced=False, data_dir=data_dir) as cloud:
            asyncio.run(_measure(cloud, options.records, options.callers))


if __name__ == "__main__":
    main()
