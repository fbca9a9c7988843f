"""The real disk behind the `Files` port.

Calls are made inline: they read at most a chunk, or write a small file; a thread per call would cost more than most
of them take, and a write that blocks on a full disk should hold its source back.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from shared.ports import FileIdentity

_PRIVATE = 0o600


def _identity(status: os.stat_result) -> FileIdentity:
    return FileIdentity(device=status.st_dev, inode=status.st_ino, size=status.st_size)


class LocalFile:
    """An open regular file; stays readable after a rename or deletion."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "the file was closed")
        return self._descriptor

    async def read_at(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes at `offset`; empty at the end."""
        return os.pread(self._open_descriptor(), size, offset)

    async def identify(self) -> FileIdentity:
        """Return the identity and present size."""
        return _identity(os.fstat(self._open_descriptor()))

    async def close(self) -> None:
        """Give the descriptor back; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class LocalFiles:
    """The file system of this machine."""

    async def open(self, path: str) -> LocalFile:
        """Open a regular file for reading; a folder raises IsADirectoryError."""
        # Without O_NONBLOCK, opening a named pipe without a writer would block the loop for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            raise OSError(errno.EINVAL, "not a regular file", path)
        return LocalFile(descriptor)

    async def identify(self, path: str) -> FileIdentity | None:
        """Return the identity of the file at `path` now; None if there is none."""
        try:
            return _identity(os.stat(path))  # noqa: PTH116 - the os.* calls of this module belong together
        except FileNotFoundError:
            return None

    async def list_folder(self, path: str) -> tuple[str, ...]:
        """Return the names in a folder, sorted."""
        return tuple(sorted(os.listdir(path)))  # noqa: PTH208 - as above

    async def read_all(self, path: str, bytes_max: int) -> bytes | None:
        """Read a small file whole; None if there is none; OSError (EFBIG) if it is larger than `bytes_max`."""
        try:
            with Path(path).open("rb") as file:  # noqa: ASYNC230 - inline on purpose, see the module docstring
                data = file.read(bytes_max + 1)
        except FileNotFoundError:
            return None
        if len(data) > bytes_max:
            raise OSError(errno.EFBIG, f"larger than {bytes_max:,} bytes", path)
        return data

    async def write_atomically(self, path: str, data: bytes) -> None:
        """Replace a file durably; after a crash either the old or the new content is there, whole."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _PRIVATE)
        try:
            _write_whole(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
        _sync_folder(target.parent)

    async def append(self, path: str, data: bytes, *, durable: bool) -> None:
        """Append to a file, creating it (private to the user); with `durable`, fsync before returning."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        is_new = not target.exists()  # noqa: ASYNC240 - inline on purpose, see the module docstring
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _PRIVATE)
        try:
            _write_whole(descriptor, data)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if durable and is_new:
            _sync_folder(target.parent)


def _write_whole(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
