"""Follows a file as it grows: across rotation by rename, truncation, reused inodes and restarts."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from producer.bookmark import FINGERPRINT_BYTES_MAX, Bookmark, BookmarkStore, FileMark
from producer.core.line_framer import LineFramer
from producer.core.rotation import first_to_read, in_order, rotated_after
from producer.failure_log import FailureLog
from producer.former_run import FormerRun
from producer.held_file import HeldFile, close_all, read_exactly
from producer.source import CHUNK_BYTES, Chunk, open_file
from shared.errors import SourceError
from shared.lanes import LaneDivision
from shared.ports import Clock, FileIdentity, Files, ReadableFile, Telemetry

POLL_SECONDS: Final = 0.25
_HELD_MAX: Final = 16  # files kept open that wait for their turn


class Tailer:
    """Lines of `path` and of the files it was renamed to, each file from its own beginning, oldest first.

    A file is recognised by device, inode and fingerprint. It is read to its end, and for `rotate_wait_seconds` longer
    once another file has its name, as its writer may not have let go of it. A file cut to nothing starts a new
    generation; what was written and cut between two looks is lost, as with any reader of `copytruncate`.
    """

    def __init__(
        self,
        path: str,
        *,
        files: Files,
        clock: Clock,
        telemetry: Telemetry,
        store: BookmarkStore,
        bookmark: Bookmark,
        line_bytes_max: int,
        rotate_wait_seconds: float,
    ) -> None:
        self.name = path
        self.bookmark = bookmark
        self.former = FormerRun(bookmark.next_generation - 1)
        self._path = path
        self._folder, self._base = posixpath.split(path)
        self._files = files
        self._clock = clock
        self._telemetry = telemetry
        self._failures = FailureLog(telemetry, clock)
        self._store = store
        self._line_bytes_max = line_bytes_max
        self._rotate_wait_seconds = rotate_wait_seconds
        self._stopped = asyncio.Event()
        self._file: ReadableFile | None = None
        # Until a file is open, nothing has moved: a chunk that says so must not set the bookmark back.
        self._mark = bookmark.file(bookmark.generation) or FileMark(bookmark.generation, 0, 0)
        self._framer = LineFramer(line_bytes_max, bookmark.offset)
        self._held: list[HeldFile] = []  # came after the present file, oldest first
        self._looked_at = float("-inf")
        self._quiet_since = 0.0  # since when the file has had no new data, and a newer one was known
        self._quiet_size = 0  # the size that it had then

    def stop(self) -> None:
        """Read no further; an unfinished line is left for the next start."""
        self._stopped.set()

    async def move_bookmark(
        self, generation: int, offset: int, state: bytes, lanes: LaneDivision | None = None
    ) -> bool:
        """Store that everything before this place is done; False (and a warning) if the disk did not take it."""
        moved = self.bookmark.at(generation, offset, state, lanes)
        try:
            await self._store.save(moved)
        except OSError as error:
            self._failures.error("bookmark_not_saved", self._store.path, error)
            if lanes is None or not await self._store.holds(moved):
                return False
        self.bookmark = moved
        return True

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Read until stopped; a chunk without lines every now and then says that nothing is new."""
        try:
            while not await self._start():
                yield self._chunk([], 0)
                if await self._pause():
                    return
            while not self._stopped.is_set():
                try:
                    chunk = await self._read()
                except (OSError, SourceError) as error:
                    self._failures.warning("source_read_failed", self._path, error)
                    chunk = self._chunk([], 0)
                    await self._pause()
                yield chunk
        finally:
            if self._file is not None:
                await self._file.close()
            await close_all(self._held)

    async def _pause(self) -> bool:
        """Wait for something new; True if it is time to stop."""
        with suppress(TimeoutError):  # nothing has happened, which is an answer
            async with asyncio.timeout(POLL_SECONDS):
                await self._stopped.wait()
        return self._stopped.is_set()

    def _chunk(self, lines: list[tuple[int, bytes]], bytes_read: int) -> Chunk:
        framer = self._framer
        source_id = f"{self.bookmark.source}-{self._mark.generation:x}"
        return Chunk(source_id, lines, framer.take_overlong(), framer.line_offset, self._mark.generation, bytes_read)

    async def _start(self) -> bool:
        """Open the file to begin with: the oldest one that the bookmark names; False if there is none yet."""
        try:
            if self.bookmark.file(self.bookmark.generation) is None:
                return await self._open(self._path)
            files = await self._files_named()
            known = {name: await self._known_as(name) for name, each in files.items() if self._is_named(each)}
            first = first_to_read(self._base, known) or self._base
            if first not in files or await self._files_named() != files:
                return False  # renamed during the look, which may have missed one: the next look tells
            return await self._open(posixpath.join(self._folder, first), files[first])
        except SourceError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return False  # not there yet, or renamed since the look
            raise
        except OSError as error:
            self._failures.warning("source_read_failed", self._path, error)
            return False

    async def _files_named(self) -> dict[str, FileIdentity]:
        """Return the files here that have the followed name or an inode of the bookmark's (with their sizes as 0)."""
        found: dict[str, FileIdentity] = {}
        for name in await self._names():
            identity = await self._files.identify(posixpath.join(self._folder, name))
            if identity is not None and (name == self._base or self._is_named(identity)):
                found[name] = replace(identity, size=0)
        return found

    def _is_named(self, identity: FileIdentity, after: int = -1) -> bool:
        return any(each.is_of(identity) and each.generation > after for each in self.bookmark.files)

    async def _known_as(self, name: str) -> int | None:
        """Return the generation of the file that has these first bytes; None if no file has."""
        file = await open_file(self._files, posixpath.join(self._folder, name))
        try:
            identity = await file.identify()
            head = await read_exactly(file, FINGERPRINT_BYTES_MAX)
        finally:
            await file.close()
        marks = [each for each in self.bookmark.files if each.fingerprint and each.is_of(identity)]
        return max((each.generation for each in marks if head.startswith(each.fingerprint)), default=None)

    def _say_lost(self) -> None:
        self._telemetry.error(
            "source_lost",
            path=self._path,
            offset=self.bookmark.offset,
            reason="the file of the bookmark is gone: what it held after this offset, and what was rotated away since"
            " without having been seen, is not read",
        )

    async def _names(self) -> list[str]:
        """Return the names in the folder that files of this log may have."""
        try:
            names = await self._files.list_folder(self._folder or ".")
        except FileNotFoundError:
            return []
        return [name for name in names if name.startswith(self._base)]

    async def _fingerprint(self, file: ReadableFile, mark: FileMark) -> bytes:
        return await read_exactly(file, len(mark.fingerprint))

    def _take(self, file: ReadableFile, mark: FileMark, offset: int, identity: FileIdentity) -> None:
        self.former.open(mark.generation, identity.size)
        self._file = file
        self._mark = mark
        self._framer = LineFramer(self._line_bytes_max, offset)
        self._quiet_since, self._quiet_size = self._clock.monotonic(), 0

    async def _open(self, path: str, expected: FileIdentity | None = None) -> bool:
        """Open the first file; False if it is another one than expected."""
        file = await open_file(self._files, path)
        try:
            await self._enter(file, expected)
        finally:
            if self._file is not file:
                await file.close()
        return self._file is file

    async def _enter(self, file: ReadableFile, expected: FileIdentity | None) -> None:
        """Go on in a file where the bookmark stands, or from its beginning if the bookmark stands elsewhere."""
        identity = await file.identify()
        if expected is not None and replace(identity, size=0) != expected:
            return  # renamed since the look
        mark = self.bookmark.file(self.bookmark.generation)
        if mark is None:
            await self._begin(file)
        elif await self._stands_in(file, mark, identity):
            self._take(file, mark, self.bookmark.offset, identity)
        else:
            await self._begin(file)
            self._say_lost()

    async def _stands_in(self, file: ReadableFile, mark: FileMark, identity: FileIdentity) -> bool:
        """Whether this is the bookmark's file, not cut since, nor its inode used again."""
        if not mark.is_of(identity) or identity.size < self.bookmark.offset:
            return False
        if any(each.is_of(identity) and each.generation > mark.generation for each in self.bookmark.files):
            return False  # seen before the restart
        return await self._fingerprint(file, mark) == mark.fingerprint

    async def _begin(self, file: ReadableFile) -> None:
        """Leave the present file for this one, under the generation it had before a restart or under a new one."""
        identity = await file.identify()
        head = await read_exactly(file, FINGERPRINT_BYTES_MAX)
        generation = self.bookmark.generation_of(identity, head, after=self._mark.generation)
        mark = FileMark(generation, identity.device, identity.inode, head)
        previous, self._file = self._file, None
        if previous is not None:
            await previous.close()
        await self._remember(mark)
        self._take(file, mark, 0, identity)

    async def _remember(self, mark: FileMark) -> None:
        """Store a file's generation before any of its events is sent: a restart must give it the same one."""
        changed = self.bookmark.with_file(mark)
        while True:
            try:
                await self._store.save(changed)
            except OSError as error:
                self._failures.error("bookmark_not_saved", self._store.path, error)
                if await self._pause():
                    raise SourceError(f"the bookmark {self._store.path} can't be written: {error}") from error
            else:
                self.bookmark = changed
                return

    @property
    def _opened(self) -> ReadableFile:
        if self._file is None:
            msg = "no file is open before `_start` has opened one"
            raise RuntimeError(msg)
        return self._file

    async def _read(self) -> Chunk:
        file = self._opened
        if self._clock.monotonic() - self._looked_at >= POLL_SECONDS:
            await self._hold_successors()
        # Judged before the read: a process that is stopped between the two must not take an old answer for the end.
        is_last_look = bool(self._held) and not self._is_growing()
        data = await file.read_at(self._framer.next_offset, CHUNK_BYTES)
        if not data:
            return await self._rest(is_last_look=is_last_look)
        head = await read_exactly(file, FINGERPRINT_BYTES_MAX)
        if not head.startswith(self._mark.fingerprint):
            return await self._begin_again()  # cut since, and grown past where we were
        if self._framer.next_offset + len(data) > self._quiet_size:
            self._quiet_since = self._clock.monotonic()
        if len(head) > len(self._mark.fingerprint):
            await self._remember(FileMark(self._mark.generation, self._mark.device, self._mark.inode, head))
            self._mark = self.bookmark.file(self._mark.generation) or self._mark
        return self._chunk(self._framer.feed(data), len(data))

    async def _rest(self, *, is_last_look: bool) -> Chunk:
        """Decide at the end of the file: wait, begin again, or go on with the next file."""
        identity = await self._opened.identify()
        # A file that was cut may have grown to the very size it had: only its first bytes tell.
        is_cut = identity.size < self._framer.next_offset
        if is_cut or await self._fingerprint(self._opened, self._mark) != self._mark.fingerprint:
            return await self._begin_again()
        if is_last_look:
            return await self._go_on()
        await self._hold_successors()
        chunk = self._chunk([], 0)
        await self._pause()
        return chunk

    def _is_growing(self) -> bool:
        """Whether the writer of the renamed file may still be at it."""
        return self._clock.monotonic() - self._quiet_since < self._rotate_wait_seconds

    async def _hold_successors(self) -> None:
        """Open what came after the files known so far: whoever deletes them later takes nothing from this reader."""
        self._looked_at = self._clock.monotonic()
        newest = self._held[-1].mark if self._held else self._mark
        current = await self._files.identify(self._path)
        if (current is not None and newest.is_of(current)) or len(self._held) >= _HELD_MAX:
            return
        names = await self._next_names(newest)
        if current is None and not names:
            return
        found: list[HeldFile] = []
        try:
            for name in (names or [self._path])[: _HELD_MAX - len(self._held)]:
                held = await HeldFile.hold(await open_file(self._files, name), self._looked_at)
                found.append(held)
            # A rotation during the look would have moved the names by one: then the next look tells.
            is_still = await self._next_names(newest) == names
        except (OSError, SourceError):
            await close_all(found)
            raise
        if not is_still:
            await close_all(found)
            return
        if not self._held:
            self._quiet_since = self._looked_at  # from now on its writer has `rotate_wait_seconds` to let go of it
        self._held += found
        if names is None:
            self._say_gap()

    def _say_gap(self) -> None:
        self._telemetry.error(
            "source_lost",
            path=self._path,
            reason="a rotated file was deleted early: files between it and the present one may not have been read",
        )

    async def _next_names(self, newest: FileMark) -> list[str] | None:
        """Return the paths of what came after a file, oldest first, the followed one last; None if nobody can tell."""
        names = await self._names()
        present = [self._path] if self._base in names else []
        rotated: dict[str, FileIdentity] = {}
        for name in names:
            identity = await self._files.identify(posixpath.join(self._folder, name))
            if name != self._base and identity is not None:
                rotated[name] = identity
                if newest.is_of(identity):
                    later = rotated_after(self._base, name, names) or await self._seen_later(name, newest, names)
                    return [*(posixpath.join(self._folder, each) for each in later), *present]
        if not in_order(self._base, names):
            return present
        after = self._after_the_last_there(rotated)
        return None if after is None else [*(posixpath.join(self._folder, each) for each in after), *present]

    def _after_the_last_there(self, rotated: Mapping[str, FileIdentity]) -> list[str] | None:
        """Return what was rotated after the newest file that is known and still there, without what is held already.

        The file that was looked for was removed while it waited for its turn. None if all others that are known are
        gone, too: what is left may have been there before them. Open files keep their inodes for themselves.
        """
        known = [self._mark, *(each.mark for each in self._held)]
        for mark in reversed(known):
            for name in in_order(self._base, rotated):
                if mark.is_of(rotated[name]):
                    later = rotated_after(self._base, name, rotated)
                    return [each for each in later if not any(held.is_of(rotated[each]) for held in known)]
        return None

    async def _seen_later(self, name: str, newest: FileMark, names: list[str]) -> list[str]:
        """Return the rotated files, oldest first, from that on which an earlier run saw later than this one.

        For a file that was moved aside by hand, under a name that tells no order.
        """
        rotated = in_order(self._base, names)
        if name in rotated or newest is not self._mark:
            return []
        for each in rotated:
            identity = await self._files.identify(posixpath.join(self._folder, each))
            if identity is not None and self._is_named(identity, after=newest.generation):
                return [each, *rotated_after(self._base, each, rotated)]
        return []

    async def _go_on(self) -> Chunk:
        """Leave the renamed file: its last line needs no newline any more."""
        chunk = self._chunk(self._framer.finish(), 0)
        try:
            await self._begin(self._held[0].file)
            begun = self._held.pop(0)
            if self._held:  # a backlog: what was there when a newer file was seen has waited for its writer since then
                self._quiet_since, self._quiet_size = self._held[0].seen_at, begun.size
            self._telemetry.info("source_rotated", path=self._path, generation=self._mark.generation)
        except (OSError, SourceError) as error:  # the last line must not get lost with it
            self._failures.warning("source_read_failed", self._path, error)
            await self._pause()
        return chunk

    async def _begin_again(self) -> Chunk:
        """Start a new generation of a file that was cut: its offsets begin again, so its ids must differ."""
        identity = await self._opened.identify()
        head = await read_exactly(self._opened, FINGERPRINT_BYTES_MAX)
        mark = FileMark(self.bookmark.next_generation, identity.device, identity.inode, head)
        self._telemetry.warning(
            "source_truncated",
            path=self._path,
            generation=mark.generation,
            reason="copytruncate loses what is written between the copy and the cut: rotate by rename",
        )
        await self._remember(mark)
        self._take(self._opened, mark, 0, identity)
        return self._chunk([], 0)
