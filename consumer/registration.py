"""The registered consumer of this application: found or made once per worker, and waited for until it is ACTIVE."""

from __future__ import annotations

import asyncio
from typing import Final

from consumer.retrier import START_ATTEMPTS_MAX, Retrier
from shared.errors import ConsumerRefusedError, ServiceError, ServiceUnavailableError
from shared.limits import CONSUMERS_PER_STREAM_MAX
from shared.ports import FanOut, Kinesis
from shared.records import StreamConsumer

_POLL_SECONDS: Final = 0.5
_ACTIVE_SECONDS_MAX: Final = 60.0
_LIMIT_CODE: Final = "LimitExceededException"


class Registration:
    """Hands out the ARN of the consumer `name` of a stream.

    It is never deregistered: other workers of the application use it, and registering anew takes its time.
    """

    def __init__(self, port: FanOut, kinesis: Kinesis, retrier: Retrier, *, stream: str, name: str) -> None:
        self.port = port
        self._kinesis = kinesis
        self._retrier = retrier
        self._stream = stream
        self._name = name
        self._arn = ""
        self._lock = asyncio.Lock()

    async def consumer_arn(self) -> str:
        """Return the ARN, registering at first.

        ConsumerRefusedError: the stream has all the consumers it may have. ServiceError: no retry heals it.
        """
        async with self._lock:
            if not self._arn:
                self._arn = await self._register()
            return self._arn

    def forget(self) -> None:
        """Look for the consumer again at the next call: somebody may have deregistered it."""
        self._arn = ""

    async def _register(self) -> str:
        kinesis, stream = self._kinesis, self._stream
        summary = await self._retrier.call("describe_stream", lambda: kinesis.describe_stream(stream))
        for _ in range(int(_ACTIVE_SECONDS_MAX / _POLL_SECONDS)):
            found = await self._find_or_make(summary.stream_arn)
            if found is not None and found.status == "ACTIVE":
                return found.consumer_arn
            await asyncio.sleep(_POLL_SECONDS)
        raise ServiceUnavailableError(
            f"Consumer `{self._name}` of stream `{stream}` is not ACTIVE after {_ACTIVE_SECONDS_MAX:g} s"
        )

    async def _find_or_make(self, stream_arn: str) -> StreamConsumer | None:
        port, name = self.port, self._name
        found = await self._retrier.call("describe_consumer", lambda: port.describe_consumer(stream_arn, name))
        if found is not None:
            return found
        try:
            return await self._retrier.call(
                "register_consumer",
                lambda: port.register_consumer(stream_arn, name),
                attempts_max=START_ATTEMPTS_MAX,
            )
        except ServiceError as error:
            if error.code != _LIMIT_CODE:
                if not error.retryable:
                    raise
                return None  # perhaps it is there by now: another worker registered it, or the answer was lost
            raise ConsumerRefusedError(
                f"Stream `{self._stream}` takes no further consumer than the {CONSUMERS_PER_STREAM_MAX} it may have",
                hint="Deregister one (aws kinesis list-stream-consumers shows them), or read without --fan-out",
                code=error.code,
            ) from error
