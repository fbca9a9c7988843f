"""Reads one shard by enhanced fan-out: one subscription after the other, so that its caller sees only pages."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from consumer.budget import Account, Turn
from consumer.core.read_estimate import page_bytes
from consumer.registration import Registration
from consumer.shard_reader import ReadPorts, ReadSettings, ShardReader
from shared.errors import AmbiguousCallError, InvalidRequestError, ServiceError, StreamNotFoundError
from shared.limits import RESUBSCRIBE_SECONDS_MIN, SUBSCRIPTION_LIFETIME_SECONDS, SUBSCRIPTION_SILENCE_SECONDS_MAX
from shared.ports import Subscription
from shared.records import LATEST, RecordPage, Start, StartKind

_RENEW_SECONDS: Final = SUBSCRIPTION_LIFETIME_SECONDS - 10
_IN_USE_CODE: Final = "ResourceInUseException"
_IN_USE_SECONDS: Final = (
    1.0  # between two attempts while the subscription of another worker is younger than five seconds
)


class Reader(Protocol):
    """What yields the pages of a shard in order."""

    async def read(self) -> RecordPage:
        """Return the next page, which may be empty; one without `next_iterator` is the last."""
        ...

    @property
    def latest_at(self) -> float | None:
        """When reading began at LATEST (seconds since the epoch), for as long as no record has come."""
        ...

    async def look(self) -> int:
        """Return the age of the oldest unread record, in milliseconds, without reading it."""
        ...

    def hurry(self) -> None:
        """Let the idle pause be over."""
        ...

    async def aclose(self) -> None:
        """Give back what is held open."""
        ...


def open_reader(
    shard_id: str, start: Start, *, settings: ReadSettings, ports: ReadPorts, account: Account, polls: bool = False
) -> Reader:
    """Return a reader by fan-out where the worker is registered for it, else, and with `polls`, one that polls."""
    poller = ShardReader(shard_id, start, settings=settings, ports=ports, account=account)
    if polls or ports.registration is None:
        return poller
    return FanOutReader(shard_id, poller, registration=ports.registration, ports=ports, account=account)


class FanOutReader:
    """Yields the events of one shard in order, from where `poller` stands, across any number of subscriptions.

    The next event is only asked for when the one before has been taken in and the budget has room: until then, it waits
    in the connection, which in the end slows the service down. An event that has come and finds no room waits here, so
    that at most one per shard is in memory beyond the budget. A subscription that ends, fails or is silent is replaced
    by one that starts after what was returned.
    """

    def __init__(
        self, shard_id: str, poller: ShardReader, *, registration: Registration, ports: ReadPorts, account: Account
    ) -> None:
        self._shard_id = shard_id
        self._poller = poller
        self._registration = registration
        self._ports = ports
        self._account = account
        self._subscription: Subscription | None = None
        self._subscribed_at = float("-inf")
        self._failures = 0  # since the last event

    async def read(self) -> RecordPage:
        """Return the next event, which may be empty; one without `next_iterator` is the last.

        Raises ServiceError where no retry helps. A cancelled read returns nothing and loses nothing: the next
        subscription begins behind the last event that was returned.
        """
        self._account.settle()
        try:
            page = await self._next_page()
            size = page_bytes(page.records)
            if size:
                await self._account.reserve(size, Turn.SMALL)
                self._account.take_page(size)
        except BaseException:
            await self.aclose()
            raise
        if page.records:
            self._poller.note_records()
        if page.next_iterator is None:
            await self._unsubscribe()
        else:
            self._poller.start = Start(StartKind.AFTER_SEQUENCE_NUMBER, sequence_number=int(page.next_iterator))
        return page

    @property
    def latest_at(self) -> float | None:
        """When reading began at LATEST (seconds since the epoch), for as long as no record has come."""
        return self._poller.latest_at

    async def look(self) -> int:
        """Return the age of the oldest unread record, in milliseconds, without reading it: by polling."""
        await self.aclose()
        return await self._poller.look()

    def hurry(self) -> None:
        """Nothing to do: what comes is pushed."""

    async def aclose(self) -> None:
        """End the subscription, and give the last page back."""
        self._account.settle()
        await self._unsubscribe()

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await subscription.close()

    async def _next_page(self) -> RecordPage:
        while True:
            try:
                page = await self._next_event(self._subscription or await self._subscribe())
            except ServiceError as error:
                await self._recover(error)
                continue
            if page is not None:
                self._failures = 0
                return page
            await self.aclose()

    async def _next_event(self, subscription: Subscription) -> RecordPage | None:
        """Wait for an event; None: the subscription has ended, or is about to be ended by its age."""
        left = self._subscribed_at + _RENEW_SECONDS - self._ports.clock.monotonic()
        if left <= 0:
            return None
        try:
            async with asyncio.timeout(min(left, SUBSCRIPTION_SILENCE_SECONDS_MAX)):
                return await subscription.next_event()
        except TimeoutError:
            if left <= SUBSCRIPTION_SILENCE_SECONDS_MAX:
                return None
            # A connection that was cut off without a word looks like this, too.
            raise AmbiguousCallError(
                f"No event of `{self._shard_id}` for {SUBSCRIPTION_SILENCE_SECONDS_MAX} s", code="SubscriptionSilent"
            ) from None

    async def _subscribe(self) -> Subscription:
        clock = self._ports.clock
        # The service refuses a second one within five seconds, also where the first has ended.
        await asyncio.sleep(max(0.0, self._subscribed_at + RESUBSCRIBE_SECONDS_MIN - clock.monotonic()))
        arn, start = await self._registration.consumer_arn(), self._poller.start
        past_time = await self._poller.past_time() if start.kind is StartKind.LATEST else None
        try:
            subscription = await self._registration.port.subscribe_to_shard(arn, self._shard_id, start)
        except InvalidRequestError:
            if self._poller.latest_at is None or start.kind is not StartKind.AT_TIMESTAMP:
                raise
            # Whoever stored when reading began had a clock that was fast: by the service's, it is yet to come.
            past_time = await self._poller.past_time()
            subscription = await self._registration.port.subscribe_to_shard(arn, self._shard_id, LATEST)
        if past_time is not None:
            self._poller.note_latest(past_time)
        self._subscription = subscription
        self._subscribed_at = clock.monotonic()
        self._ports.telemetry.count("subscriptions_opened")
        return subscription

    async def _recover(self, error: ServiceError) -> None:
        """Drop the subscription and wait a little; raise what no retry heals."""
        await self.aclose()
        if isinstance(error, StreamNotFoundError):
            self._registration.forget()  # what is gone may be the consumer
        if not error.retryable:
            raise error
        self._ports.telemetry.count(
            "calls_retried", operation="subscribe_to_shard", error=error.code or type(error).__name__
        )
        delay = self._ports.backoff.delay(self._failures, self._ports.random)
        self._failures += 1
        await asyncio.sleep(max(delay, _IN_USE_SECONDS) if error.code == _IN_USE_CODE else delay)
