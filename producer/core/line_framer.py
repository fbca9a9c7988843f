"""Cuts a byte stream into whole lines with their offsets, in bounded memory whatever the lines' length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OVERLONG_HEAD_BYTES: Final = 4096  # what is kept of a line that is too long to be read
_QUOTE: Final = b'"'


@dataclass(frozen=True, slots=True)
class OverlongLine:
    """A line of more than `line_bytes_max` bytes: where it starts, its length, its first bytes, its double quotes."""

    offset: int
    length: int
    head: bytes
    quotes: int = 0


def overlong_line(offset: int, line: bytes) -> OverlongLine:
    """Return what is kept of a line that is too long."""
    return OverlongLine(offset, len(line), line[:OVERLONG_HEAD_BYTES], line.count(_QUOTE))


class LineFramer:
    """Feed it chunks, get lines without their newline; what follows the last newline waits for the next chunk."""

    def __init__(self, line_bytes_max: int, offset: int = 0) -> None:
        self._line_bytes_max = line_bytes_max
        self._tail = b""
        self._skipped_head: bytes | None = None  # set while inside an over-long line
        self._skipped_length = 0
        self._skipped_quotes = 0
        self.overlong: list[OverlongLine] = []
        self.line_offset = offset  # where the line begins that waits for its newline

    @property
    def next_offset(self) -> int:
        """Where the next chunk begins."""
        return self.line_offset + self._skipped_length + len(self._tail)

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """Return the lines that this chunk completes, as (offset, line); over-long ones go to `overlong`."""
        if self._skipped_head is not None:
            chunk = self._skip(chunk)
        if not chunk:
            return []
        pieces = (self._tail + chunk if self._tail else chunk).split(b"\n")
        self._tail = pieces.pop()
        offset = self.line_offset
        lines: list[tuple[int, bytes]] = []
        longest = self._line_bytes_max
        for piece in pieces:
            if len(piece) <= longest:
                lines.append((offset, piece))
            else:
                self.overlong.append(overlong_line(offset, piece))
            offset += len(piece) + 1
        self.line_offset = offset
        if len(self._tail) > longest:
            self._skipped_head = self._tail[:OVERLONG_HEAD_BYTES]
            self._skipped_length = len(self._tail)
            self._skipped_quotes = self._tail.count(_QUOTE)
            self._tail = b""
        return lines

    def _skip(self, chunk: bytes) -> bytes:
        """Drop what belongs to an over-long line; return what follows it."""
        assert self._skipped_head is not None
        end = chunk.find(b"\n")
        room = OVERLONG_HEAD_BYTES - len(self._skipped_head)
        if room > 0:
            self._skipped_head += chunk[: room if end < 0 else min(room, end)]
        if end < 0:
            self._skipped_length += len(chunk)
            self._skipped_quotes += chunk.count(_QUOTE)
            return b""
        self._skipped_length += end
        self._skipped_quotes += chunk.count(_QUOTE, 0, end)
        self._end_skipping(newline=1)
        return chunk[end + 1 :]

    def _end_skipping(self, newline: int) -> None:
        assert self._skipped_head is not None
        found = OverlongLine(self.line_offset, self._skipped_length, self._skipped_head, self._skipped_quotes)
        self.overlong.append(found)
        self.line_offset += self._skipped_length + newline
        self._skipped_head = None
        self._skipped_length = 0

    def take_overlong(self) -> list[OverlongLine]:
        """Hand over the over-long lines found since the last call."""
        taken, self.overlong = self.overlong, []
        return taken

    def finish(self) -> list[tuple[int, bytes]]:
        """Take the end of the source for the end of the line; return that line, if there is one."""
        if self._skipped_head is not None:
            self._end_skipping(newline=0)
            return []
        if not self._tail:
            return []
        line = (self.line_offset, self._tail)
        self.line_offset += len(self._tail)
        self._tail = b""
        return [line]
