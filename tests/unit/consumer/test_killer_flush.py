"""A record that was condemned stays condemned while its dead letter is on the way to the bucket."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from consumer.core import transform
from consumer.core.decoding import decode
from shared.errors import ServiceUnavailableError
from tests.simulation.loop import PROCESS
from tests.unit.consumer.small_cloud import SmallCloud

_LIVES_MAX = 15
_LIVES_AFTER = 2
_CALLS = 40
_KILLER = b'{"session_id":"s0","kills":1}'
_SHARD = "shardId-000000000000"


async def _live(cloud: SmallCloud, seconds: float = 40) -> None:
    """Run a worker until it dies or time is over."""
    _, _, process = cloud.start(cloud.worker(flush_seconds=1, lease_duration_seconds=4, worker_id="same"))
    for _ in range(int(seconds * 10)):
        await asyncio.sleep(0.1)
        if not process.alive:
            return
    cloud.loop.kill(process)


def _deadly(cloud: SmallCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode_or_die(datas: Sequence[bytes]) -> Any:
        process = PROCESS.get()
        if process is not None and _KILLER in datas:
            cloud.loop.kill(process)
        return decode(datas)

    monkeypatch.setattr(transform, "decode", decode_or_die)


async def _condemn(cloud: SmallCloud) -> None:
    """Let workers die by the killer until the next one condemns it."""
    await cloud.put_numbered(0, 3)
    await cloud.put(_KILLER, key="s0")
    await cloud.put_numbered(3, 6)
    for _ in range(_LIVES_MAX):
        await _live(cloud)
        if cloud.leases.rows[_SHARD].attempts >= 9:
            return
    pytest.fail("the killer was not found")


def _assert_kept_once(cloud: SmallCloud) -> None:
    letters = cloud.stored("errors/processing-failed/")
    assert [each["errorCode"] for each in letters] == ["ProcessKilled"]
    assert letters[0]["attemptsMade"] >= 9
    assert sorted(event["n"] for event in cloud.stored()) == list(range(6))
    assert cloud.leases.rows[_SHARD].pending is None


@pytest.mark.parametrize("after_landing", [False, True])
def test_a_crash_while_a_condemned_record_is_stored_does_not_try_it_again(
    after_landing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call the next worker dies at, the record becomes one dead letter, and its neighbours stay events."""
    killed: Counter[str] = Counter()
    for kill_at in range(1, _CALLS):
        cloud = SmallCloud.make()
        _deadly(cloud, monkeypatch)
        cloud.run(lambda cloud=cloud, kill_at=kill_at: _story(cloud, kill_at, after_landing=after_landing))
        _assert_kept_once(cloud)
        killed[cloud.network.killed or ""] += 1
    assert killed["objects.put"] >= 2, "of the dead letter, and of what follows"
    assert killed["leases.update"] >= 4, "take, PREPARE and COMMIT among them"


async def _story(cloud: SmallCloud, kill_at: int, *, after_landing: bool) -> None:
    await _condemn(cloud)
    cloud.network.kills_after_landing = after_landing
    cloud.network.kill_at = kill_at
    await _live(cloud)
    for _ in range(_LIVES_AFTER):
        await _live(cloud, 10)


def test_a_stop_while_a_condemned_record_is_stored_does_not_try_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release forgets the attempts, and what was prepared says by itself that its record is not to be looked at."""
    cloud = SmallCloud.make()
    _deadly(cloud, monkeypatch)

    async def story() -> None:
        await _condemn(cloud)
        cloud.network.errors["objects.put"] = [ServiceUnavailableError("down")] * 1000
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1, lease_duration_seconds=4, worker_id="same"))
        await cloud.until(lambda: cloud.leases.rows[_SHARD].pending is not None)
        stop.set()
        await task
        assert cloud.leases.rows[_SHARD].attempts == 0
        cloud.network.errors.clear()
        for _ in range(3):
            await _live(cloud, 15)

    cloud.run(story)
    _assert_kept_once(cloud)
