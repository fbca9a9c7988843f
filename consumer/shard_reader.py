"""Reads one shard page by page: pacing, budget, expired iterators and retries, so that its caller sees only pages."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from consumer.bell import Bell
from consumer.budget import Account, Turn
from consumer.core.read_estimate import ReadEstimate, page_bytes
from consumer.core.read_pacer import ReadPacer
from consumer.registration import Registration
from consumer.retrier import Retrier
from shared.errors import InvalidRequestError, IteratorExpiredError, ServiceError, ThrottledError
from shared.lease import CheckpointKind, Lease
from shared.ports import Clock, Kinesis, Random, Telemetry
from shared.records import LATEST, TRIM_HORIZON, RecordPage, Start, StartKind, data_bytes
from shared.retry import Backoff

_CLOCK_SKEW_SECONDS: Final = 1.0  # by which a clock may be fast without another call
_CLOCK_SECONDS_MAX: Final = 10 * 366 * 86_400.0


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How a shard is read."""

    stream: str
    records_max: int
    pause_seconds: float
    idle_seconds: float
    start_timestamp: float  # seconds since the epoch; for rows at AT_TIMESTAMP


@dataclass(frozen=True, slots=True)
class ReadPorts:
    """What a reader needs of the world."""

    kinesis: Kinesis
    retrier: Retrier
    clock: Clock
    random: Random
    telemetry: Telemetry
    backoff: Backoff
    registration: Registration | None = None  # of the consumer for enhanced fan-out; None: shards are polled

    async def is_trimmed(self, stream: str, shard_id: str) -> bool:
        """Whether a stream has forgotten a shard."""
        listed = await self.retrier.call("list_shards", lambda: self.kinesis.list_shards(stream))
        return all(shard.shard_id != shard_id for shard in listed)


def start_of(row: Lease, application_timestamp: float) -> Start:
    """Return where reading begins: AT the stored record, since a part of its aggregate may be unread (as in KCL).

    A row that was sent to a time has one of its own; others that start at a time share the application's. LATEST has a
    time, too, once somebody has read there and found nothing.
    """
    checkpoint = row.checkpoint
    if checkpoint.kind is CheckpointKind.NUMBER:
        return Start(StartKind.AT_SEQUENCE_NUMBER, sequence_number=checkpoint.position.sequence_number)
    if checkpoint.kind is CheckpointKind.LATEST:
        return Start(StartKind.LATEST, timestamp=row.start_timestamp or 0.0)
    if checkpoint.kind is CheckpointKind.AT_TIMESTAMP:
        own = row.start_timestamp
        return Start(StartKind.AT_TIMESTAMP, timestamp=application_timestamp if own is None else own)
    return TRIM_HORIZON


