"""How objects are written: in parts above a size, and with encryption, storage class and tags as set."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from botocore.exceptions import ClientError

from infra.pipeline import write_options_of
from shared.aws.objects import ObjectAdapter, WriteOptions
from shared.aws.session import Aws
from shared.errors import AmbiguousCallError, BucketNotFoundError, ConfigurationError
from shared.limits import MIB
from shared.settings import ConsumerSettings, ObjectEncryption, load_settings

BODY = bytes(range(256)) * 4096 * 17  # 17 MiB: three parts, the last one short
PUT = {"content_type": "application/x-ndjson", "content_encoding": "gzip"}


class Recorder:
    """An S3 client that keeps what was asked of it, and lets a test stand in for an answer."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.stand_ins: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        async def call(**request: Any) -> Any:
            self.requests.append((name, request))
            return await self.stand_ins.get(name, getattr(self._client, name))(**request)

        return call

    @property
    def operations(self) -> list[str]:
        """What was called, in order."""
        return [name for name, _ in self.requests]


@pytest.fixture
async def recorder(aws: Aws, unique: str) -> Recorder:
    """A recorder over a bucket of its own."""
    client = await aws._client("s3", unique)
    await client.create_bucket(Bucket=unique, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    return Recorder(client)


async def uploads(recorder: Recorder, bucket: str) -> list[str]:
    """Return the keys of unfinished uploads."""
    answer = await recorder._client.list_multipart_uploads(Bucket=bucket)
    return [each["Key"] for each in answer.get("Uploads", ())]


async def test_a_large_object_goes_up_in_parts_and_is_written_once(recorder: Recorder, unique: str) -> None:
    """Only the call that completes carries the condition; who comes second is told so and leaves nothing behind."""
    objects = ObjectAdapter(recorder, unique, options=WriteOptions(multipart_bytes_min=16 * MIB))
    assert await objects.put_object("archive/k", BODY, **PUT)
    assert recorder.operations == ["create_multipart_upload", *["upload_part"] * 3, "complete_multipart_upload"]
    conditions = [request.get("IfNoneMatch") for _, request in recorder.requests]
    assert conditions == [None, None, None, None, "*"]
    assert not await objects.put_object("archive/k", BODY[::-1], **PUT)
    assert await objects.get_object("archive/k") == BODY
    described = await recorder._client.head_object(Bucket=unique, Key="archive/k")
    assert (described["ContentType"], described["ContentEncoding"]) == ("application/x-ndjson", "gzip")
    assert await uploads(recorder, unique) == []
    small = len(recorder.requests)
    assert await objects.put_object("archive/small", BODY[: 16 * MIB - 1], **PUT)
    assert recorder.operations[small:] == ["put_object"]


async def test_the_next_owner_aborts_what_a_dead_worker_left(recorder: Recorder, unique: str) -> None:
    """An upload of a pinned key is aborted, others are left alone; its author hears that its call was ambiguous."""
    objects = ObjectAdapter(recorder, unique)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def stalled(**request: Any) -> Any:
        reached.set()
        await go_on.wait()
        # moto fails with a 500 here; the service's own answer is NoSuchUpload.
        assert request["Key"] not in await uploads(recorder, unique)
        raise ClientError({"Error": {"Code": "NoSuchUpload"}}, "CompleteMultipartUpload")

    recorder.stand_ins["complete_multipart_upload"] = stalled
    zombie = asyncio.ensure_future(objects.put_object("archive/k", BODY, **PUT))
    await reached.wait()
    await recorder._client.create_multipart_upload(Bucket=unique, Key="archive/kk")
    assert await uploads(recorder, unique) == ["archive/k", "archive/kk"]
    assert await objects.abort_uploads(["archive/k", "archive/j"]) == 1
    assert await uploads(recorder, unique) == ["archive/kk"]
    go_on.set()
    with pytest.raises(AmbiguousCallError, match="was aborted"):
        await zombie


async def test_a_cancelled_upload_is_aborted(recorder: Recorder, unique: str) -> None:
    """A worker that loses its lease in the middle of an upload leaves no parts to be paid for."""
    objects = ObjectAdapter(recorder, unique)
    reached = asyncio.Event()

    async def stalled(**_request: Any) -> Any:
        reached.set()
        await asyncio.Event().wait()

    recorder.stand_ins["upload_part"] = stalled
    put = asyncio.ensure_future(objects.put_object("archive/k", BODY, **PUT))
    await reached.wait()
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    assert await uploads(recorder, unique) == []


class _TwoAnswers:
    """An S3 client whose list of uploads takes two answers."""

    def __init__(self) -> None:
        self.aborted: list[str] = []

    async def list_multipart_uploads(self, **request: Any) -> Any:
        if request.get("KeyMarker") == "a/1":
            return {"Uploads": [{"Key": "a/2", "UploadId": "u2"}], "IsTruncated": False}
        first = [{"Key": "a/1", "UploadId": "u1"}]
        return {"Uploads": first, "IsTruncated": True, "NextKeyMarker": "a/1", "NextUploadIdMarker": "u1"}

    async def abort_multipart_upload(self, **request: Any) -> None:
        self.aborted.append(request["UploadId"])


async def test_uploads_are_found_on_every_page() -> None:
    """More uploads than one answer holds are all looked at."""
    client = _TwoAnswers()
    assert await ObjectAdapter(client, "b").abort_uploads(["a/1", "a/2"]) == 2
    assert client.aborted == ["u1", "u2"]


@pytest.mark.parametrize("size", [10, 17 * MIB])
async def test_encryption_class_and_tags_reach_the_service(recorder: Recorder, unique: str, size: int) -> None:
    """What the settings say is what the endpoint stores, in one call or in parts."""
    options = write_options_of(
        load_settings(
            ConsumerSettings,
            object_encryption="aws:kms",
            object_kms_key_id="alias/archive",
            storage_class="STANDARD_IA",
            object_tags='{"team": "web + shop", "cost centre": "7"}',
        )
    )
    assert await ObjectAdapter(recorder, unique, options=options).put_object("archive/k", BODY[:size], **PUT)
    client = recorder._client
    described = await client.head_object(Bucket=unique, Key="archive/k")
    assert (described["ServerSideEncryption"], described["SSEKMSKeyId"]) == ("aws:kms", "alias/archive")
    assert described["StorageClass"] == "STANDARD_IA"
    assert recorder.requests[0][1]["BucketKeyEnabled"]  # moto does not say so of an upload in parts
    tags = (await client.get_object_tagging(Bucket=unique, Key="archive/k"))["TagSet"]
    assert {each["Key"]: each["Value"] for each in tags} == {"team": "web + shop", "cost centre": "7"}


def test_nothing_is_asked_for_that_is_not_set() -> None:
    """By default the bucket decides; SSE-S3 has no key; a key without KMS is a mistake."""
    assert WriteOptions().request() == {}
    sse_s3 = write_options_of(ConsumerSettings(object_encryption=ObjectEncryption.S3))
    assert sse_s3.request() == {"ServerSideEncryption": "AES256"}
    no_bucket_key = ConsumerSettings(object_encryption=ObjectEncryption.KMS, object_bucket_key=False)
    assert write_options_of(no_bucket_key).request() == {"ServerSideEncryption": "aws:kms", "BucketKeyEnabled": False}
    with pytest.raises(ConfigurationError, match="not encrypted with KMS"):
        write_options_of(ConsumerSettings(object_kms_key_id="alias/archive"))
    with pytest.raises(ConfigurationError, match="object_tags"):
        load_settings(ConsumerSettings, object_tags={f"t{n}": "" for n in range(11)})


async def test_a_look_at_what_may_be_written_leaves_nothing(recorder: Recorder, unique: str) -> None:
    """It asks for what a put asks for, makes no object and leaves no upload; a bucket that is not there is named."""
    options = WriteOptions(encryption="aws:kms", tags={"team": "web"})
    objects = ObjectAdapter(recorder, unique, options=options)
    await objects.check_write("archive/write-check")
    assert recorder.operations == ["create_multipart_upload", "abort_multipart_upload"]
    assert options.request().items() <= recorder.requests[0][1].items()
    assert (await uploads(recorder, unique), [each async for each in objects.list_objects("")]) == ([], [])
    with pytest.raises(BucketNotFoundError):
        await ObjectAdapter(recorder, "no-such-bucket").check_write("k")
