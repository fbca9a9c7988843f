"""Hands the records of a shard to a function of the user's own, until each is done or a dead letter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from consumer.budget import Account
from consumer.care import Care
from consumer.core.batch import Batch
from consumer.core.checkpoint_tracker import CheckpointTracker
from consumer.core.chunk import Chunk
from consumer.core.dead_letter import DeadLetter
from consumer.core.decoded_size import decoded_size
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.object_key import PROCESSING_FAILED, position_text
from consumer.core.outcome import Outcome, OutcomeError, Reject, Retry, judge, lanes_of
from consumer.core.record import Record
from consumer.failure import first_failure
from consumer.shard_reader import ReadPorts
from consumer.status import Counters
from shared.errors import ShardHaltedError
from shared.event import EVENT_ID_FIELD, decode_events, event_id_of
from shared.records import Position

Handler = Callable[[Sequence[Record]], Awaitable[Sequence[Outcome] | None]]
Keeper = Callable[[DeadLetter], Awaitable[None]]

_REJECTED: Final = "rejected"


@dataclass(frozen=True, slots=True)
class Handling:
    """The user's function, and how it is called; without `keep`, a record that can't be processed halts its shard."""

    handle: Handler
    keep: Keeper | None
    concurrency_max: int  # calls at a time, per shard
    attempts_max: int  # calls with a record alone, before it becomes a dead letter


class Handover:
    """One shard's way to the function.

    A chunk is dealt out to lanes by partition key; each lane is one call after the other, in order. The next chunk
    begins when all lanes are through: so everything before a chunk is done when it begins, and a checkpoint behind a
    chunk is the end of the contiguous finished prefix.
    """

    def __init__(
        self,
        shard_id: str,
        handling: Handling,
        marks: DuplicateMarks,
        tracker: CheckpointTracker,
        account: Account,
        counters: Counters,
        ports: ReadPorts,
        care: Care,
    ) -> None:
        self._shard_id = shard_id
        self._handling = handling
        self._marks = marks
        self._tracker = tracker
        self._account = account
        self._counters = counters
        self._ports = ports
        self._care = care

    async def take(self, chunk: Chunk, batch: Batch) -> int:
        """Have a chunk handled; return how many of its records became dead letters.

        ShardHaltedError: a record can't be processed and there is nowhere to keep it, or the function is defective.
        """
        async with self._care.decoded(decoded_size(chunk.datas)):
            return await self._handle(chunk, batch)

    async def _handle(self, chunk: Chunk, batch: Batch) -> int:
        if batch.first is None:
            batch.open(chunk.first, self._ports.clock.monotonic())
        unit = self._tracker.begin()
        batch.charged += chunk.size
        self._account.hold(chunk.size)
        letters, records = self._sort(chunk)
        for letter in letters:
            await self._keep(letter)
        lanes = [_Lane(self, each) for each in lanes_of(records, self._handling.concurrency_max)]
        try:
            async with asyncio.TaskGroup() as group:
                for lane in lanes:
                    group.create_task(lane.run())
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures
        batch.extend(chunk.last, len(chunk), chunk.arrivals[-1])
        self._count(len(chunk), len(letters), len(records))
        self._tracker.seal(unit, chunk.last)
        return len(letters) + sum(lane.failed for lane in lanes)

    def _sort(self, chunk: Chunk) -> tuple[list[DeadLetter], list[Record]]:
        """Return the dead letters of broken aggregates, and the records that were not seen before."""
        events, malformed = decode_events(chunk.readable)
        repeated = self._marks.repeated([event.get(EVENT_ID_FIELD) for event in events])
        letters = [
            chunk.dead_letter(index, error_type=PROCESSING_FAILED, error_code=code, error_message=message)
            for index, (code, message) in sorted(chunk.refused.items())
        ]
        number_of = {text: int(text) for text in dict.fromkeys(chunk.sequence_numbers)}
        records = [
            Record(
                chunk.datas[index],
                None if index in malformed else event,  # what the data may be is for the function to say
                event_id_of(event),
                chunk.keys[index],
                self._shard_id,
                number_of[chunk.sequence_numbers[index]],
                chunk.sub_sequence_numbers[index],
                chunk.arrivals[index],
            )
            for index, event in enumerate(events)
            if index not in repeated and index not in chunk.refused
        ]
        return letters, records

    def _count(self, read: int, letters: int, handed: int) -> None:
        counters, telemetry = self._counters, self._ports.telemetry
        counters.read += read
        counters.duplicates += read - letters - handed
        telemetry.count("records_read", read)
        telemetry.count("records_handed_over", handed)

    # For the lanes.

    async def call(self, records: Sequence[Record]) -> Sequence[Outcome] | None:
        """Call the function; what it raises is an Exception, unless this task is being cancelled."""
        try:
            calling = self._handling.handle(records)
            if not isinstance(calling, Awaitable):  # it would look like a failure of each of its records
                raise OutcomeError(f"it returned a {type(calling).__name__} at once; is it an `async def`?")
            return await calling
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # A task group would take a cancelled lane for one that is through.
            raise RuntimeError("the function was cancelled from within") from error

    async def reject(self, record: Record, error: Exception, attempts: int) -> None:
        """Make a dead letter of a record."""
        await self._keep(
            DeadLetter(
                error_type=PROCESSING_FAILED,
                error_code=_REJECTED if isinstance(error, Reject) else type(error).__name__,
                error_message=str(error),
                data=record.data,
                partition_key=record.partition_key,
                position=Position(record.sequence_number, record.sub_sequence_number),
                arrival_timestamp=record.arrival_timestamp,
                event_id=record.event_id,
                attempts=attempts,
            )
        )

    async def _keep(self, letter: DeadLetter) -> None:
        letter = replace(letter, shard_id=self._shard_id)
        place, telemetry = position_text(letter.position), self._ports.telemetry
        if self._handling.keep is None:
            raise ShardHaltedError(
                f"Record {place} of `{self._shard_id}` can't be processed ({letter.error_code}, "
                f"{letter.attempts} attempts), and there is nowhere to keep it",
                hint="Give the consumer an `on_dead_letter`, or correct the function; then restart",
            )
        failures = 0
        while True:
            try:
                await self._handling.keep(letter)
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, the letter must not get lost
                telemetry.warning("dead_letter_refused", shard_id=self._shard_id, error=type(error).__name__)
                await self.back_off(failures)
                failures += 1
        self._counters.dead_letters += 1
        telemetry.count("dead_letters", type=letter.error_type, code=letter.error_code)
        telemetry.warning("record_rejected", shard_id=self._shard_id, position=place, code=letter.error_code)

    async def back_off(self, failures: int) -> None:
        """Wait before another attempt."""
        await asyncio.sleep(self._ports.backoff.delay(failures, self._ports.random))

    def defect(self, error: OutcomeError) -> ShardHaltedError:
        """Return the error that a function deserves whose answers make no sense."""
        return ShardHaltedError(
            f"The function that handles `{self._shard_id}` is defective: {error}",
            hint="Return None, or a list with None, Retry or Reject for each record",
        )

    @property
    def attempts_max(self) -> int:
        """How often a record is tried alone."""
        return self._handling.attempts_max

    def count_retry(self, error: BaseException) -> None:
        """Count a call whose records come again."""
        self._ports.telemetry.count("calls_retried", operation="handle", error=type(error).__name__)


class _Lane:
    """Records that are handed over one batch after the other; `failed` counts dead letters."""

    def __init__(self, handover: Handover, records: list[Record]) -> None:
        self.failed = 0
        self._handover = handover
        self._batches = [records]  # what is left, the next one last
        self._attempts = 0  # calls with the record that is tried alone
        self._failures = 0  # calls in a row that did not end well

    async def run(self) -> None:
        """Go on until every record is done or a dead letter."""
        while self._batches:
            batch = self._batches.pop()
            try:
                outcomes = await self._handover.call(batch)
                rejected, again = judge(batch, outcomes)
            except OutcomeError as error:
                raise self._handover.defect(error) from error
            except Retry as error:
                await self._again(batch, error)
            except Exception as error:  # noqa: BLE001 - what a function raises says which record it can't take
                await self._look_closer(batch, error)
            else:
                for record, why in rejected:
                    await self._reject(record, why, self._attempts + 1)
                if again:
                    await self._again(again, Retry())
                else:
                    self._attempts = self._failures = 0

    async def _again(self, batch: list[Record], error: Exception) -> None:
        self._handover.count_retry(error)
        self._batches.append(batch)
        await self._handover.back_off(self._failures)
        self._failures += 1

    async def _look_closer(self, batch: list[Record], error: Exception) -> None:
        """Halve a batch that failed, the first half first, until the record is found that can't be processed."""
        if len(batch) > 1:
            middle = len(batch) // 2
            self._batches += [batch[middle:], batch[:middle]]
            return
        self._attempts += 1
        if isinstance(error, Reject) or self._attempts >= self._handover.attempts_max:
            await self._reject(batch[0], error, self._attempts)
            self._attempts = self._failures = 0
        else:
            await self._again(batch, error)

    async def _reject(self, record: Record, error: Exception, attempts: int) -> None:
        await self._handover.reject(record, error, attempts)
        self.failed += 1
