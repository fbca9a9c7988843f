"""Kinesis on the wire: finds the engine of a region, runs the operation, answers in the caller's dialect."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import Final, NoReturn

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.consumer import ShardEvent, Subscription
from infra.cloud.core.engine import REGION, KinesisEngine
from infra.cloud.core.journal import StreamState
from infra.cloud.event_stream import event_message, exception_message
from infra.cloud.fields import Fields
from infra.cloud.kinesis_journal import KinesisJournal
from infra.cloud.misbehaviour import Reply
from infra.cloud.operations import OPERATIONS, WAKING
from infra.cloud.record_operations import child_answer, record_answer, starting_position
from infra.cloud.wire import Dialect, JsonDialect, dialect_of, error_answer
from shared.limits import SHARD_READ_BYTES_PER_SECOND

TARGET_PREFIX: Final = "Kinesis_20131202."
SUBSCRIBE: Final = "SubscribeToShard"
BODY_BYTES_MAX: Final = 16 * 1024 * 1024  # 10 MiB of records in base64 and their JSON

_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+){1,3}-[0-9]{1,2}", re.ASCII)
_REGIONS_MAX: Final = 64
_IDLE_EVENT_SECONDS: Final = 5.0
_OK: Final = 200
_BAD_REQUEST: Final = 400
_SERVER_ERROR: Final = 500


@dataclass(slots=True)
class KinesisService:
    """Every region's Kinesis; `status_delay_seconds` is how long CREATING and the like last."""

    limits_enforced: bool = True
    status_delay_seconds: float = 0.2
    journal: KinesisJournal | None = None
    _engines: dict[str, KinesisEngine] = field(default_factory=dict)
    _sleepers: set[asyncio.Event] = field(default_factory=set)
    _closing: bool = False

    def engine(self, region: str) -> KinesisEngine:
        """The engine of a region, made when it is first asked for."""
        engine = self._engines.get(region)
        if engine is None:
            if not _REGION.fullmatch(region) or len(self._engines) >= _REGIONS_MAX:
                region = REGION
            engine = self._engines.setdefault(
                region,
                KinesisEngine(
                    time.time,
                    limits_enforced=self.limits_enforced,
                    region=region,
                    status_delay_seconds=self.status_delay_seconds,
                    journal=self.journal,
                ),
            )
        return engine

    def engines(self) -> list[tuple[str, KinesisEngine]]:
        """Every region that was asked for so far, with its engine, by name."""
        return sorted(self._engines.items())

    # State on disk.

    def reload(self) -> int:
        """Take over what the journal's folder holds and go on writing there; returns the number of streams."""
        if self.journal is None:
            return 0
        found = self.journal.reload()
        for each in found:
            region = each.state["arn"].split(":")[3]
            self.engine(region).restore(each.state, each.logs)
        self.sweep()
        self.journal.start(self._states)
        return len(found)

    def _states(self) -> Iterable[StreamState]:
        return [state for engine in self._engines.values() for state in engine.states()]

    def sweep(self) -> None:
        """Trim what retention has passed by."""
        for engine in self._engines.values():
            engine.sweep()

    # Calls.

    def answer(self, operation: str, region: str, content_type: str, body: bytes) -> Reply:
        """Carry out one operation; every failure becomes an answer in the caller's dialect."""
        dialect: Dialect = JsonDialect()
        try:
            dialect = dialect_of(content_type)
            function = OPERATIONS.get(operation, _unknown_operation)
            answer = function(self.engine(region), Fields(dialect.decode(body), dialect))
        except ApiError as error:
            return refusal(dialect, error)
        if operation in WAKING:
            self.wake()
        return Reply(_OK, b"" if answer is None else dialect.encode(answer), [("Content-Type", dialect.content_type)])

    def wake(self) -> None:
        """Let every subscription look for something to push."""
        for sleeper in self._sleepers:
            sleeper.set()

    def close(self) -> None:
        """End the subscriptions; the journal is closed by its owner."""
        self._closing = True
        self.wake()

    # Subscriptions.

    def subscribe(self, region: str, content_type: str, body: bytes) -> Reply | AsyncGenerator[bytes]:
        """Accept a SubscribeToShard call and return its messages, or the refusal."""
        dialect: Dialect = JsonDialect()
        try:
            dialect = dialect_of(content_type)
            request = Fields(dialect.decode(body), dialect)
            engine = self.engine(region)
            start = starting_position(request.required_nested("StartingPosition"), "Type", "SequenceNumber")
            subscription = engine.consumers.subscribe(
                request.required_text("ConsumerARN"), request.required_text("ShardId"), start
            )
        except ApiError as error:
            return refusal(dialect, error)
        self.wake()  # An older subscription of the same consumer to the same shard has to end.
        return self._messages(engine, subscription, dialect)

    async def _messages(
        self, engine: KinesisEngine, subscription: Subscription, dialect: Dialect
    ) -> AsyncGenerator[bytes]:
        yield event_message("initial-response", dialect.content_type, dialect.encode({}))
        sleeper = asyncio.Event()
        self._sleepers.add(sleeper)
        position = subscription.position
        is_idle = True  # The first event is sent even if it is empty: it tells that the subscription stands.
        try:
            while not self._closing:
                sleeper.clear()
                event = engine.consumers.event(subscription, position)
                if event is None:
                    return
                if event.records or event.continuation is None or is_idle:
                    position = event.position
                    yield event_message("SubscribeToShardEvent", dialect.content_type, _event_body(event, dialect))
                    if event.continuation is None:
                        return
                    if self.limits_enforced:
                        await asyncio.sleep(event.size / SHARD_READ_BYTES_PER_SECOND)
                is_idle = not event.records and not await _wait(sleeper)
        except ApiError as error:
            yield exception_message(error.code, dialect.content_type, dialect.encode({"message": error.message}))
        finally:
            self._sleepers.discard(sleeper)


def _unknown_operation(_engine: KinesisEngine, _request: Fields) -> NoReturn:
    raise ApiError("UnknownOperationException", "Kinesis has no such operation here.")


async def _wait(sleeper: asyncio.Event) -> bool:
    """Wait for something to push; False when only the time for an empty event has come."""
    try:
        async with asyncio.timeout(_IDLE_EVENT_SECONDS):
            await sleeper.wait()
    except TimeoutError:
        return False
    return True


def _event_body(event: ShardEvent, dialect: Dialect) -> bytes:
    body = {
        "Records": [record_answer(each, dialect) for each in event.records],
        "MillisBehindLatest": event.millis_behind_latest,
    }
    # At the end of a shard the service leaves the number out, although its model calls it required.
    if event.continuation is not None:
        body["ContinuationSequenceNumber"] = event.continuation
    if event.child_shards:
        body["ChildShards"] = [child_answer(each) for each in event.child_shards]
    return dialect.encode(body)


def refusal(dialect: Dialect, error: ApiError) -> Reply:
    """The answer to a call that is refused."""
    status = _SERVER_ERROR if error.is_server_fault else _BAD_REQUEST
    return Reply(status, error_answer(dialect, error), [("Content-Type", dialect.content_type)])
