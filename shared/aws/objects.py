"""The ObjectStore port over aiobotocore: one S3 bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from botocore.exceptions import ClientError

from shared.aws.error_map import aws_errors
from shared.errors import InvalidRequestError
from shared.limits import MIB, S3_KEY_BYTES_MAX
from shared.ports import StoredObject

_EXISTS: Final = frozenset({"PreconditionFailed", "412"})
_CALL_TIMEOUT_SECONDS: Final = 10.0
_BYTES_PER_SECOND_MIN: Final = 1 * MIB  # a put that is slower than this is given up


class ObjectAdapter:
    """One S3 bucket; objects are written once, with `If-None-Match: *`."""

    def __init__(self, client: Any, bucket: str, call_timeout_seconds: float = _CALL_TIMEOUT_SECONDS) -> None:
        self._client = client
        self._bucket = bucket
        self._call_timeout_seconds = call_timeout_seconds

    async def put_object(
        self, key: str, body: bytes, *, content_type: str, content_encoding: str = "", only_if_absent: bool = True
    ) -> bool:
        """Write an object; False if `only_if_absent` and the key exists (412)."""
        self._check_key(key)
        request: dict[str, Any] = {"Bucket": self._bucket, "Key": key, "Body": body, "ContentType": content_type}
        if content_encoding:
            request["ContentEncoding"] = content_encoding
        if only_if_absent:
            request["IfNoneMatch"] = "*"
        # The SDK waits for `100 Continue` before it sends the body, and no time-out of its own covers that wait.
        seconds = self._call_timeout_seconds + len(body) / _BYTES_PER_SECOND_MIN
        with aws_errors("s3", "PutObject", self._bucket):
            try:
                async with asyncio.timeout(seconds):
                    await self._client.put_object(**request)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in _EXISTS:
                    return False
                raise
        return True

    async def get_object(self, key: str) -> bytes:
        """Read a whole object."""
        self._check_key(key)
        with aws_errors("s3", "GetObject", self._bucket):
            answer = await self._client.get_object(Bucket=self._bucket, Key=key)
            async with answer["Body"] as body:
                data: bytes = await body.read()
        return data

    async def list_objects(self, prefix: str) -> AsyncIterator[StoredObject]:
        """Walk all objects below `prefix` in key order."""
        request: dict[str, Any] = {"Bucket": self._bucket, "Prefix": prefix}
        while True:
            with aws_errors("s3", "ListObjectsV2", self._bucket):
                answer = await self._client.list_objects_v2(**request)
            for each in answer.get("Contents", ()):
                yield StoredObject(key=each["Key"], size=each["Size"])
            if not answer.get("IsTruncated"):
                return
            request["ContinuationToken"] = answer["NextContinuationToken"]

    def _check_key(self, key: str) -> None:
        # Without the SDK's validation an empty key would address the bucket itself: its creation, its listing.
        size = len(key.encode())
        if not 1 <= size <= S3_KEY_BYTES_MAX:
            raise InvalidRequestError(
                f"An object key for bucket `{self._bucket}` has {size:,} bytes; 1 to {S3_KEY_BYTES_MAX:,} are allowed",
                hint="Shorten the prefix",
            )
