"""Planted bugs: each breaks one rule of the product, to prove that the simulation would notice."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from consumer import worker
from consumer.archive import Archive
from consumer.core import lease_planner, shard_graph
from consumer.core.checkpoint_tracker import CheckpointTracker, Unit
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.lease_planner import LeasePlanner
from consumer.delivery import Delivery
from consumer.flusher import Flusher
from consumer.lease_table import HeldLease, LeaseTable
from consumer.shard_consumer import ShardConsumer
from consumer.shard_reader import ShardReader
from producer.bookmark import BookmarkStore
from producer.core import batcher, put_outcome
from producer.core.barriers import Barriers
from producer.core.batcher import Batcher
from producer.core.line_framer import LineFramer
from producer.core.put_outcome import Verdict
from producer.dead_letters import DeadLetters
from producer.producer import Producer
from producer.tailer import Tailer
from shared.errors import AmbiguousCallError, ServiceError
from shared.lease import AT_LATEST, SHARD_END, Checkpoint, Lease, LeaseChange, LeaseExpectation
from shared.ports import ConditionFailedError
from shared.records import LATEST, PutResult, RecordPage

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Bug:
    """A broken rule. `harmless` says why nothing can be noticed, for those that another rule makes up for."""

    name: str
    rule: str
    plant: Callable[[Patch], None]
    harmless: str = ""


BUGS: Final[dict[str, Bug]] = {}


def bug(rule: str, *, harmless: str = "") -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a planted bug under its function's name; `rule` is the rule that it breaks."""

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        BUGS[plant.__name__] = Bug(plant.__name__, rule, plant, harmless)
        return plant

    return register


# S3 exactly once.


@bug("objects are put before the checkpoint moves")
def checkpoint_before_put(patch: Patch) -> None:
    """Commit, then put."""

    async def flush(self: Any, batch: Any) -> None:
        if batch.last is None:
            return
        pending = self._archive.prepare(self._held.shard_id, batch)
        await self._commit(batch, batch.last)
        if pending is not None:
            await self._put(self._archive, pending, batch)

    patch.setattr(Flusher, "flush", flush)


@bug("a boundary is fenced in the lease row before the first object is put")
def put_without_prepare(patch: Patch) -> None:
    """Put, then commit."""

    async def flush(self: Any, batch: Any) -> None:
        if batch.last is None:
            return
        pending = self._archive.prepare(self._held.shard_id, batch)
        if pending is not None:
            await self._put(self._archive, pending, batch)
        await self._commit(batch, batch.last)

    patch.setattr(Flusher, "flush", flush)


@bug("a new owner finishes the flush that was pending before anything else")
def pending_ignored(patch: Patch) -> None:
    """Start reading at the checkpoint, whatever is pending."""

    async def replay(self: Any, pending: Any) -> None:
        """Do nothing."""

    patch.setattr(ShardConsumer, "_replay", replay)


@bug("a new owner finishes the flush that was pending before anything else")
def pending_dropped_with_its_range(patch: Patch) -> None:
    """Take the pending flush for done."""

    async def replay(self: Any, pending: Any) -> None:
        await self._held.write(LeaseChange(checkpoint=Checkpoint.at(pending.last), pending=None))

    patch.setattr(ShardConsumer, "_replay", replay)


@bug("a replay rebuilds exactly the pinned range")
def replay_beyond_its_boundary(patch: Patch) -> None:
    """Read on to the end of the page."""
    original = ShardConsumer._cut

    def cut(self: Any, records: Any, after: Any, through: Any = None) -> Any:
        return original(self, records, after, None)

    patch.setattr(ShardConsumer, "_cut", cut)


@bug("objects are written with If-None-Match")
def only_if_absent_left_out(patch: Patch) -> None:
    """Overwrite what is there."""
    original = Archive._put_one

    async def put_one(self: Any, key: str, body: bytes, *, is_compressed: bool) -> bool:
        objects = self._objects

        class Overwriting:
            async def put_object(self, key: str, body: bytes, **options: Any) -> bool:
                return bool(await objects.put_object(key, body, **(options | {"only_if_absent": False})))

        self._objects = Overwriting()
        try:
            return await original(self, key, body, is_compressed=is_compressed)
        finally:
            self._objects = objects

    patch.setattr(Archive, "_put_one", put_one)


@bug("an infrastructure error is retried until the object is there")
def failed_put_taken_for_done(patch: Patch) -> None:
    """Swallow errors of PutObject."""

    async def put_one(self: Any, key: str, body: bytes, *, is_compressed: bool) -> bool:
        try:
            return bool(await self._objects.put_object(key, body, content_type="t", content_encoding=""))
        except ServiceError:
            return False

    patch.setattr(Archive, "_put_one", put_one)


