"""Files of framed entries that only grow: written whole, checked by length and CRC, read up to a torn tail."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shared.errors import ConfigurationError

_HEADER: Final = struct.Struct(">IIB")  # payload length, CRC-32 of kind and payload, kind
ENTRY_BYTES_MAX: Final = 288 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it was written."""

    kind: int
    payload: memoryview


@dataclass(slots=True)
class SegmentFile:
    """One file, open for appending; `bytes_written` is its length."""

    path: Path
    bytes_written: int = 0
    _fd: int = field(default=-1, repr=False)

    @classmethod
    def open(cls, path: Path, valid_bytes: int | None = None) -> SegmentFile:
        """Open for appending, cutting off what lies beyond `valid_bytes` (a torn tail)."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if valid_bytes is not None:
            os.ftruncate(fd, valid_bytes)
        return cls(path, os.fstat(fd).st_size, fd)

    def append(self, kind: int, payload: bytes) -> None:
        """Hand one entry to the operating system; OSError leaves the file as it was before."""
        checksum = zlib.crc32(payload, zlib.crc32(bytes((kind,))))
        rest = memoryview(_HEADER.pack(len(payload), checksum, kind) + payload)
        length = len(rest)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            os.ftruncate(self._fd, self.bytes_written)
            raise
        self.bytes_written += length

    def duplicate(self) -> int:
        """A second descriptor of the file, to be flushed and closed in another thread."""
        return os.dup(self._fd)

    def close(self) -> None:
        """Flush to the device and close."""
        if self._fd >= 0:
            os.fsync(self._fd)
            os.close(self._fd)
            self._fd = -1


def read_entries(path: Path) -> Iterator[tuple[Entry, int]]:
    """Each whole entry with the offset behind it; ends at the first that is torn or damaged."""
    content = memoryview(path.read_bytes())
    offset = 0
    while offset + _HEADER.size <= len(content):
        length, checksum, kind = _HEADER.unpack_from(content, offset)
        end = offset + _HEADER.size + length
        if length > ENTRY_BYTES_MAX or end > len(content):
            return
        payload = content[offset + _HEADER.size : end]
        if zlib.crc32(payload, zlib.crc32(bytes((kind,)))) != checksum:
            return
        offset = end
        yield Entry(kind, payload), offset


@dataclass(frozen=True, slots=True)
class SegmentFolder:
    """Numbered segment files with one prefix in a folder."""

    folder: Path
    prefix: str

    def numbers(self) -> list[int]:
        """The numbers of the files that are there, ascending."""
        pattern = re.compile(rf"{re.escape(self.prefix)}-(\d{{8}})\.log")
        matches = (pattern.fullmatch(each.name) for each in self.folder.iterdir())
        return sorted(int(match.group(1)) for match in matches if match)

    def path(self, number: int) -> Path:
        """The file with this number."""
        return self.folder / f"{self.prefix}-{number:08d}.log"

    def read(self) -> Iterator[tuple[int, Entry]]:
        """Every entry of every file in order; a torn tail is cut off the last file and refused in any other."""
        numbers = self.numbers()
        for number in numbers:
            valid = 0
            for entry, end in read_entries(self.path(number)):
                valid = end
                yield number, entry
            size = self.path(number).stat().st_size
            if valid == size:
                continue
            if number != numbers[-1]:
                raise ConfigurationError(
                    f"{self.path(number)} is damaged at byte {valid} of {size}",
                    hint="restore the folder from a copy, or start with another --data-dir",
                )
            SegmentFile.open(self.path(number), valid_bytes=valid).close()


class FolderLock:
    """Keeps a second server off a data folder; the operating system lets go when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the data folder {folder} can't be used: {error.strerror}",
                hint="name a folder that you may write to with --data-dir",
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise ConfigurationError(
                f"the data folder {folder} is in use by another local cloud",
                hint="stop the other one, or name another folder with --data-dir",
            ) from error

    def release(self) -> None:
        """Let the next server in."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
