"""Every kind of simulated world, by name: a seed is all that it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tests.simulation.processing_world import ProcessingWorld
from tests.simulation.putting_world import PuttingWorld
from tests.simulation.world import run_seed


@dataclass(frozen=True, slots=True)
class Replay:
    """By what two runs of one seed are compared."""

    trace: str
    steps: int


def _pipeline(seed: int) -> Replay:
    outcome = run_seed(seed, lines_max=1)
    return Replay(outcome.trace, outcome.steps)


def _processing(seed: int) -> Replay:
    world = ProcessingWorld(seed)
    world.run()
    return Replay(world.story.trace, world.loop.steps)


def _putting(seed: int) -> Replay:
    world = PuttingWorld(seed)
    world.run()
    return Replay(world.story.trace, world.loop.steps)


KINDS: Final[Mapping[str, Callable[[int], Replay]]] = {
    "pipeline": _pipeline,
    "processing": _processing,
    "putting": _putting,
}
