"""The adapter's uploads in parts over a bucket in memory: whole, once, and aborted when their worker died."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shared.aws.objects import ObjectAdapter, WriteOptions
from shared.errors import AmbiguousCallError, ServiceUnavailableError
from tests.support.fake_objects import FakeObjects
from tests.support.fake_uploads import UploadClient, UploadingObjects
from tests.support.network import ScriptedNetwork

OPTIONS = WriteOptions(multipart_bytes_min=10, part_bytes=4)


def made() -> tuple[ScriptedNetwork, FakeObjects, UploadClient, UploadingObjects]:
    """Return an empty bucket that takes ten bytes and more in parts of four."""
    network = ScriptedNetwork(wall=0.0)
    bucket = FakeObjects(network)
    client = UploadClient(bucket)
    return network, bucket, client, UploadingObjects(client, OPTIONS, 5)


async def test_an_object_in_parts_is_whole_and_written_once() -> None:
    """All parts are in it, in their order; a second one is not written."""
    network, bucket, client, objects = made()
    assert await objects.put_object("k", b"0123456789", content_type="t", content_encoding="gzip")
    assert network.calls == ["objects.create_upload", *["objects.upload_part"] * 3, "objects.put"]
    assert (bucket.objects["k"].body, bucket.objects["k"].content_encoding) == (b"0123456789", "gzip")
    assert not await objects.put_object("k", b"other bytes", content_type="t")
    assert await objects.put_object("small", b"012345678", content_type="t")
    assert (await objects.get_object("k"), bucket.overwritten, client.left_open) == (b"0123456789", [], [])


async def test_uploads_of_the_dead_are_aborted_whoever_else_does_so() -> None:
    """One that another owner aborted between the look and the call keeps no other from being aborted."""
    _, _, client, objects = made()
    for number in range(5):
        await client.create_multipart_upload(Key=f"archive/{number}", ContentType="t")
    original = client.abort_multipart_upload

    async def abort_twice(**request: Any) -> dict[str, Any]:
        await original(**request)
        return await original(**request)

    client.abort_multipart_upload = abort_twice  # type: ignore[method-assign]  # another owner at the same moment
    assert await objects.abort_uploads([f"archive/{number}" for number in (0, 1, 2, 4)]) == 4
    assert client.left_open == ["archive/3"]


async def test_an_upload_that_cannot_be_aborted_keeps_no_other_from_it() -> None:
    """The error comes once all others are gone; the bucket's lifecycle rule removes what is left."""
    _, _, client, objects = made()
    for number in range(3):
        await client.create_multipart_upload(Key=f"archive/{number}", ContentType="t")
    original = client.abort_multipart_upload

    async def fail_for_the_first(**request: Any) -> dict[str, Any]:
        if request["Key"] == "archive/0":
            raise ServiceUnavailableError("down")
        return await original(**request)

    client.abort_multipart_upload = fail_for_the_first  # type: ignore[method-assign]  # S3 is down for one call
    with pytest.raises(ServiceUnavailableError):
        await objects.abort_uploads([f"archive/{number}" for number in range(3)])
    assert client.left_open == ["archive/0"]


async def test_an_upload_that_was_aborted_meanwhile_is_tried_again() -> None:
    """A part for an upload that is gone says nothing about the object."""
    _, _, client, _ = made()

    class Aborted(UploadClient):
        async def upload_part(self, **request: Any) -> dict[str, Any]:
            await self.abort_multipart_upload(UploadId=request["UploadId"])
            return await super().upload_part(**request)

    adapter = ObjectAdapter(Aborted(client.bucket), "bucket", 5, OPTIONS)
    with pytest.raises(AmbiguousCallError, match="aborted"):
        await adapter.put_object("k", b"0123456789", content_type="t")


async def test_an_upload_that_was_looked_for_in_vain_stays_excused_when_its_id_comes_late() -> None:
    """A frozen worker learns of its upload after its successor's only look failed, and dies: nobody could abort it."""
    network, _, client, _ = made()
    call, has_landed, is_awake = network.call, asyncio.Event(), asyncio.Event()

    async def call_late(operation: str, land: Callable[[], Any]) -> Any:
        answer = await call(operation, land)
        if operation == "objects.create_upload":
            has_landed.set()
            await is_awake.wait()
        return answer

    network.call = call_late  # type: ignore[method-assign] # the same, answered late
    frozen = asyncio.create_task(client.create_multipart_upload(Key="archive/0"))
    await has_landed.wait()
    network.scripts["objects.list_uploads"] = [AmbiguousCallError("no answer")]
    with pytest.raises(AmbiguousCallError):
        await client.list_multipart_uploads(Prefix="archive/0")
    is_awake.set()
    await frozen
    assert client.left_open == []
