"""A prepared flush that ends the process whenever it is finished halts its shard; the process and others live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from consumer.care import Care
from consumer.core import transform
from consumer.core.decoding import decode
from shared.errors import ServiceUnavailableError
from shared.lease import Lease
from tests.simulation.loop import PROCESS
from tests.unit.consumer.small_cloud import SmallCloud
from tests.unit.consumer.small_fleet import NotingTelemetry

_DEATHS_MAX = 12
_KILLER = b'"n":3,'


class _Deadly:
    """Kills the process that decodes the killer, for as long as it is on; no process has died of it before."""

    def __init__(self, cloud: SmallCloud, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = False
        self.deaths = 0
        self._cloud = cloud
        monkeypatch.setattr(transform, "decode", self._decode)

    def _decode(self, datas: Sequence[bytes]) -> Any:
        process = PROCESS.get()
        if self.is_on and process is not None and any(_KILLER in each for each in datas):
            self.deaths += 1
            self._cloud.loop.kill(process)
        return decode(datas)


async def _prepare(cloud: SmallCloud) -> None:
    """Leave a prepared flush in every row."""
    await cloud.put_numbered(0, 40)
    cloud.network.errors["objects.put"] = [ServiceUnavailableError("down")] * 1_000
    _, _, process = cloud.start(cloud.worker(flush_seconds=1, worker_id="same"))
    await cloud.until(lambda: all(row.pending is not None for row in _rows(cloud)))
    cloud.loop.kill(process)
    cloud.network.errors.clear()


def _rows(cloud: SmallCloud) -> list[Lease]:
    return [cloud.leases.rows[name] for name in sorted(cloud.leases.rows)] or [Lease("none")]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_flush_that_kills_whoever_finishes_it_halts_its_shard(shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some deaths the process lives, the other shards are stored, and a better release finishes the flush."""
    cloud = SmallCloud.make(shards)
    cloud.telemetry = telemetry = NotingTelemetry()
    deadly = _Deadly(cloud, monkeypatch)

    async def story() -> None:
        await _prepare(cloud)
        deadly.is_on = True
        for _ in range(_DEATHS_MAX + 1):
            stop, task, process = cloud.start(cloud.worker(flush_seconds=1, worker_id="same"))
            for _ in range(400):
                await asyncio.sleep(0.1)
                if not process.alive:
                    break
            else:
                break
        assert process.alive
        assert [row.halted_epoch == row.epoch for row in _rows(cloud)].count(True) == 1
        assert sum(row.pending is not None for row in _rows(cloud)) == 1
        deadly.is_on = False
        stop.set()
        await task
        assert {row.attempts for row in _rows(cloud)} == {0}
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, worker_id="same"))
        await asyncio.sleep(20)
        stop.set()
        await task

    cloud.run(story)
    assert 3 <= deadly.deaths <= _DEATHS_MAX
    assert telemetry.count_of("shard_halted") == 1
    assert sorted(event["n"] for event in cloud.stored()) == list(range(40))


def test_a_flush_of_a_later_release_is_left_to_it() -> None:
    """An older worker gives the shard back, again and again, and lives on for the others."""
    cloud = SmallCloud.make(2)
    cloud.telemetry = telemetry = NotingTelemetry()
    pinned: list[str] = []

    async def story() -> None:
        await _prepare(cloud)
        shard_id, row = min(cloud.leases.rows.items())
        assert row.pending is not None
        pinned.append(row.pending.format_version)
        strange = replace(row.pending, format_version='{"layout":99}')
        cloud.leases.rows[shard_id] = replace(row, pending=strange, owner=None)
        stop, task, process = cloud.start(cloud.worker(flush_seconds=1, worker_id="same"))
        await asyncio.sleep(40)
        assert process.alive
        assert telemetry.count_of("shard_failed") >= 2
        assert [row.pending is not None for row in _rows(cloud)] == [True, False]
        row = cloud.leases.rows[shard_id]
        assert row.pending is not None
        cloud.leases.rows[shard_id] = replace(row, pending=replace(row.pending, format_version=pinned[0]))
        await asyncio.sleep(20)
        stop.set()
        await task

    cloud.run(story)
    assert sorted(event["n"] for event in cloud.stored()) == list(range(40))


def test_a_replay_does_not_count_against_what_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deaths at a replay are forgotten with it, and the records behind it are counted from the first on."""
    cloud = SmallCloud.make()
    deadly = _Deadly(cloud, monkeypatch)
    attempts: list[int] = []

    async def story() -> None:
        await _prepare(cloud)
        deadly.is_on = True
        _, _, process = cloud.start(cloud.worker(flush_seconds=1, worker_id="same"))
        await cloud.until(lambda: not process.alive)
        assert _rows(cloud)[0].attempts == 2
        deadly.is_on = False
        await cloud.put_numbered(40, 45)
        cloud.leases.on_write = lambda _before, after: attempts.append(after.attempts)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, worker_id="same"))
        await asyncio.sleep(20)
        stop.set()
        await task

    cloud.run(story)
    assert list(dict.fromkeys(attempts[:-1])) == [2, 3, 0, 1], "taken, replayed, stored, and begun anew"
    assert sorted(event["n"] for event in cloud.stored()) == list(range(45))


def test_a_replay_looks_at_nothing_while_another_shard_looks_at_a_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is long under way: a death by it would count against the suspect."""
    cloud = SmallCloud.make(3)
    suspects: list[asyncio.Task[Any] | None] = []
    looks: list[bool] = []  # whether it was the suspect's, while there was one
    alone = Care.alone

    @asynccontextmanager
    async def noted(care: Care) -> AsyncIterator[None]:
        async with alone(care):
            suspects.append(asyncio.current_task())
            yield
            suspects.clear()

    def watched(datas: Sequence[bytes]) -> Any:
        if suspects and PROCESS.get() is not None:
            looks.append(asyncio.current_task() in suspects)
        return decode(datas)

    async def story() -> None:
        await _prepare(cloud)
        shard_id, row = min(cloud.leases.rows.items())
        cloud.leases.rows[shard_id] = replace(row, attempts=6, pending=None)
        cloud.network.pages = [1] * 1_000  # so that the others' replays take as long
        monkeypatch.setattr(Care, "alone", noted)
        monkeypatch.setattr(transform, "decode", watched)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, worker_id="same"))
        await asyncio.sleep(30)
        stop.set()
        await task

    cloud.run(story)
    assert len(looks) > 1
    assert all(looks)
    assert sorted(event["n"] for event in cloud.stored()) == list(range(40))