@bug("a flush is committed when all of its objects are there")
def first_object_of_a_flush_only(patch: Patch) -> None:
    """Write only the first key of several."""

    async def put(self: Any, pending: Any, batch: Any) -> int:
        lines = batch.lines_of(batch.slots[0])
        return len(lines) if await self._put_one(pending.keys[0], bytes(lines), is_compressed=False) else 0

    patch.setattr(Archive, "put", put)


# Checkpoint and acknowledgment.


@bug("a checkpoint is the end of the contiguous acknowledged prefix")
def checkpoint_at_the_highest_acknowledged(patch: Patch) -> None:
    """Let the newest finished unit decide."""

    def advance(self: Any) -> bool:
        done = [unit for unit in self._units if unit.is_done]
        for unit in done:
            self._units.remove(unit)
            self.watermark = max(unit.last, self.watermark or unit.last)
        return bool(done)

    def acknowledge(self: Any, unit: Unit) -> bool:
        unit.outstanding -= 1
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
    original = ShardConsumer._end

    def end(self: Any, page: RecordPage) -> None:
        self._open = self._new_batch()
        original(self, page)

    patch.setattr(ShardConsumer, "_end", end)


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
            self._start = LATEST
        self.had_one = True
        return await original(self)

    patch.setattr(ShardReader, "_get_iterator", get_iterator)


@bug("bad input is kept in the dead letters")
def dead_letters_dropped(patch: Patch) -> None:
    """Count it and forget it."""

    def refuse(self: Any, letter: Any, batch: Any) -> None:
        """Forget."""

    patch.setattr(Delivery, "_refuse", refuse)


# Duplicates.


@bug("an event at or below its mark is dropped")
def duplicates_not_dropped(patch: Patch) -> None:
    """Let everything through."""
    patch.setattr(DuplicateMarks, "is_duplicate", lambda self, event_id: False)


@bug("marks are kept per source and lane")
def marks_per_source(patch: Patch) -> None:
    """Forget the lane."""
    original = DuplicateMarks.is_duplicate

    def is_duplicate(self: Any, event_id: str) -> bool:
        parts = event_id.split(".")
        return original(self, f"{parts[0]}.00.{parts[2]}" if len(parts) == 3 else event_id)

    patch.setattr(DuplicateMarks, "is_duplicate", is_duplicate)


@bug("marks are stored with the checkpoint")
def marks_not_saved(patch: Patch) -> None:
    """Store none."""

    async def commit(self: Any, batch: Any, last: Any) -> None:
        batch.marks = {}
        await original(self, batch, last)

    original = Flusher._commit
    patch.setattr(Flusher, "_commit", commit)


@bug("marks are those of the moment at which the batch was closed")
def marks_of_a_later_moment(patch: Patch) -> None:
    """Take the marks when they are stored: by then they cover events that the checkpoint does not."""
    original = ShardConsumer._new_batch

    def new_batch(self: Any) -> Any:
        batch = original(self)
        marks = self._marks

        class Live(type(batch)):  # type: ignore[misc] - made of whatever the product uses
            @property
            def marks(self) -> Mapping[str, int]:
                return dict(marks.snapshot())

            @marks.setter
            def marks(self, value: Any) -> None:
                """Ignore the snapshot."""

        batch.__class__ = Live
        return batch

    patch.setattr(ShardConsumer, "_new_batch", new_batch)


@bug("children inherit the marks of their parents")
def marks_not_inherited(patch: Patch) -> None:
    """Start children with none."""
    patch.setattr(shard_graph, "merge_marks", lambda rows: {})


@bug("the child of a merge inherits the higher mark of both parents")
def marks_of_one_parent(patch: Patch) -> None:
    """Take the marks of the first parent only."""
    patch.setattr(shard_graph, "merge_marks", lambda rows: dict(next((row.marks for row in rows), {})))


# Fence.


@bug("a data write is conditional on the row's version")
def no_version_in_the_fence(patch: Patch) -> None:
    """Check owner and epoch only."""
    _weaken_fence(patch, lambda expected: replace(expected, version=LeaseExpectation().version))


@bug("a data write is conditional on owner, epoch and version")
def no_fence(patch: Patch) -> None:
    """Check nothing."""
    _weaken_fence(patch, lambda expected: LeaseExpectation())


def _weaken_fence(patch: Patch, weaken: Callable[[LeaseExpectation], LeaseExpectation]) -> None:
    original = HeldLease.write

    async def write(self: Any, change: LeaseChange) -> None:
        store = self._store

        class Weak:
            async def update_lease(self, shard_id: str, expected: LeaseExpectation, made: LeaseChange) -> Lease:
                return await store.update_lease(shard_id, weaken(expected), made)

        self._store = Weak()
        try:
            await original(self, change)
        finally:
            self._store = store

    patch.setattr(HeldLease, "write", write)


