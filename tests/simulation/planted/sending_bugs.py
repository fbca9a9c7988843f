"""Bugs that break: order per session and no loss, on the side of the producer."""

from __future__ import annotations

from typing import Any

from producer.core import batcher, put_outcome
from producer.core.batcher import Batcher
from producer.core.lanes import LaneQueues
from producer.core.put_outcome import Verdict
from producer.sender import Sender
from producer.source_run import SourceRun
from shared.errors import AmbiguousCallError
from shared.records import PutResult
from tests.simulation.planted.registry import Patch, bug


@bug("a lane has one stream record in flight")
def no_lane_blocking(patch: Patch) -> None:
    """Send whatever is there."""
    original = Batcher.__init__

    def init(self: Any, queues: Any, **options: Any) -> None:
        original(self, queues, **(options | {"keeps_order": False}))

    patch.setattr(Batcher, "__init__", init)


@bug("a failed record goes before everything newer of its lane")
def lane_released_on_failure(patch: Patch) -> None:
    """Unblock a lane while its failed record waits for its retry."""
    original = Batcher._retry_later

    def retry_later(self: Any, failed: Any, now: float, random: Any) -> None:
        original(self, failed, now, random)
        for record in failed:
            self.queues.release(record.lanes)

    patch.setattr(Batcher, "_retry_later", retry_later)


@bug("an error code that nobody knows is a failure")
def unknown_code_taken_for_success(patch: Patch) -> None:
    """Retry throttled records only."""
    original = put_outcome.judge

    def judge(result: PutResult, predicted: Any, hash_keys: Any, shard_map: Any) -> Verdict:
        if result.error_code == "SomethingNewException":
            return Verdict.DELIVERED
        return original(result, predicted, hash_keys, shard_map)

    settle = Batcher.settle

    def settle_all(self: Any, batch: Any, results: Any, now: float, random: Any) -> Any:
        known = [
            PutResult("shardId-000000000000", 1) if each.error_code == "SomethingNewException" else each
            for each in results
        ]
        return settle(self, batch, known, now, random)

    patch.setattr(batcher, "judge", judge)
    patch.setattr(Batcher, "settle", settle_all)


@bug("a call without an answer is repeated")
def ambiguous_call_taken_for_success(patch: Patch) -> None:
    """Take every record of it for delivered."""
    original = Sender._take_failure

    def take_failure(self: Any, batch: Any, error: Any) -> None:
        if isinstance(error, AmbiguousCallError):
            self._take_answer(batch, [PutResult(record.shard_id or "x", 1) for record in batch.records])
        else:
            original(self, batch, error)

    patch.setattr(Sender, "_take_failure", take_failure)


@bug("an aggregate that landed outside its shard is sent again")
def misplaced_aggregate_taken_for_success(patch: Patch) -> None:
    """Believe the acknowledgment."""

    def judge(result: PutResult, predicted: Any, hash_keys: Any, shard_map: Any) -> Verdict:
        return Verdict.FAILED if result.error_code else Verdict.DELIVERED

    patch.setattr(batcher, "judge", judge)


@bug("accepted = acknowledged + dead-lettered + queued + spilled, at every instant")
def ledger_off_by_one(patch: Patch) -> None:
    """Count one record too few of every aggregate that is taken apart to be sent again."""
    original = LaneQueues.return_to_front

    def return_to_front(self: Any, records: Any, *, alone: bool = False) -> None:
        original(self, records, alone=alone)
        self.accepted -= len(records) > 1

    patch.setattr(LaneQueues, "return_to_front", return_to_front)


@bug("a second signal leaves the bookmark at what is acknowledged")
def bookmark_passes_what_is_pending_at_hurry(patch: Patch) -> None:
    """Take what is pending for done when the drain is cut short."""
    original = SourceRun._move_bookmark

    async def move_bookmark(self: Any) -> None:
        if self._producer._is_hurried:
            for segment in self._barriers._segments:
                segment.pending = 0
        await original(self)

    patch.setattr(SourceRun, "_move_bookmark", move_bookmark)
