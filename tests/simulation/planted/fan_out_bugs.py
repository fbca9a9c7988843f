"""Bugs that break: nothing accepted is lost and nothing is stuck, where shards are read by enhanced fan-out."""

from __future__ import annotations

from typing import Any

from consumer import fan_out_reader
from consumer.fan_out_reader import FanOutReader
from consumer.registration import Registration
from shared.records import LATEST, RecordPage
from tests.simulation.planted.registry import Patch, bug


@bug("a subscription begins behind the last event of the one before")
def resubscribed_at_latest(patch: Patch) -> None:
    """Start the second and later subscriptions at LATEST."""
    original = FanOutReader._subscribe

    async def subscribe(self: Any) -> Any:
        if getattr(self, "had_one", False):
            self._poller.start = LATEST
        self.had_one = True
        return await original(self)

    patch.setattr(FanOutReader, "_subscribe", subscribe)


@bug(
    "a subscription begins behind the last event of the one before, not where the first one began",
    harmless="what was delivered before is left out by its position",
)
def continuation_ignored(patch: Patch) -> None:
    """Start every subscription where the first one did."""
    original = FanOutReader._subscribe

    async def subscribe(self: Any) -> Any:
        self._poller.start = self.__dict__.setdefault("first_start", self._poller.start)
        return await original(self)

    patch.setattr(FanOutReader, "_subscribe", subscribe)


@bug("the end of a subscription is not the end of its shard")
def end_of_a_subscription_taken_for_the_end(patch: Patch) -> None:
    """Finish a shard when its subscription ends."""
    original = FanOutReader._next_event

    async def next_event(self: Any, subscription: Any) -> RecordPage | None:
        return await original(self, subscription) or RecordPage()

    patch.setattr(FanOutReader, "_next_event", next_event)


@bug("a subscription that is silent for a minute is replaced")
def silence_waited_for(patch: Patch) -> None:
    """Be patient for ever."""
    patch.setattr(fan_out_reader, "SUBSCRIPTION_SILENCE_SECONDS_MAX", 1e9)
    patch.setattr(fan_out_reader, "_RENEW_SECONDS", 1e9)


@bug(
    "a subscription is renewed before the service ends it",
    harmless="a subscription that the service has ended is replaced in the same way",
)
def renewed_too_late(patch: Patch) -> None:
    """Leave it to the service."""
    patch.setattr(fan_out_reader, "_RENEW_SECONDS", 1e9)


@bug(
    "five seconds lie between two subscriptions to a shard",
    harmless="the refusal is waited out",
)
def resubscribed_at_once(patch: Patch) -> None:
    """Do not wait."""
    patch.setattr(fan_out_reader, "RESUBSCRIBE_SECONDS_MIN", 0)


@bug("a consumer that is being made is waited for", harmless="the refusal is waited out")
def consumer_not_waited_for(patch: Patch) -> None:
    """Take a consumer that is CREATING."""

    async def register(self: Any) -> str:
        summary = await self._retrier.call("describe_stream", lambda: self._kinesis.describe_stream(self._stream))
        while (found := await self._find_or_make(summary.stream_arn)) is None:
            pass
        return str(found.consumer_arn)

    patch.setattr(Registration, "_register", register)
