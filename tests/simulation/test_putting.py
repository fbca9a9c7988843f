"""The producer as a library, under misfortune: what it promised arrives once, in order, and nothing bad holds it up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from producer.core.bisection import Bisection
from producer.core.spill_frame import FileHead
from producer.spill import Spill
from tests.simulation.putting_world import PuttingWorld
from tests.support.fake_files import FakeFiles

_WORLDS = 40
_BUG_WORLDS_MAX = 60


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, _WORLDS, 10))
def test_what_a_library_user_was_promised_arrives(first: int) -> None:
    """Kills, freezes, power losses, bad disks, reshardings and refused events: each seed's promises hold."""
    broken = {seed: found for seed in range(first, first + 10) if (found := PuttingWorld(seed).run())}
    assert not broken


def _spill_not_synced(patch: pytest.MonkeyPatch) -> None:
    original = FakeFiles.append

    async def append(self: Any, path: str, data: bytes, *, durable: bool) -> None:
        await original(self, path, data, durable=durable and not path.endswith(".spill"))

    patch.setattr(FakeFiles, "append", append)


def _failed_append_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, taken: Any) -> None:
        for each in taken:
            self._queues.lanes[each.lane].spilled -= 1
            self._waiting_bytes -= len(each.frame)
            if not each.written.done():
                each.written.set_result(True)

    patch.setattr(Spill, "_refuse", refuse)


def _end_of_a_broken_file_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("producer.spill.FileHead", lambda number, *_: FileHead(number))


def _emptied_before_it_is_acknowledged(patch: pytest.MonkeyPatch) -> None:
    original = Spill.settle

    async def settle(self: Any) -> None:
        self._barriers.reached = lambda: self._read_place
        await original(self)

    patch.setattr(Spill, "settle", settle)


def _lanes_overtake_the_spill(patch: pytest.MonkeyPatch) -> None:
    original = Spill.put

    async def put(self: Any, *record: Any) -> bool:
        is_written = await original(self, *record)
        for lane in self._queues.lanes:
            lane.spilled = 0
        return is_written

    patch.setattr(Spill, "put", put)


def _neighbours_condemned(patch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, records: Any, now: float) -> Any:
        return records[0]

    patch.setattr(Bisection, "refuse", refuse)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant",
    [
        _spill_not_synced,
        _failed_append_taken_for_done,
        _end_of_a_broken_file_forgotten,
        _emptied_before_it_is_acknowledged,
        _lanes_overtake_the_spill,
        _neighbours_condemned,
    ],
)
def test_a_planted_bug_of_the_library_producer_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that can't fail is worth nothing."""
    plant(monkeypatch)
    assert any(PuttingWorld(seed).run() for seed in range(_BUG_WORLDS_MAX))
