"""Runs one source into one producer: lines to events with ids, rejected lines to dead letters, bookmarks after acks."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from operator import itemgetter
from typing import Any, Final, Protocol

import orjson

from producer.bookmark import Bookmarks
from producer.core.barriers import Barriers, Segment
from producer.core.csv_line import CsvLineParser
from producer.core.line import ROW_GOES_ON, FilteredLine, LineParser, LineResult, ParsedEvent, RejectedLine
from producer.core.line_format import AutoLineParser, LineFormat
from producer.core.line_framer import OverlongLine
from producer.core.pacer import Pacer
from producer.core.record_columns import Ticket
from producer.dead_letters import OVERLONG_LINE, DeadLetters
from producer.lane_cutter import SETTLE_SECONDS_MAX
from producer.producer import Producer
from producer.run_summary import RunSummary
from producer.source import Chunk, LineSource
from shared.errors import HeadraceError, RecordRejectedError
from shared.event import EventId, event_id_heads, event_id_of
from shared.lanes import LaneDivision
from shared.lifecycle import StopSignal
from shared.ports import Clock, Delivered, Outcome, Undeliverable
from shared.settings import Ordering, ProducerSettings

_PART_LINES: Final = 100  # the events of more would not stay in the processor's cache


class EventReceipt(Protocol):
    """Called for each delivered event, with its id and place."""

    def __call__(self, event_id: str, partition_key: str, delivered: Delivered, /) -> None:
        """Take the receipt; must not block."""
        ...


def begin_file(parser: LineParser) -> None:
    """Tell a parser that another file begins: a CSV file has a header row of its own; other state goes on."""
    if isinstance(parser, CsvLineParser):
        parser.restore(CsvLineParser().snapshot())
    elif isinstance(parser, AutoLineParser) and parser.decided is LineFormat.CSV:
        parser.restore(b"")


def _offset_of(data: bytes) -> int:
    """Return where an event was read, by its id; -1 if that is a foreign one, which does not tell."""
    event_id = EventId.parse(event_id_of(orjson.loads(data)) or "")
    return -1 if event_id is None else event_id.offset


class _EndError(Exception):
    """The run ends inside a chunk: it was asked to stop, or has read as many lines as it may."""


_Place = tuple[int, int, bytes]


class SourceRun:
    """One run; `summary` may be looked at while it lasts."""

    def __init__(
        self,
        source: LineSource,
        parser: LineParser,
        producer: Producer,
        *,
        clock: Clock,
        settings: ProducerSettings,
        dead_letters: DeadLetters,
        bookmarks: Bookmarks | None = None,
        generation: int = 0,
        events_per_second: float | None = None,
        lines_max: int | None = None,
        on_receipt: EventReceipt | None = None,
        on_progress: Callable[[RunSummary], None] | None = None,
    ) -> None:
        self.summary = RunSummary()
        self._source = source
        self._parser = parser
        self._producer = producer
        self._clock = clock
        self._settings = settings
        self._dead_letters = dead_letters
        self._bookmarks = bookmarks
        self._is_paced = events_per_second is not None
        self._pacer = Pacer(events_per_second)
        self._lines_max = lines_max
        self._on_receipt = on_receipt
        self._on_progress = on_progress
        self._ticket: Ticket = (self._take_outcome, None)
        self._stop = asyncio.Event()
        self._generation = generation
        self._done_place: tuple[int, int] | None = None  # where the last chunk ended, if it was taken whole
        self._barriers: Barriers[_Place] = Barriers()
        self._cut_at = clock.monotonic()
        self._cut_place = (-1, -1)
        self._heads: tuple[bytes, ...] = ()  # of event ids, per lane
        self._heads_of = ""
        self._last_offset = 0  # of a line that was looked at by itself

    async def run(self, stop: StopSignal) -> RunSummary:
        """Read the source to its end or until stopped, then drain; a second signal ends the draining.

        Raises SourceError where the source fails; what was accepted is delivered before that.
        """
        self._stop = stop.requested
        failure: HeadraceError | None = None
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(self._watch(stop))
            try:
                failure = await self._read_and_drain()
            finally:
                watcher.cancel()
        if failure is not None:  # outside of the group, which would wrap it
            raise failure
        return self.summary

    async def _watch(self, stop: StopSignal) -> None:
        await stop.requested.wait()
        self._source.stop()
        self._producer.wake_waiters()
        await stop.hurried.wait()
        self._producer.hurry()

    async def _read_and_drain(self) -> HeadraceError | None:
        failure: HeadraceError | None = None
        try:
            await self._read()
        except HeadraceError as error:
            failure = error
        if self._bookmarks is None:  # else a restart goes on inside of it
            self._finish_file()
        # Asked here and not by `_watch`: who reads may see the request before that task has its turn.
        self.summary.is_stopped = self._stop.is_set()
        try:
            await self._drain()
        except HeadraceError as error:
            failure = failure or error
        return failure

    async def _read(self) -> None:
        async with aclosing(self._source.chunks()) as chunks:
            async for chunk in chunks:
                self._done_place = None
                try:
                    await self._take_chunk(chunk)
                except _EndError:
                    return
                self._done_place = (chunk.generation, chunk.end)
                await self._keep_place(self._done_place)
                await self._cut_lanes(self._done_place)
                if self._on_progress is not None:
                    self._on_progress(self.summary)
                if self._stop.is_set():
                    return
                await asyncio.sleep(0)  # reading a file does not wait, and the sender needs its turn

    async def _drain(self) -> None:
        summary = self.summary
        if self._done_place is not None and self._bookmarks is not None:
            self._cut(self._done_place, self._clock.monotonic())
        summary.undelivered = await self._producer.flush(self._settings.drain_timeout_seconds)
        summary.last_error = str(self._producer.failure or self._producer.last_error)
        await self._dead_letters.flush()
        await self._move_bookmark()
        if self._on_progress is not None:
            self._on_progress(summary)

    def _begin_chunk(self, chunk: Chunk) -> None:
        summary = self.summary
        summary.bytes_read += chunk.bytes_read
        if self._ticket[1] is not self._barriers.current:
            self._ticket = (self._take_outcome, self._barriers.current)
        if self._heads_of != chunk.source_id:
            self._begin_ids(chunk.source_id)
        if chunk.generation != self._generation:
            self._generation = chunk.generation
            self._finish_file()
            begin_file(self._parser)

    def _begin_ids(self, source_id: str) -> None:
        has_lanes = self._settings.ordering is Ordering.LANE
        self._heads = event_id_heads(source_id, self._producer.lanes, has_lanes=has_lanes)
        self._heads_of = source_id

    async def _take_chunk(self, chunk: Chunk) -> None:
        self._begin_chunk(chunk)
        start = 0
        for overlong in chunk.overlong:
            place = bisect_left(chunk.lines, overlong.offset, lo=start, key=itemgetter(0))
            await self._take_lines(chunk.lines[start:place])
            self._take_overlong(overlong)
            start = place
        await self._take_lines(chunk.lines[start:] if start else chunk.lines)
        await self._dead_letters.flush()

    async def _take_lines(self, lines: Sequence[tuple[int, bytes]]) -> None:
        given = len(lines)
        if self._lines_max is not None:
            lines = lines[: max(0, self._lines_max - self.summary.lines)]
        for start in range(0, len(lines), _PART_LINES):
            part = lines[start : start + _PART_LINES]
            await self._take_part(part[self._put_events(part) :])
            if self._producer.intake.is_busy:
                await self._producer.intake.give_way()
        if len(lines) < given:
            raise _EndError

    def _take_overlong(self, line: OverlongLine) -> None:
        if self._lines_max is not None and self.summary.lines >= self._lines_max:
            raise _EndError
        self._keep_unfinished(self._parser.skip(line.quotes))
        self.summary.lines += 1
        self.summary.rejections[OVERLONG_LINE] += 1
        self._dead_letters.add_overlong(line, self._settings.line_bytes_max)

    def _put_events(self, lines: Sequence[tuple[int, bytes]]) -> int:
        """Put the events of the first lines together, if all are events that need no look of their own."""
        if self._is_paced or self._on_receipt is not None:
            return 0
        offsets, texts = zip(*lines, strict=True)
        columns = self._parser.parse_events(texts)
        if columns is None:
            return 0
        count = self._producer.intake.try_put_all(*columns, self._ticket, (self._heads, offsets))
        self._count(count)
        self.summary.lines += count
        return count

    def _count(self, events: int) -> None:
        self._barriers.current.pending += events
        self.summary.events += events

    async def _take_part(self, lines: Sequence[tuple[int, bytes]]) -> None:
        summary, intake, is_paced = self.summary, self._producer.intake, self._is_paced
        results = [self._parser.parse(line) for _, line in lines]
        put = 0 if is_paced or self._on_receipt is not None else self._put_ordinary(lines, results)
        for (offset, line), result in zip(lines, results, strict=True):
            if type(result) is ParsedEvent:
                if put:
                    put -= 1  # these are the first ones
                elif not self._try_put(result, offset, line):
                    await self._wait_and_put(result, offset, line)
            elif type(result) is FilteredLine:
                summary.filtered[result.reason] += 1
            elif type(result) is RejectedLine:
                summary.rejections[result.error_code] += 1
                self._dead_letters.add(offset, result.error_code, result.message, result.data or line)
            summary.lines += 1
            if intake.is_busy:
                await intake.give_way()
            if is_paced and type(result) is ParsedEvent:
                await self._pace()
        self._last_offset = lines[-1][0] if lines else self._last_offset

    def _finish_file(self) -> None:
        """Keep what the file that was read ends in the middle of."""
        self._keep_unfinished(self._parser.finish())

    def _keep_unfinished(self, unfinished: RejectedLine | None) -> None:
        """Keep what comes to no end, whose lines were counted as filtered."""
        if unfinished is not None:
            self.summary.filtered.subtract({ROW_GOES_ON: 1})  # it is one of the lines that were rejected
            self.summary.rejections[unfinished.error_code] += 1
            self._dead_letters.add(self._last_offset, unfinished.error_code, unfinished.message, unfinished.data)

    def _put_ordinary(self, lines: Sequence[tuple[int, bytes]], results: Sequence[LineResult]) -> int:
        """Put as many of the events as need no look of their own; return how many, which are the first ones."""
        datas: list[bytes] = []
        keys: list[str] = []
        offsets: list[int] = []
        for (offset, _), result in zip(lines, results, strict=True):
            if type(result) is ParsedEvent:
                data, key, has_event_id = result
                if has_event_id:
                    break
                datas.append(data[:-1])  # a parser leaves nothing behind the brace
                keys.append(key)
                offsets.append(offset)
        if not datas:
            return 0
        count = self._producer.intake.try_put_all(datas, keys, self._ticket, (self._heads, offsets))
        self._count(count)
        return count

    def _try_put(self, event: ParsedEvent, offset: int, line: bytes) -> bool:
        """Put an event if there is room for it; one that the stream would not take goes to the dead letters."""
        data, key, has_event_id = event
        ticket = self._ticket
        numbering = None if has_event_id else (self._heads, offset)
        try:
            if has_event_id and self._producer.looks_at_ids:
                self._check_order(event_id_of(orjson.loads(data)) or "")
            if self._on_receipt is not None:
                event_id = self._producer.intake.event_id_of(data, key, numbering)
                ticket = (self._take_outcome_and_tell, (ticket[1], event_id, key))
            if not self._producer.intake.try_put(data, key, ticket, numbering):
                return False
        except RecordRejectedError as error:
            self.summary.rejections[error.error_code] += 1
            self._dead_letters.add(offset, error.error_code, str(error), line)
            return True
        self._count(1)
        return True

    def _check_order(self, event_id: str) -> None:
        """Make sure that the order of an event keeps which brings its id."""
        if self._producer.check_order(event_id, may_join=self._bookmarks is None):
            self._begin_ids(self._heads_of)

    async def _wait_and_put(self, event: ParsedEvent, offset: int, line: bytes) -> None:
        while True:
            if self._stop.is_set():
                raise _EndError
            await self._producer.wait_for_room()
            if self._try_put(event, offset, line):
                return

    async def _pace(self) -> None:
        """Wait for the next event's time; once stopped, leave the rest of the chunk, for which nobody waits so long."""
        delay = self._pacer.delay(self._clock.monotonic())
        if delay:
            with suppress(TimeoutError):  # the ordinary case: nobody asked us to stop
                async with asyncio.timeout(delay):
                    await self._stop.wait()
        if self._stop.is_set():
            raise _EndError

    def _take_outcome(self, token: Segment[_Place], outcome: Outcome, count: int = 1, /) -> None:
        token.pending -= count
        if type(outcome) is Undeliverable:
            self.summary.events -= 1
            self.summary.rejections[outcome.error_code] += 1
            self._dead_letters.add(_offset_of(outcome.data), outcome.error_code, outcome.error_message, outcome.data)
        else:
            self.summary.acknowledged += count

    def _take_outcome_and_tell(self, token: Any, outcome: Outcome, _: int = 1, /) -> None:
        segment, event_id, key = token
        self._take_outcome(segment, outcome)
        if self._on_receipt is not None and isinstance(outcome, Delivered):
            self._on_receipt(event_id, key, outcome)

    async def _keep_place(self, place: tuple[int, int]) -> None:
        """Set a barrier every `bookmark_interval_seconds`, and store the furthest one that is done."""
        if self._bookmarks is None:
            return
        now = self._clock.monotonic()
        is_due = now - self._cut_at >= self._settings.bookmark_interval_seconds
        if is_due and place != self._cut_place and self._barriers.has_room:
            self._cut(place, now)
        await self._move_bookmark()

    async def _cut_lanes(self, place: tuple[int, int]) -> None:
        """Cut lanes anew if that is due and all before this place settles; the bookmark tells both at once."""
        cutter, bookmarks = self._producer.cutter, self._bookmarks
        division = cutter.due()
        if division is None or self._stop.is_set():
            return
        if bookmarks is not None:
            # Before the first event nobody knows whether they bring ids, for which lanes have to stay whole.
            if not self.summary.events or bookmarks.former.may_have_passed(*place):
                return
            self._cut(place, self._clock.monotonic())
        is_settled = not await self._producer.flush(SETTLE_SECONDS_MAX, self._stop) and cutter.is_settled
        if not is_settled or not await self._move_bookmark(division):
            cutter.put_off()
            return
        cutter.cut(division)
        self._begin_ids(self._heads_of)

    def _cut(self, place: tuple[int, int], now: float) -> None:
        self._barriers.cut((*place, self._parser.snapshot()))
        self._cut_place = place
        self._cut_at = now

    async def _move_bookmark(self, lanes: LaneDivision | None = None) -> bool:
        """Store how far all is done, if that is new; False if it was not stored though there is a bookmark."""
        if self._bookmarks is None:
            return True
        if (reached := self._barriers.reached()) is None:
            return False
        await self._dead_letters.flush()  # of records that the stream refused before that place
        return await self._bookmarks.move_bookmark(*reached, lanes)
