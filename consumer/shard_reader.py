"""Reads one shard page by page: pacing, budget, expired iterators and retries, so that its caller sees only pages."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

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

_CLOCK_SKEW_SECONDS: Final = 1.0  # a start in the future, by the service's clock, is refused


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

    def note_latest(self, wall: float) -> None:
        """Take note that reading has begun at LATEST at this time: whoever goes on from there must not skip any.

        LATEST moves on. A second is for the clocks' sake: a time that is yet to come by the service's is refused.
        """
        if self.start.kind is StartKind.LATEST:
            self._go_on_from(wall - _CLOCK_SKEW_SECONDS)

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
        )
        return page

    async def aclose(self) -> None:
        """Give the last page back; an iterator expires by itself."""
        self._account.settle()

    async def _pace(self) -> None:
        delay = self._pacer.next_deadline() - self._ports.clock.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)

    async def look(self) -> int:
        """Return the age of the oldest unread record, in milliseconds, without reading it."""
        place, now = self.start, self._ports.clock.wall()
        if place.kind is StartKind.LATEST:
            # LATEST moves on while nobody reads: what comes during a pause belongs to this shard's part, too.
            place = self.start = Start(StartKind.AT_TIMESTAMP, timestamp=now - _CLOCK_SKEW_SECONDS)
        elif place.kind is StartKind.AT_SEQUENCE_NUMBER:
            place = Start(StartKind.AFTER_SEQUENCE_NUMBER, sequence_number=place.sequence_number)
        kept, self.start, self._iterator = self.start, place, None
        try:
            page = await self._get(1)
        finally:
            self._account.settle()
            self.start, self._iterator = kept, None
        self._pacer.take_page(self._ports.clock.monotonic(), page_bytes=0, record_count=1, behind_milliseconds=0)
        ages = [int(1000 * (self._ports.clock.wall() - record.arrival_timestamp)) for record in page.records]
        return max(0, page.behind_milliseconds, *ages)

    async def _get(self, records_max: int) -> RecordPage:
        failures = 0
        while True:
            await self._pace()
            if self._iterator is None:
                self._iterator = await self._ports.retrier.call("get_shard_iterator", self._get_iterator)
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
        wall, kinesis, stream = self._ports.clock.wall(), self._ports.kinesis, self._settings.stream
        try:
            iterator = await kinesis.get_shard_iterator(stream, self._shard_id, self.start)
        except InvalidRequestError:
            if self._latest_at is None:
                raise
            # Our clock jumped: by the service's, the time at which reading began is yet to come.
            iterator = await kinesis.get_shard_iterator(stream, self._shard_id, LATEST)
        self.note_latest(wall)
        return iterator
