"""The producer as a library: `async with Producer("orders") as producer: await producer.put(event)`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import islice, repeat
from operator import itemgetter
from types import TracebackType
from typing import Any, Final, NoReturn, Self, cast

import orjson

from producer.core.hot_keys import ShardHeat
from producer.core.json_line import SESSION_ID_FIELD, are_bare, event_columns
from producer.core.ledger import Ledger
from producer.core.line import EventColumns
from producer.core.record_columns import Ticket
from producer.producer import Producer
from producer.spill import spill_folder
from producer.spill_lock import lock_spill, report_left_behind
from producer.stage import Stage
from shared.aws.session import open_aws
from shared.clock import SystemClock
from shared.compiled import COLUMNS
from shared.disk import LocalFiles
from shared.errors import (
    DeliveryFailedError,
    DrainTimeoutError,
    HeadraceError,
    MalformedEventError,
    PartitionKeyError,
    RecordRejectedError,
)
from shared.event import (
    EVENT_ID_FIELD,
    SHORT_BYTES,
    are_modest,
    decode_event,
    event_id_of,
)
from shared.lanes import WHOLE
from shared.limits import EVENT_DEPTH_MAX
from shared.ports import Clock, Delivered, Files, Kinesis, Outcome, Random, Telemetry
from shared.settings import ProducerSettings, load_settings
from shared.telemetry import StructlogTelemetry

_SOURCE_ID_BITS: Final = 80
_KEY_OF: Final = itemgetter(SESSION_ID_FIELD)
_PART_EVENTS: Final = 256
_BRACES: Final = repeat(b"}")
_EVENT_RULES: Final = (orjson.dumps, SESSION_ID_FIELD, EVENT_ID_FIELD, SHORT_BYTES, EVENT_DEPTH_MAX)
_EVENT_ID_FIELDS: Final = repeat(EVENT_ID_FIELD)


class EventProducer:
    """Puts events (JSON objects) on one stream of Amazon Kinesis.

    AWS is found by AWS's own conventions; settings come from `HEADRACE_PRODUCER_*` unless given as `settings`. Events
    with one partition key arrive in the order of their `put` calls, each at least once; each gets an `event_id`, by
    which readers recognise what came twice. Leaving the block delivers what is pending, for at most
    `drain_timeout_seconds`; a block that is cancelled delivers nothing more, and logs how many were pending. Belongs to
    one event loop; any number of tasks may put.

    Entering raises StreamNotFoundError, AccessDeniedError, CredentialsError or ConfigurationError. `kinesis`, `files`,
    `clock`, `chance` and `telemetry` are for tests: what is not given is the real one.
    """

    def __init__(
        self,
        stream: str,
        *,
        settings: ProducerSettings | None = None,
        kinesis: Kinesis | None = None,
        files: Files | None = None,
        clock: Clock | None = None,
        chance: Random | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.stream = stream
        self._settings = settings
        self._kinesis = kinesis
        self._files = files
        self._clock = clock
        self._chance = chance
        self._telemetry = telemetry
        self._stack = AsyncExitStack()
        self._is_open = False
        self._inner: Producer | None = None
        self._stage: Stage | None = None
        self._waiting: dict[asyncio.Future[Delivered], None] = {}

    async def __aenter__(self) -> Self:
        """Connect and look at the stream."""
        if self._is_open:
            message = f"the producer of stream {self.stream} is open already"
            raise DeliveryFailedError(message, hint="Enter each producer once at a time; any number of tasks may put")
        settings = self._settings or load_settings(ProducerSettings)
        chance = self._chance or random.SystemRandom()
        source_id = f"{chance.getrandbits(_SOURCE_ID_BITS):020x}"
        telemetry = self._telemetry or StructlogTelemetry()
        async with AsyncExitStack() as stack:
            if self._files is None:
                folder = spill_folder(settings.state_dir, self.stream)
                if settings.spill_bytes_max:
                    stack.enter_context(lock_spill(folder))
                else:
                    report_left_behind(folder, telemetry)
            kinesis = self._kinesis
            if kinesis is None:
                aws = await stack.enter_async_context(open_aws(call_timeout_seconds=settings.call_timeout_seconds))
                kinesis = await aws.kinesis(settings.wire)
            inner = Producer(
                self.stream,
                kinesis=kinesis,
                clock=self._clock or SystemClock(),
                random=chance,
                telemetry=telemetry,
                settings=settings,
                files=self._files or LocalFiles(),
                lanes=None if settings.lanes_fine else WHOLE,
                may_cut=settings.lanes_fine,
            )
            self._inner = await stack.enter_async_context(inner)
            self._stage = inner.stage(source_id)
            self._stack = stack.pop_all()
            self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Deliver what is pending, and end every `put_and_wait` that is left with DeliveryFailedError."""
        try:
            self._open_stage.clear()
            await self._stack.__aexit__(kind, error, trace)
        finally:
            self._is_open = False
            for future in self._waiting:
                if not future.done():
                    message = f"the producer of stream {self.stream} was closed before the delivery"
                    hint = (
                        "It may or may not have arrived: put it again; readers tell it apart by its own event_id only"
                    )
                    future.set_exception(DeliveryFailedError(message, hint=hint))
        if error is None:
            self._tell_undelivered()

    def _tell_undelivered(self) -> None:
        """Raise if events were accepted that are neither delivered nor on disk: they end with this producer."""
        inner = self._inner
        lost = 0 if inner is None else inner.ledger.pending - inner.ledger.spilled
        if inner is not None and lost:
            message = f"{lost:,} of {inner.ledger.accepted:,} events were not delivered to stream {self.stream}"
            hint = "They may or may not have arrived; drain_timeout_seconds is what a close may take"
            raise DrainTimeoutError(message, hint=hint) from inner.failure

    @property
    def _producer(self) -> Producer:
        """The producer within, with everything that was put in its queues."""
        if self._inner is None:
            self._unopened()
        self._open_stage.clear()
        return self._inner

    @property
    def _open_stage(self) -> Stage:
        return self._stage or self._unopened()

    def _unopened(self) -> NoReturn:
        message = f"the producer of stream {self.stream} is not open"
        raise DeliveryFailedError(message, hint="Put inside `async with Producer(...)`")

    @property
    def ledger(self) -> Ledger:
        """Where every accepted event is now."""
        return self._producer.ledger

    def hot_shards(self) -> tuple[ShardHeat, ...]:
        """Return each shard's load by this producer, its hottest keys and the split that helps; hottest first."""
        return self._producer.hot_shards()

    @property
    def failure(self) -> HeadraceError | None:
        """Why the stream refuses everything at present (access denied, deleted); None if it does not."""
        return self._producer.failure

    async def put(
        self,
        event: Mapping[str, Any] | bytes,
        *,
        partition_key: str | None = None,
        explicit_hash_key: int | None = None,
    ) -> None:
        """Accept an event: a mapping, or the bytes of a JSON object. Waits while the buffer is full.

        The partition key is the event's `session_id` unless given. An `explicit_hash_key` (0 to 2**128 - 1) chooses the
        shard in its place: give all events of a key the same one, as order is kept within a shard. Raises
        MalformedEventError, RecordTooLargeError or PartitionKeyError for an event that can't be sent,
        DeliveryFailedError if the producer is closed. An `orjson.Fragment` is taken as it is: if it is no JSON, readers
        keep the event in their dead letters.
        """
        stage = self._stage or self._open_stage
        if explicit_hash_key is not None or not stage.add(event, partition_key):
            await self._put_slowly(event, partition_key, explicit_hash_key, None)
        if stage.intake.is_busy:
            await stage.intake.give_way()

    async def put_all(self, events: Iterable[Mapping[str, Any] | bytes]) -> None:
        """Accept events in their order, each as `put` does, in half the time.

        Errors as in `put`, for the first event that can't be sent, and any of the iterable: events before it are
        accepted, those after it not.
        """
        remaining, is_more = iter(events), True
        while is_more:
            part: list[Mapping[str, Any] | bytes] = []
            try:
                part.extend(islice(remaining, _PART_EVENTS))
            finally:  # also after an error of the iterable
                await self._put_part(part)
            is_more = len(part) == _PART_EVENTS

    async def _put_part(self, part: Sequence[Mapping[str, Any] | bytes]) -> None:
        """Accept events, together where they are ordinary ones."""
        encoded = _encode_all(part)
        if encoded is not None:
            await self._put_encoded(*encoded)
            return
        for event in part:
            await self.put(event)

    async def _put_encoded(self, datas: list[bytes], keys: list[str]) -> None:
        """Accept events that lack their last brace."""
        stage = self._open_stage
        done = 0
        stage.check_loop()
        while done < len(datas):
            stage.clear()
            stage.intake.check_open()
            done += stage.put_all(datas[done:], keys[done:])
            if done < len(datas):
                await self._offer(datas[done] + b"}", keys[done], None, has_id=False)
                done += 1
        if stage.intake.is_busy:
            await stage.intake.give_way()

    async def put_and_wait(
        self,
        event: Mapping[str, Any] | bytes,
        *,
        partition_key: str | None = None,
        explicit_hash_key: int | None = None,
    ) -> Delivered:
        """Put an event and wait until Kinesis has it; return its shard and sequence number. Errors as in `put`."""
        future: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await self._put_slowly(event, partition_key, explicit_hash_key, (_resolve, future))
            return await future
        finally:
            del self._waiting[future]

    async def flush(self, deadline_seconds: float) -> int:
        """Send what is queued at once; return how many events are still pending at the deadline."""
        return await self._producer.flush(deadline_seconds)

    async def _put_slowly(
        self,
        event: Mapping[str, Any] | bytes,
        partition_key: str | None,
        explicit_hash_key: int | None,
        ticket: Ticket | None,
    ) -> None:
        """Look at an event closely and accept it."""
        self._open_stage.check_loop()
        data, key, event_id = _encode(event, partition_key)
        has_id = event_id is not None
        if event_id is not None and self._producer.check_order(event_id):
            self._open_stage.renumber()
        await self._offer(data, key, ticket, has_id=has_id, explicit_hash_key=explicit_hash_key)

    async def _offer(
        self, data: bytes, key: str, ticket: Ticket | None, *, has_id: bool, explicit_hash_key: int | None = None
    ) -> None:
        """Accept an event, waiting for room, in memory or on disk."""
        while True:
            producer = self._producer  # with nothing older on the stage
            numbering = None if has_id else self._open_stage.number()
            if await producer.offer(data, key, ticket, numbering=numbering, explicit_hash_key=explicit_hash_key):
                return
            await producer.wait_for_room()


