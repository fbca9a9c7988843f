"""The local cloud: one HTTP endpoint, our Kinesis and moto's other services behind it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import ssl
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self
from urllib.parse import urlsplit

import orjson
import structlog
from aiohttp import web

from infra.cloud.certificate import server_context
from infra.cloud.control_api import CONTROL_BODY_BYTES_MAX, PREFIX, ControlApi
from infra.cloud.core.faults import FaultPlan
from infra.cloud.event_stream import CONTENT_TYPE
from infra.cloud.fault_injector import FaultInjector
from infra.cloud.kinesis_journal import KinesisJournal
from infra.cloud.kinesis_service import BODY_BYTES_MAX, SUBSCRIBE, TARGET_PREFIX, KinesisService
from infra.cloud.misbehaviour import Misbehaviour, Reply
from infra.cloud.moto_bridge import INSTALL_HINT, MotoBridge, missing_modules
from infra.cloud.request_journal import RequestJournal
from infra.cloud.segment_file import FolderLock
from infra.cloud.service_request import ServiceRequest
from infra.cloud.stacks import StackStreams
from shared.errors import AddressError, ConfigurationError

OTHER_BODY_BYTES_MAX: Final = 256 * 1024 * 1024

_READ_BUFFER_BYTES: Final = 1024 * 1024
_REQUESTS_READ_AT_ONCE: Final = 32
_KEEP_ALIVE_SECONDS: Final = 75.0
_SHUTDOWN_SECONDS: Final = 2.0
_TRICKLE_SECONDS: Final = 0.05
_SYNC_SECONDS: Final = 1.0
_SWEEP_SECONDS: Final = 15.0
_CLIENT_GONE: Final = 499
_LOG: Final = structlog.get_logger(__name__)


class _BodyTooLargeError(Exception):
    """The body of a request exceeds what its service takes."""


@dataclass(slots=True)
class LocalCloud:
    """An embedded cloud for development and tests.

    Use it as an async context manager; `endpoint_url` is known inside. `port` 0 takes any free port. With `data_dir`
    the state survives a restart, also after kill -9. moto's state belongs to the process: of two clouds in one process
    only one can serve the other services. Raises AddressError (port in use) and ConfigurationError (data folder).

    `faults` is what goes wrong from the start; `/_headrace/faults` replaces it. A `misbehaviour` of your own takes the
    place of both. `tls_port` is a second port, for TLS with a certificate that nobody has signed; None: there is none.
    """

    host: str = "127.0.0.1"
    port: int = 0
    data_dir: Path | None = None
    limits_enforced: bool = True
    status_delay_seconds: float = 0.2
    faults: FaultPlan | None = None
    misbehaviour: Misbehaviour | None = None
    tls_port: int | None = None
    kinesis: KinesisService = field(init=False)
    _bridge: MotoBridge = field(init=False)
    _stacks: StackStreams = field(init=False)
    _journal: KinesisJournal | None = field(init=False, default=None)
    _lock: FolderLock | None = field(init=False, default=None)
    _runner: web.ServerRunner | None = field(init=False, default=None)
    _injector: FaultInjector | None = field(init=False, default=None)
    _behaviour: Misbehaviour = field(init=False)
    _control: ControlApi = field(init=False)
    _tasks: list[asyncio.Task[None]] = field(init=False, default_factory=list)
    _readers: asyncio.Semaphore = field(init=False)

    # Life.

    @property
    def endpoint_url(self) -> str:
        """What AWS_ENDPOINT_URL has to be."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def missing(self) -> list[str]:
        """The modules that are missing for anything but Kinesis; empty if all services are there."""
        return missing_modules()

    async def start(self) -> None:
        """Reload the data folder, then listen."""
        self._readers = asyncio.Semaphore(_REQUESTS_READ_AT_ONCE)
        request_journal = None
        if self.data_dir is not None:
            self._lock = FolderLock(self.data_dir)
            self._journal = KinesisJournal(self.data_dir)
            request_journal = None if self.missing else RequestJournal(self.data_dir)
        self.kinesis = KinesisService(self.limits_enforced, self.status_delay_seconds, self._journal)
        self._behave()
        self._bridge = MotoBridge(request_journal)
        self._stacks = StackStreams(self.kinesis)
        try:
            streams = self.kinesis.reload()
            requests = await self._bridge.start()
            if requests:
                self._stacks.follow(await self._bridge.declared_streams())
            await self._listen()
        except BaseException:
            await self.stop()
            raise
        if self.data_dir is not None:
            _LOG.info("data folder reloaded", streams=streams, requests=requests)
        self._tasks = [asyncio.create_task(self._do_chores())]
        if self._injector is not None:
            self._tasks.append(asyncio.create_task(self._injector.run()))

    def _behave(self) -> None:
        if self.misbehaviour is None:
            self._injector = FaultInjector(self.kinesis, self.faults or FaultPlan())
            self._behaviour = self._injector
        elif self.faults is None:
            self._behaviour = self.misbehaviour
        else:
            raise ConfigurationError("`faults` and `misbehaviour` can't both be given")
        self._control = ControlApi(self.kinesis, self._injector)

    async def stop(self) -> None:
        """Stop listening, end subscriptions, close the files."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        self.kinesis.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        await self._bridge.close()
        if self._journal is not None:
            self._journal.close()
        if self._lock is not None:
            self._lock.release()

    async def warm_up(self) -> None:
        """Load moto now rather than at the first request that needs it; does nothing if it is not installed."""
        if not self.missing:
            await self._bridge.warm_up()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _listen(self) -> None:
        server = web.Server(
            self._handle,
            access_log=None,
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            read_bufsize=_READ_BUFFER_BYTES,
            auto_decompress=False,  # a Content-Encoding is a property of the object, to be kept with it
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        self.port = await self._open_port(self._runner, self.port, "--port")
        if self.tls_port is not None:
            self.tls_port = await self._open_port(self._runner, self.tls_port, "--tls-port", server_context())

    async def _open_port(
        self, runner: web.ServerRunner, port: int, option: str, tls: ssl.SSLContext | None = None
    ) -> int:
        """Listen on a port (0: any free one) and return its number."""
        before = len(runner.addresses)
        try:
            await web.TCPSite(runner, self.host, port, ssl_context=tls).start()
        except OSError as error:
            raise AddressError(
                f"the local cloud can't listen on {self.host} port {port}: {_why(error)}",
                hint=f"choose another with {option}, or {option} 0 for any free one",
            ) from error
        return int(runner.addresses[before][1])

    async def _do_chores(self) -> None:
        last_sweep = time.monotonic()
        while True:
            await asyncio.sleep(_SYNC_SECONDS)
            if self._journal is not None:
                try:
                    await asyncio.to_thread(self._journal.sync)
                except OSError as error:
                    _LOG.error("data folder not flushed", error=error.strerror)
            if time.monotonic() - last_sweep >= _SWEEP_SECONDS:
                last_sweep = time.monotonic()
                self.kinesis.sweep()
                if self._journal is not None:
                    self._journal.drop_expired(time.time())

    # Requests.

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except ConnectionError:
            # The peer went away, or was cut off on purpose; aiohttp notices when it tries to write this.
            return web.Response(status=_CLIENT_GONE)
        except _BodyTooLargeError as error:
            return _http(_error_reply(413, "RequestEntityTooLarge", str(error)), request)
        except Exception as error:  # noqa: BLE001 (the outermost edge: a defect is a 500, never an HTML page)
            _LOG.exception("request failed", error=type(error).__name__)
            return _http(_error_reply(500, "InternalFailure", "the local cloud failed"), request)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if not _is_local(request.headers.get("Origin", "")) or request.path.startswith("/moto-api"):
            # A web page of somebody else must not be able to drive the cloud through the user's browser.
            return _http(_error_reply(403, "AccessDeniedException", "not from a web page"), request)
        if request.path.startswith(PREFIX):
            return await self._control_page(request)
        target = request.headers.get("X-Amz-Target", "")
        headers = tuple((name, value) for name, value in request.headers.items())
        if target.startswith(TARGET_PREFIX):
            body = await _read(request, BODY_BYTES_MAX)
            received = ServiceRequest(request.method, request.raw_path, headers, body)
            if target == TARGET_PREFIX + SUBSCRIBE:
                return await self._subscribe(request, received)
            return await self._reply(request, received, is_kinesis=True)
        async with self._readers:
            body = await _read(request, OTHER_BODY_BYTES_MAX)
            received = ServiceRequest(request.method, request.raw_path, headers, body)
            return await self._reply(request, received, is_kinesis=received.call.service == "kinesis")

    async def _control_page(self, request: web.BaseRequest) -> web.StreamResponse:
        # The name in Host tells a page that was led here by a changed DNS entry, the peer who really asks.
        if not _is_local(f"//{request.host}") or not _is_local(f"//{_bracketed(request.remote or '')}"):
            return _http(_error_reply(403, "AccessDeniedException", "only from this machine"), request)
        body = await _read(request, CONTROL_BODY_BYTES_MAX)
        return _http(self._control.answer(request.method, request.path, request.query_string, body), request)

    async def _reply(
        self, request: web.BaseRequest, received: ServiceRequest, *, is_kinesis: bool
    ) -> web.StreamResponse:
        reply = await self._behaviour.answer(received, self._kinesis_reply if is_kinesis else self._other_service)
        if reply is None:
            _cut(request)
        if reply.bytes_per_second is None and reply.bytes_max is None:
            return _http(reply, request)
        return await _trickle(reply, request)

    async def _kinesis_reply(self, received: ServiceRequest) -> Reply:
        call = received.call
        return self.kinesis.answer(call.operation, call.region, received.header("content-type"), received.body)

    async def _other_service(self, received: ServiceRequest) -> Reply:
        if self.missing:
            text = f"only Kinesis is served: {', '.join(self.missing)} not installed; {INSTALL_HINT}"
            return _error_reply(501, "NotImplemented", text)
        reply = await self._bridge.call(received)
        if received.call.service == "cloudformation" and received.changes_something():
            self._stacks.follow(await self._bridge.declared_streams())
        return reply

    async def _subscribe(self, request: web.BaseRequest, received: ServiceRequest) -> web.StreamResponse:
        admission = await self._behaviour.admit(received)
        if admission.events_max == 0:
            _cut(request)
        answer: Reply | AsyncGenerator[bytes] | None = admission.reply
        if answer is None:
            answer = self.kinesis.subscribe(received.call.region, received.header("content-type"), received.body)
        if isinstance(answer, Reply):
            return _http(answer, request)
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE, "x-amzn-RequestId": _request_id()})
        response.enable_chunked_encoding()
        await response.prepare(request)
        events = -1  # the first message answers the call and is no event
        async with contextlib.aclosing(answer):
            async for message in answer:
                await response.write(message)
                events += 1
                if events == admission.events_max:
                    _close(request)
        await response.write_eof()
        return response


def _cut(request: web.BaseRequest) -> NoReturn:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError


def _close(request: web.BaseRequest) -> NoReturn:
    """End the connection after what was written so far."""
    if request.transport is not None:
        request.transport.close()
    raise ConnectionResetError


async def _trickle(reply: Reply, request: web.BaseRequest) -> web.StreamResponse:
    """Send a body slowly, or only the beginning of it."""
    whole = _http(reply, request)
    response = web.StreamResponse(status=reply.status, headers=whole.headers)
    response.content_length = len(reply.body)
    await response.prepare(request)
    body = memoryview(reply.body)[: reply.bytes_max]
    step = len(body) if reply.bytes_per_second is None else max(1, int(reply.bytes_per_second * _TRICKLE_SECONDS))
    for start in range(0, len(body), max(1, step)):
        await response.write(body[start : start + step])
        if reply.bytes_per_second is not None:
            await asyncio.sleep(_TRICKLE_SECONDS)
    if reply.bytes_max is not None:
        _close(request)
    await response.write_eof()
    return response


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _why(error: OSError) -> str:
    # asyncio wraps the system's own words in a sentence that names the address once more.
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)


def _request_id() -> str:
    return secrets.token_hex(16)


def _is_local(origin: str) -> bool:
    """Whether a request comes from no web page or from one of this machine."""
    if not origin:
        return True
    host = urlsplit(origin).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _read(request: web.BaseRequest, bytes_max: int) -> bytes:
    """The whole body; too large a one is refused, if it says so before a byte of it is read."""
    announced = request.content_length
    if announced is not None and announced > bytes_max:
        raise _BodyTooLargeError(f"the body has {announced} bytes, at most {bytes_max} are taken")
    if request.headers.get("Expect", "").lower() == "100-continue":
        # S3 clients hold the body back until they are told to go on; boto3 only for a second, aiobotocore for good.
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # an interim answer is not the beginning of the answer
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > bytes_max:
            raise _BodyTooLargeError(f"the body has more than {bytes_max} bytes")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _error_reply(status: int, code: str, message: str) -> Reply:
    body = orjson.dumps({"__type": code, "message": message})
    return Reply(status, body, [("Content-Type", "application/x-amz-json-1.1")])


def _http(reply: Reply, request: web.BaseRequest) -> web.Response:
    response = web.Response(status=reply.status, body=reply.body)
    names = set()
    for name, value in reply.headers:
        lower = name.lower()
        if lower == "content-length" and request.method != "HEAD":
            continue
        if lower in names or lower == "set-cookie":
            response.headers.add(name, value)
        else:
            response.headers[name] = value
        names.add(lower)
    if not names & {"x-amzn-requestid", "x-amz-request-id"}:
        response.headers["x-amzn-RequestId"] = _request_id()
    return response
