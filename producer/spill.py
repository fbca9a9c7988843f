"""The spill: records that found the buffer full, kept on disk in the order of their lanes until there is room."""

from __future__ import annotations

import asyncio
import errno
import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

import orjson

from producer.core.barriers import Barriers, Segment
from producer.core.lanes import LaneQueues
from producer.core.record_columns import Ticket
from producer.core.spill_frame import (
    FILE_HEAD_BYTES,
    FileHead,
    SpilledRecord,
    decode_head,
    encode_head,
    encode_record,
)
from producer.spill_reading import read_records, read_whole
from shared.errors import ConfigurationError, RecordRejectedError
from shared.limits import KIB
from shared.ports import Clock, Files, Outcome, ReadableFile, Telemetry, Undeliverable

_FILES_MAX: Final = 64
_FILE_SHARE: Final = 8  # a file takes an eighth of the spill, so that its room comes back in steps
_APPEND_BYTES_MAX: Final = 4 * 1024 * KIB
_TICKETS_MAX: Final = 65_536  # kept in memory; beyond them, a put that asks for a receipt waits
_MARK_BYTES_MAX: Final = 1 * KIB
_RETRY_SECONDS: Final = 1.0
_Place = tuple[int, int]  # number of a file, offset in it


@dataclass(slots=True)
class _SpillFile:
    path: str
    number: int
    size: int = FILE_HEAD_BYTES  # up to the last whole frame


@dataclass(slots=True)
class _Waiting:
    frame: bytes
    lane: int
    ticket: Ticket | None
    written: asyncio.Future[bool]


