"""RegisterStreamConsumer and its family, and who may subscribe to which shard."""

from __future__ import annotations

from typing import Final

from infra.cloud.core.api_error import in_use, limit_exceeded, not_found
from infra.cloud.core.consumer import RegisteredConsumer, ShardEvent, Subscription
from infra.cloud.core.names import check_consumer_name, consumer_parts
from infra.cloud.core.reading import StartingPosition, locate, next_event
from infra.cloud.core.registry import Registry
from infra.cloud.core.stream import Stream
from shared.limits import CONSUMERS_PER_STREAM_MAX, RESUBSCRIBE_SECONDS_MIN, SUBSCRIPTION_LIFETIME_SECONDS

_CREATING_MAX: Final = 5


class ConsumerDesk:
    """Registered consumers of all streams."""

    def __init__(self, streams: Registry) -> None:
        self._streams = streams
        self._numbers = 0

    def register(self, stream_arn: str, name: str, tags: dict[str, str] | None = None) -> RegisteredConsumer:
        """RegisterStreamConsumer: at most 20 a stream, at most 5 of them CREATING."""
        stream = self._streams.active(stream_arn)
        check_consumer_name(name)
        now = self._streams.clock()
        if name in stream.consumers:
            in_use(f"Consumer {name} under stream {stream.name} already exists for account {stream.account_id}.")
        creating = sum(each.status(now) == "CREATING" for each in stream.consumers.values())
        if len(stream.consumers) >= CONSUMERS_PER_STREAM_MAX or creating >= _CREATING_MAX:
            limit_exceeded(
                f"A stream has at most {CONSUMERS_PER_STREAM_MAX} consumers, {_CREATING_MAX} of them CREATING."
            )
        consumer = RegisteredConsumer(
            name=name,
            arn=f"{stream.arn}/consumer/{name}:{int(now)}",
            created_at=now,
            busy_until=now + self._streams.status_delay_seconds,
            tags=dict(tags or {}),
        )
        stream.consumers[name] = consumer
        self._streams.changed(stream)
        return consumer

    def deregister(self, stream_arn: str | None, name: str | None, consumer_arn: str | None) -> None:
        """DeregisterStreamConsumer by ARN, or by stream and name; its subscriptions end."""
        stream, consumer = self.find(stream_arn, name, consumer_arn)
        del stream.consumers[consumer.name]
        self._streams.changed(stream)

    def find(
        self, stream_arn: str | None, name: str | None, consumer_arn: str | None
    ) -> tuple[Stream, RegisteredConsumer]:
        """The consumer by its ARN, or by the stream's ARN and its name."""
        if consumer_arn is not None:
            stream_arn, name = consumer_parts(consumer_arn)
        stream = self._streams.any_state(stream_arn or "")
        consumer = stream.consumers.get(name or "")
        if consumer is None or (consumer_arn is not None and consumer.arn != consumer_arn):
            not_found(f"Consumer {name or ''} under stream {stream.name} not found for account {stream.account_id}.")
        return stream, consumer

    def list_consumers(self, stream_arn: str) -> list[RegisteredConsumer]:
        """Every consumer of a stream, by name."""
        stream = self._streams.any_state(stream_arn)
        return [each for _, each in sorted(stream.consumers.items())]

    # Subscriptions.

    def subscribe(self, consumer_arn: str, shard_id: str, start: StartingPosition) -> Subscription:
        """SubscribeToShard: takes the place of an earlier subscription, but not within 5 s of it."""
        stream, consumer = self.find(None, None, consumer_arn)
        now = self._streams.clock()
        if consumer.status(now) != "ACTIVE":
            in_use(f"Consumer {consumer.name} under stream {stream.name} is not ACTIVE.")
        stream = self._streams.readable(stream.arn)
        shard = stream.shard(shard_id, now)
        before = consumer.subscriptions.get(shard.index)
        if before is not None and now - before.started_at < RESUBSCRIBE_SECONDS_MIN:
            in_use(
                f"Another active subscription exists for this consumer: {stream.account_id}:{stream.name}:"
                f"{shard.shard_id}:{consumer.name}"
            )
        position = locate(stream, shard, start, now)
        self._numbers += 1
        subscription = Subscription(stream.uid, consumer.name, shard.index, self._numbers, position, now)
        consumer.subscriptions[shard.index] = subscription
        return subscription

    def event(self, subscription: Subscription, position: int) -> ShardEvent | None:
        """What to push at `position`; None once the subscription is over: five minutes old, replaced, or gone.

        The answer may be empty; it then only carries the position, and the caller decides whether to send it.
        """
        stream = self._streams.by_uid(subscription.stream_uid)
        consumer = stream.consumers.get(subscription.consumer_name)
        now = self._streams.clock()
        shard = stream.shards.get(subscription.shard_index)
        if (
            consumer is None
            or shard is None
            or now - subscription.started_at >= SUBSCRIPTION_LIFETIME_SECONDS
            or consumer.subscriptions.get(shard.index) != subscription
        ):
            return None
        return next_event(stream, shard, position, now)
