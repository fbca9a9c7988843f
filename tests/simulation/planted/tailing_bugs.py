"""Bugs that break: every line of a followed log becomes one event."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from typing import Any

from producer.bookmark import BookmarkStore
from producer.core.barriers import Barriers
from producer.core.line_framer import LineFramer
from producer.dead_letters import DeadLetters
from producer.tailer import Tailer
from tests.simulation.planted.registry import Patch, bug


@bug("a bookmark is the lowest unacknowledged offset, written after the acknowledgment")
def bookmark_before_ack(patch: Patch) -> None:
    """Take every barrier for done when it is set."""

    def reached(self: Any) -> Any:
        place = None
        while self._segments:
            place = self._segments.popleft().end
        return place

    patch.setattr(Barriers, "reached", reached)


@bug("a bookmark is the lowest unacknowledged offset, written after the acknowledgment")
def bookmark_at_the_highest_acknowledged(patch: Patch) -> None:
    """Let the newest finished segment decide."""

    def reached(self: Any) -> Any:
        done = [index for index, segment in enumerate(self._segments) if not segment.pending]
        place = None
        for _ in range(done[-1] + 1 if done else 0):
            place = self._segments.popleft().end
        return place

    patch.setattr(Barriers, "reached", reached)


@bug("a restart gives a file the generation, and so the event ids, it had")
def generations_not_remembered(patch: Patch) -> None:
    """Count on from the bookmark in memory only."""

    async def remember(self: Any, mark: Any) -> None:
        self.bookmark = self.bookmark.with_file(mark)

    patch.setattr(Tailer, "_remember", remember)


@bug("a source has one name for as long as its bookmark lives")
def source_renamed_at_each_start(patch: Patch) -> None:
    """Draw a new name at each start."""
    original = BookmarkStore.load
    names = itertools.count()

    async def load(self: Any) -> Any:
        found = await original(self)
        return found and replace(found, source=f"renamed-{next(names)}")

    patch.setattr(BookmarkStore, "load", load)


@bug("a rotated file is read to its end before the next one")
def rotated_file_left_at_once(patch: Patch) -> None:
    """Go to the new file as soon as it is there."""

    async def read(self: Any) -> Any:
        await self._hold_successors()
        if self._held:
            return await self._go_on()
        return await original(self)

    original = Tailer._read
    patch.setattr(Tailer, "_read", read)


@bug("files between the renamed one and the present one are read, too")
def files_in_between_skipped(patch: Patch) -> None:
    """Go from a renamed file straight to the followed path."""

    async def next_names(self: Any, _newest: Any) -> list[str]:
        return [self._path]

    patch.setattr(Tailer, "_next_names", next_names)


@bug("only whole lines are read")
def half_lines_taken(patch: Patch) -> None:
    """End every chunk as if it ended with a newline."""
    original = LineFramer.feed

    def feed(self: Any, data: bytes) -> Any:
        return original(self, data) + self.finish()

    patch.setattr(LineFramer, "feed", feed)


@bug("a file is known by device, inode and fingerprint")
def fingerprint_ignored(patch: Patch) -> None:
    """Trust the inode number: neither compare first bytes nor store them."""
    remember = Tailer._remember

    async def fingerprint(self: Any, file: Any, mark: Any) -> bytes:
        return bytes(mark.fingerprint)

    async def remember_inode(self: Any, mark: Any) -> None:
        await remember(self, replace(mark, fingerprint=b""))

    patch.setattr(Tailer, "_fingerprint", fingerprint)
    patch.setattr(Tailer, "_remember", remember_inode)


@bug("dead letters are durable before a bookmark passes them")
def producer_dead_letters_not_synced(patch: Patch) -> None:
    """Leave them in the page cache."""

    async def flush(self: Any) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            with contextlib.suppress(OSError):
                await self._files.append(self.path, b"".join(waiting), durable=False)

    patch.setattr(DeadLetters, "flush", flush)
