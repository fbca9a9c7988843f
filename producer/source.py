"""Where lines come from: a file, a pipe, or a followed file, as chunks of whole lines with their places."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from producer.core.line_framer import LineFramer, OverlongLine
from shared.errors import SourceError
from shared.limits import KIB
from shared.ports import FileIdentity, Files, ReadableFile

CHUNK_BYTES: Final = 256 * KIB


class ByteSource(Protocol):
    """Bytes that come to an end."""

    async def read(self) -> bytes:
        """Return the next bytes, at most a chunk; empty at the end."""
        ...

    async def close(self) -> None:
        """Give the source back; a second call does nothing."""
        ...

    def stop(self) -> None:
        """Make a `read` that waits return; what it returns no longer matters."""
        ...


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines in their order, without newlines; may hold none where a followed file has nothing new.

    `end` is the offset after the last of them. `source_id` and `generation` name the file they come from.
    """

    source_id: str
    lines: Sequence[tuple[int, bytes]] = ()
    overlong: Sequence[OverlongLine] = ()
    end: int = 0
    generation: int = 0
    bytes_read: int = 0


class LineSource(Protocol):
    """What the run loop reads from."""

    @property
    def name(self) -> str:
        """What dead letters call it: the path, or `-`."""
        ...

    def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Read to the end, or until stopped. Raises SourceError."""
        ...

    def stop(self) -> None:
        """End `chunks` soon, without taking an unfinished line for a line."""
        ...


class FileSource:
    """Reads a file once, from its beginning to the end that it has when it is reached."""

    def __init__(self, file: ReadableFile, name: str) -> None:
        self._file = file
        self._name = name
        self._offset = 0

    async def read(self) -> bytes:
        """Return the next bytes."""
        try:
            data = await self._file.read_at(self._offset, CHUNK_BYTES)
        except OSError as error:
            message = f"{self._name} can't be read at byte {self._offset:,}: {error.strerror}"
            raise SourceError(message) from error
        self._offset += len(data)
        return data

    async def close(self) -> None:
        """Close the file."""
        await self._file.close()

    def stop(self) -> None:
        """Do nothing: reading a file does not wait."""


class PeekedSource:
    """A source whose first bytes were looked at."""

    def __init__(self, inner: ByteSource, head: bytes) -> None:
        self._inner = inner
        self._head: bytes | None = head

    async def read(self) -> bytes:
        """Return the bytes that were looked at, then the rest."""
        if self._head is not None:
            head, self._head = self._head, None
            return head
        return await self._inner.read()

    async def close(self) -> None:
        """Close the source."""
        await self._inner.close()

    def stop(self) -> None:
        """Stop the source."""
        self._inner.stop()


class OneShotSource:
    """Lines of a source that comes to an end; the last one may lack its newline."""

    def __init__(self, source: ByteSource, *, name: str, source_id: str, line_bytes_max: int) -> None:
        self.name = name
        self._source = source
        self._source_id = source_id
        self._framer = LineFramer(line_bytes_max)
        self._is_stopped = False

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Read to the end."""
        try:
            while (data := await self._source.read()) and not self._is_stopped:
                yield self._chunk(self._framer.feed(data), len(data))
            if not self._is_stopped:
                yield self._chunk(self._framer.finish(), 0)
        finally:
            await self._source.close()

    def stop(self) -> None:
        """Read no further."""
        self._is_stopped = True
        self._source.stop()

    def _chunk(self, lines: list[tuple[int, bytes]], bytes_read: int) -> Chunk:
        framer = self._framer
        return Chunk(self._source_id, lines, framer.take_overlong(), framer.line_offset, 0, bytes_read)


async def open_file(files: Files, path: str) -> ReadableFile:
    """Open a file for reading; SourceError says what is wrong with it and what to do."""
    try:
        return await files.open(path)
    except FileNotFoundError as error:
        raise SourceError(f"{path} does not exist", hint="Check the path; `-` reads from standard input") from error
    except IsADirectoryError as error:
        raise SourceError(f"{path} is a folder, not a file", hint=f"Name one file, e.g. {path}/access.log") from error
    except PermissionError as error:
        raise SourceError(f"{path} may not be read by this user", hint=f"chmod +r {path}, or another user") from error
    except OSError as error:
        hint = f"A pipe is read from standard input: ... < {path}" if error.errno == errno.EINVAL else ""
        raise SourceError(f"{path} can't be opened: {error.strerror}", hint=hint) from error


async def identify(files: Files, path: str) -> FileIdentity | None:
    """Ask for the identity of a path; None if nothing is there. Raises SourceError."""
    try:
        return await files.identify(path)
    except OSError as error:
        raise SourceError(f"{path} can't be looked at: {error.strerror}") from error
