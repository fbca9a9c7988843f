"""Same seed, same trace, whatever the process and its hash seed: a failure that can't be replayed is of little use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from shared.compiled import OFF
from shared.records import Distribution
from shared.settings import ArchiveFormat, Ordering
from tests.simulation.kinds import KINDS
from tests.simulation.putting_draw import PuttingUsage
from tests.simulation.world import World

_ROOT = Path(__file__).parents[2]
_SEEDS = {"pipeline": (1, 2, 4, 12, 17, 21, 56, 94, 158, 162), "processing": tuple(range(12)), "putting": (3, 12, 22)}
# What can be in a world of the pipeline beside what is in all of them; a comparison has to have seen each.
_FEATURES = {
    "absence": lambda world: world.absence.is_there,
    "archive in columns": lambda world: world.consumer_settings.archive_format is not ArchiveFormat.JSON,
    "damage": lambda world: world.damage.is_there,
    "early hours": lambda world: world.early_hours.is_there,
    "fan-out": lambda world: world.fan_out is not None,
    "fleet": lambda world: world.fleet.is_there,
    "handovers": lambda world: world.handovers.is_there,
    "hours": lambda world: world.hours.is_there,
    "killers": lambda world: world.killers.is_there,
    "operator": lambda world: world.operator.is_there,
    "outage": lambda world: world.outage.is_there,
    "service outage": lambda world: world.service_outage.is_there,
    "uploads": lambda world: world.write_options is not None,
}


def _replay(hash_seed: str, compiled: str = "") -> dict[str, str]:
    """Tell the stories of all kinds in one process: to start it takes longer than most worlds."""
    program = (
        "import json\nfrom tests.simulation.kinds import KINDS\n"
        f"print(json.dumps({{kind: str([KINDS[kind](seed) for seed in seeds]) for kind, seeds in {_SEEDS}.items()}}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=_ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "HEADRACE_COMPILED": compiled},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return cast("dict[str, str]", json.loads(done.stdout))


@pytest.mark.slow
def test_a_seed_tells_the_same_story_in_every_process() -> None:
    """Worlds of one seed agree in every line and every step, in processes that order their sets differently.

    One of these goes without the compiled part: it changes what is done per record, and nothing that anybody can tell.
    """
    here = {kind: str([tell(seed) for seed in _SEEDS[kind]]) for kind, tell in KINDS.items()}
    assert _replay("0") == here
    assert _replay("4242", compiled=OFF) == here


def test_the_library_worlds_compared_have_every_way_to_use_a_stream() -> None:
    """A stream that distributes records itself, one of very many shards, no order, and a share of the shards' rate."""
    usages = [PuttingUsage.draw(seed) for seed in _SEEDS["putting"]]
    assert {each.ordering for each in usages} == set(Ordering)
    assert {each.distribution for each in usages} == set(Distribution)
    assert any(each.has_cut_lanes for each in usages)
    assert any(0 < each.shard_rate_percent < 100 for each in usages)


def test_the_seeds_compared_have_everything_that_can_be_drawn() -> None:
    """What no seed of the comparison has in its world could differ from run to run unseen."""
    worlds = [World(seed) for seed in _SEEDS["pipeline"]]
    missing = [name for name, has in _FEATURES.items() if not any(map(has, worlds))]
    for world in worlds:
        world.loop.close()
    assert not missing