@bug("a lease is taken only if it is as it was seen")
def take_without_condition(patch: Patch) -> None:
    """Write owner and epoch unconditionally."""
    original = LeaseTable.take

    async def take(self: Any, seen: Lease) -> Any:
        store = self._store

        class Weak:
            async def update_lease(self, shard_id: str, expected: LeaseExpectation, made: LeaseChange) -> Lease:
                return await store.update_lease(shard_id, LeaseExpectation(), made)

        self._store = Weak()
        try:
            return await original(self, seen)
        finally:
            self._store = store

    patch.setattr(LeaseTable, "take", take)


@bug(
    "each take raises the epoch",
    harmless="owner and version are in the condition, too, and no two takers write under one version",
)
def epoch_not_raised(patch: Patch) -> None:
    """Take with the epoch of the one before."""
    original = LeaseTable.take

    async def take(self: Any, seen: Lease) -> Any:
        store = self._store

        class Weak:
            async def update_lease(self, shard_id: str, expected: LeaseExpectation, made: LeaseChange) -> Lease:
                return await store.update_lease(shard_id, expected, replace(made, epoch=seen.epoch))

        self._store = Weak()
        try:
            return await original(self, seen)
        finally:
            self._store = store

    patch.setattr(LeaseTable, "take", take)


@bug(
    "a worker that has lost its lease stops",
    harmless="its next data write is refused; until then it only puts into streams, at least once as promised",
)
def zombie_goes_on(patch: Patch) -> None:
    """Go on until a write is refused."""

    def lose(self: Any, running: Any, reason: str) -> None:
        """Ignore it."""

    patch.setattr(worker.Worker, "_lose", lose)


# Resharding and leases.


@bug("children start when all parents are finished")
def child_started_early(patch: Patch) -> None:
    """Start children as soon as they are listed."""
    original = worker.rows_to_create

    def rows_to_create(shards: Any, leases: Mapping[str, Lease], initial: Any) -> Any:
        finished = {name: replace(row, checkpoint=SHARD_END) for name, row in leases.items()}
        return original(shards, finished, initial)

    patch.setattr(worker, "rows_to_create", rows_to_create)
    patch.setattr(lease_planner, "may_start", lambda lease, leases: not lease.checkpoint.is_shard_end)


@bug("the child of a merge waits for both parents")
def one_parent_of_a_merge(patch: Patch) -> None:
    """Start it when the first parent is finished."""
    original = worker.rows_to_create

    def rows_to_create(shards: Any, leases: Mapping[str, Lease], initial: Any) -> Any:
        return original([replace(each, adjacent_parent_shard_id=None) for each in shards], leases, initial)

    patch.setattr(worker, "rows_to_create", rows_to_create)


@bug("a child is read from TRIM_HORIZON")
def child_starts_at_latest(patch: Patch) -> None:
    """Start children at LATEST."""
    original = shard_graph._row

    def row(shard: Any, checkpoint: Any, parents: Any) -> Lease:
        return original(shard, AT_LATEST if shard.parents else checkpoint, parents)

    patch.setattr(shard_graph, "_row", row)


@bug("finished rows stay as tombstones")
def finished_rows_deleted(patch: Patch) -> None:
    """Delete the row of a finished shard."""
    original = Flusher.finish

    async def finish(self: Any, children: Any) -> None:
        await original(self, children)
        await self._held._store.delete_lease(self._held.shard_id, LeaseExpectation())

    patch.setattr(Flusher, "finish", finish)


@bug("a heartbeat that stands still for the lease's duration makes it free")
def leases_never_expire(patch: Patch) -> None:
    """Take unowned leases only."""
    patch.setattr(LeasePlanner, "_is_free", lambda self, row, now: row.owner is None)


