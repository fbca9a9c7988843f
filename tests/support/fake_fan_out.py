"""The port `FanOut` in memory, over a fake Kinesis: registered consumers and their subscriptions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from shared.errors import StreamNotFoundError, ThrottledError
from shared.limits import (
    CONSUMERS_PER_STREAM_MAX,
    GET_RECORDS_COUNT_MAX,
    RESUBSCRIBE_SECONDS_MIN,
    SUBSCRIPTION_LIFETIME_SECONDS,
)
from shared.records import RecordPage, Start, StreamConsumer
from tests.support.fake_kinesis import FakeKinesis, FakeShard, FakeStream, _index_of

_LOOK_SECONDS = 0.05  # how often a subscription without news looks again
_IDLE_EVENT_SECONDS = 5.0
_NEVER_SECONDS = 1e6
NO_NEWS = RecordPage()


@dataclass(slots=True)
class _Grant:
    """A shard's subscription as the service knows it: the latest one counts."""

    number: int
    made_at: float
    index: int  # of the next record


class FakeFanOut:
    """Registered consumers of every stream of a fake Kinesis.

    Subscriptions push across the same network as every call: an event can come late, be lost with its connection, or be
    an error; and a connection can go silent (`subscription_silent`) or end early (`subscription_ended`).
    """

    def __init__(self, kinesis: FakeKinesis, *, creating_seconds: float = 0.0) -> None:
        self.kinesis = kinesis
        self.network = kinesis.network
        self.creating_seconds = creating_seconds
        self.consumers: dict[str, float] = {}  # ARN -> when it becomes ACTIVE
        self.grants: dict[tuple[str, str], _Grant] = {}
        self._granted = 0

    # What an operator does.

    def deregister(self, stream: str, name: str) -> None:
        """Remove a consumer; its subscriptions end."""
        arn = _consumer_arn(f"stream/{stream}", name)
        del self.consumers[next(each for each in self.consumers if each.endswith(arn))]
        self.grants = {key: grant for key, grant in self.grants.items() if not key[0].endswith(arn)}

    # The port.

    async def describe_consumer(self, stream_arn: str, name: str) -> StreamConsumer | None:
        """Look for a consumer."""
        arn = _consumer_arn(stream_arn, name)
        return await self.network.call(
            "kinesis.describe_consumer", lambda: self._describe(arn) if arn in self.consumers else None
        )

    async def register_consumer(self, stream_arn: str, name: str) -> StreamConsumer:
        """Register a consumer."""
        arn = _consumer_arn(stream_arn, name)

        def land() -> StreamConsumer:
            self._stream_of(arn)
            if arn in self.consumers:
                raise ThrottledError(f"consumer {name} exists", code="ResourceInUseException")
            if sum(each.startswith(f"{stream_arn}/") for each in self.consumers) >= CONSUMERS_PER_STREAM_MAX:
                raise ThrottledError("too many consumers", code="LimitExceededException")
            self.consumers[arn] = self.network.now() + self.creating_seconds
            return self._describe(arn)

        return await self.network.call("kinesis.register_consumer", land)

    async def subscribe_to_shard(self, consumer_arn: str, shard_id: str, start: Start) -> FakeSubscription:
        """Open a subscription; the one before ends."""

        def land() -> int:
            stream, shard = self._find(consumer_arn, shard_id)
            before = self.grants.get((consumer_arn, shard_id))
            now = self.network.now()
            if before is not None and now - before.made_at < RESUBSCRIBE_SECONDS_MIN:
                raise ThrottledError(f"{shard_id} has a subscription", code="ResourceInUseException")
            index = self._locate(stream, shard, start)
            self._granted += 1
            self.grants[consumer_arn, shard_id] = _Grant(self._granted, now, index)
            return self._granted

        number = await self.network.call("kinesis.subscribe_to_shard", land)
        return FakeSubscription(self, consumer_arn, shard_id, number)

    def push(self, consumer_arn: str, shard_id: str, number: int, *, is_idle: bool) -> RecordPage | None:
        """Return what the service sends next, None at the end of the subscription.

        An empty event is only sent after an idle time; NO_NEWS before.
        """
        grant = self.grants.get((consumer_arn, shard_id))
        if consumer_arn not in self.consumers or grant is None or grant.number != number:
            return None
        age = self.network.now() - grant.made_at
        if age >= SUBSCRIPTION_LIFETIME_SECONDS or self.network.happens("subscription_ended"):
            return None
        stream, shard = self._find(consumer_arn, shard_id)
        page = self.kinesis._page(stream, shard, grant.index, GET_RECORDS_COUNT_MAX)
        if page.next_iterator is None:
            grant.index = len(shard.records)
            return page
        if not page.records and not is_idle:
            return NO_NEWS
        grant.index = max(grant.index, shard.trimmed) + len(page.records)
        known = shard.numbers[grant.index - 1] if grant.index else shard.shard.starting_sequence_number
        return replace(page, next_iterator=str(known))

    def _locate(self, stream: FakeStream, shard: FakeShard, start: Start) -> int:
        self.kinesis._check_start(stream, shard.shard, start)
        return _index_of(shard, start)

    def _find(self, consumer_arn: str, shard_id: str) -> tuple[FakeStream, FakeShard]:
        if consumer_arn not in self.consumers:
            raise StreamNotFoundError(f"no consumer {consumer_arn}", code="ResourceNotFoundException")
        if self._describe(consumer_arn).status != "ACTIVE":
            raise ThrottledError(f"{consumer_arn} is CREATING", code="ResourceInUseException")
        stream = self._stream_of(consumer_arn)
        return stream, self.kinesis._find_shard(stream.name, shard_id)

    def _stream_of(self, consumer_arn: str) -> FakeStream:
        return self.kinesis._find(consumer_arn.partition(":stream/")[2].partition("/")[0])

    def _describe(self, arn: str) -> StreamConsumer:
        return StreamConsumer(arn, "ACTIVE" if self.network.now() >= self.consumers[arn] else "CREATING")


class FakeSubscription:
    """The reader's end of a subscription; after a wait that failed or was cut off it only ends, as aiobotocore's."""

    def __init__(self, fan_out: FakeFanOut, consumer_arn: str, shard_id: str, number: int) -> None:
        self._fan_out = fan_out
        self._place = (consumer_arn, shard_id, number)
        self._is_first = True  # the first event comes even if it is empty: it tells that the subscription stands
        self._is_broken = False
        self.is_closed = False

    async def next_event(self) -> RecordPage | None:
        """Wait for the next event."""
        network = self._fan_out.network
        if self.is_closed or self._is_broken:
            return None
        self._is_broken = True
        if network.happens("subscription_silent"):
            await asyncio.sleep(_NEVER_SECONDS)
        idle_since = network.now()
        while True:
            is_idle = self._is_first or network.now() - idle_since >= _IDLE_EVENT_SECONDS
            page = await network.call(
                "kinesis.event", lambda idle=is_idle: self._fan_out.push(*self._place, is_idle=idle)
            )
            if page is not NO_NEWS:
                self._is_broken, self._is_first = False, False
                return page
            await asyncio.sleep(_LOOK_SECONDS)

    async def close(self) -> None:
        """Hang up; the service notices at its next event, which nobody gets."""
        self.is_closed = True


def _consumer_arn(stream_arn: str, name: str) -> str:
    return f"{stream_arn}/consumer/{name}:1700000000"
