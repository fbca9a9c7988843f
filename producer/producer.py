"""The producer: takes records, sends them in order and in batches, and says later what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from producer.assembly import batcher_of
from producer.core.batch import Settlement
from producer.core.hot_keys import ShardHeat
from producer.core.lanes import LaneQueues, Numbering
from producer.core.ledger import Ledger
from producer.core.record_columns import Ticket
from producer.intake import Intake
from producer.lane_cutter import SETTLE_SECONDS_MAX, LaneCutter
from producer.report import Report
from producer.sender import Sender
from producer.shard_heat import ShardHeats
from producer.spill import Spill, spill_folder
from producer.stage import Stage
from producer.stream_watch import StreamWatch
from shared.allocator import keep_freed_memory
from shared.errors import HeadraceError, RecordRejectedError
from shared.lanes import WHOLE, LaneDivision
from shared.limits import PUT_RECORDS_BYTES_MAX
from shared.ports import Clock, Files, Kinesis, Random, Receipt, Telemetry, Undeliverable
from shared.retry import Backoff
from shared.settings import Ordering, ProducerSettings

_COPIES: Final = 4  # of a request: its body, the same behind its head, and what waits for the socket
_BUFFER_SHARE_MAX: Final = 4  # a request takes at most a quarter of the buffer, so that it fills while one is sent


class Producer:
    """Puts records on one stream; an async context manager that drains when it is left.

    `put` accepts a record, waiting for room in the buffer; its outcome comes through the receipt. Records with one
    partition key are delivered in the order of their `put` calls (ordering `lane`), each at least once: a call whose
    answer was lost is repeated. Retryable failures are retried without end. Any other (access denied, no such stream)
    is kept in `failure` and tried again every `refused_backoff_seconds_max` at the latest, until a call goes well. With
    that setting at 0 it is final: `put` raises it, and what is pending stays pending. Without `files`, no spill.

    Order is kept in the parts of `lanes`; None: cut along the boundaries of the shards that there are at the start.
    Records that bring an event id need their lane in one piece, as far as it was where that was made. With `may_cut`,
    lanes are cut anew when shards have come that cut them: by whoever numbers the events (`cutter`).
    """

    def __init__(
        self,
        stream: str,
        *,
        kinesis: Kinesis,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        settings: ProducerSettings,
        files: Files | None = None,
        lanes: LaneDivision | None = WHOLE,
        may_cut: bool = False,
    ) -> None:
        self.stream = stream
        self._kinesis = kinesis
        self._clock = clock
        self._random = random
        self._telemetry = telemetry
        self._settings = settings
        backoff = Backoff(settings.retry_backoff_seconds_min, settings.retry_backoff_seconds_max)
        self._batch_bytes_max = min(settings.batch_bytes_max, settings.buffer_bytes_max // _BUFFER_SHARE_MAX)
        self._queues = LaneQueues(buffer_bytes_max=settings.buffer_bytes_max, record_bytes_max=PUT_RECORDS_BYTES_MAX)
        self._batcher = batcher_of(settings, self._queues, backoff, self._batch_bytes_max)
        self._spill = self._new_spill(files)
        self._watch = StreamWatch(
            stream,
            kinesis=kinesis,
            clock=clock,
            random=random,
            telemetry=telemetry,
            settings=settings,
            batcher=self._batcher,
            on_settled=self._take_map,
        )
        self.cutter = LaneCutter(
            stream, batcher=self._batcher, clock=clock, telemetry=telemetry, wanted=lanes, may_cut=may_cut
        )
        self._tasks = asyncio.TaskGroup()
        self._calls: dict[asyncio.Task[None], None] = {}  # a dict, as it keeps the order: cancelling is repeatable
        self._loops: list[asyncio.Task[None]] = []
        self._heats = ShardHeats(self._batcher, clock, telemetry)
        self._wake = asyncio.Event()  # for the send loop: something is due, or may be
        self._progress = asyncio.Event()  # for those who wait for room or for the end
        self._is_hurried = False
        self._flushes = 0  # under way
        self._report = Report(stream, telemetry, clock)
        self._sender = Sender(
            stream,
            kinesis=kinesis,
            clock=clock,
            random=random,
            settings=settings,
            batcher=self._batcher,
            watch=self._watch,
            report=self._report,
            on_settled=self._hand_out,
            on_failure=self._progress.set,
        )
        self.intake = Intake(
            stream,
            clock=clock,
            batcher=self._batcher,
            batch_bytes_max=self._batch_bytes_max,
            sender=self._sender,
            wake=self._wake,
        )

    def _new_spill(self, files: Files | None) -> Spill | None:
        settings = self._settings
        if not settings.spill_bytes_max or files is None:  # a source with a bookmark has its own file to wait in
            return None
        return Spill(
            self._queues,
            files=files,
            clock=self._clock,
            telemetry=self._telemetry,
            folder=spill_folder(settings.state_dir, self.stream),
            bytes_max=settings.spill_bytes_max,
            on_queued=lambda: self.intake.notice(1),
            wake=self.wake_waiters,
        )

    @property
    def failure(self) -> HeadraceError | None:
        """Why the stream refuses everything at present; None if it does not."""
        return self._sender.failure

    @property
    def last_error(self) -> str:
        """What the last call or record that failed was told."""
        return self._sender.last_error

    @property
    def ledger(self) -> Ledger:
        """Where every accepted record is now."""
        return self._batcher.ledger

    @property
    def pending_bytes(self) -> int:
        """Data and keys of the records whose outcome is open."""
        return self._queues.pending_bytes

    def hot_shards(self) -> tuple[ShardHeat, ...]:
        """Return each open shard's load by this producer, its hottest keys and the split that helps; hottest first."""
        return self._heats.hot_shards()

    async def __aenter__(self) -> Self:
        """Look at the stream and start; raises StreamNotFoundError and its kin before anything is accepted."""
        await self._watch.start()
        keep_freed_memory(_COPIES * self._batch_bytes_max)
        loops = [self._send_loop]
        if self._spill is not None:
            await self._spill.recover()
            loops += [self._spill.write_loop, self._spill.drain_loop]
        if self._watch.is_needed:
            loops.append(self._watch.run)
        self.cutter.start()
        await self._tasks.__aenter__()
        self.intake.is_open = True
        self._loops = [self._tasks.create_task(loop()) for loop in loops]
        return self

    def check_order(self, event_id: str, *, may_join: bool = True) -> bool:
        """Make sure that the order of an event keeps which brings its id; see `LaneCutter.check_order`."""
        return self.cutter.check_order(
            event_id, keeps_order=self._settings.ordering is Ordering.LANE, may_join=may_join
        )

    @property
    def looks_at_ids(self) -> bool:
        """Whether `check_order` has anything to say."""
        return self.cutter.looks_at_ids(keeps_order=self._settings.ordering is Ordering.LANE)

    @property
    def lanes(self) -> LaneDivision:
        """How lanes are cut; settled once the producer is open, until `cutter` cuts them anew."""
        return self._queues.division

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain within `drain_timeout_seconds` (not at all when cancelled) and stop; so does a cancelled drain."""
        # The group must not see the caller's own error: it would wrap it into a group of errors.
        cancelled = error if isinstance(error, asyncio.CancelledError) else None
        try:
            await self.close(0 if cancelled else self._settings.drain_timeout_seconds)
        except asyncio.CancelledError as raised:
            cancelled = raised
        await self._tasks.__aexit__(None if cancelled is None else type(cancelled), cancelled, None)  # raises it

    async def put(
        self,
        data: bytes,
        partition_key: str,
        receipt: Receipt | None = None,
        token: Any = None,
        *,
        explicit_hash_key: int | None = None,
    ) -> None:
        """Accept one record; while the buffer is full, wait or, with `spill_bytes_max`, write it to disk.

        `receipt(token, outcome)` is called once, later. Raises RecordTooLargeError or PartitionKeyError for a record
        that the stream would not take, DeliveryFailedError if the producer is closed, and a `failure` that is final.
        """
        # orjson's results keep 4 KiB of memory alive each (measured with 300-byte events); a copy keeps its own size.
        data = b"".join((data, b""))
        ticket = None if receipt is None else (receipt, token)
        if not self.intake.try_put(data, partition_key, ticket, explicit_hash_key=explicit_hash_key):
            while not await self.offer(data, partition_key, ticket, explicit_hash_key=explicit_hash_key):
                await self.wait_for_room()
        if self.intake.is_busy:
            await self.intake.give_way()

    async def put_all(
        self, datas: Sequence[bytes], partition_keys: Sequence[str], receipt: Receipt, token: Any
    ) -> None:
        """Accept many records in their order, each as `put` does; one token serves them all.

        The data are kept as they are, not copied. A record that the stream would not take is told of by its receipt,
        as Undeliverable, and those behind it are accepted.
        """
        ticket = self._queues.ticket  # records that have the same one are told of together
        if ticket is None or ticket[1] is not token or ticket[0] != receipt:
            ticket = (receipt, token)
        done = 0
        while (done := done + self.intake.try_put_all(datas[done:], partition_keys[done:], ticket)) < len(datas):
            try:
                while not await self.offer(datas[done], partition_keys[done], ticket):
                    await self.wait_for_room()
            except RecordRejectedError as error:
                receipt(token, Undeliverable(error.error_code, str(error), datas[done]))
            done += 1
        if self.intake.is_busy:
            await self.intake.give_way()

    async def offer(
        self,
        data: bytes,
        partition_key: str,
        ticket: Ticket | None = None,
        *,
        explicit_hash_key: int | None = None,
        numbering: Numbering | None = None,
    ) -> bool:
        """Accept one record if there is room for it in memory or on disk; its place in line is fixed at the call."""
        if self.intake.try_put(data, partition_key, ticket, numbering, explicit_hash_key=explicit_hash_key):
            return True
        if self._spill is None or self._queues.is_paused:
            return False
        if numbering is not None:
            data = self._queues.numbered(data, partition_key, numbering)
        return await self._spill.put(data, partition_key, ticket, explicit_hash_key)

    def stage(self, source_id: str) -> Stage:
        """Return a stage for events of a source; lanes may be cut anew behind it."""
        stage = Stage(self.intake, self._queues, source_id, has_lanes=self._settings.ordering is Ordering.LANE)
        self._loops.append(self._tasks.create_task(self._cut_loop(stage)))
        return stage

    async def _cut_loop(self, stage: Stage) -> None:
        while True:
            await self.cutter.wait()
            if self._spill is not None and self._spill.is_used:
                self.cutter.wait_on()
                continue
            stage.clear()
            self._queues.is_paused = True
            try:
                await self.flush(SETTLE_SECONDS_MAX)
                division = self.cutter.due()
                if division is None or not self.cutter.is_settled:
                    self.cutter.put_off()
                else:
                    self.cutter.cut(division)
                    stage.renumber()
            finally:
                self._queues.is_paused = False
                self._progress.set()

    async def wait_for_room(self) -> None:
        """Wait until `try_put` is worth another try (or `wake_waiters` is called); once closed, it raises at once."""
        if self.intake.is_open:
            await self._wait_for_progress()

    async def _wait_for_progress(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    def wake_waiters(self) -> None:
        """Make `wait_for_room` return, so that its callers look around."""
        self._progress.set()

    def hurry(self) -> None:
        """End every flush and close now, with whatever is pending: somebody asked for the end a second time."""
        self._is_hurried = True
        self._progress.set()

    async def flush(self, deadline_seconds: float, stop: asyncio.Event | None = None) -> int:
        """Send what is queued without lingering; return how many records are pending at the deadline, or at `stop`.

        Whoever sets that has to `wake_waiters`.
        """
        self._flushes += 1
        self._batcher.is_draining = True
        self._wake.set()
        try:
            with suppress(TimeoutError):  # the answer is the number of pending records
                async with asyncio.timeout(deadline_seconds):
                    while self.ledger.pending and not self._sender.has_failed and not self._is_hurried:
                        if stop is not None and stop.is_set():
                            break
                        await self._wait_for_progress()
        finally:
            self._flushes -= 1
            self._batcher.is_draining = self._flushes > 0 or not self.intake.is_open
        return self.ledger.pending

    async def close(self, deadline_seconds: float) -> int:
        """Accept nothing more, flush, stop; return how many records are undelivered. A second call only counts."""
        if not self.intake.is_open:
            return self.ledger.pending
        self.intake.is_open = False
        try:
            pending = await self.flush(deadline_seconds)
        finally:
            self._progress.set()  # those who wait for room learn that there will be none
            for task in (*self._loops, *self._calls):
                task.cancel()
        if self._spill is not None:
            await asyncio.wait(self._loops)
            await self._spill.close()
        if pending:
            self._telemetry.error(
                "records_undelivered",
                stream=self.stream,
                records=pending,
                spilled=self.ledger.spilled,
                bytes=self._queues.pending_bytes,
                last_error=str(self.failure or self.last_error),
            )
        return pending

    async def _send_loop(self) -> None:
        while True:
            self._wake.clear()
            now = self._clock.monotonic()
            while self._may_send() and (batch := self._batcher.take(now)):
                call = self._tasks.create_task(self._sender.send(batch))
                self._calls[call] = None
                call.add_done_callback(self._forget_call)
            self.intake.listen(listens=self._may_send() and not self._batcher.is_held_back(now))
            deadline = self._batcher.next_deadline(now) if self._may_send() else None
            await self._wait(self._wake, None if deadline is None else deadline - now)

    def _may_send(self) -> bool:
        return len(self._calls) < self._settings.inflight_requests_max and not self._sender.has_failed

    def _forget_call(self, task: asyncio.Task[None]) -> None:
        del self._calls[task]
        self._wake.set()

    async def _wait(self, event: asyncio.Event, seconds: float | None) -> None:
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)
            return
        with suppress(TimeoutError):  # either way the caller looks again
            async with asyncio.timeout(seconds):
                await event.wait()

    def _take_map(self, settlement: Settlement) -> None:
        """Hand out what a fresh shard map has decided, and show how hot the shards are."""
        self._heats.report()
        self.cutter.take_map()
        self._hand_out(settlement)
        self._wake.set()

    def _hand_out(self, settlement: Settlement) -> None:
        self._heats.take(settlement)
        for (receipt, token), delivered, number in settlement.receipts():
            receipt(token, delivered, number)
        for ticket, undeliverable in settlement.undeliverable:
            self._report.give_up(undeliverable.error_code, len(undeliverable.data))
            if ticket is not None:
                ticket[0](ticket[1], undeliverable)
        self._report.settle(settlement.count, self._queues.pending_count, settlement.misplaced)
        self._progress.set()
        if self._spill is not None:
            self._spill.notify()