class Spill:
    """Append-only files in `folder`, one process at a time.

    Once a record of a lane lies here, everything after it of that lane comes here, until the last one has gone back
    to the queue: so order is kept. A record is accepted when its frame is synced. Files are emptied once all their
    records are acknowledged; a crash before that sends them again (each at least once). `queues.spilled` counts what
    lies here only.
    """

    def __init__(
        self,
        queues: LaneQueues,
        *,
        files: Files,
        clock: Clock,
        telemetry: Telemetry,
        folder: str,
        bytes_max: int,
        on_queued: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        self._queues = queues
        queues.has_spill = True
        self._files = files
        self._clock = clock
        self._telemetry = telemetry
        self._folder = folder
        self._bytes_max = bytes_max
        self._on_queued = on_queued
        self._wake = wake
        self._live: deque[_SpillFile] = deque()
        self._is_appendable = False  # whether the last file ends with a whole frame of ours
        self._next_number = 1
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._disk = asyncio.Lock()  # a file must not be emptied while something is appended to it
        self._work = asyncio.Event()  # for the writer
        self._changed = asyncio.Event()  # for the drainer: something was written, acknowledged, or there is room
        self._read_place: _Place = (0, 0)
        self._reached: _Place = (0, 0)  # before it, everything is acknowledged
        self._mark: _Place = (0, 0)  # the same, as stored
        self._barriers: Barriers[_Place] = Barriers()
        self._tickets: dict[int, Ticket] = {}  # by the count of the record
        self._written_count = 0
        self._read_count = 0

    @property
    def size(self) -> int:
        """What the files hold and what waits to be written to them."""
        return sum(each.size for each in self._live) + self._waiting_bytes

    @property
    def is_used(self) -> bool:
        """Whether a record lies here only, or is on its way."""
        return bool(self._queues.spilled or self._waiting_bytes)

    def notify(self) -> None:
        """Look again whether there is room in the queue, or something to forget."""
        self._changed.set()

    async def put(self, data: bytes, partition_key: str, ticket: Ticket | None, explicit_hash_key: int | None) -> bool:
        """Keep a record that the queue refused; False if there is no room here either, or the disk failed."""
        frame = encode_record(data, partition_key, explicit_hash_key)
        is_full = self.size + len(frame) > self._bytes_max or len(self._live) >= _FILES_MAX
        if is_full or (ticket is not None and len(self._tickets) >= _TICKETS_MAX):
            return False
        lane = self._queues.lane_of(partition_key).index
        self._queues.lanes[lane].spilled += 1
        waiting = _Waiting(frame, lane, ticket, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._waiting_bytes += len(frame)
        self._work.set()
        return await waiting.written

    # Writing.

    async def write_loop(self) -> None:
        """Write what waits, as much at once as there is; ends by being cancelled."""
        try:
            while True:
                self._work.clear()
                while self._waiting:
                    if not await self._write_some():
                        # By now, whoever was refused waits for room, which may have come before.
                        await asyncio.sleep(_RETRY_SECONDS)
                        self._wake()
                await self._work.wait()
        finally:
            self._refuse(list(self._waiting))
            self._waiting.clear()

    async def _write_some(self) -> bool:
        """Write an append's worth of what waits; False if the disk failed."""
        taken: list[_Waiting] = []
        size = 0
        while self._waiting and (not taken or size + len(self._waiting[0].frame) <= _APPEND_BYTES_MAX):
            taken.append(self._waiting.popleft())
            size += len(taken[-1].frame)
        try:
            async with self._disk:
                file = await self._file_for(size)
                await self._files.append(file.path, b"".join(each.frame for each in taken), durable=True)
                file.size += size
        except BaseException as error:
            # A part of it, or all, may be there: nothing may follow that in this file, whose end the next one tells.
            self._is_appendable = False
            self._refuse(taken)
            if not isinstance(error, OSError):
                raise
            self._telemetry.error("spill_failed", folder=self._folder, error=error.strerror or str(error))
            return False
        self._waiting_bytes -= size
        for each in taken:
            self._written_count += 1
            if each.ticket is not None:
                self._tickets[self._written_count] = each.ticket
            if not each.written.done():
                each.written.set_result(True)
        self._queues.accepted += len(taken)
        self._queues.spilled += len(taken)
        self._report()
        self._changed.set()
        return True

    def _refuse(self, taken: list[_Waiting]) -> None:
        for each in taken:
            self._queues.lanes[each.lane].spilled -= 1
            self._waiting_bytes -= len(each.frame)
            if not each.written.done():
                each.written.set_result(False)

    async def _file_for(self, size: int) -> _SpillFile:
        # An empty list has no last file: the one that was appended to is forgotten.
        if self._is_appendable and self._live and self._live[-1].size + size <= self._bytes_max // _FILE_SHARE:
            return self._live[-1]
        taken = {each.path for each in self._live}
        path = next(path for path in self._paths() if path not in taken)
        file = _SpillFile(path, self._next_number)
        self._next_number += 1
        before = self._live[-1] if self._live else None
        head = FileHead(file.number) if before is None else FileHead(file.number, before.number, before.size)
        await self._files.write_atomically(path, encode_head(head))
        self._live.append(file)
        self._is_appendable = True
        return file

    def _paths(self) -> list[str]:
        # One more than files in use: the last one may be new because the one before it broke.
        return [f"{self._folder}/{index:02d}.spill" for index in range(_FILES_MAX + 1)]

    # Reading back.

    async def drain_loop(self) -> None:
        """Queue records as there is room, and forget those that are acknowledged; ends by being cancelled."""
        while True:
            self._changed.clear()
            try:
                await self._drain()
                await self.settle()
            except OSError as error:
                self._telemetry.error("spill_failed", folder=self._folder, error=error.strerror or str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            await self._changed.wait()

    async def _drain(self) -> None:
        """Queue everything that lies in the files at present, in their order."""
        for file in list(self._live):
            if file.number < self._read_place[0] or self._read_place == (file.number, file.size):
                continue
            handle = await self._files.open(file.path)
            try:
                await self._drain_file(file, handle)
            finally:
                await handle.close()

    async def _drain_file(self, file: _SpillFile, handle: ReadableFile) -> None:
        offset = self._read_place[1] if self._read_place[0] == file.number else FILE_HEAD_BYTES
        while offset < file.size:
            records, is_broken = await read_records(handle, offset, file.size)
            if is_broken or not records:
                # It was whole when it was written or scanned: the disk has lost it since.
                self._lose(file, offset)
            for record in records:
                await self._queue(record)
                self._read_place = (file.number, offset + record.end)
            offset += records[-1].end
            if self._barriers.has_room:
                self._barriers.cut((file.number, offset))
            await self.settle()
        self._read_place = (file.number, offset)  # also of a file that a crash left without a whole record

    async def _queue(self, record: SpilledRecord) -> None:
        self._read_count += 1
        segment = self._barriers.current
        token = (segment, self._read_count)
        while True:
            self._changed.clear()
            try:
                now = self._clock.monotonic()
                if self._queues.accept_spilled(record, (self._take_outcome, token), now):
                    segment.pending += 1
                    self._on_queued()
                    return
            except RecordRejectedError as error:
                # The stream takes smaller records than it did: nobody is there to be told but the receipt, and the log.
                self._queues.reject_spilled(record)
                self._telemetry.error("spilled_record_rejected", error=str(error), error_code=error.error_code)
                segment.pending += 1
                self._take_outcome(token, Undeliverable(error.error_code, str(error), record.data))
                return
            await self._changed.wait()

    def _lose(self, file: _SpillFile, offset: int) -> NoReturn:
        self._telemetry.error("spill_damaged", path=file.path, offset=offset, bytes=file.size - offset)
        raise OSError(errno.EIO, "damaged while in use", file.path)

    def _take_outcome(self, token: tuple[Segment[_Place], int], outcome: Outcome, _: int = 1, /) -> None:
        segment, count = token
        segment.pending -= 1
        if not segment.pending:
            self._changed.set()
        asked = self._tickets.pop(count, None)
        if asked is not None:
            asked[0](asked[1], outcome)

    async def settle(self) -> None:
        """Store how far everything is acknowledged, and empty the files before that. Raises OSError."""
        self._reached = self._barriers.reached() or self._reached
        if not self._queues.spilled and self._read_place > self._reached and self._barriers.has_room:
            self._barriers.cut(self._read_place)
            self._reached = self._barriers.reached() or self._reached
        reached = self._reached
        if reached <= self._mark:
            return
        async with self._disk:
            while self._live and (self._live[0].number, self._live[0].size) <= reached:
                await self._files.write_atomically(self._live[0].path, b"")
                self._live.popleft()
        await self._files.write_atomically(self._mark_path, orjson.dumps(list(reached)))
        self._mark = reached
        self._report()
        self._wake()

    def _report(self) -> None:
        self._telemetry.gauge("producer_spill_bytes", self.size)
        self._telemetry.gauge("producer_records_spilled", self._queues.spilled)

    # After a restart.

    @property
    def _mark_path(self) -> str:
        return f"{self._folder}/mark.json"

    async def recover(self) -> None:
        """Take over what a former process left; raises ConfigurationError."""
        try:
            await self._recover()
        except OSError as error:
            message = f"the spill in {self._folder} can't be read: {error.strerror or error}"
            raise ConfigurationError(message, hint="Check the folder, or set spill_bytes_max to 0") from error
        if self._queues.spilled:
            self._telemetry.warning("spill_recovered", records=self._queues.spilled, bytes=self.size)

    async def close(self) -> None:
        """Settle for the last time, once the loops have ended."""
        try:
            await self.settle()
        except OSError as error:
            self._telemetry.error("spill_failed", folder=self._folder, error=error.strerror or str(error))

    async def _recover(self) -> None:
        self._mark = self._reached = self._read_place = await self._load_mark()
        self._next_number = self._mark[0] + 1
        found = [spilled for path in self._paths() if (spilled := await self._find(path)) is not None]
        ends = {head.before: head.before_bytes for _, head in found}
        for file, head in sorted(found, key=lambda each: each[1].number):
            file.size = min(file.size, ends.get(head.number, file.size))
            if head.number >= self._mark[0]:
                handle = await self._files.open(file.path)
                try:
                    await self._scan(file, handle)
                finally:
                    await handle.close()
                self._live.append(file)
                self._next_number = head.number + 1
        self._written_count = self._queues.spilled

    async def _find(self, path: str) -> tuple[_SpillFile, FileHead] | None:
        """Return a spill file and its head, not scanned yet; None where there is none, or none that can be read."""
        identity = await self._files.identify(path)
        if identity is None or not identity.size:
            return None
        handle = await self._files.open(path)
        try:
            head = decode_head(await read_whole(handle, 0, FILE_HEAD_BYTES))
        finally:
            await handle.close()
        if head is None:  # no crash leaves a part of one
            self._telemetry.error("spill_damaged", path=path, offset=0, bytes=identity.size)
            return None
        return _SpillFile(path, head.number, identity.size), head

    async def _load_mark(self) -> _Place:
        stored = await self._files.read_all(self._mark_path, _MARK_BYTES_MAX)
        if stored is None:
            return (0, 0)
        try:
            number, offset = orjson.loads(stored)
            if type(number) is int and type(offset) is int and number >= 0 and offset >= 0:
                return (number, offset)
        except (ValueError, TypeError):
            pass  # the same as numbers that can't be
        raise ConfigurationError(
            f"{self._mark_path} is damaged", hint="Delete it: all records in the spill files are then sent again"
        )

    async def _scan(self, file: _SpillFile, handle: ReadableFile) -> None:
        """Count the records behind the mark; what follows the last whole frame was never accepted."""
        size = file.size
        offset = max(FILE_HEAD_BYTES, self._mark[1] if file.number == self._mark[0] else 0)
        while offset < size:
            records, is_broken = await read_records(handle, offset, size)
            for record in records:
                self._queues.lane_of(record.partition_key).spilled += 1
            self._queues.spilled += len(records)
            self._queues.accepted += len(records)
            offset += records[-1].end if records else 0
            if is_broken or not records:
                break
        file.size = offset


def spill_folder(state_dir: str, stream: str) -> str:
    """Return where the spill of a stream lies."""
    return f"{state_dir}/spill/{hashlib.sha256(stream.encode()).hexdigest()[:24]}"