def _resolve(future: asyncio.Future[Delivered], outcome: Outcome, _: int = 1, /) -> None:
    """End a future by an outcome, unless nobody waits any more."""
    if future.done():
        return
    if isinstance(outcome, Delivered):
        future.set_result(outcome)
    else:
        future.set_exception(RecordRejectedError(f"{outcome.error_code}: {outcome.error_message}"))


def _encode_all(events: Sequence[Mapping[str, Any] | bytes]) -> EventColumns | None:
    """Return the events' bytes without the last brace, and partition keys; None if one needs a look of its own."""
    kinds = {*map(type, events)}
    if kinds == {bytes}:
        texts = cast("Sequence[bytes]", events)
        return event_columns(texts) if are_bare(texts) else None
    if kinds != {dict}:
        return None
    if COLUMNS is not None:
        columns = COLUMNS.encode_events(list(events), _EVENT_RULES)
        return None if columns is None else EventColumns(*columns)
    rows = cast("Sequence[dict[str, Any]]", events)
    try:
        keys = list(map(_KEY_OF, rows))
        # Cut at once: a result of orjson that is kept keeps 4 KiB alive.
        datas = list(map(bytes.removesuffix, map(orjson.dumps, rows), _BRACES))
    except (KeyError, orjson.JSONEncodeError):
        return None  # to be told for the event that it is about
    if {*map(type, keys)} != {str} or any(map(dict.__contains__, rows, _EVENT_ID_FIELDS)):
        return None
    return EventColumns(datas, keys) if are_modest(datas) else None


