"""A proxy on loopback that loses HTTP requests and replies: the misfortunes that only a client in between can see."""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

_HEAD_BYTES_MAX: Final = 64 * 1024
_BODY_BYTES_MAX: Final = 16 * 1024 * 1024
_START_SECONDS_MAX: Final = 10
_EXPECT: Final = re.compile(rb"expect: *100-continue\r\n", re.IGNORECASE)


class Message(NamedTuple):
    """One HTTP/1.1 request or response as it came, and the two headers that decide about it."""

    raw: bytes
    target: str  # the operation of a request, e.g. `PutRecords`
    closes: bool


class LossyProxy:
    """Forwards to `endpoint_url` from a thread of its own, and cuts connections as the seed says.

    A request is lost before the service sees it (`lose_request`), or carried out and its reply lost (`lose_reply`);
    both are probabilities for each request whose operation is in `operations` (empty: for every one). With the
    probability `hold_put`, PutRecords goes nowhere and no answer comes, for as long as the client waits. `requests`,
    `lost_requests`, `held_requests` and `lost_replies` count by operation.

    `strike` is called in that thread with each request that is `coming`, and again once it is `done`: where it answers
    True, the connection is cut. So it can kill the client at a certain call, before or after that has landed.
    """

    def __init__(
        self,
        endpoint_url: str,
        *,
        seed: int,
        lose_request: float = 0.0,
        lose_reply: float = 0.0,
        hold_put: float = 0.0,
        operations: frozenset[str] = frozenset(),
        strike: Callable[[Message, str], bool] | None = None,
    ) -> None:
        parts = urlsplit(endpoint_url)
        self._upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._chance = random.Random(seed)
        self._lose_request = lose_request
        self._lose_reply = lose_reply
        self._hold_put = hold_put
        self._operations = operations
        self._strike = strike or (lambda _request, _phase: False)
        self.endpoint_url = ""
        self.requests: Counter[str] = Counter()
        self.lost_requests: Counter[str] = Counter()
        self.held_requests: Counter[str] = Counter()
        self.lost_replies: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, name="lossy-proxy", daemon=True)
        self._started: Future[int] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self.endpoint_url = f"http://127.0.0.1:{self._started.result(_START_SECONDS_MAX)}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(_START_SECONDS_MAX)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        connections: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve_connection(reader, writer))
            connections.add(task)
            task.add_done_callback(connections.discard)
            # Also of a task that is cancelled before its first step, or finds no service.
            task.add_done_callback(lambda _: writer.transport.abort())

        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_HEAD_BYTES_MAX)
        async with server:
            self._started.set_result(server.sockets[0].getsockname()[1])
            await self._ended.wait()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one request after another; each client connection has one of its own to the service."""
        # A client that was killed, or a connection that was cut: both ends are closed, which is what this is for.
        with suppress(OSError, asyncio.IncompleteReadError):
            upstream_reader, upstream_writer = await asyncio.open_connection(*self._upstream, limit=_HEAD_BYTES_MAX)
            try:
                while await self._carry(reader, writer, upstream_reader, upstream_writer):
                    pass
            finally:
                writer.transport.abort()
                upstream_writer.transport.abort()  # before anything is awaited, where a cancellation may come
                for each in (writer, upstream_writer):
                    with suppress(OSError):
                        await each.wait_closed()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream_reader: asyncio.StreamReader,
        upstream_writer: asyncio.StreamWriter,
    ) -> bool:
        """Carry one request; whether the connection lives on."""
        request = await read_message(reader, writer)
        self.requests[request.target] += 1
        fate = self._chance.random() if not self._operations or request.target in self._operations else 1.0
        if fate < self._lose_request:
            self.lost_requests[request.target] += 1
            return False
        held_below = self._lose_request + self._hold_put
        if fate < held_below and request.target == "PutRecords":
            self.held_requests[request.target] += 1
            await reader.read()  # until the client gives up, or is killed
            return False
        if self._strike(request, "coming"):
            return False
        upstream_writer.write(request.raw)
        await upstream_writer.drain()
        response = await read_message(upstream_reader)
        if self._strike(request, "done"):
            return False
        if held_below <= fate < held_below + self._lose_reply:
            self.lost_replies[request.target] += 1
            return False
        writer.write(response.raw)
        await writer.drain()
        return not (request.closes or response.closes)


async def read_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None = None) -> Message:
    """Read one message whole; IncompleteReadError where the connection ends before it does.

    A client that asks first whether it may send its body is told so through `writer`, and the service is not asked.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    if writer is not None and _EXPECT.search(head):
        head = _EXPECT.sub(b"", head)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = await _read_chunks(reader)
    else:
        length = int(headers.get(b"content-length", b"0"))
        assert 0 <= length <= _BODY_BYTES_MAX
        body = await reader.readexactly(length)
    target = headers.get(b"x-amz-target", b"").decode("latin-1").rpartition(".")[2]
    return Message(head + body, target, headers.get(b"connection", b"").lower() == b"close")


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        assert size <= _BODY_BYTES_MAX
        parts += [line, await reader.readexactly(size + 2)]
        if not size:
            return b"".join(parts)
