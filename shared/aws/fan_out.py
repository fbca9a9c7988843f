"""The port of enhanced fan-out over aiobotocore, whose event streams come over HTTP/1.1.

What aiobotocore does, seen with 3.10: the call returns once the first message has come; a cancelled wait ends the
stream's generators, so that a further wait would look like a regular end; an error inside the stream is a ClientError.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Final

from shared.aws.error_map import aws_errors
from shared.aws.kinesis import page_from_wire
from shared.aws.kinesis_wire import understand
from shared.errors import StreamNotFoundError
from shared.records import RecordPage, Start, StartKind, StreamConsumer

_EVENT: Final = "SubscribeToShardEvent"


class FanOutAdapter:
    """Registered consumers of one stream, through a client with room for a connection per shard."""

    def __init__(self, client: Any, stream: str, call_timeout_seconds: float) -> None:
        self._client = client
        self._stream = stream
        self._call_timeout_seconds = call_timeout_seconds

    async def describe_consumer(self, stream_arn: str, name: str) -> StreamConsumer | None:
        """Look for a consumer (DescribeStreamConsumer); None also where the stream does not exist."""
        call = self._client.describe_stream_consumer(StreamARN=stream_arn, ConsumerName=name)
        try:
            answer = await self._answer("DescribeStreamConsumer", call)
        except StreamNotFoundError:
            return None
        return _consumer_from_wire(answer["ConsumerDescription"])

    async def register_consumer(self, stream_arn: str, name: str) -> StreamConsumer:
        """Register a consumer (RegisterStreamConsumer)."""
        call = self._client.register_stream_consumer(StreamARN=stream_arn, ConsumerName=name)
        return _consumer_from_wire((await self._answer("RegisterStreamConsumer", call))["Consumer"])

    async def subscribe_to_shard(self, consumer_arn: str, shard_id: str, start: Start) -> EventSubscription:
        """Open a subscription (SubscribeToShard)."""
        place: dict[str, Any] = {"Type": start.kind.value}
        if start.kind in {StartKind.AT_SEQUENCE_NUMBER, StartKind.AFTER_SEQUENCE_NUMBER}:
            place["SequenceNumber"] = str(start.sequence_number)
        elif start.kind is StartKind.AT_TIMESTAMP:
            place["Timestamp"] = start.timestamp
        call = self._client.subscribe_to_shard(ConsumerARN=consumer_arn, ShardId=shard_id, StartingPosition=place)
        return EventSubscription((await self._answer("SubscribeToShard", call))["EventStream"], self._stream)

    async def _answer(self, operation: str, call: Awaitable[Any]) -> Any:
        # The client's read time-out is made for the silence between events; an answer has to come sooner.
        with aws_errors("kinesis", operation, self._stream):
            async with asyncio.timeout(self._call_timeout_seconds):
                return await call


class EventSubscription:
    """One event stream of aiobotocore; an event that arrived waits in the connection until it is asked for."""

    def __init__(self, stream: Any, stream_name: str) -> None:
        self._stream = stream
        self._stream_name = stream_name
        self._events: AsyncGenerator[Any] = aiter(stream)

    async def next_event(self) -> RecordPage | None:
        """Wait for the next event; messages of other types are passed over."""
        with aws_errors("kinesis", "SubscribeToShard", self._stream_name):
            async for message in self._events:
                event = message.get(_EVENT)
                if event is not None:
                    return understand(_page_of, event, "SubscribeToShard")
        return None

    async def close(self) -> None:
        """Close the connection: what is left of the answer can't be told from the next one."""
        self._stream.close()
        await self._events.aclose()


def _page_of(event: Any) -> RecordPage:
    # At the end of a shard the service leaves the number out, although its model calls it required.
    return page_from_wire({**event, "NextShardIterator": event.get("ContinuationSequenceNumber")})


def _consumer_from_wire(wire: Any) -> StreamConsumer:
    return StreamConsumer(wire["ConsumerARN"], wire["ConsumerStatus"])
