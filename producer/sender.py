"""Makes the calls of one producer, and tells the batcher what came of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from producer.core.batch import Batch, Settlement
from producer.core.batcher import Batcher
from producer.core.bisection import RECORD_CODES
from producer.report import Report
from producer.stream_watch import StreamWatch
from shared.errors import AmbiguousCallError, HeadraceError, InvalidRequestError, StreamNotFoundError
from shared.ports import Clock, Kinesis, Random
from shared.records import PutResult
from shared.retry import Backoff
from shared.settings import ProducerSettings

# With `fails_fast`, so many in a row are final: bad records before all others need some, and each takes a tenth of a
# second. No record is condemned by them that would not be otherwise.
_VAIN_ROUNDS_MAX: Final = 64


class Sender:
    """Sends requests.

    `failure` is a refusal that no repetition heals; it lasts until a call goes well, or for good with `fails_fast`.
    """

    def __init__(
        self,
        stream: str,
        *,
        kinesis: Kinesis,
        clock: Clock,
        random: Random,
        settings: ProducerSettings,
        batcher: Batcher,
        watch: StreamWatch,
        report: Report,
        on_settled: Callable[[Settlement], None],
        on_failure: Callable[[], None],
    ) -> None:
        self.failure: HeadraceError | None = None
        self.last_error = ""  # of the last call or record that failed
        self._vain_rounds = 0  # in which whatever was tried was refused
        self.fails_fast = settings.refused_backoff_seconds_max == 0
        self._stream = stream
        self._kinesis = kinesis
        self._clock = clock
        self._random = random
        self._call_timeout_seconds = settings.call_timeout_seconds
        seconds_min = settings.retry_backoff_seconds_min
        self._refused_backoff = Backoff(seconds_min, max(seconds_min, settings.refused_backoff_seconds_max))
        self._batcher = batcher
        self._watch = watch
        self._report = report
        self._on_settled = on_settled
        self._on_failure = on_failure

    @property
    def has_failed(self) -> bool:
        """Whether the stream has refused, and that is final."""
        return self.fails_fast and self.failure is not None

    async def send(self, batch: Batch) -> None:
        """Make one call, and settle it or take its failure."""
        seconds = self._call_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                results = await self._kinesis.put_records(self._stream, batch.entries)
        except TimeoutError:
            self._take_failure(batch, AmbiguousCallError(f"no answer to PutRecords within {seconds:g} s"))
        except InvalidRequestError as error:
            if error.code in RECORD_CODES:
                self._take_refusal(batch, error)
            else:
                self._take_failure(batch, error)
        except HeadraceError as error:
            self._take_failure(batch, error)
        else:
            self._take_answer(batch, results)

    def _take_refusal(self, batch: Batch, error: InvalidRequestError) -> None:
        """Look for the record that is meant; if whatever is tried is refused, the stream is at fault."""
        now = self._clock.monotonic()
        settlement = self._batcher.refuse(batch, (error.code, str(error)), now, self._random, self._refused_backoff)
        self._vain_rounds += settlement.is_hopeless
        if settlement.is_hopeless and not (self.fails_fast and self._vain_rounds <= _VAIN_ROUNDS_MAX):
            self._report_failure(error)
        else:
            self.last_error = str(error)
            self._report.refuse(error, batch.count)
        self._on_settled(settlement)

    def _take_failure(self, batch: Batch, error: HeadraceError) -> None:
        now = self._clock.monotonic()
        backoff = None if error.retryable else self._refused_backoff
        may_have_landed = isinstance(error, AmbiguousCallError)
        self._batcher.fail(batch, now, self._random, backoff, may_have_landed=may_have_landed)
        if isinstance(error, StreamNotFoundError) and not self.fails_fast:
            self._watch.forget()
        self._report_failure(error)

    def _report_failure(self, error: HeadraceError) -> None:
        self.last_error = str(error)
        self._report.fail(error, is_final=self.fails_fast)
        if not error.retryable:
            self.failure = error
            self._on_failure()

    def _take_answer(self, batch: Batch, results: Sequence[PutResult]) -> None:
        if len(results) != batch.count:
            message = f"PutRecords answered {len(results):,} of {batch.count:,} records"
            self._take_failure(batch, AmbiguousCallError(message))
            return
        now = self._clock.monotonic()
        if self.failure is not None and not self.fails_fast:
            self.failure = None
            self._report.heal()
        settlement = self._batcher.settle(batch, results, now, self._random)
        if settlement.failed.total() < len(results):
            self._vain_rounds = 0
        self._report.send(batch.reason, len(results), settlement)
        if settlement.failed:
            first = next(result for result in results if result.error_code)
            self.last_error = f"{first.error_code}: {first.error_message}"
        if self._batcher.needs_shard_map:
            self._watch.look_now()
        self._on_settled(settlement)