def _encode(event: Mapping[str, Any] | bytes, partition_key: str | None) -> tuple[bytes, str, str | None]:
    """Return an event's bytes, its partition key, and the id that it brings, if any."""
    if isinstance(event, bytes):
        data = b"".join((event, b""))  # see Producer.put: it may be a result of orjson
        fields = decode_event(data)
    else:
        try:
            data = orjson.dumps(event if isinstance(event, dict) else dict(event))
        except (TypeError, ValueError) as error:  # JSONEncodeError is a TypeError, and `dict` of a text a ValueError
            raise MalformedEventError(
                f"the event, a {type(event).__name__}, can't be written as JSON: {error}",
                hint="Put a mapping, or the bytes of a JSON object",
            ) from None
        fields = decode_event(data)
        data = b"".join((data, b""))
    if partition_key is not None and not isinstance(partition_key, str):
        raise PartitionKeyError(
            f"the partition key is a {type(partition_key).__name__}, not a text", hint="Make it one"
        )
    key = fields.get(SESSION_ID_FIELD) if partition_key is None else partition_key
    if not isinstance(key, str):
        message = f"the event has no {SESSION_ID_FIELD} that is a text"
        raise PartitionKeyError(message, hint="Add one, or put it with `partition_key=`")
    return data, key, event_id_of(fields)
