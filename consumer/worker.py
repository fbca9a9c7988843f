"""A consumer process: shares the shards through leases, renews them, runs one shard consumer each, and drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

from consumer.assembly import archive_of, initial_checkpoint, read_ports_of, shard_settings_of
from consumer.budget import Budget
from consumer.core.lease_planner import LeasePlanner
from consumer.core.route import Router
from consumer.core.shard_graph import is_paused, rows_to_create
from consumer.failure import first_failure
from consumer.handover import Handling
from consumer.lease_table import HeldLease, LeaseTable
from consumer.retention import Retention
from consumer.retrier import Retrier
from consumer.shard_consumer import ShardConsumer
from consumer.shard_parts import ShardParts
from consumer.status import Counters, ShardState, WorkerState, WorkerStatus
from shared.errors import HeadraceError, LeaseLostError, ShardHaltedError
from shared.lease import Lease, LeaseChange
from shared.ports import Clock, FanOut, Kinesis, LeaseStore, ObjectStore, Random, RecordSink, Telemetry
from shared.retry import Backoff
from shared.settings import ConsumerSettings

_ROUNDS_PER_LEASE: Final = 3  # renewals and planning rounds per lease duration, as in KCL
_RELEASE_SECONDS_MAX: Final = 2.0
_RETRY_SHARD_SECONDS: Final = 5.0
_RELEASE_SHARE: Final = 0.1  # of the drain time: what is kept for giving the leases back


@dataclass(slots=True)
class _Running:
    """A lease this worker holds and the task that reads its shard."""

    held: HeldLease
    consumer: ShardConsumer
    renewed_at: float
    task: asyncio.Task[None] | None = None
    is_lost: bool = False


class Worker:
    """One member of a consumer application; any number of them may run, on any number of machines."""

    def __init__(
        self,
        settings: ConsumerSettings,
        *,
        kinesis: Kinesis,
        leases: LeaseStore,
        objects: ObjectStore | None,
        sinks: Mapping[str, RecordSink],
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        fan_out: FanOut | None = None,
        handling: Handling | None = None,
    ) -> None:
        """Check the settings (ConfigurationError); `sinks`: destination name -> its stream.

        With `fan_out`, shards are pushed, not polled; with `handling`, records go to the user's function.
        """
        self.worker_id = settings.worker_id or f"worker-{random.getrandbits(48):012x}"
        self._settings = settings
        self._leases = leases
        self._clock = clock
        self._telemetry = telemetry
        self._sinks = sinks
        backoff = Backoff(settings.retry_backoff_seconds_min, settings.retry_backoff_seconds_max)
        self._retrier = Retrier(backoff, random, telemetry)
        self._table = LeaseTable(leases, self._retrier, worker_id=self.worker_id, random=random)
        self._planner = LeasePlanner(self.worker_id, settings.lease_duration_seconds)
        self._initial, start_timestamp = initial_checkpoint(settings.start_from)
        router = Router(settings.dest_streams)
        self._kinesis = kinesis
        self._parts = ShardParts(
            ports=read_ports_of(settings, kinesis, fan_out, self._retrier, clock, random, telemetry, backoff),
            sinks=sinks,
            archive=archive_of(settings, objects, router, self._retrier, telemetry),
            router=router,
            budget=Budget(settings.budget_bytes_max),
            counters=Counters(),
            handling=handling,
            retention=Retention(
                objects, settings.error_prefix, retrier=self._retrier, clock=clock, telemetry=telemetry
            ),
        )
        self._shard_settings = shard_settings_of(settings, start_timestamp, has_archive=objects is not None)
        self._running: dict[str, _Running] = {}
        self._not_before: dict[str, float] = {}  # shard -> when it may be taken again after a failure
        self._round_due = asyncio.Event()
        self._state = WorkerState.STARTING
        self._started_at = clock.monotonic()
        self._renewed_at = clock.monotonic()
        self._is_sync_due = True
        self._next_sync_at = 0.0

    # What others ask.

    def status(self) -> WorkerStatus:
        """Return a snapshot; cheap enough for every second."""
        now = self._clock.monotonic()
        renewal_age = now - self._renewed_at
        fresh = renewal_age <= self._settings.lease_duration_seconds
        shards = tuple(self._running[name].consumer.status() for name in sorted(self._running))
        halted = any(shard.state is ShardState.HALTED for shard in shards)
        return WorkerStatus(
            worker_id=self.worker_id,
            state=self._state,
            application=self._settings.app,
            source_stream=self._settings.source_stream,
            uptime_seconds=now - self._started_at,
            renewal_age_seconds=renewal_age,
            is_renewal_fresh=fresh,
            is_ready=self._state is WorkerState.RUNNING and fresh and not halted,
            budget_bytes_used=self._parts.budget.used,
            budget_bytes_max=self._parts.budget.bytes_max,
            totals=self._parts.counters,
            shards=shards,
        )

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event | None = None) -> None:
        """Work until `stop` is set, then drain within `drain_timeout_seconds` and give the leases back.

        `hurry` cuts the drain short. Errors that a start can't get over (no such stream, no access) are raised.
        """
        await self._open()
        self._state = WorkerState.RUNNING
        try:
            async with asyncio.TaskGroup() as group:
                renewals = group.create_task(self._keep_leases())
                rounds = group.create_task(self._run_rounds(group))
                await stop.wait()
                self._state = WorkerState.DRAINING
                rounds.cancel()
                await self._drain(hurry or asyncio.Event(), group)
                renewals.cancel()
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures
        finally:
            self._state = WorkerState.STOPPED

    # Start.

    async def _open(self) -> None:
        summary = await self._retrier.call("describe_stream", lambda: self._kinesis.describe_stream(self._stream))
        self._parts.retention.set_hours(summary.retention_hours)
        if self._parts.ports.registration is not None:
            await self._parts.ports.registration.consumer_arn()
        description = self._describe()
        await self._retrier.call("write_application", lambda: self._leases.write_application(description))
        self._telemetry.info(
            "worker_started",
            worker_id=self.worker_id,
            stream=self._stream,
            open_shards=summary.open_shard_count,
            retention_hours=summary.retention_hours,
        )
        if self._parts.archive is None and self._parts.handling is None:
            self._telemetry.warning("no_bucket", consequence="dead letters are only logged with their place")

    def _describe(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "application": settings.app,
            "source_stream": settings.source_stream,
            "dest_streams": dict(settings.dest_streams),
            "bucket": settings.bucket,
            "archive_prefix": settings.archive_prefix,
            "error_prefix": settings.error_prefix,
            "compression": settings.compression.value,
            "start_from": settings.start_from,
        }

    @property
    def _stream(self) -> str:
        return self._settings.source_stream

    # Renewal: in a task of its own, independent of delivery.

    async def _keep_leases(self) -> None:
        interval = self._settings.lease_duration_seconds / _ROUNDS_PER_LEASE
        while True:
            await asyncio.sleep(interval)
            running = [each for each in self._running.values() if not each.is_lost]
            renewed = await asyncio.gather(*(self._renew(each, interval) for each in running))
            if all(renewed):
                self._renewed_at = self._clock.monotonic()

    async def _renew(self, running: _Running, seconds_max: float) -> bool:
        """Renew one lease once; a lease that could not be renewed for its whole duration counts as lost."""
        started_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(seconds_max):
                await running.held.renew()
        except LeaseLostError:
            # A shard that has just finished or was released has no owner any more: nothing was lost.
            if not running.consumer.is_finishing:
                self._lose(running, "taken_by_another")
            return True
        except (HeadraceError, TimeoutError) as error:
            self._telemetry.count("renewals_failed", error=type(error).__name__)
            if self._clock.monotonic() - running.renewed_at > self._settings.lease_duration_seconds:
                self._lose(running, "not_renewed")
            return False
        running.renewed_at = started_at
        return True

    def _lose(self, running: _Running, reason: str) -> None:
        """Stop a shard at once, without any write."""
        if running.is_lost:
            return
        running.is_lost = True
        self._telemetry.warning("lease_lost", shard_id=running.held.shard_id, reason=reason)
        self._telemetry.count("leases_lost", reason=reason)
        if running.task is not None and not running.task.done():
            running.task.cancel()
        else:
            self._running.pop(running.held.shard_id, None)

    # Rounds: shard sync, plan, take.

    async def _run_rounds(self, group: asyncio.TaskGroup) -> None:
        interval = min(self._settings.lease_duration_seconds / _ROUNDS_PER_LEASE, self._settings.shard_sync_seconds)
        is_first = True
        while True:
            self._round_due.clear()
            try:
                await self._run_round(group)
            except HeadraceError as error:
                # What can't be got over at the start is the user's to see; later it may be a passing loss of access.
                if is_first:
                    raise
                self._telemetry.error("round_failed", error=str(error), hint=error.hint)
            is_first = False
            try:
                async with asyncio.timeout(interval):
                    await self._round_due.wait()
            except TimeoutError:
                continue

    async def _run_round(self, group: asyncio.TaskGroup) -> None:
        now = self._clock.monotonic()
        if self._is_sync_due or now >= self._next_sync_at:
            self._is_sync_due = False
            await self._sync_shards()
            self._next_sync_at = now + self._settings.shard_sync_seconds
        await self._take_leases(group)

    async def _sync_shards(self) -> None:
        shards = await self._retrier.call("list_shards", lambda: self._kinesis.list_shards(self._stream))
        rows = await self._table.list_rows()
        for row in rows_to_create(shards, {row.shard_id: row for row in rows}, self._initial):
            if await self._table.create(row):
                self._telemetry.info("lease_created", shard_id=row.shard_id, start=row.checkpoint.text)

    async def _take_leases(self, group: asyncio.TaskGroup) -> None:
        rows = await self._table.list_rows()
        now = self._clock.monotonic()
        running = {name: each.held.epoch for name, each in self._running.items()}
        leases = {row.shard_id: row for row in rows}
        for row in rows:
            if running.get(row.shard_id) == row.epoch:
                self._running[row.shard_id].consumer.pause(is_paused=is_paused(row, leases))
        avoid = [name for name, until in self._not_before.items() if now < until]
        plan = self._planner.plan(rows, running, now, avoid)
        for shard_id in plan.lost:
            found = self._running.get(shard_id)
            # A shard may have ended, and a later lease of it begun, since the rows were read.
            if found is not None and not found.consumer.is_finishing and found.held.epoch == running[shard_id]:
                self._lose(found, "taken_by_another")
        for row in plan.take:
            await self._take(row, group, is_resting=is_paused(row, leases))

    async def _take(self, row: Lease, group: asyncio.TaskGroup, *, is_resting: bool) -> None:
        started_at = self._clock.monotonic()
        held = await self._table.take(row)
        if held is None:
            return
        self._telemetry.info("lease_taken", shard_id=row.shard_id, epoch=held.epoch, before=row.owner or "")
        consumer = ShardConsumer(held, self._shard_settings, self._parts)
        consumer.pause(is_paused=is_resting)
        running = _Running(held, consumer, renewed_at=started_at)
        self._running[row.shard_id] = running
        running.task = group.create_task(self._run_shard(running))

    async def _run_shard(self, running: _Running) -> None:
        shard_id = running.held.shard_id
        try:
            await running.consumer.run()
        except asyncio.CancelledError:
            if not running.is_lost:
                raise
        except LeaseLostError as error:
            if not running.is_lost:
                running.is_lost = True
                self._telemetry.warning("lease_lost", shard_id=shard_id, reason=str(error))
                self._telemetry.count("leases_lost", reason="fenced")
        except ShardHaltedError as error:
            # The lease is kept: a worker that took it would halt at the same place.
            running.consumer.state = ShardState.HALTED
            self._telemetry.error("shard_halted", shard_id=shard_id, error=str(error), hint=error.hint)
            await self._note_halt(running)
            return
        except HeadraceError as error:
            self._telemetry.error("shard_failed", shard_id=shard_id, error=str(error), hint=error.hint)
            self._not_before[shard_id] = self._clock.monotonic() + _RETRY_SHARD_SECONDS
        if self._running.get(shard_id) is running:
            if not running.is_lost and not running.consumer.has_ended:
                await self._release(running)
            self._running.pop(shard_id, None)
        if running.consumer.has_ended:
            # Its children can start now.
            self._is_sync_due = True
            self._round_due.set()

    async def _note_halt(self, running: _Running) -> None:
        """Let an operator see in the row that the shard is halted; the next take makes it untrue."""
        try:
            await running.held.write(LeaseChange(halted_epoch=running.held.epoch))
        except HeadraceError as error:
            self._telemetry.warning("halt_not_noted", shard_id=running.held.shard_id, error=type(error).__name__)

    async def _release(self, running: _Running) -> None:
        """Give a lease back; where that fails it expires by itself."""
        try:
            async with asyncio.timeout(_RELEASE_SECONDS_MAX):
                await running.held.release()
        except (HeadraceError, TimeoutError) as error:
            self._telemetry.warning("lease_not_released", shard_id=running.held.shard_id, error=type(error).__name__)
            return
        self._telemetry.info("lease_released", shard_id=running.held.shard_id)

    # The end.

    async def _drain(self, hurry: asyncio.Event, group: asyncio.TaskGroup) -> None:
        """Stop reading, let sinks and batches finish, checkpoint, release; by the deadline what is left is dropped.

        What is dropped was not checkpointed, so that the next owner reads it again.
        """
        seconds = self._settings.drain_timeout_seconds
        deadline = self._clock.monotonic() + seconds * (1 - _RELEASE_SHARE)
        for running in list(self._running.values()):
            running.consumer.stop()
        tasks = [running.task for running in self._running.values() if running.task is not None]
        over = asyncio.Event()
        attendants = [
            group.create_task(_set_after(_join(tasks), over)),
            group.create_task(_set_after(hurry.wait(), over)),
            *(group.create_task(self._flush_sink(name, deadline)) for name in self._sinks),
        ]
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await over.wait()
        except TimeoutError:
            self._telemetry.warning("drain_timed_out", seconds=seconds)
        for each in attendants:
            each.cancel()
        await self._abandon()

    async def _abandon(self) -> None:
        """Cancel the shards that did not finish their drain, and give back every lease that is still held."""
        left = list(self._running.values())
        for running in left:
            if running.task is not None and not running.task.done():
                running.is_lost = True  # so that its task ends without a write of its own
                running.task.cancel()
        await _join([running.task for running in left if running.task is not None])
        await asyncio.gather(*(self._release(running) for running in left))
        self._running.clear()

    async def _flush_sink(self, name: str, deadline: float) -> None:
        try:
            pending = await self._sinks[name].flush(max(0.0, deadline - self._clock.monotonic()))
        except HeadraceError as error:
            # Its records keep their receipts back, so that no checkpoint passes them.
            self._telemetry.error("sink_failed", destination=name, error=str(error), hint=error.hint)
            return
        if pending:
            self._telemetry.warning("sink_not_drained", destination=name, records=pending)


async def _join(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for tasks without taking part in their failures."""
    for task in tasks:
        if not task.done():
            done = asyncio.Event()
            task.add_done_callback(_setter(done))
            await done.wait()


async def _set_after(awaited: Coroutine[Any, Any, object], event: asyncio.Event) -> None:
    await awaited
    event.set()


def _setter(event: asyncio.Event) -> Callable[[asyncio.Task[None]], None]:
    return lambda _task: event.set()
