"""An in-memory disk behind the port: data that was never synced, torn writes, full disks and reused inodes."""

from __future__ import annotations

import errno
import posixpath
from dataclasses import dataclass, field

from shared.ports import FileIdentity
from tests.support.network import Network, PerfectNetwork

_DEVICE = 64_769


@dataclass(slots=True)
class _Inode:
    """A file's bytes as programs see them, and how far they are on the platter."""

    number: int
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    links: int = 0
    handles: int = 0


class FakeFile:
    """The port `ReadableFile`: stays readable after a rename or deletion."""

    def __init__(self, disk: FakeFiles, inode: _Inode) -> None:
        self._disk = disk
        self._inode = inode
        self._is_open = True
        inode.handles += 1

    def _check(self) -> None:
        if not self._is_open:
            raise OSError(errno.EBADF, "the file was closed")

    async def read_at(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes, perhaps fewer than there are."""

        def land() -> bytes:
            self._check()
            self._disk.strike("read_failed", errno.EIO)
            data = bytes(self._inode.data[offset : offset + size])
            return data[: max(1, self._disk.network.page_length("files.read", len(data)))]

        return await self._disk.network.call("files.read", land)

    async def identify(self) -> FileIdentity:
        """Return the identity and present size."""

        def land() -> FileIdentity:
            self._check()
            return FileIdentity(_DEVICE, self._inode.number, len(self._inode.data))

        return await self._disk.network.call("files.identify", land)

    async def close(self) -> None:
        """Give the file back."""
        if self._is_open:
            self._is_open = False
            self._inode.handles -= 1


class FakeFiles:
    """The port `Files`, whole, in memory, over a disk that can lose power.

    A kill of the process leaves everything written; `lose_power` goes back to what was synced, plus an arbitrary part
    of what was appended since. A name is synced together with its file (`write_atomically`, durable `append`); files
    that the world itself writes (logs) are synced by their writer's choice.
    """

    def __init__(self, network: Network | None = None) -> None:
        self.network: Network = network or PerfectNetwork()
        self.bytes_max: int | None = None
        self._names: dict[str, _Inode] = {}
        self._synced_names: dict[str, _Inode] = {}
        self._inodes: dict[int, _Inode] = {}

    # What the world does to its disk: takes no time, never fails.

    def write_log(self, path: str, data: bytes, *, synced: bool = True) -> None:
        """Append to a log as the web server does."""
        inode = self._names.get(posixpath.normpath(path)) or self._create(path)
        inode.data += data
        if synced:
            self._sync(path, inode)

    def rename(self, path: str, target: str) -> None:
        """Rename a file, replacing the target."""
        inode = self._names.pop(posixpath.normpath(path))
        self._synced_names.pop(posixpath.normpath(path), None)
        target = posixpath.normpath(target)
        if target in self._names:
            self.remove(target)
        self._names[target] = self._synced_names[target] = inode

    def remove(self, path: str) -> None:
        """Unlink a file; its inode number is used again once nobody has it open."""
        inode = self._names.pop(posixpath.normpath(path))
        self._synced_names.pop(posixpath.normpath(path), None)
        inode.links -= 1

    def truncate(self, path: str) -> None:
        """Cut a file to nothing, as `copytruncate` does."""
        inode = self._names[posixpath.normpath(path)]
        inode.data.clear()
        inode.synced = b""

    def content(self, path: str) -> bytes | None:
        """Return a file's bytes, None if there is none."""
        inode = self._names.get(posixpath.normpath(path))
        return bytes(inode.data) if inode else None

    def has_folder(self, path: str) -> bool:
        """Whether there is anything below a path."""
        return self._is_folder(path)

    def paths(self, folder: str) -> list[str]:
        """Return the paths of all files below a folder."""
        return [each for each in self._names if each.startswith(posixpath.normpath(folder) + "/")]

    def inode(self, path: str) -> int:
        """Return a file's inode number."""
        return self._names[posixpath.normpath(path)].number

    def lose_power(self) -> None:
        """Go back to what is on the platter; of unsynced appends an arbitrary part survives."""
        self._names = dict(self._synced_names)
        for inode in self._names.values():
            grown = bytes(inode.data) if inode.data.startswith(inode.synced) else inode.synced
            kept = len(inode.synced) + self.network.part(len(grown) - len(inode.synced))
            inode.data = bytearray(grown[:kept])
            inode.synced = bytes(inode.data)

    # The port.

    async def open(self, path: str) -> FakeFile:
        """Open a regular file for reading."""

        def land() -> FakeFile:
            inode = self._names.get(posixpath.normpath(path))
            if inode is None:
                kind = errno.EISDIR if self._is_folder(path) else errno.ENOENT
                raise OSError(kind, "can't be opened", path)
            return FakeFile(self, inode)

        return await self.network.call("files.open", land)

    async def identify(self, path: str) -> FileIdentity | None:
        """Return the identity of the file at `path` now."""

        def land() -> FileIdentity | None:
            inode = self._names.get(posixpath.normpath(path))
            return FileIdentity(_DEVICE, inode.number, len(inode.data)) if inode else None

        return await self.network.call("files.identify", land)

    async def list_folder(self, path: str) -> tuple[str, ...]:
        """Return the names in a folder, sorted."""

        def land() -> tuple[str, ...]:
            folder = posixpath.normpath(path)
            prefix = "" if folder == "." else folder.rstrip("/") + "/"
            names = {each[len(prefix) :].split("/", 1)[0] for each in self._names if each.startswith(prefix)}
            if not names and prefix:
                raise FileNotFoundError(errno.ENOENT, "no such folder", path)
            return tuple(sorted(names))

        return await self.network.call("files.list", land)

    async def read_all(self, path: str, bytes_max: int) -> bytes | None:
        """Read a small file whole."""

        def land() -> bytes | None:
            inode = self._names.get(posixpath.normpath(path))
            if inode is None:
                return None
            self.strike("read_failed", errno.EIO)
            if len(inode.data) > bytes_max:
                raise OSError(errno.EFBIG, f"larger than {bytes_max:,} bytes", path)
            return bytes(inode.data)

        return await self.network.call("files.read_all", land)

    async def write_atomically(self, path: str, data: bytes) -> None:
        """Replace a file durably: afterwards the old or the new content is there, whole."""
        copy = bytes(data)

        def land() -> None:
            self._check_room(len(copy))
            self.strike("disk_full", errno.ENOSPC)
            previous = self._names.get(posixpath.normpath(path))
            inode = self._create(path)
            if previous is not None:
                previous.links -= 1
            inode.data += copy
            self._sync(path, inode)

        await self.network.call("files.write_atomically", land)

    async def append(self, path: str, data: bytes, *, durable: bool) -> None:
        """Append to a file; a failing append may leave a part of the data behind (a torn write)."""
        copy = bytes(data)

        def land() -> None:
            inode = self._names.get(posixpath.normpath(path)) or self._create(path)
            self._check_room(len(copy))
            if self.network.happens("torn_write"):
                inode.data += copy[: self.network.part(len(copy))]
                raise OSError(errno.ENOSPC, "no space left on device", path)
            self.strike("disk_full", errno.ENOSPC)
            inode.data += copy
            if durable:
                self._sync(path, inode)

        await self.network.call("files.append", land)

    def strike(self, kind: str, code: int) -> None:
        """Raise OSError if a fault of this kind happens now."""
        if self.network.happens(kind):
            raise OSError(code, f"simulated: {kind}")

    def _check_room(self, size: int) -> None:
        if self.bytes_max is None:
            return
        used = sum(len(each.data) for each in self._names.values())
        if used + size > self.bytes_max:
            raise OSError(errno.ENOSPC, f"no space left on device: {used + size:,} of {self.bytes_max:,} bytes")

    def _is_folder(self, path: str) -> bool:
        return any(each.startswith(posixpath.normpath(path) + "/") for each in self._names)

    def _create(self, path: str) -> _Inode:
        # The smallest free number is used again, as ext4 does: a reader that trusts inode numbers alone will fail.
        free = (number for number, each in self._inodes.items() if not each.links and not each.handles)
        number = min(free, default=len(self._inodes) + 1000)
        inode = self._inodes[number] = self._names[posixpath.normpath(path)] = _Inode(number, links=1)
        return inode

    def _sync(self, path: str, inode: _Inode) -> None:
        inode.synced = bytes(inode.data)
        self._synced_names[posixpath.normpath(path)] = inode
