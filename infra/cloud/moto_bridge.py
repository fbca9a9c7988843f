"""The services that moto provides, behind one thread: calls run one after another, so moto's races can't happen.

moto has no locks: two overlapping TransactWriteItems can both win there. Here each call sees the state that the one
before it left.
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

import orjson
import structlog

from infra.cloud.core.engine import ACCOUNT_ID
from infra.cloud.misbehaviour import Reply
from infra.cloud.request_journal import KeptRequest, RequestJournal, upload_id_of
from infra.cloud.service_request import ServiceRequest
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from infra.cloud.moto_application import DeclaredStream, MotoApplication

INSTALL_HINT: Final = "pip install 'headrace[local]'"

_MODULES: Final = ("moto", "flask", "flask_cors")
_SEED_BITS: Final = 48
_SUCCESS: Final = range(200, 300)
_INTERNAL: Final = 500
_FULL: Final = 507
_LOG: Final = structlog.get_logger(__name__)
_Result = TypeVar("_Result")


def missing_modules() -> list[str]:
    """The modules of the extra `local` that are not installed."""
    return [each for each in _MODULES if importlib.util.find_spec(each) is None]


def require_other_services() -> None:
    """Raise ConfigurationError unless DynamoDB, S3 and the others can be served."""
    missing = missing_modules()
    if missing:
        raise ConfigurationError(
            f"the local cloud's DynamoDB, S3 and other services need {', '.join(missing)}, not installed",
            hint=INSTALL_HINT,
        )


class MotoBridge:
    """Calls moto's application in its own thread; keeps changing requests in a journal if there is one."""

    def __init__(self, journal: RequestJournal | None) -> None:
        self._journal = journal
        self._application: MotoApplication | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="moto")

    async def start(self) -> int:
        """Replay the journal, if any; returns the number of requests. Raises ConfigurationError without moto."""
        if self._journal is None:
            return 0
        return await self._in_thread(self._replay)

    async def warm_up(self) -> None:
        """Import moto now rather than at the first request."""
        await self._in_thread(self._loaded)

    async def call(self, request: ServiceRequest) -> Reply:
        """Answer one request to a service other than Kinesis."""
        return await self._in_thread(lambda: self._answer(request))

    async def declared_streams(self) -> list[DeclaredStream]:
        """The Kinesis streams that CloudFormation stacks made inside moto."""
        return await self._in_thread(lambda: self._loaded().declared_streams(ACCOUNT_ID))

    async def close(self) -> None:
        """Finish the call in hand and close the journal."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        if self._journal is not None:
            self._journal.close()

    async def _in_thread(self, function: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    # In the thread.

    def _loaded(self) -> MotoApplication:
        if self._application is None:
            require_other_services()
            from infra.cloud.moto_application import MotoApplication  # noqa: PLC0415 (a second of imports, an extra)

            self._application = MotoApplication()
        return self._application

    def _answer(self, request: ServiceRequest) -> Reply:
        if self._journal is None or not self._journal.keeps(request):
            return self._call(request)
        if self._journal.is_full:
            return _failure(_FULL, "InsufficientStorage", "the data folder holds as many requests as it may (1 GiB)")
        seed = secrets.randbits(_SEED_BITS)
        self._loaded().seed(seed)
        reply = self._call(request)
        if reply.status in _SUCCESS:
            try:
                self._journal.append(KeptRequest(request, seed, upload_id_of(request, reply.body)))
            except OSError as error:
                return _failure(_INTERNAL, "InternalFailure", f"the request could not be kept: {error.strerror}")
        return reply

    def _call(self, request: ServiceRequest) -> Reply:
        application = self._loaded()
        try:
            return application.call(request)
        except Exception as error:  # noqa: BLE001 (moto's own defects, of any kind, must not end the server)
            call = request.call
            _LOG.warning("moto failed", service=call.service, operation=call.operation, error=type(error).__name__)
            return _failure(_INTERNAL, "InternalFailure", f"moto failed with {type(error).__name__}")

    def _replay(self) -> int:
        if self._journal is None:
            return 0
        renamed: dict[str, str] = {}
        count = 0
        for count, kept in enumerate(self._journal.read(), start=1):  # noqa: B007 (the last value is the result)
            request = _renamed(kept.request, renamed)
            self._loaded().seed(kept.seed)
            reply = self._call(request)
            if kept.upload_id:
                renamed[kept.upload_id] = upload_id_of(request, reply.body)
        self._journal.start()
        return count


def _renamed(request: ServiceRequest, renamed: dict[str, str]) -> ServiceRequest:
    """Name the upload that the replay made where the request names the one that was."""
    if "uploadId=" not in request.target:
        return request
    target = request.target
    for before, after in renamed.items():
        target = target.replace(f"uploadId={quote(before, safe='')}", f"uploadId={quote(after, safe='')}")
        target = target.replace(f"uploadId={before}", f"uploadId={quote(after, safe='')}")
    return replace(request, target=target)


def _failure(status: int, code: str, message: str) -> Reply:
    body = orjson.dumps({"__type": code, "message": message})
    return Reply(status, body, [("Content-Type", "application/x-amz-json-1.1")])
