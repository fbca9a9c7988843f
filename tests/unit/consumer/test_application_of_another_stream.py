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


def test_two_first_starts_at_the_same_moment_do_not_share_a_name() -> None:
    """Both find a table without a row: one of them gets it, the other one is refused before it makes a row."""
    cloud = SmallCloud.make()
    cloud.kinesis.create_stream("wide", 4)

    async def story() -> None:
        streams = (SOURCE, "wide")
        tasks = [cloud.start(cloud.worker(source_stream=stream))[:2] for stream in streams]
        await cloud.until(lambda: bool(cloud.leases.rows) and any(task.done() for _, task in tasks))
        kept = (cloud.leases.application or {})["source_stream"]
        for stream, (stop, task) in zip(streams, tasks, strict=True):
            stop.set()
            if stream == kept:
                await task
                continue
            with pytest.raises(ConfigurationError, match=f"reads stream `{kept}`, not `{stream}`"):
                await task
        assert len(cloud.leases.rows) == (1 if kept == SOURCE else 4)

    cloud.run(story)


def test_a_name_is_another_stream_s_before_it_has_a_row() -> None:
    """The other worker may be about to make one."""
    cloud = SmallCloud.make()

    async def story() -> None:
        stop, task, _ = cloud.start(cloud.worker())
        await cloud.until(lambda: bool(cloud.leases.rows))
        stop.set()
        await task
        cloud.leases.rows.clear()
        async with asyncio.timeout(60):
            with pytest.raises(ConfigurationError, match=f"reads stream `{SOURCE}`"):
                await cloud.worker(source_stream=OTHER).run(asyncio.Event())

    cloud.run(story)
