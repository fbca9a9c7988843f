"""Three workers as processes share four shards while they are killed, stopped, ended and the stream is resharded.

FLEET_BLOWS=30 strikes that often; `-s` shows the standstills; FLEET_LEASE_SECONDS=3 suits a busy machine.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from infra.cloud.process import LocalCloudProcess
from tests.acceptance.conftest import Shell, clean_environment
from tests.acceptance.fleet import LEASE_SECONDS, SHARDS, Fleet, Load, Watch, wait_until
from tests.acceptance.test_kill_consumer import count_lines
from tests.acceptance.test_order_resharding import split, wait_until_active

WORKERS: Final = 3
BLOWS: Final = int(os.environ.get("FLEET_BLOWS", "4"))
KINDS: Final = ("kill", "freeze", "split", "merge", "terminate")
STANDSTILL_SECONDS_MAX: Final = LEASE_SECONDS + 5


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Give the test an application on a cloud of its own."""
    with LocalCloudProcess(status_delay_seconds=0.1) as cloud:
        made = Fleet(Shell(clean_environment() | cloud.environment(), tmp_path), tmp_path)
        made.provision()
        try:
            yield made
        finally:
            made.end_all()


def width(shard: dict[str, Any]) -> int:
    """Return how many hash keys a shard has."""
    keys = shard["HashKeyRange"]
    return int(keys["EndingHashKey"]) - int(keys["StartingHashKey"])


def strike(fleet: Fleet, watch: Watch, kind: str, chance: random.Random) -> str:
    """Deal one blow and return its kind; a worker that it ends is replaced at once."""
    member = chance.choice(fleet.members)
    match kind:
        case "kill":
            fleet.end(member, signal.SIGKILL)
            fleet.add()
        case "terminate":
            assert fleet.end(member, signal.SIGTERM) == 0
            fleet.add()
        case "freeze":
            member.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: member.worker_id not in watch.owners(), "others have what a frozen worker had")
            member.process.send_signal(signal.SIGCONT)
        case _:
            return reshard(fleet, kind)
    return kind


def reshard(fleet: Fleet, kind: str) -> str:
    """Split the widest shard, or merge the two neighbours that are narrowest together, if there are enough."""
    client, stream = fleet.shell.client("kinesis"), fleet.named["source"]
    shards = wait_until_active(client, stream)
    if len(shards) <= SHARDS or (kind == "split" and len(shards) < SHARDS + 2):
        split(client, stream, max(shards, key=width))
        return "split"
    low, high = min(itertools.pairwise(shards), key=lambda pair: width(pair[0]) + width(pair[1]))
    client.merge_shards(StreamName=stream, ShardToMerge=low["ShardId"], AdjacentShardToMerge=high["ShardId"])
    return "merge"


def restart_all(fleet: Fleet, watch: Watch, *, is_surge: bool) -> None:
    """Replace each worker; in a surge, the new one has a part before the old one is ended."""
    for member in list(fleet.members):
        moment = time.monotonic()
        fleet.add()
        if is_surge:
            wait_until(lambda since=moment: fleet.has_settled(watch, since), "a start")  # type: ignore[misc] # mypy on defaults
            moment = time.monotonic()
        assert fleet.end(member, signal.SIGTERM) == 0
        wait_until(lambda since=moment: fleet.has_settled(watch, since), "a restart")  # type: ignore[misc] # mypy on defaults


def tell(title: str, figures: dict[str, Any]) -> None:
    """Print figures for whoever runs this with -s."""
    sys.stdout.write(f"\n{title}: {json.dumps(figures)}\n")


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_blows_to_a_fleet_lose_double_and_hold_up_nothing(fleet: Fleet) -> None:
    """Killed, frozen, ended, resharded, restarted one by one: each event is stored once, and no shard stands long."""
    chance = random.Random(23)
    watch = Watch(fleet.shell.client("dynamodb"), fleet.named["app"])
    load = Load(fleet.shell, fleet.named["source"])
    with watch.running(), load.running():
        for _ in range(WORKERS):
            fleet.add()
        wait_until(lambda: fleet.has_settled(watch, 0), "a start")
        began_at = time.monotonic()
        struck: list[str] = []
        while len(struck) < BLOWS:
            kind = KINDS[len(struck)] if len(struck) < len(KINDS) else chance.choice(KINDS)
            moment = time.monotonic()
            struck.append(strike(fleet, watch, kind, chance))
            wait_until(lambda since=moment: fleet.has_settled(watch, since), f"a recovery from {kind}")  # type: ignore[misc] # mypy on defaults
        restarted_at = time.monotonic()
        walls = [time.time()]
        for is_surge in (False, True):
            restart_all(fleet, watch, is_surge=is_surge)
            walls.append(time.time())
        ended_at = time.monotonic()
        accepted = load.finish()
        wait_until(lambda: watch.is_quiet(2 * LEASE_SECONDS), "the end")
    blows = watch.longest(began_at, restarted_at)
    restarts = watch.longest(restarted_at, ended_at)
    tell("blows", {kind: struck.count(kind) for kind in KINDS})
    tell("longest standstill in seconds, blows", blows)
    tell("longest standstill in seconds, rolling restart", restarts)
    report = fleet.audit()
    for title, since, until in zip(("one by one", "each started before another ends"), walls, walls[1:], strict=False):
        tell(f"longest gap between two events in seconds, restarted {title}", fleet.gaps(since, until))
    for member in list(fleet.members):
        assert fleet.end(member, signal.SIGTERM) == 0

    tell("audit", report)
    assert report["verdict"] == "ok", report
    assert (report["lost"], report["duplicated_in_s3"], report["out_of_order"]) == (0, 0, 0)
    assert report["in_s3"] == report["acknowledged"] == accepted
    found = count_lines(fleet.shell, fleet.named["bucket"])
    assert (len(found), sum(found.values())) == (accepted, accepted)
    assert len(blows) > SHARDS, "children of a split or a merge were watched, too"
    assert max(blows.values()) <= STANDSTILL_SECONDS_MAX, blows
    assert max(restarts.values()) <= STANDSTILL_SECONDS_MAX, restarts
    assert fleet.logged("lease_handed_over") >= WORKERS
    assert fleet.logged("lease_lost") >= struck.count("freeze")