@bug("owners whose every lease has expired do not count when balancing")
def dead_owners_counted(patch: Patch) -> None:
    """Count every owner that a row names, and nobody's rows as one more."""
    original = LeasePlanner.plan

    def plan(self: Any, rows: Any, running: Any, now: float, avoid: Any = ()) -> Any:
        rows = list(rows)
        found = original(self, rows, running, now, avoid)
        live = [row for row in rows if not row.checkpoint.is_shard_end]
        owners = {row.owner for row in live} | {self._worker_id}
        share = -(-len(live) // len(owners))
        return replace(found, take=found.take[: max(0, share - len(running))])

    patch.setattr(LeasePlanner, "plan", plan)


# Producer.


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
    original = Producer._take_failure

    def take_failure(self: Any, batch: Any, error: Any) -> None:
        if isinstance(error, AmbiguousCallError):
            self._take_answer(batch, [PutResult(record.shard_id or "x", 1) for record in batch.records])
        else:
            original(self, batch, error)

    patch.setattr(Producer, "_take_failure", take_failure)


@bug("an aggregate that landed outside its shard is sent again")
def misplaced_aggregate_taken_for_success(patch: Patch) -> None:
    """Believe the acknowledgment."""

    def judge(result: PutResult, predicted: Any, hash_keys: Any, shard_map: Any) -> Verdict:
        return Verdict.FAILED if result.error_code else Verdict.DELIVERED

    patch.setattr(batcher, "judge", judge)


@bug("a bookmark is the lowest unacknowledged offset, written after the acknowledgment")
def bookmark_before_ack(patch: Patch) -> None:
    """Take every barrier for done when it is set."""

    def reached(self: Any) -> Any:
        place = None
        while self._segments:
            place = self._segments.popleft().end
        return place

    patch.setattr(Barriers, "reached", reached)


@bug("a bookmark is the lowest unacknowledged offset, written after the acknowledgment")
def bookmark_at_the_highest_acknowledged(patch: Patch) -> None:
    """Let the newest finished segment decide."""

    def reached(self: Any) -> Any:
        done = [index for index, segment in enumerate(self._segments) if not segment.pending]
        place = None
        for _ in range(done[-1] + 1 if done else 0):
            place = self._segments.popleft().end
        return place

    patch.setattr(Barriers, "reached", reached)


@bug("a restart gives a file the generation, and so the event ids, it had")
def generations_not_remembered(patch: Patch) -> None:
    """Count on from the bookmark in memory only."""

    async def remember(self: Any, mark: Any) -> None:
        self.bookmark = self.bookmark.with_file(mark)

    patch.setattr(Tailer, "_remember", remember)


@bug("a source has one name for as long as its bookmark lives")
def source_renamed_at_each_start(patch: Patch) -> None:
    """Draw a new name at each start."""
    original = BookmarkStore.load
    names = itertools.count()

    async def load(self: Any) -> Any:
        found = await original(self)
        return found and replace(found, source=f"renamed-{next(names)}")

    patch.setattr(BookmarkStore, "load", load)


@bug("a rotated file is read to its end before the next one")
def rotated_file_left_at_once(patch: Patch) -> None:
    """Go to the new file as soon as it is there."""

    async def read(self: Any) -> Any:
        current = await self._files.identify(self._path)
        if current is not None and not self._mark.is_of(current):
            return await self._go_on()
        return await original(self)

    original = Tailer._read
    patch.setattr(Tailer, "_read", read)


@bug("files between the renamed one and the present one are read, too")
def files_in_between_skipped(patch: Patch) -> None:
    """Go from a renamed file straight to the followed path."""

    async def next_names(self: Any) -> list[str]:
        return [self._path]

    patch.setattr(Tailer, "_next_names", next_names)


@bug("only whole lines are read")
def half_lines_taken(patch: Patch) -> None:
    """End every chunk as if it ended with a newline."""
    original = LineFramer.feed

    def feed(self: Any, data: bytes) -> Any:
        return original(self, data) + self.finish()

    patch.setattr(LineFramer, "feed", feed)


@bug("a file is known by device, inode and fingerprint")
def fingerprint_ignored(patch: Patch) -> None:
    """Trust the inode number."""

    async def fingerprint(self: Any, file: Any, mark: Any) -> bytes:
        return bytes(mark.fingerprint)

    patch.setattr(Tailer, "_fingerprint", fingerprint)


@bug("dead letters are durable before a bookmark passes them")
def producer_dead_letters_not_synced(patch: Patch) -> None:
    """Leave them in the page cache."""

    async def flush(self: Any) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            with contextlib.suppress(OSError):
                await self._files.append(self.path, b"".join(waiting), durable=False)

    patch.setattr(DeadLetters, "flush", flush)


# Harmless: another rule makes up for it. Kept to see when that changes.


@bug(
    "a write that landed without a reply is recognised by its id",
    harmless="the shard is given up and taken again: slower, and the fence keeps it safe",
)
def own_write_not_recognised(patch: Patch) -> None:
    """Take it for a lost lease."""
    original = HeldLease.write

    async def write(self: Any, change: LeaseChange) -> None:
        store = self._store

        class Forgetful:
            async def update_lease(self, shard_id: str, expected: LeaseExpectation, made: LeaseChange) -> Lease:
                try:
                    return await store.update_lease(shard_id, expected, made)
                except ConditionFailedError as refused:
                    if refused.current is not None:
                        raise ConditionFailedError(replace(refused.current, write_id="")) from refused
                    raise

        self._store = Forgetful()
        try:
            await original(self, change)
        finally:
            self._store = store

    patch.setattr(HeldLease, "write", write)
