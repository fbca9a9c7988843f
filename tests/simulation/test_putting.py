"""The producer as a library, under misfortune: what it promised arrives once, in order, and nothing bad holds it up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice
from typing import Any

import pytest

from producer.core.batcher import Batcher
from producer.core.bisection import Bisection
from producer.core.lanes import LaneQueues
from producer.core.packer import Packer
from producer.core.rate import ShardRate, ShardRates
from producer.core.shard_map import ShardMap
from producer.core.spill_frame import FileHead
from producer.lane_cutter import LaneCutter
from producer.spill import Spill
from producer.stream_watch import StreamWatch
from shared.lanes import LaneDivision, lane_of
from shared.records import Distribution, PutResult
from tests.simulation.planted.registry import broken_promises
from tests.simulation.putting_draw import PuttingUsage
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
    def refuse(self: Any, records: Any, reason: Any, now: float) -> Any:
        records[0].refusal = reason
        return records[0]

    patch.setattr(Bisection, "refuse", refuse)


def _nothing_tried_behind_a_refused_record(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Packer, "next_single", lambda self, lanes, shard_map: None)


def _what_was_overtaken_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    original = Batcher._settle_singles

    def settle_singles(self: Any, settled: Any, results: Any, settlement: Any) -> None:
        for each in settled:
            each.overtaken = ()
        original(self, settled, results, settlement)

    patch.setattr(Batcher, "_settle_singles", settle_singles)


def _tried_in_vain_and_forgotten(patch: pytest.MonkeyPatch) -> None:
    original = Bisection.go_back

    def go_back(self: Any) -> Any:
        original(self)
        return []

    patch.setattr(Bisection, "go_back", go_back)


def _no_room_lent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LaneQueues, "lend", lambda self, sizes: None)


def _distribution_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    original = StreamWatch._apply

    def apply(self: Any, summary: Any, *, is_first: bool) -> None:
        original(self, replace(summary, distribution=Distribution.USER_PARTITION_KEY), is_first=is_first)

    patch.setattr(StreamWatch, "_apply", apply)


def _aggregated_for_no_shard(patch: pytest.MonkeyPatch) -> None:
    original = StreamWatch._apply

    def apply(self: Any, summary: Any, *, is_first: bool) -> None:
        original(self, summary, is_first=is_first)
        self._batcher.linger.aggregates, self._batcher.follows_shards = self._settings.aggregate, True

    patch.setattr(StreamWatch, "_apply", apply)


def _unordered_failures_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    original = Batcher._settle_plain

    def settle_plain(self: Any, batch: Any, results: Any, settlement: Any) -> Any:
        return original(self, batch, [PutResult("shardId-000000000000", 1) for _ in results], settlement)

    patch.setattr(Batcher, "_settle_plain", settle_plain)


def _unordered_failures_counted_twice(patch: pytest.MonkeyPatch) -> None:
    original = Batcher._settle_plain

    def settle_plain(self: Any, batch: Any, results: Any, settlement: Any) -> Any:
        self.queues.accepted += sum(bool(each.error_code) for each in results)
        return original(self, batch, results, settlement)

    patch.setattr(Batcher, "_settle_plain", settle_plain)


def _cut_lanes_not_blocked(patch: pytest.MonkeyPatch) -> None:
    original = Packer.pack

    def pack(self: Any, batch: Any, shard_map: Any, waiting_since: float) -> None:
        self._keeps_order = shard_map is None or not shard_map.of_lanes(self._queues.division).is_cut
        original(self, batch, shard_map, waiting_since)

    patch.setattr(Packer, "pack", pack)


def _parts_told_apart_by_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LaneDivision, "names", lambda self: [f"{lane_of(start):02x}" for start in self.starts])


def _lanes_cut_while_records_are_under_way(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LaneCutter, "is_settled", True)


def _whole_lanes_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ShardMap, "predict_range", lambda self, start, _: self.predict(start))


def _lanes_without_an_allowance_forgotten(patch: pytest.MonkeyPatch) -> None:
    def free_held(self: Any, now: float) -> None:
        self.held = [held for held in self.held if held[0] > now]

    patch.setattr(Packer, "free_held", free_held)


def _allowance_not_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ShardRates, "take", lambda self, shard_id, size, count=1: None)


def _allowance_of_each_call(patch: pytest.MonkeyPatch) -> None:
    original = ShardRate.refill

    def refill(self: Any, now: float) -> None:
        original(self, now)
        self._at -= 0.05  # what is asked for again and again, is credited again and again

    patch.setattr(ShardRate, "refill", refill)


# Each with a seed that found it when last looked for: it is tried first, as it is most often enough.
_BUGS: dict[Callable[[pytest.MonkeyPatch], None], int] = {
    _spill_not_synced: 2,
    _failed_append_taken_for_done: 0,
    _end_of_a_broken_file_forgotten: 25,
    _emptied_before_it_is_acknowledged: 2,
    _lanes_overtake_the_spill: 2,
    _neighbours_condemned: 10,
    _nothing_tried_behind_a_refused_record: 26,
    _what_was_overtaken_is_forgotten: 3,
    _tried_in_vain_and_forgotten: 38,
    _no_room_lent: 38,
    _distribution_not_looked_at: 4,
    _aggregated_for_no_shard: 4,
    _unordered_failures_taken_for_done: 17,
    _unordered_failures_counted_twice: 12,
    _cut_lanes_not_blocked: 1,
    _parts_told_apart_by_nobody: 1,
    _whole_lanes_only: 16,
    _lanes_cut_while_records_are_under_way: 16,
    _lanes_without_an_allowance_forgotten: 17,
    _allowance_not_taken: 17,
    _allowance_of_each_call: 17,
}
# Where a bug shows in rare worlds only, those are looked for.
_RARE: dict[Callable[[pytest.MonkeyPatch], None], Callable[[PuttingUsage], bool]] = {
    _cut_lanes_not_blocked: lambda usage: usage.has_cut_lanes,
    _parts_told_apart_by_nobody: lambda usage: usage.has_cut_lanes and usage.lanes_fine and usage.is_ordered,
    _whole_lanes_only: lambda usage: usage.has_cut_lanes,
    _lanes_cut_while_records_are_under_way: lambda usage: usage.has_cut_lanes and usage.lanes_fine,
    _nothing_tried_behind_a_refused_record: lambda usage: usage.refusals is not None,
    _what_was_overtaken_is_forgotten: lambda usage: usage.refusals is not None,
    _tried_in_vain_and_forgotten: lambda usage: usage.refusals is not None,
    _no_room_lent: lambda usage: usage.refusals is not None,
    _allowance_not_taken: lambda usage: 0 < usage.shard_rate_percent < 100,
    _allowance_of_each_call: lambda usage: 0 < usage.shard_rate_percent < 100,
}


def _seeds(plant: Callable[[pytest.MonkeyPatch], None]) -> Iterator[int]:
    is_of_use = _RARE.get(plant, lambda _: True)
    yield _BUGS[plant]
    yield from islice((seed for seed in count() if is_of_use(PuttingUsage.draw(seed))), _BUG_WORLDS_MAX)


@pytest.mark.slow
@pytest.mark.parametrize("plant", _BUGS)
def test_a_planted_bug_of_the_library_producer_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that can't fail is worth nothing."""
    plant(monkeypatch)
    assert any(broken_promises(PuttingWorld(seed).run()) for seed in _seeds(plant))
