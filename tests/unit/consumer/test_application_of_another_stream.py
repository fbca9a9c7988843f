"""A worker that comes by another stream's application name is refused before it takes, or changes, anything."""

from __future__ import annotations

import asyncio

import pytest

from shared.errors import ConfigurationError
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud

OTHER = "usa"


def test_an_application_reads_one_stream() -> None:
    """Its shards have the ids of the other stream's: their rows would be taken, and their positions moved."""
    cloud = SmallCloud.make()

    async def story() -> None:
        stop, task, _ = cloud.start(cloud.worker())
        await cloud.put_numbered(0, 10)
        await cloud.until(lambda: len(cloud.stored()) == 10)
        rows, described = dict(cloud.leases.rows), cloud.leases.application
        with pytest.raises(ConfigurationError, match=f"reads stream `{SOURCE}`, not `{OTHER}`") as caught:
            await cloud.worker(source_stream=OTHER).run(asyncio.Event())
        assert "--app" in caught.value.hint
        assert (cloud.leases.application, {*cloud.leases.rows}) == (described, {*rows})
        stop.set()
        await task

    cloud.run(story)


def test_a_name_whose_rows_are_gone_is_free() -> None:
    """Without a row there is nothing to confuse: the table may be used for another stream."""
    cloud = SmallCloud.make()

    async def story() -> None:
        stop, task, _ = cloud.start(cloud.worker())
        await cloud.until(lambda: bool(cloud.leases.rows))
        stop.set()
        await task
        cloud.leases.rows.clear()
        stop, task, _ = cloud.start(cloud.worker(source_stream=OTHER))
        await cloud.until(lambda: (cloud.leases.application or {})["source_stream"] == OTHER)
        stop.set()
        await task

    cloud.run(story)
