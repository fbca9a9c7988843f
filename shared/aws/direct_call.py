"""A shorter way through aiobotocore's own client, for the two operations that carry the data.

The ordinary way walks the shapes of the service model over every record, twice; that is nine tenths of what a call
costs. The direct way sends a body that is ready and returns the answer's body as it came. Everything between is the
client's own: endpoint, headers, credentials and signature, TLS, proxies, pool and timeouts.
"""

from __future__ import annotations

import asyncio
import inspect
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from botocore.exceptions import ClientError
from botocore.parsers import create_parser

from shared.aws.cbor import CBOR_TYPE, MalformedCborError, decode_cbor

_ERROR_STATUS_MIN: Final = 300
_PROTOCOL: Final = "json"
_REQUEST_KEYS: Final = frozenset(
    {"url_path", "query_string", "method", "headers", "body", "url", "context", "auth_path"}
)


@dataclass(frozen=True, slots=True)
class _Template:
    """The request of the ordinary way, as the client had it just before signing."""

    request: dict[str, Any]
    headers: dict[str, str]
    context: dict[str, Any]

    def fill(self, body: bytes, content_type: str) -> dict[str, Any]:
        """Return a request of its own for one call; signing writes into its headers and its context."""
        retries = {**self.context.get("retries", {}), "attempt": 1, "invocation-id": str(uuid.uuid4())}
        context = {**self.context, "retries": retries}
        headers = dict(self.headers)
        if content_type:
            headers["Content-Type"] = content_type
        return {**self.request, "headers": headers, "context": context, "body": body}


class DirectCall:
    """One operation of one client; `send` is to be used once `is_ready`.

    The first call goes the ordinary way, through `learn`, which keeps the request that the client made. The direct
    way opens only if that request's body is the one we would have sent, byte for byte, and if the client is made as
    expected; otherwise every call goes the ordinary way, with the same results.
    """

    def __init__(self, client: Any, operation: str) -> None:
        self._client = client
        self._operation = operation
        self._model = _operation_model(client, operation)
        self._template: _Template | None = None

    @property
    def is_possible(self) -> bool:
        """Whether the direct way is open, or may be after the next ordinary call."""
        return self._model is not None

    @property
    def is_ready(self) -> bool:
        """Whether `send` may be called."""
        return self._template is not None and self._model is not None

    async def learn(self, call: Callable[[], Awaitable[Any]], body: bytes) -> Any:
        """Make an ordinary call and return its answer; `body` is what the direct way would send for it."""
        event = f"before-call.{self._client.meta.service_model.service_id.hyphenize()}.{self._operation}"

        caller = asyncio.current_task()

        def keep(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
            if asyncio.current_task() is not caller:
                return  # another caller's request: it has a handler of its own
            if params.get("body") == body and params.keys() <= _REQUEST_KEYS:
                self._template = _Template(dict(params), dict(params["headers"]), dict(context))
            else:
                self._model = None

        self._client.meta.events.register_last(event, keep)
        try:
            return await call()
        finally:
            self._client.meta.events.unregister(event, keep)

    async def send(self, body: bytes, content_type: str = "") -> bytes:
        """Send a request and return the body of its answer; `content_type` of both, if it is not JSON.

        Raises what the ordinary way raises: ClientError where the service refused, another botocore error where no
        answer came.
        """
        assert self._template is not None, "learn comes first"
        endpoint = self._client._endpoint  # noqa: SLF001 - `_operation_model` looked at it
        request = await endpoint.create_request(self._template.fill(body, content_type), self._model)
        response = await endpoint.http_session.send(request)
        content: bytes = await response.content
        if response.status_code >= _ERROR_STATUS_MIN:
            told = _as_json(content) if content_type == CBOR_TYPE else content
            answer = {"headers": response.headers, "status_code": response.status_code, "body": told, "context": {}}
            raise ClientError(create_parser(_PROTOCOL).parse(answer, None), self._operation)
        return content


def _as_json(content: bytes) -> bytes:
    """Return a refusal in the form that botocore's parser reads; what is no CBOR stays as it is."""
    try:
        return orjson.dumps(decode_cbor(content))
    except (MalformedCborError, orjson.JSONEncodeError):
        return content


def _operation_model(client: Any, operation: str) -> Any:
    """Return the model of an operation if the client has the private parts that the direct way takes, else None."""
    endpoint = getattr(client, "_endpoint", None)
    create_request = getattr(endpoint, "create_request", None)
    send = getattr(getattr(endpoint, "http_session", None), "send", None)
    if not inspect.iscoroutinefunction(create_request) or not inspect.iscoroutinefunction(send):
        return None
    if list(inspect.signature(create_request).parameters) != ["params", "operation_model"]:
        return None
    service = client.meta.service_model
    return service.operation_model(operation) if service.resolved_protocol == _PROTOCOL else None
