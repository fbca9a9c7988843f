"""A bucket in memory that takes large objects in parts, as S3 does, behind the adapter that the product uses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from typing import Any, Final

from botocore.exceptions import ClientError

from shared.aws.objects import ObjectAdapter, WriteOptions
from shared.errors import ServiceError
from shared.ports import StoredObject
from tests.support.fake_objects import FakeObjects

_UPLOADS_PER_PAGE: Final = 2


class UploadClient:
    """The calls of aiobotocore's S3 client that write objects, over a FakeObjects.

    `left_open` are the keys of uploads that nobody completed or aborted though their ids came back, and though nothing
    went wrong when they could have been aborted.
    """

    def __init__(self, bucket: FakeObjects) -> None:
        self.bucket = bucket
        self._begun = 0
        self._options: dict[str, dict[str, Any]] = {}  # upload -> what it was begun with
        self._parts: dict[str, dict[int, bytes]] = {}
        self._untold: set[str] = set()  # uploads of whose id no answer has brought word
        self._excused: set[str] = set()  # uploads that somebody tried to abort, or asked for in vain

    @property
    def left_open(self) -> list[str]:
        """See the class."""
        return [each["Key"] for upload, each in self._options.items() if upload not in self._excused | self._untold]

    async def put_object(self, **request: Any) -> dict[str, Any]:
        """PutObject."""
        await self.bucket.network.call("objects.put", lambda: self._land(request["Body"], request, "PutObject"))
        return {}

    async def create_multipart_upload(self, **request: Any) -> dict[str, Any]:
        """CreateMultipartUpload."""

        def land() -> str:
            self._begun += 1
            upload = f"upload-{self._begun:06d}"
            self._options[upload], self._parts[upload] = request, {}
            self._untold.add(upload)
            return upload

        upload = await self.bucket.network.call("objects.create_upload", land)
        self._untold.discard(upload)
        return {"UploadId": upload}

    async def upload_part(self, **request: Any) -> dict[str, Any]:
        """UploadPart."""

        def land() -> None:
            self._parts_of(request, "UploadPart")[request["PartNumber"]] = bytes(request["Body"])

        await self.bucket.network.call("objects.upload_part", land)
        return {"ETag": f"{request['UploadId']}/{request['PartNumber']}"}

    async def complete_multipart_upload(self, **request: Any) -> dict[str, Any]:
        """CompleteMultipartUpload; named as a put, so that what happens at a put happens to it, too."""

        def land() -> None:
            parts = self._parts_of(request, "CompleteMultipartUpload")
            body = b"".join(parts[each["PartNumber"]] for each in request["MultipartUpload"]["Parts"])
            self._land(body, self._options[request["UploadId"]] | request, "CompleteMultipartUpload")
            self._forget(request["UploadId"])

        await self.bucket.network.call("objects.put", land)
        return {}

    async def abort_multipart_upload(self, **request: Any) -> dict[str, Any]:
        """AbortMultipartUpload."""

        def land() -> None:
            self._parts_of(request, "AbortMultipartUpload")
            self._forget(request["UploadId"])

        try:
            await self.bucket.network.call("objects.abort_upload", land)
        except (ServiceError, asyncio.CancelledError):  # the caller's time-out cancels the call
            self._excused.add(request["UploadId"])
            raise
        return {}

    async def list_multipart_uploads(self, **request: Any) -> dict[str, Any]:
        """ListMultipartUploads, in pages of two."""
        after = request.get("KeyMarker", ""), request.get("UploadIdMarker", "")

        def land() -> dict[str, Any]:
            places = sorted((each["Key"], upload) for upload, each in self._options.items())
            left = [each for each in places if each[0].startswith(request["Prefix"]) and each > after]
            page = left[:_UPLOADS_PER_PAGE]
            answer: dict[str, Any] = {
                "Uploads": [{"Key": key, "UploadId": upload} for key, upload in page],
                "IsTruncated": len(left) > len(page),
            }
            if page:
                answer["NextKeyMarker"], answer["NextUploadIdMarker"] = page[-1]
            return answer

        try:
            return await self.bucket.network.call("objects.list_uploads", land)
        except (ServiceError, asyncio.CancelledError):
            self._excused |= {
                upload for upload, each in self._options.items() if each["Key"].startswith(request["Prefix"])
            }
            raise

    def _forget(self, upload: str) -> None:
        del self._options[upload], self._parts[upload]

    def _land(self, body: bytes, request: dict[str, Any], operation: str) -> None:
        try:
            is_written = self.bucket.land(
                request["Key"],
                body,
                content_type=request["ContentType"],
                content_encoding=request.get("ContentEncoding", ""),
                only_if_absent=request.get("IfNoneMatch") == "*",
            )
        except ServiceError as error:
            raise _refusal(error.code, operation) from error
        if not is_written:
            raise _refusal("PreconditionFailed", operation)

    def _parts_of(self, request: dict[str, Any], operation: str) -> dict[int, bytes]:
        if request["UploadId"] not in self._parts:
            raise _refusal("NoSuchUpload", operation)
        return self._parts[request["UploadId"]]


def _refusal(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, operation)


class UploadingObjects:
    """The port `ObjectStore`: written by the product's adapter over an UploadClient, read from the bucket itself."""

    def __init__(self, client: UploadClient, options: WriteOptions, call_timeout_seconds: float) -> None:
        self._bucket = client.bucket
        self._adapter = ObjectAdapter(client, "bucket", call_timeout_seconds, options)

    async def put_object(
        self, key: str, body: bytes, *, content_type: str, content_encoding: str = "", only_if_absent: bool = True
    ) -> bool:
        """Write an object, in parts from a size on."""
        return await self._adapter.put_object(
            key, body, content_type=content_type, content_encoding=content_encoding, only_if_absent=only_if_absent
        )

    async def check_write(self, key: str) -> None:
        """Ask the bucket: an upload that is begun only to see whether that is allowed is no flush's."""
        await self._bucket.check_write(key)

    async def abort_uploads(self, keys: Collection[str]) -> int:
        """Abort uploads to these keys."""
        return await self._adapter.abort_uploads(keys)

    async def get_object(self, key: str) -> bytes:
        """Read a whole object."""
        return await self._bucket.get_object(key)

    def list_objects(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        """Walk all objects below `prefix` in key order."""
        return self._bucket.list_objects(prefix)
