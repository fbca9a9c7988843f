"""moto's own WSGI application, called in-process: one request in, one reply out.

Importing this module imports moto and Flask, which takes about a second: only the bridge does it, in its thread.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.core.request import (
    PRESERVED_HEADER_NAMES_ENVIRON_KEY,
    environ_key_for_header,
    should_preserve_original_header_name,
)
from moto.kinesis.models import Stream as MotoStream
from moto.kinesis.models import kinesis_backends
from moto.moto_api._internal import mock_random
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from infra.cloud.misbehaviour import Reply
from infra.cloud.service_request import ServiceRequest

_PROPERTIES: Final = "headrace_properties"
_HOP_BY_HOP: Final = frozenset({"connection", "transfer-encoding", "date", "server", "keep-alive"})


@dataclass(frozen=True, slots=True)
class DeclaredStream:
    """A Kinesis stream that a CloudFormation stack made inside moto, with the template's resolved properties."""

    region: str
    name: str
    shard_count: int
    retention_hours: int
    properties: dict[str, Any]


def _hasten() -> None:
    """Have moto answer sooner, if it is made as it was when that was written; any other works as well."""
    try:
        from infra.cloud.moto_speed import hasten  # noqa: PLC0415 - what it takes from moto may not be there

        hasten()
    except (ImportError, AttributeError, LookupError, TypeError):
        return


class MotoApplication:
    """moto's services; their state belongs to the process, so there is one at a time."""

    def __init__(self) -> None:
        # What an earlier cloud in this process left behind is not ours.
        BackendDict.reset()
        reset_model_data()
        self._application = DomainDispatcherApplication(create_backend_app)
        _remember_properties()
        _hasten()

    @staticmethod
    def seed(value: int) -> None:
        """Make the identifiers of the next request depend on this value alone, so that a replay makes the same."""
        mock_random.seed(value)

    def call(self, request: ServiceRequest) -> Reply:
        """Answer one request; not safe to be called from two threads."""
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], _exc_info: object = None
        ) -> Callable[[bytes], object]:
            started.append((status, headers))
            return lambda _chunk: None

        chunks: Iterable[bytes] = self._application(_environ(request), start_response)
        try:
            body = b"".join(chunks)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        status, headers = started[-1]
        kept = [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP]
        return Reply(int(status.split(" ", 1)[0]), body, kept)

    @staticmethod
    def declared_streams(account_id: str) -> list[DeclaredStream]:
        """The Kinesis streams inside moto: only CloudFormation can have made them."""
        return [
            DeclaredStream(
                region=region,
                name=stream.stream_name,
                shard_count=stream.shard_count or 1,
                retention_hours=stream.retention_period_hours,
                properties=getattr(stream, _PROPERTIES, {}),
            )
            for region, backend in kinesis_backends[account_id].items()
            for stream in backend.streams.values()
        ]


def _remember_properties() -> None:
    """Let a stream made by CloudFormation keep its properties: moto itself drops the capacity mode."""
    moto_stream: Any = MotoStream
    original = vars(moto_stream)["create_from_cloudformation_json"].__func__
    if getattr(original, _PROPERTIES, False):
        return

    def create(cls: Any, resource_name: str, cloudformation_json: Any, *args: Any, **kwargs: Any) -> Any:
        stream = original(cls, resource_name, cloudformation_json, *args, **kwargs)
        setattr(stream, _PROPERTIES, dict(cloudformation_json.get("Properties", {})))
        return stream

    setattr(create, _PROPERTIES, True)
    moto_stream.create_from_cloudformation_json = classmethod(create)


def _environ(request: ServiceRequest) -> dict[str, Any]:
    path, _, query = request.target.partition("?")
    host = request.header("host") or "localhost"
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "RAW_URI": request.target,
        "REQUEST_URI": request.target,
        "SERVER_NAME": host.partition(":")[0],
        "SERVER_PORT": host.partition(":")[2] or "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(request.body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    preserved: dict[str, str] = {}
    for name, value in request.headers:
        key = environ_key_for_header(name)
        if should_preserve_original_header_name(name):
            preserved[key] = name
        elif "_" in name or key in {"CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING"}:
            continue  # An underscore must not pass for a dash; the body is whole already.
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ[PRESERVED_HEADER_NAMES_ENVIRON_KEY] = preserved
    return environ