class ShardReader:
    """Yields the pages of one shard in order, from `start` on, for as long as its caller asks."""

    def __init__(
        self, shard_id: str, start: Start, *, settings: ReadSettings, ports: ReadPorts, account: Account
    ) -> None:
        self._shard_id = shard_id
        self.start = start  # where the next page begins
        self._latest_at: float | None = None
        self._settings = settings
        self._ports = ports
        self._account = account
        self._pacer = ReadPacer(pause_seconds=settings.pause_seconds, idle_seconds=settings.idle_seconds)
        self._bell = Bell()
        self._iterator: str | None = None
        self._estimate = ReadEstimate()
        self._asked_at = 0.0  # when the last call was made
        self.behind_milliseconds = 0
        if start.kind is StartKind.LATEST and start.timestamp:
            self._go_on_from(start.timestamp)

    @property
    def latest_at(self) -> float | None:
        """When reading began at LATEST (seconds since the epoch), for as long as no record has come."""
        return self._latest_at

    async def past_time(self) -> float:
        """Return a time that has passed by the service's clock, in seconds since the epoch: a second ago by our own.

        The service refuses a start that is yet to come. Where it does, our clock is fast, and the time goes back, twice
        as far each time: so it ends up before now by at most about as much as the clock is fast.
        """
        wall, back_seconds = self._ports.clock.wall(), _CLOCK_SKEW_SECONDS
        while True:
            start = Start(StartKind.AT_TIMESTAMP, timestamp=wall - back_seconds)
            try:
                await self._iterator_at(start)
            except InvalidRequestError:
                if back_seconds > _CLOCK_SECONDS_MAX:
                    raise
                back_seconds *= 2
            else:
                return start.timestamp

    def note_latest(self, past_time: float) -> None:
        """Take note that reading has begun at LATEST, not before this `past_time`.

        LATEST moves on: whoever goes on from there must not skip any, and so begins at this time.
        """
        self._go_on_from(past_time)

    def note_records(self) -> None:
        """Take note that a record has come, which makes a position."""
        self._latest_at = None

    def _go_on_from(self, timestamp: float) -> None:
        self._latest_at = timestamp
        self.start = Start(StartKind.AT_TIMESTAMP, timestamp=timestamp)

    async def read(self) -> RecordPage:
        """Return the next page, which may be empty, and stays in the budget's book until the next call or `aclose`.

        A page without `next_iterator` is the last one. Raises ServiceError where no retry helps.
        """
        self._account.settle()
        is_probe = not self._estimate.is_known
        page = await self._get(self._estimate.limit(self._settings.records_max))
        self._estimate.take_page(self._asked_at, page.behind_milliseconds)
        self._iterator = page.next_iterator
        self.behind_milliseconds = page.behind_milliseconds
        if page.records:
            self.note_records()
            self.start = Start(StartKind.AFTER_SEQUENCE_NUMBER, sequence_number=page.records[-1].sequence_number)
        self._pacer.take_page(
            self._ports.clock.monotonic(),
            page_bytes=data_bytes(page.records),
            record_count=len(page.records),
            behind_milliseconds=page.behind_milliseconds,
            is_probe=is_probe,
        )
        return page

    def hurry(self) -> None:
        """Wait no longer for the next page, where nothing comes, than anywhere else."""
        self._pacer.hurry()
        self._bell.ring()

    async def aclose(self) -> None:
        """Give the last page back; an iterator expires by itself."""
        self._account.settle()

    async def _pace(self) -> None:
        while (delay := self._pacer.next_deadline() - self._ports.clock.monotonic()) > 0:
            await self._bell.wait(delay)

    async def look(self) -> int:
        """Return the age of the oldest unread record, in milliseconds, without reading it."""
        if self.start.kind is StartKind.LATEST:
            # LATEST moves on while nobody reads: what comes during a pause belongs to this shard's part, too.
            self.note_latest(await self.past_time())
        begun, self._iterator = self.start, None
        if begun.kind is StartKind.AT_SEQUENCE_NUMBER:
            self.start = Start(StartKind.AFTER_SEQUENCE_NUMBER, sequence_number=begun.sequence_number)
        try:
            page = await self._get(1)
        finally:
            self._account.settle()
            self._iterator = None
            if begun.kind is StartKind.AT_SEQUENCE_NUMBER:
                self.start = begun
        self._pacer.take_page(self._ports.clock.monotonic(), page_bytes=0, record_count=1, behind_milliseconds=0)
        ages = [int(1000 * (self._ports.clock.wall() - record.arrival_timestamp)) for record in page.records]
        return max(0, page.behind_milliseconds, *ages)

    async def _get(self, records_max: int) -> RecordPage:
        failures = 0
        while True:
            await self._pace()
            if self._iterator is None:
                self._iterator = await self._get_iterator()
            try:
                return await self._ask(self._iterator, records_max)
            except IteratorExpiredError:
                # It is not an outage: a new iterator at the last position is all it takes.
                self._ports.telemetry.count("iterators_expired")
                self._iterator = None
            except ServiceError as error:
                if not error.retryable:
                    raise
                self._ports.telemetry.count("calls_retried", operation="get_records", error=type(error).__name__)
                delay = self._ports.backoff.delay(failures, self._ports.random)
                failures += 1
                if isinstance(error, ThrottledError):
                    self._pacer.take_throttle(self._ports.clock.monotonic(), delay)
                else:
                    await asyncio.sleep(delay)

    async def _ask(self, iterator: str, records_max: int) -> RecordPage:
        """Make one call with room for its answer; nothing is reserved between two of them."""
        await self._reserve(records_max)
        self._asked_at = self._ports.clock.monotonic()
        try:
            page = await self._ports.kinesis.get_records(self._settings.stream, iterator, records_max)
        except BaseException:
            self._account.settle()
            raise
        self._account.take_page(page_bytes(page.records))
        return page

    async def _reserve(self, limit: int) -> None:
        clock, estimate = self._ports.clock, self._estimate
        turn = Turn.SMALL if estimate.is_small else Turn.IN_ORDER
        while True:
            amount = estimate.answer_bytes(clock.monotonic(), limit)
            await self._account.reserve(amount, turn)
            if estimate.covers(amount, clock.monotonic(), limit):
                return
            turn = Turn.IN_ORDER  # it waited for so long that it is at its tip no more

    async def _get_iterator(self) -> str:
        if self.start.kind is not StartKind.LATEST:
            try:
                return await self._iterator_at(self.start)
            except InvalidRequestError:
                if self._latest_at is None:
                    raise
                # Whoever stored when reading began had a clock that was fast: by the service's, it is yet to come.
        past_time = await self.past_time()
        iterator = await self._iterator_at(LATEST)
        self.note_latest(past_time)
        return iterator

    async def _iterator_at(self, start: Start) -> str:
        kinesis, stream = self._ports.kinesis, self._settings.stream
        return await self._ports.retrier.call(
            "get_shard_iterator", lambda: kinesis.get_shard_iterator(stream, self._shard_id, start)
        )
