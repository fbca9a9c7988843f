"""Opens what is read once: a file or standard input, plain or gzip, told apart by its first bytes."""

from __future__ import annotations

import asyncio
import os
import stat
import sys

from producer.gzip_reader import MAGIC, GzipSource
from producer.source import CHUNK_BYTES, ByteSource, FileSource, OneShotSource, PeekedSource, open_file
from shared.errors import ConfigurationError, SourceError
from shared.ports import Files

STANDARD_INPUT = "-"


def _is_pollable(mode: int) -> bool:
    """Whether epoll takes it: a redirected file and a device such as /dev/null never make a reader wait."""
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


class PipeSource:
    """Standard input, from a pipe, a socket or a redirected file."""

    def __init__(self) -> None:
        self._reader: asyncio.StreamReader | None = None
        self._transport: asyncio.ReadTransport | None = None

    async def read(self) -> bytes:
        """Return the next bytes."""
        descriptor = sys.stdin.fileno()
        if not _is_pollable(os.fstat(descriptor).st_mode):
            return os.read(descriptor, CHUNK_BYTES)
        if self._reader is None:
            loop = asyncio.get_running_loop()
            self._reader = reader = asyncio.StreamReader(CHUNK_BYTES)
            pipe = os.fdopen(os.dup(descriptor), "rb", buffering=0)
            self._transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        return await self._reader.read(CHUNK_BYTES)

    async def close(self) -> None:
        """Stop listening."""
        if self._transport is not None:
            self._transport.close()

    def stop(self) -> None:
        """End a `read` that waits for the writer."""
        if self._reader is not None:
            self._reader.feed_eof()


async def open_bytes(files: Files, path: str) -> ByteSource:
    """Open a path, or `-` for standard input; raises ConfigurationError for a terminal, SourceError otherwise."""
    if path != STANDARD_INPUT:
        return FileSource(await open_file(files, path), path)
    if sys.stdin is None or sys.stdin.closed:
        raise SourceError("standard input is closed", hint="Give a file with --file PATH")
    if sys.stdin.isatty():
        message = "standard input is a terminal, so there is nothing to read"
        raise ConfigurationError(message, hint="Give --file PATH, a pipe (cat access.log | ...), or --json_string")
    return PipeSource()


class TextSource:
    """Looks at the first bytes: unpacks gzip, and refuses what is no text, which a NUL byte at its head shows."""

    def __init__(self, source: ByteSource, name: str) -> None:
        self._source = source
        self._name = name
        self._is_detected = False

    async def read(self) -> bytes:
        """Return the next bytes of text."""
        data = await self._source.read()
        if self._is_detected:
            return data
        self._is_detected = True
        if data.startswith(MAGIC):
            self._source = GzipSource(PeekedSource(self._source, data), self._name, CHUNK_BYTES)
            data = await self._source.read()
        if b"\0" in data:
            message = f"{self._name} is not text: it has a NUL byte at {data.index(0):,}"
            raise SourceError(message, hint="Lines of text are read: JSON, CSV or an access log, plain or gzip")
        return data

    async def close(self) -> None:
        """Close the source."""
        await self._source.close()

    def stop(self) -> None:
        """Stop the source."""
        self._source.stop()


async def open_once(files: Files, path: str, *, source_id: str, line_bytes_max: int) -> OneShotSource:
    """Open a source that is read to its end; raises as `open_bytes`."""
    source = TextSource(await open_bytes(files, path), path)
    return OneShotSource(source, name=path, source_id=source_id, line_bytes_max=line_bytes_max)
