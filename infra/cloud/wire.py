"""The two dialects in which Kinesis is spoken: JSON 1.1 and the CBOR of the Java SDKs."""

from __future__ import annotations

import binascii
import importlib.util
from typing import Any, Final, Protocol

import orjson

from infra.cloud.core.api_error import ApiError

JSON_TYPE: Final = "application/x-amz-json-1.1"
CBOR_TYPE: Final = "application/x-amz-cbor-1.1"

_DEPTH_MAX: Final = 16
_EPOCH_TAG: Final = 1


class Dialect(Protocol):
    """How a request body is read and an answer written."""

    content_type: str

    def decode(self, body: bytes) -> dict[str, Any]:
        """Read a request; SerializationException if it is not a map in this dialect."""

    def encode(self, answer: dict[str, Any]) -> bytes:
        """Write an answer whose blobs and timestamps were made by this dialect."""

    def blob(self, data: bytes) -> Any:
        """Bytes as a value of the answer."""

    def timestamp(self, seconds: float) -> Any:
        """Seconds since 1970 as a value of the answer."""

    def read_blob(self, value: object) -> bytes | None:
        """Bytes of a request's value; None if it is no blob."""

    def read_timestamp(self, value: object) -> float | None:
        """Seconds since 1970 of a request's value; None if it is no timestamp."""


def malformed(message: str) -> ApiError:
    """The refusal of a body or member that has the wrong form."""
    return ApiError("SerializationException", message)


class JsonDialect:
    """Blobs in base64, timestamps in seconds."""

    content_type = JSON_TYPE

    def decode(self, body: bytes) -> dict[str, Any]:
        """Read a JSON object; an empty body is an empty one."""
        try:
            request = orjson.loads(body or b"{}")
        except orjson.JSONDecodeError as error:
            raise malformed(f"The request is not JSON: {error.msg}.") from error
        if not isinstance(request, dict):
            raise malformed("The request is not a JSON object.")
        return request

    def encode(self, answer: dict[str, Any]) -> bytes:
        """Write compact JSON."""
        return orjson.dumps(answer)

    def blob(self, data: bytes) -> str:
        """Base64."""
        return binascii.b2a_base64(data, newline=False).decode("ascii")

    def timestamp(self, seconds: float) -> float:
        """Seconds with milliseconds."""
        return round(seconds, 3)

    def read_blob(self, value: object) -> bytes | None:
        """Strict base64."""
        if not isinstance(value, str):
            return None
        try:
            return binascii.a2b_base64(value, strict_mode=True) if value else b""
        except ValueError:
            return None

    def read_timestamp(self, value: object) -> float | None:
        """A number of seconds."""
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


class CborDialect:
    """Blobs as byte strings, timestamps in milliseconds under tag 1, where plain CBOR would mean seconds."""

    content_type = CBOR_TYPE

    def __init__(self) -> None:
        if importlib.util.find_spec("cbor2") is None:
            raise malformed("CBOR is not understood here: install headrace[local], or send JSON.")
        import cbor2  # noqa: PLC0415 (part of the extra `local`; JSON works without it)

        self._cbor = cbor2

    def decode(self, body: bytes) -> dict[str, Any]:
        """Read a CBOR map; an empty body is an empty one."""
        if not body:
            return {}
        try:
            request = self._cbor.loads(
                body, semantic_decoders={_EPOCH_TAG: lambda value, _immutable: value}, max_depth=_DEPTH_MAX
            )
        except (self._cbor.CBORError, ValueError, RecursionError) as error:
            raise malformed("The request is not CBOR.") from error
        if not isinstance(request, dict):
            raise malformed("The request is not a CBOR map.")
        return request

    def encode(self, answer: dict[str, Any]) -> bytes:
        """Write CBOR."""
        return self._cbor.dumps(answer)

    def blob(self, data: bytes) -> bytes:
        """A byte string."""
        return data

    def timestamp(self, seconds: float) -> Any:
        """Milliseconds under tag 1."""
        return self._cbor.CBORTag(_EPOCH_TAG, round(seconds * 1_000))

    def read_blob(self, value: object) -> bytes | None:
        """A byte string."""
        return value if isinstance(value, bytes) else None

    def read_timestamp(self, value: object) -> float | None:
        """A number of milliseconds."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return value / 1_000


def dialect_of(content_type: str) -> Dialect:
    """The dialect that a request's content type asks for; JSON if it is neither."""
    return CborDialect() if "cbor" in content_type else JsonDialect()


def error_answer(dialect: Dialect, error: ApiError) -> bytes:
    """The body of a refusal."""
    return dialect.encode({"__type": error.code, "message": error.message})
