"""The ObjectStore port over aiobotocore: one S3 bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from posixpath import commonprefix
from typing import Any, Final
from urllib.parse import quote, urlencode

from botocore.exceptions import ClientError

from shared.aws.error_map import aws_errors
from shared.errors import AmbiguousCallError, InvalidRequestError, ServiceError
from shared.limits import MIB, S3_KEY_BYTES_MAX
from shared.ports import StoredObject

_EXISTS: Final = frozenset({"PreconditionFailed", "412"})
_CALL_TIMEOUT_SECONDS: Final = 10.0
_UPLOAD_GONE: Final = "NoSuchUpload"  # completed before, with the answer lost, or aborted by the shard's next owner
_BYTES_PER_SECOND_MIN: Final = 1 * MIB  # a put that is slower than this is given up


class _ExistsError(Exception):
    """The key exists; for this module only."""


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """What objects are written with besides their bytes; empty: as the bucket has it."""

    encryption: str = ""  # AES256 (SSE-S3) or aws:kms (SSE-KMS)
    kms_key_id: str = ""  # of SSE-KMS; empty: the AWS managed key
    bucket_key_enabled: bool = True  # of SSE-KMS: one call to KMS serves many objects
    storage_class: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    multipart_bytes_min: int = 16 * MIB  # an object of at least this size goes up in parts
    part_bytes: int = 8 * MIB  # S3 wants 5 MiB at least, and at most 10,000 parts

    def request(self) -> dict[str, Any]:
        """Return the parameters of PutObject and CreateMultipartUpload."""
        found: dict[str, Any] = {}
        if self.encryption:
            found["ServerSideEncryption"] = self.encryption
        if self.encryption == "aws:kms":
            found["BucketKeyEnabled"] = self.bucket_key_enabled
            if self.kms_key_id:
                found["SSEKMSKeyId"] = self.kms_key_id
        if self.storage_class:
            found["StorageClass"] = self.storage_class
        if self.tags:
            found["Tagging"] = urlencode(self.tags, quote_via=quote)
        return found


class ObjectAdapter:
    """One S3 bucket; objects are written once, with `If-None-Match: *`."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        call_timeout_seconds: float = _CALL_TIMEOUT_SECONDS,
        options: WriteOptions | None = None,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._call_timeout_seconds = call_timeout_seconds
        self._options = options or WriteOptions()

    async def put_object(
        self, key: str, body: bytes, *, content_type: str, content_encoding: str = "", only_if_absent: bool = True
    ) -> bool:
        """Write an object, a large one in parts; False if `only_if_absent` and the key exists (412)."""
        self._check_key(key)
        described: dict[str, Any] = {"ContentType": content_type, **self._options.request()}
        if content_encoding:
            described["ContentEncoding"] = content_encoding
        condition = {"IfNoneMatch": "*"} if only_if_absent else {}
        try:
            if len(body) >= self._options.multipart_bytes_min:
                await self._put_in_parts(key, body, described, condition)
            else:
                await self._call("PutObject", self._client.put_object, key, body, **described, **condition)
        except _ExistsError:
            return False
        return True

    async def check_write(self, key: str) -> None:
        """Begin an upload in parts and abort it: it needs the permission of a put, and makes no object.

        What a crash leaves between the two has no parts: it costs nothing, and the bucket's lifecycle rule removes it.
        """
        begun = await self._call(
            "CreateMultipartUpload", self._client.create_multipart_upload, key, **self._options.request()
        )
        with suppress(ServiceError):
            await self._abort(key, begun["UploadId"])

    async def abort_uploads(self, keys: Collection[str]) -> int:
        """Abort every upload in parts to one of `keys` that somebody left behind; return how many they were.

        Raises ServiceError; of one that can't be aborted only after all the others were.
        """
        wanted = set(keys)
        request: dict[str, Any] = {"Bucket": self._bucket, "Prefix": commonprefix(list(wanted))}
        aborted = 0
        failures: list[ServiceError] = []
        while True:
            with aws_errors("s3", "ListMultipartUploads", self._bucket):
                answer = await self._client.list_multipart_uploads(**request)
            for each in answer.get("Uploads", ()):
                if each["Key"] in wanted:
                    try:
                        await self._abort(each["Key"], each["UploadId"])
                        aborted += 1
                    except ServiceError as error:
                        failures.append(error)
            if not answer.get("IsTruncated"):
                break
            request |= {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}
        if failures:
            raise failures[0]
        return aborted

    async def _put_in_parts(self, key: str, body: bytes, described: dict[str, Any], condition: dict[str, Any]) -> None:
        created = await self._call(
            "CreateMultipartUpload",
            self._client.create_multipart_upload,
            key,
            **described,
            ChecksumAlgorithm="CRC32",
        )
        upload_id = created["UploadId"]
        try:
            parts = []
            for number, start in enumerate(range(0, len(body), self._options.part_bytes), 1):
                part = body[start : start + self._options.part_bytes]
                upload = {"UploadId": upload_id, "PartNumber": number, "ChecksumAlgorithm": "CRC32"}
                answer = await self._call("UploadPart", self._client.upload_part, key, part, **upload)
                sums = {name: answer[name] for name in ("ETag", "ChecksumCRC32") if name in answer}
                parts.append({"PartNumber": number, **sums})
            await self._call(
                "CompleteMultipartUpload",
                self._client.complete_multipart_upload,
                key,
                UploadId=upload_id,
                MultipartUpload={"Parts": parts},
                **condition,
            )
        except BaseException:
            # What can't be aborted now is by the next owner of the shard, or by the bucket's lifecycle rule.
            with suppress(ServiceError, TimeoutError):
                await self._abort(key, upload_id)
            raise

    async def _call(self, operation: str, call: Any, key: str, body: bytes | None = None, **request: Any) -> Any:
        """Make one call of a write, within a deadline; _ExistsError if the condition does not hold."""
        # The SDK waits for `100 Continue` before it sends the body, and no time-out of its own covers that wait.
        seconds = self._call_timeout_seconds + len(body or b"") / _BYTES_PER_SECOND_MIN
        content = {} if body is None else {"Body": body}
        with aws_errors("s3", operation, self._bucket):
            try:
                async with asyncio.timeout(seconds):
                    return await call(Bucket=self._bucket, Key=key, **content, **request)
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code")
                if code == _UPLOAD_GONE:
                    raise AmbiguousCallError(f"The upload of `{key[:200]}` was aborted", code=_UPLOAD_GONE) from error
                if code not in _EXISTS:
                    raise
        raise _ExistsError

    async def _abort(self, key: str, upload_id: str) -> None:
        with aws_errors("s3", "AbortMultipartUpload", self._bucket):
            async with asyncio.timeout(self._call_timeout_seconds):
                try:
                    await self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
                except ClientError as error:
                    if error.response.get("Error", {}).get("Code") != _UPLOAD_GONE:
                        raise

    async def get_object(self, key: str) -> bytes:
        """Read a whole object."""
        self._check_key(key)
        with aws_errors("s3", "GetObject", self._bucket):
            answer = await self._client.get_object(Bucket=self._bucket, Key=key)
            async with answer["Body"] as body:
                data: bytes = await body.read()
        return data

    async def list_objects(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
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
