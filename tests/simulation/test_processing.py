"""The library's promises, under misfortune: each record handled, in the order of its key, before it is checkpointed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from consumer import handover
from consumer.core.record import Record
from consumer.handover import Handover, _Lane
from tests.simulation.planted.registry import broken_promises
from tests.simulation.processing_world import ProcessingWorld

_WORLDS = 120
_BUG_WORLDS_MAX = 60


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, _WORLDS, 20))
def test_a_function_sees_every_record_in_order_before_its_checkpoint(first: int) -> None:
    """Kills, freezes, reshardings, outages and poison: nothing is skipped, reordered or checkpointed too early."""
    broken = {seed: found for seed in range(first, first + 20) if (found := ProcessingWorld(seed).run())}
    assert not broken


def _lanes_not_awaited(patch: pytest.MonkeyPatch) -> None:
    original, tasks = _Lane.run, []

    async def run(self: Any) -> None:
        tasks.append(asyncio.get_running_loop().create_task(original(self)))

    patch.setattr(_Lane, "run", run)


def _failed_call_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    async def again(self: Any, batch: Any, error: Any) -> None:
        """Forget the batch."""

    patch.setattr(_Lane, "_again", again)


def _halves_in_the_wrong_order(patch: pytest.MonkeyPatch) -> None:
    async def look_closer(self: Any, batch: Any, error: Any) -> None:
        if len(batch) > 1:
            middle = len(batch) // 2
            self._batches += [batch[:middle], batch[middle:]]
            return
        await self._reject(batch[0], error, 1)

    patch.setattr(_Lane, "_look_closer", look_closer)


def _keys_in_several_lanes(patch: pytest.MonkeyPatch) -> None:
    def lanes_of(records: Sequence[Record], lanes_max: int) -> list[list[Record]]:
        return [each for each in (list(records[lane::lanes_max]) for lane in range(lanes_max)) if each]

    patch.setattr(handover, "lanes_of", lanes_of)


def _followers_not_held_back(patch: pytest.MonkeyPatch) -> None:
    def judge(records: Sequence[Record], outcomes: Any) -> Any:
        if outcomes is None:
            return [], []
        first = next((record for record, each in zip(records, outcomes, strict=True) if each is not None), None)
        return [], [] if first is None else [first]

    patch.setattr(handover, "judge", judge)


def _letters_not_kept(patch: pytest.MonkeyPatch) -> None:
    async def reject(self: Any, record: Any, error: Any, attempts: Any) -> None:
        """Forget the record."""

    patch.setattr(Handover, "reject", reject)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant",
    [
        _lanes_not_awaited,
        _failed_call_taken_for_done,
        _halves_in_the_wrong_order,
        _keys_in_several_lanes,
        _followers_not_held_back,
        _letters_not_kept,
    ],
)
def test_a_planted_bug_of_the_library_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that can't fail is worth nothing."""
    plant(monkeypatch)
    assert any(broken_promises(ProcessingWorld(seed).run()) for seed in range(_BUG_WORLDS_MAX))
