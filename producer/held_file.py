"""Files that a tailer keeps open until their turn comes, and what it knew of them then."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from producer.bookmark import FileMark
from shared.ports import ReadableFile


@dataclass(frozen=True, slots=True)
class HeldFile:
    """An open file that came after the present one: its size when it was seen first, and when that was.

    `mark` has no generation yet: that is given when its turn comes.
    """

    mark: FileMark
    file: ReadableFile
    size: int
    seen_at: float

    @classmethod
    async def hold(cls, file: ReadableFile, now: float) -> HeldFile:
        """Look at an open file; it is closed if that fails (OSError)."""
        try:
            identity = await file.identify()
        except OSError:
            await file.close()
            raise
        return cls(FileMark(0, identity.device, identity.inode), file, identity.size, now)


async def close_all(held: Iterable[HeldFile]) -> None:
    """Give the files back."""
    for each in held:
        await each.file.close()


async def read_exactly(file: ReadableFile, size: int) -> bytes:
    """Read the first `size` bytes of a file, fewer if it is shorter; a single read may return fewer than there are."""
    head = b""
    while len(head) < size:
        more = await file.read_at(len(head), size - len(head))
        if not more:
            break
        head += more
    return head
