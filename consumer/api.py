"""The consumer as a library: `async with Consumer("orders", app="billing") as consumer: await consumer.run(handle)`."""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Self

from consumer.handover import Handler, Handling, Keeper
from consumer.status import WorkerStatus
from consumer.worker import Worker
from shared.aws.session import open_aws
from shared.clock import SystemClock
from shared.errors import ConfigurationError
from shared.ports import Clock, FanOut, Kinesis, LeaseStore, Random, Telemetry
from shared.settings import ConsumerSettings, load_settings
from shared.telemetry import StructlogTelemetry

_CONCURRENCY_MAX: Final = 8
_ATTEMPTS_MAX: Final = 3
_CONCURRENCY_CEILING: Final = 256  # records that are handed over at a time: more calls would have nothing to do


class EventConsumer:
    """A member of the consumer application `app`: reads its share of a stream's shards and hands the records over.

    Any number of processes with the same `app` share the shards by leases in the DynamoDB table of that name. AWS is
    found by AWS's own conventions; settings come from `HEADRACE_*` unless given as `settings`. Each record is handed
    over at least once, those of one partition key in their order; a position is checkpointed when everything before it
    is done. Up to `concurrency_max` calls run at a time per shard, for different partition keys. A record that fails
    alone `attempts_max` times goes to `on_dead_letter`, which is awaited before it counts as done and called again if
    it raises; without one, the shard halts there. Belongs to one event loop.

    Entering raises CredentialsError or ConfigurationError. `kinesis`, `leases`, `fan_out`, `clock`, `chance` and
    `telemetry` are for tests: what is not given is the real one.
    """

    def __init__(
        self,
        stream: str,
        *,
        app: str,
        on_dead_letter: Keeper | None = None,
        concurrency_max: int = _CONCURRENCY_MAX,
        attempts_max: int = _ATTEMPTS_MAX,
        settings: ConsumerSettings | None = None,
        kinesis: Kinesis | None = None,
        leases: LeaseStore | None = None,
        fan_out: FanOut | None = None,
        clock: Clock | None = None,
        chance: Random | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        if not 1 <= concurrency_max <= _CONCURRENCY_CEILING:
            raise ConfigurationError(f"concurrency_max is {concurrency_max}; 1 to {_CONCURRENCY_CEILING} are allowed")
        if attempts_max < 1:
            raise ConfigurationError(f"attempts_max is {attempts_max}; at least 1 is needed")
        self.stream = stream
        self.app = app
        self._keep = on_dead_letter
        self._concurrency_max = concurrency_max
        self._attempts_max = attempts_max
        self._settings = settings
        self._kinesis = kinesis
        self._leases = leases
        self._fan_out = fan_out
        self._clock = clock
        self._chance = chance
        self._telemetry = telemetry
        self._stack = AsyncExitStack()
        self._stop = asyncio.Event()
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        """Find AWS."""
        settings = self._settings or load_settings(ConsumerSettings)
        worker_id = settings.worker_id or f"{socket.gethostname()[:64] or 'host'}-{secrets.token_hex(4)}"
        # The library writes neither objects nor streams, whatever the environment says for the built-in pipeline.
        own = {"source_stream": self.stream, "app": self.app, "worker_id": worker_id, "dest_streams": {}, "bucket": ""}
        self._settings = settings = settings.model_copy(update=own)
        async with AsyncExitStack() as stack:
            if self._kinesis is None or self._leases is None:
                aws = await stack.enter_async_context(open_aws(call_timeout_seconds=settings.call_timeout_seconds))
                self._kinesis = self._kinesis or await aws.kinesis(reads=settings.read_wire)
                self._leases = self._leases or await aws.leases(self.app)
                if settings.fan_out:
                    self._fan_out = self._fan_out or await aws.fan_out(self.stream)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._stack.__aexit__(kind, error, trace)

    def stop(self) -> None:
        """Let `run` finish what was handed over, checkpoint, give the leases back and return.

        A handler of `loop.add_signal_handler` may call it.
        """
        self._stop.set()

    def status(self) -> WorkerStatus | None:
        """Return a snapshot of the worker and its shards; None before `run`."""
        return None if self._worker is None else self._worker.status()

    async def run(self, handle: Handler) -> None:
        """Read until `stop`, handing records over to `handle`.

        `await handle(batch)` gets records in their order, and returns None when all are done, or one outcome per
        record: None, `Retry` or `Reject`; the list may end at a `Retry`, so that a loop need not go on with later
        records of its key. Raising `Retry` hands the batch over again after a back-off, without end;
        raising anything else finds the record that is to blame by halving the batch. Records can come more than once.

        Cancelling `run` breaks off like a crash, which loses nothing: other members take the shards over. Raises
        StreamNotFoundError, TableNotFoundError, AccessDeniedError at the start.
        """
        if self._kinesis is None or self._leases is None or self._settings is None:
            raise ConfigurationError(
                f"The consumer of stream {self.stream} is not open", hint="Run it inside `async with Consumer(...)`"
            )
        if self._worker is not None:
            raise ConfigurationError(f"The consumer of stream {self.stream} was run already", hint="Make another one")
        self._worker = Worker(
            self._settings,
            kinesis=self._kinesis,
            leases=self._leases,
            objects=None,
            sinks={},
            clock=self._clock or SystemClock(),
            random=self._chance or random.SystemRandom(),
            telemetry=self._telemetry or StructlogTelemetry(),
            fan_out=self._fan_out,
            handling=Handling(handle, self._keep, self._concurrency_max, self._attempts_max),
        )
        await self._worker.run(self._stop)
