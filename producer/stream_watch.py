"""Keeps the batcher's view of the stream fresh: which shards there are, how large a record may be, who distributes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from producer.core.batch import Settlement
from producer.core.batcher import Batcher
from producer.core.shard_map import ShardMap
from shared.errors import AmbiguousCallError, HeadraceError, StreamNotFoundError
from shared.log_limit import LimitedLog
from shared.ports import Clock, Kinesis, Random, Telemetry
from shared.records import Distribution, StreamSummary
from shared.retry import Backoff
from shared.settings import ProducerSettings

_START_ATTEMPTS_MAX: Final = 4
_REFRESH_SECONDS_MIN: Final = 0.5  # between two looks at the shards; ListShards lags behind a split anyway


class StreamWatch:
    """Looks at the stream at the start, every `shard_map_refresh_seconds`, and when an answer does not fit the map."""

    def __init__(
        self,
        stream: str,
        *,
        kinesis: Kinesis,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        settings: ProducerSettings,
        batcher: Batcher,
        on_settled: Callable[[Settlement], None],
    ) -> None:
        self.shard_count = 0  # open ones, as the stream was described last
        self.is_needed = settings.aggregate or settings.shard_rate_percent > 0
        self._stream = stream
        self._kinesis = kinesis
        self._clock = clock
        self._random = random
        self._telemetry = telemetry
        self._settings = settings
        self._batcher = batcher
        self._on_settled = on_settled
        self._backoff = Backoff(settings.retry_backoff_seconds_min, settings.retry_backoff_seconds_max)
        self._is_stale = asyncio.Event()
        self._log = LimitedLog(telemetry, clock)

    def look_now(self) -> None:
        """Have the stream looked at soon."""
        self._is_stale.set()

    def forget(self) -> None:
        """Trust what is known of the shards no longer, and look again: the stream is gone.

        If another one is made by its name, its shards have the same ids and other hash keys: an aggregate that was made
        for one of the old shards would count as delivered where readers drop it. Without a map, none is made.
        """
        self._on_settled(self._batcher.install(ShardMap(), now=self._clock.monotonic()))
        self._batcher.needs_shard_map = True
        self.look_now()

    async def start(self) -> None:
        """Look at the stream for the first time; raises StreamNotFoundError and its kin."""
        self._apply(await self._describe_at_start(), is_first=True)
        if self._batcher.follows_shards:
            await self._refresh_shard_map()

    async def run(self) -> None:
        """Keep looking; ends by being cancelled."""
        attempt = 0
        while True:
            if attempt:
                await asyncio.sleep(_REFRESH_SECONDS_MIN + self._backoff.delay(attempt, self._random))
            else:
                with suppress(TimeoutError):  # either way it is time to look
                    async with asyncio.timeout(self._settings.shard_map_refresh_seconds):
                        await self._is_stale.wait()
            attempt = 0 if await self._refresh_stream() else attempt + 1
            await asyncio.sleep(_REFRESH_SECONDS_MIN)

    async def _describe_at_start(self) -> StreamSummary:
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(self._settings.call_timeout_seconds):
                    return await self._kinesis.describe_stream(self._stream)
            except TimeoutError:
                error: HeadraceError = AmbiguousCallError(
                    f"no answer to DescribeStreamSummary within {self._settings.call_timeout_seconds:g} s"
                )
            except HeadraceError as raised:
                error = raised
            attempt += 1
            if not error.retryable or attempt >= _START_ATTEMPTS_MAX:
                raise error
            await asyncio.sleep(self._backoff.delay(attempt, self._random))

    def _apply(self, summary: StreamSummary, *, is_first: bool) -> None:
        is_auto = summary.distribution is Distribution.AUTO
        if is_auto and (self._batcher.follows_shards or is_first):
            self._telemetry.warning(
                "order_unavailable",
                stream=self._stream,
                reason="the stream distributes records itself (AUTO): no aggregation, no order across shards",
            )
        self._batcher.linger.aggregates = self._settings.aggregate and not is_auto
        self._batcher.follows_shards = self.is_needed and not is_auto
        self._batcher.queues.record_bytes_max = summary.record_bytes_max
        self.shard_count = summary.open_shard_count

    async def _refresh_stream(self) -> bool:
        """Look whether the stream still keeps partition keys, and at its shards; False if that failed."""
        try:
            async with asyncio.timeout(self._settings.call_timeout_seconds):
                self._apply(await self._kinesis.describe_stream(self._stream), is_first=False)
        except (TimeoutError, HeadraceError) as error:
            self._take_failure("stream_look_failed", error)
            return False
        return await self._refresh_shard_map()

    async def _refresh_shard_map(self) -> bool:
        self._is_stale.clear()
        self._batcher.needs_shard_map = False
        seen_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._settings.call_timeout_seconds):
                shards = await self._kinesis.list_shards(self._stream)
        except (TimeoutError, HeadraceError) as error:
            self._batcher.needs_shard_map = True
            self._take_failure("shard_look_failed", error)
            return False
        if self._batcher.needs_shard_map:
            return False  # a record landed in an unknown place meanwhile: this answer may be older than that
        self._on_settled(self._batcher.install(ShardMap(shards), seen_at=seen_at, now=self._clock.monotonic()))
        return True

    def _take_failure(self, event: str, error: TimeoutError | HeadraceError) -> None:
        if isinstance(error, StreamNotFoundError):
            self.forget()
        self._log.warning(event, stream=self._stream, error=str(error) or "no answer")
