"""A worker looks at its bucket before it reads: what a flush could never do is refused at the start."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import AccessDeniedError, AmbiguousCallError, BucketNotFoundError, ServiceError, ThrottledError
from tests.unit.consumer.small_cloud import DESTINATIONS, SmallCloud


@pytest.mark.parametrize("error", [BucketNotFoundError("no such bucket"), AccessDeniedError("not yours")])
@pytest.mark.parametrize("refused", ["archive/", "errors/"])
def test_a_bucket_that_cant_be_written_is_refused(
    error: ServiceError, refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Be it for the archive or for the dead letters: nothing is read, delivered or put into the table."""
    cloud = SmallCloud.make()

    async def check_write(key: str) -> None:
        if key.startswith(refused):
            raise error

    async def story() -> None:
        await cloud.put_numbered(0, 10)
        monkeypatch.setattr(cloud.objects, "check_write", check_write)
        with pytest.raises(type(error)):
            await asyncio.wait_for(cloud.worker().run(asyncio.Event()), 10)

    cloud.run(story)
    assert [cloud.delivered(stream) for stream in DESTINATIONS.values()] == [[], []]
    assert (cloud.leases.application, cloud.leases.rows) == (None, {})


def test_an_outage_at_the_start_is_no_refusal() -> None:
    """A bucket that does not answer may be well later: the worker reads and delivers, as those do that run."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 10)
        cloud.network.errors["objects.check_write"] = [AmbiguousCallError("no answer")] * 1000
        cloud.network.errors["objects.put"] = [ThrottledError("slow down")] * 1000
        stop, task, _ = cloud.start(cloud.worker())
        await cloud.until(lambda: len(cloud.delivered("international")) == 10)
        assert cloud.stored() == []
        assert 0 < len(cloud.network.errors["objects.check_write"]) < 1000
        cloud.network.errors.clear()
        await cloud.until(lambda: len(cloud.stored()) == 10)
        stop.set()
        await task

    cloud.run(story)


@pytest.mark.parametrize("failures", [0, 2])
def test_every_prefix_is_looked_at(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions are granted by prefix, and manifests have one of their own; what does not answer is asked again."""
    cloud = SmallCloud.make()
    errors: list[ServiceError] = [ThrottledError("slow down")] * failures
    looked: list[str] = []

    async def check_write(key: str) -> None:
        if errors:
            raise errors.pop()
        looked.append(key)

    async def story() -> None:
        monkeypatch.setattr(cloud.objects, "check_write", check_write)
        stop, task, _ = cloud.start(cloud.worker(manifest_prefix="manifests/"))
        await cloud.until(lambda: bool(cloud.leases.rows))
        stop.set()
        await task

    cloud.run(story)
    assert looked == ["archive/destination=write-check", "errors/write-check", "manifests/write-check"]
