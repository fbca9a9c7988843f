"""Bugs that break: nothing accepted is lost, on the side of the consumer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from consumer import shard_consumer
from consumer.core.checkpoint_tracker import CheckpointTracker, Unit
from consumer.delivery import Delivery
from consumer.shard_consumer import ShardConsumer
from consumer.shard_reader import ShardReader, start_of
from shared.lease import Checkpoint
from shared.records import LATEST, TRIM_HORIZON, RecordPage, Start, StartKind
from tests.simulation.planted.registry import Patch, bug


@bug("a checkpoint is the end of the contiguous acknowledged prefix")
def checkpoint_at_the_highest_acknowledged(patch: Patch) -> None:
    """Let the newest finished unit decide."""

    def advance(self: Any) -> bool:
        done = [unit for unit in self._units if unit.is_done]
        for unit in done:
            self._units.remove(unit)
            self.watermark = max(unit.last, self.watermark or unit.last)
        return bool(done)

    def acknowledge(self: Any, unit: Unit, count: int = 1) -> bool:
        unit.outstanding -= count
        return unit.outstanding == 0 and bool(self._advance())

    patch.setattr(CheckpointTracker, "_advance", advance)
    patch.setattr(CheckpointTracker, "acknowledge", acknowledge)


@bug("a batch is checkpointed after the destination streams have acknowledged it")
def receipts_not_awaited(patch: Patch) -> None:
    """Do not wait."""

    async def wait(self: Any, position: Any) -> None:
        """Return at once."""

    patch.setattr(ShardConsumer, "_wait_for_receipts", wait)


@bug("what was read and not flushed is read again after a stop")
def stop_checkpoints_what_was_read(patch: Patch) -> None:
    """At the start of a drain, checkpoint where reading has got to."""
    original = ShardConsumer.stop

    def stop(self: Any) -> None:
        # Whatever is flushed from now on is checkpointed at the last position that was read.
        commit = self._flusher._commit

        async def commit_all(batch: Any, last: Any) -> None:
            await commit(batch, max(last, self._through or last))

        self._flusher._commit = commit_all
        self._open = self._new_batch()
        self._open.open(self._through, 0.0) if self._through else None
        original(self)

    patch.setattr(ShardConsumer, "stop", stop)


@bug("SHARD_END is stored after everything before it")
def shard_end_before_the_last_batch(patch: Patch) -> None:
    """Forget the open batch at the end of a shard."""
    original = ShardConsumer._read

    async def read(self: Any) -> None:
        await original(self)
        if self._has_ended:
            self._open = self._new_batch()

    patch.setattr(ShardConsumer, "_read", read)


@bug("only a page without a next iterator is the end of a shard")
def empty_page_taken_for_the_end(patch: Patch) -> None:
    """Finish a shard at its first empty page."""
    original = ShardReader.read

    async def read(self: Any) -> RecordPage:
        page = await original(self)
        return page if page.records else replace(page, next_iterator=None)

    patch.setattr(ShardReader, "read", read)


@bug("an expired iterator is replaced at the last position")
def expired_iterator_restarts_at_latest(patch: Patch) -> None:
    """Go on at LATEST."""
    original = ShardReader._get_iterator

    async def get_iterator(self: Any) -> str:
        if getattr(self, "had_one", False):
            self.start = LATEST
        self.had_one = True
        return await original(self)

    patch.setattr(ShardReader, "_get_iterator", get_iterator)


@bug("bad input is kept in the dead letters")
def dead_letters_dropped(patch: Patch) -> None:
    """Count it and forget it."""

    def refuse(self: Any, letter: Any, batch: Any) -> None:
        """Forget."""

    patch.setattr(Delivery, "_refuse", refuse)


@bug("nothing from before the start is read")
def start_time_ignored(patch: Patch) -> None:
    """Start at TRIM_HORIZON."""

    def from_the_beginning(checkpoint: Checkpoint, timestamp: float) -> Start:
        start = start_of(checkpoint, timestamp)
        return TRIM_HORIZON if start.kind is StartKind.AT_TIMESTAMP else start

    patch.setattr(shard_consumer, "start_of", from_the_beginning)
