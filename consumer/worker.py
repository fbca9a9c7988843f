"""A consumer process: shares the shards through leases, renews them, runs one shard consumer each, and drains."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from consumer.assembly import archive_of, initial_checkpoint, read_ports_of, shard_settings_of
from consumer.budget import Budget
from consumer.core.lease_planner import LeasePlanner
from consumer.core.route import Router
from consumer.core.shard_graph import is_paused
from consumer.departure import Departure
from consumer.failure import first_failure
from consumer.handover import Handling
from consumer.holding import Holdings
from consumer.hour_closer import HourCloser
from consumer.lease_table import HeldLease, LeaseTable
from consumer.renewal import Renewal
from consumer.retention import Retention
from consumer.retrier import Retrier
from consumer.shard_consumer import ShardConsumer
from consumer.shard_parts import ShardParts
from consumer.shard_sync import ShardSync
from consumer.status import Counters, ShardState, WorkerState, WorkerStatus
from consumer.succession import Succession
from consumer.taker import Taker
from shared.errors import ConfigurationError, HeadraceError
from shared.lease import Lease, Presence, TableRows
from shared.ports import Clock, FanOut, Kinesis, LeaseStore, ObjectStore, Random, RecordSink, Telemetry
from shared.retry import Backoff
from shared.settings import ConsumerSettings

_ROUNDS_PER_LEASE: Final = 3
_ROUND_SECONDS_MAX_AT_LEAVE: Final = 1.0  # while a worker leaves: what nobody asked for in time stands still
_PATIENCE_LEASES: Final = 2  # lease durations that an owner may take to hand a shard over, or to restore its row


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
        renewals: LeaseStore | None = None,
    ) -> None:
        """Check the settings (ConfigurationError); `sinks`: destination name -> its stream.

        With `fan_out`, shards are pushed, not polled; with `handling`, records go to the user's function. `renewals` is
        the same lease table over connections of its own; without it, renewals share those of `leases`.
        """
        self.worker_id = settings.worker_id or f"worker-{random.getrandbits(48):012x}"
        self._settings = settings
        self._leases = leases
        self._clock = clock
        self._telemetry = telemetry
        self._sinks = sinks
        backoff = Backoff(settings.retry_backoff_seconds_min, settings.retry_backoff_seconds_max)
        self._retrier = Retrier(backoff, random, telemetry)
        self._table = LeaseTable(leases, self._retrier, worker_id=self.worker_id, random=random, renewals=renewals)
        self._taker = Taker(self._table, clock=clock, telemetry=telemetry)
        self._planner = LeasePlanner(self.worker_id, settings.lease_duration_seconds)
        initial, start_timestamp = initial_checkpoint(settings.start_from)
        archive = archive_of(settings, objects, leases=leases, retrier=self._retrier, clock=clock, telemetry=telemetry)
        fields = archive.names.fields if archive is not None else ()
        manifests = archive.manifests if archive is not None else None
        self._kinesis = kinesis
        self._parts = ShardParts(
            ports=read_ports_of(settings, kinesis, fan_out, self._retrier, clock, random, telemetry, backoff),
            sinks=sinks,
            archive=archive,
            router=Router(settings.dest_streams, fields),
            budget=Budget(settings.budget_bytes_max),
            counters=Counters(),
            handling=handling,
            retention=Retention(
                objects,
                settings.error_prefix,
                retrier=self._retrier,
                clock=clock,
                telemetry=telemetry,
                closing_seconds=manifests.wait_seconds if manifests is not None else None,
            ),
        )
        self._hour_closer = (
            HourCloser(objects, manifests, retrier=self._retrier, telemetry=telemetry)
            if manifests is not None and objects is not None
            else None
        )
        self._shard_settings = shard_settings_of(
            settings, start_timestamp, has_archive=archive is not None, is_partitioned=bool(fields)
        )
        self._holdings = Holdings(
            self._consume,
            on_ended=self._sync_soon,
            ahead_seconds_max=settings.lease_duration_seconds / _ROUNDS_PER_LEASE,
            clock=clock,
            telemetry=telemetry,
        )
        self._renewal = Renewal(
            self._holdings,
            lease_duration_seconds=settings.lease_duration_seconds,
            on_lost=self._holdings.lose,
            on_stalled=self._holdings.give_up,
            clock=clock,
            telemetry=telemetry,
        )
        self._sync = ShardSync(
            settings.source_stream,
            initial,
            kinesis=kinesis,
            table=self._table,
            retrier=self._retrier,
            retention=self._parts.retention,
            patience_seconds=_PATIENCE_LEASES * settings.lease_duration_seconds,
            clock=clock,
            telemetry=telemetry,
        )
        self._round_due = asyncio.Event()
        self._state = WorkerState.STARTING
        self._started_at = clock.monotonic()
        self._is_sync_due = True
        self._next_sync_at = 0.0
        self._presence = 0  # the heartbeat of this worker's presence, while it holds no lease

    # What others ask.

    def status(self) -> WorkerStatus:
        """Return a snapshot; cheap enough for every second."""
        now = self._clock.monotonic()
        renewal_age = now - self._renewal.renewed_at
        fresh = renewal_age <= self._settings.lease_duration_seconds
        shards = tuple(self._holdings[name].consumer.status() for name in sorted(self._holdings))
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
        try:
            if not await self._open_before(stop):
                return
            self._state = WorkerState.RUNNING
            async with asyncio.TaskGroup() as group:
                renewals = group.create_task(self._renewal.run())
                succession = self._new_succession(group)
                rounds = [group.create_task(self._run_rounds(group, succession))]
                if self._hour_closer is not None:
                    rounds.append(group.create_task(self._hour_closer.run()))
                await stop.wait()
                self._state = WorkerState.DRAINING
                for each in rounds:
                    each.cancel()
                group.create_task(succession.leave())
                group.create_task(self._taker.leave())
                await self._new_departure().run(hurry or asyncio.Event(), group, self._presence + 1)
                renewals.cancel()
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures
        finally:
            self._state = WorkerState.STOPPED

    # Start.

    async def _open_before(self, stop: asyncio.Event) -> bool:
        """Start; False if the stop came first: in an outage a start takes as long as that lasts."""
        async with asyncio.TaskGroup() as group:
            opening, stopping = group.create_task(self._open()), group.create_task(stop.wait())
            await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
            is_open = opening.done()
            opening.cancel()
            stopping.cancel()
        return is_open

    async def _open(self) -> None:
        summary = await self._retrier.call("describe_stream", lambda: self._kinesis.describe_stream(self._stream))
        self._parts.retention.set_hours(summary.retention_hours)
        if self._parts.archive is not None:
            await self._parts.archive.check_write()
        if self._parts.ports.registration is not None:
            await self._parts.ports.registration.consumer_arn()
        await self._hold_application()
        self._telemetry.info(
            "worker_started",
            worker_id=self.worker_id,
            stream=self._stream,
            open_shards=summary.open_shard_count,
            retention_hours=summary.retention_hours,
        )
        if self._parts.archive is None and self._parts.handling is None:
            self._telemetry.warning("no_bucket", consequence="dead letters are only logged with their place")

    async def _hold_application(self) -> None:
        """Say what this application is; ConfigurationError if another stream has its name: shards have the same ids.

        A name belongs to the first who writes it, before there is any row: two may start at the same moment.
        """
        described = await self._retrier.call("read_application", self._leases.read_application)
        if not self._is_other(described):  # what an older release wrote is not looked into by the write
            own = self._describe()
            described = await self._retrier.call("write_application", lambda: self._leases.write_application(own))
        if self._is_other(described):
            raise ConfigurationError(
                f"application `{self._settings.app}` reads stream `{(described or {})['source_stream']}`,"
                f" not `{self._stream}`",
                hint="Give this one a name of its own with --app; `headrace forget` frees one that is out of use",
            )

    def _is_other(self, described: Mapping[str, Any] | None) -> bool:
        return described is not None and bool(described.get("source_stream", self._stream) != self._stream)

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
            "archive_format": settings.archive_format.value,
            "archive_time_zone": settings.archive_time_zone,
            "file_extension": settings.file_extension,
            "manifest_prefix": settings.manifest_prefix,
            "start_from": settings.start_from,
            "lease_duration_seconds": settings.lease_duration_seconds,
        }

    @property
    def _stream(self) -> str:
        return self._settings.source_stream

    # Rounds: look, sync, plan, take.

    def _consume(self, held: HeldLease) -> ShardConsumer:
        return ShardConsumer(held, self._shard_settings, self._parts)

    def _sync_soon(self) -> None:
        self._is_sync_due = True
        self._round_due.set()

    @property
    def _round_seconds(self) -> float:
        return min(self._settings.lease_duration_seconds / _ROUNDS_PER_LEASE, self._settings.shard_sync_seconds)

    def _next_round_seconds(self) -> float:
        is_hasty = self._planner.roster.is_somebody_leaving(self._clock.monotonic())
        return min(self._round_seconds, _ROUND_SECONDS_MAX_AT_LEAVE) if is_hasty else self._round_seconds

    def _new_succession(self, group: asyncio.TaskGroup) -> Succession:
        def adopt(held: HeldLease) -> None:
            if self._state is WorkerState.RUNNING and held.shard_id not in self._holdings:
                self._telemetry.info("lease_adopted", shard_id=held.shard_id, epoch=held.epoch)
                self._holdings.start(held, self._clock.monotonic(), group)

        return Succession(
            self._table,
            self.worker_id,
            patience_seconds=_PATIENCE_LEASES * self._settings.lease_duration_seconds,
            on_adopted=adopt,
            clock=self._clock,
            telemetry=self._telemetry,
        )

    def _new_departure(self) -> Departure:
        return Departure(
            self._holdings,
            self._planner,
            self._table,
            self._sinks,
            worker_id=self.worker_id,
            drain_timeout_seconds=self._settings.drain_timeout_seconds,
            offer_seconds=2 * self._round_seconds,
            clock=self._clock,
            telemetry=self._telemetry,
        )

    async def _run_rounds(self, group: asyncio.TaskGroup, succession: Succession) -> None:
        is_first = True
        while True:
            self._round_due.clear()
            try:
                await self._run_round(group, succession)
            except HeadraceError as error:
                # What can't be got over at the start is the user's to see; later it may be a passing loss of access.
                if is_first:
                    raise
                self._telemetry.error("round_failed", error=str(error), hint=error.hint)
            is_first = False
            try:
                async with asyncio.timeout(self._next_round_seconds()):
                    await self._round_due.wait()
            except TimeoutError:
                continue

    async def _run_round(self, group: asyncio.TaskGroup, succession: Succession) -> None:
        rows = await self._table.list_rows()
        now = self._clock.monotonic()
        # A row that is gone or can't be read is restored before its shard is given up for lost.
        is_row_missing = self._holdings.keys() - {row.shard_id for row in rows.leases}
        if self._is_sync_due or now >= self._next_sync_at or is_row_missing:
            self._is_sync_due = False
            held = self._holdings.rows(now - self._settings.lease_duration_seconds)
            if await self._sync.sync(rows, held):
                rows = await self._table.list_rows()
            self._next_sync_at = now + self._settings.shard_sync_seconds
        else:
            self._sync.note(rows)
        if self._hour_closer is not None:
            self._hour_closer.look(rows)
        await self._follow_plan(rows, group, succession)

    async def _follow_plan(self, rows: TableRows, group: asyncio.TaskGroup, succession: Succession) -> None:
        now = self._clock.monotonic()
        epochs = {name: each.held.epoch for name, each in self._holdings.items()}
        leases = {row.shard_id: row for row in rows.leases}
        for shard_id, epoch in epochs.items():
            if shard_id in leases and leases[shard_id].epoch == epoch:
                row = leases[shard_id]
                self._holdings.obey(self._holdings[shard_id], row, group, is_paused=is_paused(row, leases))
        plan = self._planner.plan(rows, epochs, now, self._holdings.avoided(now))
        for shard_id in plan.lost:
            found = self._holdings.get(shard_id)
            # A shard may have ended, and a later lease of it begun, since the rows were read.
            if found is not None and not found.consumer.is_finishing and found.held.epoch == epochs[shard_id]:
                self._holdings.lose(found, "taken_by_another")
        for each in plan.hand_over:
            if (holding := self._holdings.get(each.shard_id)) is not None:
                self._holdings.hand_over(holding, each.successor, group)

        def on_taken(row: Lease, held: HeldLease, started_at: float) -> bool:
            succession.give_up(row.shard_id)
            return self._start(row, held, started_at, group, is_resting=is_paused(row, leases))

        await self._taker.take(plan.take, group, on_taken)
        async with asyncio.TaskGroup() as declines:
            for row in plan.decline:
                declines.create_task(self._decline(row))
        await self._take_back_attempts(rows)
        await self._show_presence()  # an owner declines whom it can't see
        for row in plan.ask:
            succession.ask(row, group)

    def _start(
        self, row: Lease, held: HeldLease, started_at: float, group: asyncio.TaskGroup, *, is_resting: bool
    ) -> bool:
        """Read a shard that was just taken, unless this worker leaves or still has to do with it."""
        if self._state is not WorkerState.RUNNING or row.shard_id in self._holdings:
            return False
        self._telemetry.info("lease_taken", shard_id=row.shard_id, epoch=held.epoch, before=row.owner or "")
        self._holdings.start(held, started_at, group, is_paused=is_resting)
        return True

    async def _decline(self, row: Lease) -> None:
        if await self._table.decline(row):
            self._telemetry.info("lease_ask_declined", shard_id=row.shard_id, asker=row.successor or "")

    async def _take_back_attempts(self, rows: TableRows) -> None:
        """Let nobody take a lost lease for a death: this process lives, whatever it began to look at."""
        for row in rows.leases:
            if row.shard_id not in self._holdings:
                await self._table.take_back_attempt(row)

    async def _show_presence(self) -> None:
        """Let others count this worker while no lease shows it, and tidy up after those that died."""
        if not self._holdings:
            self._presence += 1
            await self._table.announce(Presence(self.worker_id, self._presence))
        elif self._presence:
            await self._table.forget(self.worker_id)
            self._presence = 0
        for worker_id, heartbeat in self._planner.roster.forgotten(self._clock.monotonic()):
            await self._table.forget(worker_id, heartbeat)
