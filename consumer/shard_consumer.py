"""One shard's life under one lease: replay what was pending, read, deliver, flush and checkpoint, until it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from consumer.archive import Archive
from consumer.bell import Bell
from consumer.carrier import Carrier, carrier_of
from consumer.core.batch import Batch
from consumer.core.chunk import Chunk, cut
from consumer.core.circuit_breaker import CircuitBreaker
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.enrichment import Enricher
from consumer.core.load_meter import LoadMeter
from consumer.delivery import Delivery
from consumer.failure import first_failure
from consumer.fan_out_reader import Reader, open_reader
from consumer.flusher import Flusher
from consumer.lease_table import HeldLease
from consumer.replay import Replay
from consumer.retention import ShardRetention
from consumer.shard_parts import ShardParts, ShardSettings
from consumer.shard_reader import start_of
from consumer.status import ShardState, ShardStatus
from shared.errors import ConfigurationError, StreamNotFoundError
from shared.lease import CheckpointKind, PendingFlush
from shared.records import Position, Start, StartKind, StreamRecord

_PAUSED_LOOK_SECONDS = 10.0  # how often a paused shard is asked how far behind it is
_LAST_READ_SECONDS_MAX = 0.5  # what is waited for before a hand-over; a subscription may have nothing to bring


class ShardConsumer:
    """Reads one leased shard until it ends, is stopped, or is lost.

    Two tasks: one reads and delivers into the open batch, one flushes and checkpoints closed batches; so reading goes
    on while objects are written, with at most one batch open and one being flushed.
    """

    def __init__(self, held: HeldLease, settings: ShardSettings, parts: ShardParts) -> None:
        self._held = held
        self._settings = settings
        self._parts = parts
        self._clock = parts.ports.clock
        self._telemetry = parts.ports.telemetry
        self._bell = Bell()
        self._account = parts.budget.open(self._bell.ring)
        self._marks = DuplicateMarks(held.row.marks)
        self._enricher = Enricher(settings.read.stream, held.shard_id)
        self._breaker = CircuitBreaker(
            window_records=settings.breaker_window_records, failed_percent=settings.breaker_failed_percent
        )
        self._delivery = Delivery(
            held.shard_id,
            parts.sinks,
            keeps_dead_letters=parts.archive is not None,
            account=self._account,
            counters=parts.counters,
            clock=self._clock,
            telemetry=self._telemetry,
            on_progress=self._advance,
        )
        self._flusher = Flusher(
            held,
            parts.archive,
            account=self._account,
            counters=parts.counters,
            clock=self._clock,
            telemetry=self._telemetry,
            failed_percent=settings.breaker_failed_percent,
        )
        self._retention = ShardRetention(parts.retention, held)
        self._load = LoadMeter(self._clock.monotonic())
        self._progress_at = self._clock.monotonic()
        self._open = self._new_batch()
        self._closed: Batch | None = None  # the one being flushed
        self._through: Position | None = None  # the last position that was delivered
        self._children: tuple[str, ...] = ()
        self._behind_milliseconds = 0
        self._records = 0
        self._read_task: asyncio.Task[None] | None = None
        self._reader: Reader | None = None
        self._pages = 0
        self._is_processing = False
        self._is_stopping = False
        self._has_ended = False
        self._is_paused = held.row.is_paused
        self.is_finishing = False  # SHARD_END, which has no owner, is being written or was
        self.state = ShardState.REPLAYING

    @property
    def has_ended(self) -> bool:
        """Whether the shard was read to its end and is at SHARD_END."""
        return self.state is ShardState.FINISHED

    def status(self) -> ShardStatus:
        """Return what the live page shows."""
        return ShardStatus.of(
            self._held.row,
            self.state,
            behind_milliseconds=self._behind_milliseconds,
            records=self._records,
            buffered_bytes=self._open.size + (self._closed.size if self._closed is not None else 0),
        )

    def is_stalled(self, now: float) -> bool:
        """Whether records wait that nothing has happened to for too long; a shard without records never is."""
        is_busy = self._closed is not None or self._is_processing or self.state is ShardState.REPLAYING
        is_late = now - self._progress_at > self._settings.progress_timeout_seconds
        return is_busy and is_late and self.state is not ShardState.HALTED

    def _advance(self) -> None:
        self._progress_at = self._clock.monotonic()
        self._bell.ring()

    async def store_ahead(self) -> None:
        """Store what was delivered while reading goes on, then read once more: a stop has little left to do."""
        await self._bell.until(lambda: not self._is_processing and self._closed is None)
        if self._open.last is not None:
            self._seal_batch()
            await self._bell.until(lambda: self._closed is None)
        if self._reader is not None:
            pages = self._pages
            self._reader.hurry()
            await self._bell.until(lambda: self._pages > pages and not self._is_processing, _LAST_READ_SECONDS_MAX)

    def stop(self) -> None:
        """Stop reading; what was delivered is still flushed and checkpointed, and then `run` returns."""
        is_first, self._is_stopping = not self._is_stopping, True
        if self.state is not ShardState.FINISHED:
            self.enter(ShardState.DRAINING)
        # A chunk under way is finished first, and so is what the reader writes after the first stop.
        if is_first and self._read_task is not None and not self._is_processing:
            self._read_task.cancel()
        self._bell.ring()

    def enter(self, state: ShardState) -> None:
        """Go to another state; HALTED is for whoever saw `run` end with ShardHaltedError."""
        self.state = self.state.then(state)

    def pause(self, *, is_paused: bool) -> None:
        """Stop reading for as long as an operator wishes: what was read is stored, the lease is kept."""
        if self._is_paused != is_paused:
            self._is_paused = is_paused
            self._telemetry.info("shard_paused" if is_paused else "shard_resumed", shard_id=self._held.shard_id)
            self._bell.ring()

    async def run(self) -> None:
        """Live; returns at the end of the shard or after `stop`.

        LeaseLostError: another worker owns the shard, nothing more was written. ShardHaltedError: too many records
        failed. ServiceError: a call failed that no retry heals.
        """
        try:
            await self._replay_pending()
            await self._read_and_commit()
        except StreamNotFoundError:
            if not await self._parts.ports.is_trimmed(self._settings.read.stream, self._held.shard_id):
                raise
            self._telemetry.error("shard_trimmed", shard_id=self._held.shard_id, after=self._held.row.checkpoint.text)
            await self._retention.lose_shard()
            await self._flusher.give_up_pending(self._parts.archive)
            await self._finish(())
        finally:
            self._account.close()

    # Replay: what another worker, or this one before a crash, had prepared and perhaps written.

    async def _replay_pending(self) -> None:
        row = self._held.row
        if row.pending is not None:
            await self._replay(row.pending)
        if self._held.row.seek_to is not None:
            await self._flusher.seek()  # only now: what was prepared before has to be finished
            self._marks = DuplicateMarks(self._held.row.marks)
            self._delivery.start_over()
        checkpoint = self._held.row.checkpoint
        if checkpoint.kind is CheckpointKind.NUMBER:
            self._through = checkpoint.position

    async def _replay(self, pending: PendingFlush) -> None:
        archive = self._parts.archive
        if archive is None:
            raise ConfigurationError(
                f"Shard `{self._held.shard_id}` has a flush to finish, but no bucket is set",
                hint="Set --bucket to the bucket that this application wrote to before",
            )
        attempts = self._flusher.attempts
        async with self._parts.care.alone() if attempts.policy.is_careful else nullcontext():
            await attempts.begin_replay(pending)
            await self._rebuild(pending, archive)

    async def _rebuild(self, pending: PendingFlush, archive: Archive) -> None:
        # A replay polls: a subscription for a short range would bar the one that follows for five seconds.
        start = Start(StartKind.AT_SEQUENCE_NUMBER, sequence_number=pending.first.sequence_number)
        reader, care = self._reader_at(start, polls=True), self._parts.care
        replay = Replay(reader, self._delivery, self._enricher, self._marks, care=care, clock=self._clock)
        self._account.is_replaying = True
        batch = await replay.rebuild(pending, self._held.row.hash_key_range)
        self._account.is_replaying = False
        await self._retention.take_rebuilt(pending, batch.first)
        if batch.last is not None:
            await self._wait_for_receipts(batch.last)
        batch.marks = self._marks.snapshot()
        await self._flusher.finish_pending(archive, pending, batch)
        self._flusher.attempts.survive(batch.records)

    # Reading.

    async def _read_and_commit(self) -> None:
        if self._is_stopping:
            return
        self.enter(ShardState.READING)
        try:
            async with asyncio.TaskGroup() as group:
                self._read_task = group.create_task(self._read())
                self._read_task.add_done_callback(lambda _task: self._bell.ring())
                group.create_task(self._commit_batches())
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures

    async def _read(self) -> None:
        start = start_of(self._held.row, self._settings.read.start_timestamp)
        reader = self._reader = self._reader_after(self._through) or self._reader_at(start)
        carry = carrier_of(
            self._held.shard_id,
            self._parts,
            delivery=self._delivery,
            enricher=self._enricher,
            marks=self._marks,
            account=self._account,
        )
        try:
            while not self._is_stopping:
                try:
                    if self._is_paused:
                        await self._rest(reader)
                        again = self._reader_after(self._through)
                        if again is not None:
                            await reader.aclose()
                            reader = self._reader = again
                        continue
                    page = await reader.read()
                    self._progress_at = self._clock.monotonic()
                    self._held.load = self._load.rate(self._progress_at)
                except asyncio.CancelledError:
                    if not self._is_stopping:
                        raise
                    break
                self._behind_milliseconds = page.behind_milliseconds
                is_all_stored = self._open.last is None and self._closed is None
                await self._retention.take(page, is_all_stored=is_all_stored)
                if page.records:
                    await self._process(page.records, carry)
                await self._flusher.anchor_time(reader.latest_at)
                self._pages += 1
                self._bell.ring()
                if page.next_iterator is None and not self._is_stopping:
                    self._children = tuple(child.shard_id for child in page.child_shards)
                    self._has_ended = True
                    break
                del page  # before the next one takes its room
            await self._flusher.anchor_time(reader.latest_at)  # a stop may have come before the first page
        finally:
            await reader.aclose()

    async def _rest(self, reader: Reader) -> None:
        """Let a pause pass, looking now and then at how far the shard runs ahead; nothing that is seen is kept."""
        self.enter(ShardState.PAUSED)
        self._bell.ring()
        self._behind_milliseconds = await reader.look()
        await self._flusher.anchor_time(reader.latest_at)
        self._retention.measure(self._behind_milliseconds)
        deadline = self._clock.monotonic() + _PAUSED_LOOK_SECONDS
        while self._is_paused and (left := deadline - self._clock.monotonic()) > 0:
            await self._bell.wait(left)
        if not self._is_paused:
            self.enter(ShardState.READING)

    async def _process(self, records: Sequence[StreamRecord], carry: Carrier) -> None:
        self._is_processing = True
        if self._held.row.checkpoint.kind is CheckpointKind.LATEST and self._through is None:
            await self._flusher.anchor(Position(records[0].sequence_number))
        attempts = self._flusher.attempts
        for chunk in self._cut(records, self._through):
            if attempts.policy.is_careful:
                async with self._parts.care.alone():
                    await attempts.begin()
                    self._open.condemned_after = attempts.judge(chunk)
                    await self._take(chunk, carry)
                    await self._store_piece(len(chunk))
            else:
                await attempts.begin()
                await self._parts.care.pass_by()
                await self._take(chunk, carry)
            if self._is_stopping:
                break
        self._is_processing = False
        self._bell.ring()

    async def _store_piece(self, records: int) -> None:
        """Commit what was taken before anything else is looked at."""
        await self._close_batch()
        await self._bell.until(lambda: self._closed is None)
        self._flusher.attempts.survive(records)

    async def _take(self, chunk: Chunk, carry: Carrier) -> None:
        roll = self._settings.roll
        if self._open.records and len(chunk) > roll.room(self._open.records):
            await self._close_batch()
        failed = await carry(chunk, self._open)
        self._through = chunk.last
        self._records += len(chunk)
        self._progress_at = self._clock.monotonic()
        self._load.take(chunk.size, self._progress_at)
        self._breaker.count(self._held.shard_id, len(chunk), failed)
        if self._is_due():
            await self._close_batch()

    # Flushing.

    async def _close_batch(self) -> None:
        await self._bell.until(lambda: self._closed is None)
        self._seal_batch()

    def _seal_batch(self) -> None:
        self._open.marks = self._marks.snapshot()
        self._closed, self._open = self._open, self._new_batch()
        self._bell.ring()

    async def _commit_batches(self) -> None:
        while True:
            batch = await self._next_batch()
            if batch is None:
                break
            if batch.last is not None:
                await self._wait_for_receipts(batch.last)
            await self._flusher.flush(batch)
            self._closed = None
            self._advance()
        if self._has_ended:
            await self._finish(self._children)

    async def _next_batch(self) -> Batch | None:
        """Wait for a closed batch, closing the open one where the reader does not get to it; None at the end."""
        while self._closed is None:
            seconds_max: float | None = None
            # The reader may be cancelled before its first step, so that only its task knows whether it still reads.
            is_reading = self._read_task is None or not self._read_task.done()
            if not self._is_processing:
                if not is_reading and self._open.last is None:
                    return None
                is_resting = self.state is ShardState.PAUSED and self._open.last is not None
                if not is_reading or is_resting or self._is_due():
                    self._seal_batch()
                    break
                if self._open.records:
                    seconds_max = self._settings.roll.next_deadline(self._open.opened_at) - self._clock.monotonic()
            await self._bell.wait(seconds_max)
        return self._closed

    async def _finish(self, children: tuple[str, ...]) -> None:
        self.is_finishing = True
        await self._flusher.finish(children)
        self.enter(ShardState.FINISHED)

    # Small parts.

    def _reader_at(self, start: Start, *, polls: bool = False) -> Reader:
        read, ports = self._settings.read, self._parts.ports
        return open_reader(self._held.shard_id, start, settings=read, ports=ports, account=self._account, polls=polls)

    def _reader_after(self, position: Position | None) -> Reader | None:
        """Return a reader that begins AT a record that was read before, which shows whether the stream still has it."""
        if position is None:
            return None
        self._retention.expect(position)
        return self._reader_at(Start(StartKind.AT_SEQUENCE_NUMBER, sequence_number=position.sequence_number))

    def _cut(self, records: Sequence[StreamRecord], after: Position | None) -> Iterator[Chunk]:
        records_max = min(self._flusher.attempts.policy.records_max, self._settings.chunk_records_max)
        records_max = min(records_max, self._settings.roll.records_max)
        return cut(records, self._held.row.hash_key_range, after=after, records_max=records_max)

    def _new_batch(self) -> Batch:
        return Batch(self._clock.monotonic(), keeps_lines=self._parts.archive is not None)

    def _is_due(self) -> bool:
        batch = self._open
        if batch.records and self._account.is_pressed:
            return True
        archive = self._parts.archive
        ratio = 1.0 if archive is None else archive.ratios.of(batch.largest[0])
        return self._settings.roll.is_due(batch, now=self._clock.monotonic(), ratio=ratio)

    async def _wait_for_receipts(self, position: Position) -> None:
        await self._bell.until(lambda: self._delivery.tracker.covers(position))
