"""Reads gzip as a stream of bounded chunks; a small file that unpacks to a huge one is refused."""

from __future__ import annotations

import zlib
from typing import Final

from producer.source import ByteSource
from shared.errors import SourceError
from shared.limits import GZIP_RATIO_MAX, MIB

MAGIC: Final = b"\x1f\x8b"
_WINDOW_BITS: Final = 31  # gzip framing
_RATIO_FROM_BYTES: Final = 16 * MIB  # a log of one repeated line may pack well; a bomb is larger than this


class GzipSource:
    """Unpacks another source, all members of it."""

    def __init__(self, inner: ByteSource, name: str, chunk_bytes: int) -> None:
        self._inner = inner
        self._name = name
        self._chunk_bytes = chunk_bytes
        self._unpacker = zlib.decompressobj(_WINDOW_BITS)
        self._packed = b""
        self._packed_count = 0
        self._unpacked_count = 0

    async def read(self) -> bytes:
        """Return the next unpacked bytes, at most a chunk; empty at the end. Raises SourceError if it is damaged."""
        while True:
            if not self._packed:
                self._packed = await self._inner.read()
                self._packed_count += len(self._packed)
                if not self._packed:
                    return self._end()
            data = self._unpack()
            if data:
                return data

    def _end(self) -> bytes:
        if not self._unpacker.eof:
            message = f"{self._name} is cut off: it ends inside a gzip member after {self._unpacked_count:,} bytes"
            raise SourceError(message, hint="What came before was read; get the whole file and read it again")
        return b""

    def _unpack(self) -> bytes:
        if self._unpacker.eof:
            self._packed = self._packed.lstrip(b"\0")  # padding after a member is allowed
            if not self._packed:
                return b""
            self._unpacker = zlib.decompressobj(_WINDOW_BITS)
        try:
            data = self._unpacker.decompress(self._packed, self._chunk_bytes)
        except zlib.error as error:
            message = f"{self._name} is damaged after {self._unpacked_count:,} unpacked bytes: {error}"
            raise SourceError(message, hint=f"gzip -t {self._name}") from error
        self._packed = self._unpacker.unused_data if self._unpacker.eof else self._unpacker.unconsumed_tail
        self._unpacked_count += len(data)
        if self._unpacked_count > max(_RATIO_FROM_BYTES, GZIP_RATIO_MAX * self._packed_count):
            message = f"{self._name} unpacks to more than {GZIP_RATIO_MAX} times its size"
            raise SourceError(message, hint="Unpack it yourself if you trust it, and give the unpacked file")
        return data

    async def close(self) -> None:
        """Close the packed source."""
        await self._inner.close()

    def stop(self) -> None:
        """Stop the packed source."""
        self._inner.stop()
