"""A compact table of event ids: ten million of them fit into about half a gigabyte of pure Python."""

from __future__ import annotations

import hashlib
import zlib
from array import array
from typing import Final

_SLOTS_MIN: Final = 1 << 10
_LOAD_MAX: Final = 0.66  # beyond it, runs of taken slots get long
_CHUNK: Final = 4_096  # ids compressed together: neighbours differ in a few digits only


def digest_of(text: str) -> int:
    """Hash a text to 64 bits, never 0.

    Two of n texts collide with probability n^2 / 2^65: 3 in a million for 10 million. The same in every process,
    unlike `hash`.
    """
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()) or 1


class IdTable:
    """Event ids numbered in the order of their first appearance: their ranks.

    Open addressing over two arrays: 12 bytes a slot, 18 to 37 bytes an id, plus its text, compressed in chunks, 5 to
    15 bytes. Nothing can be removed.
    """

    def __init__(self) -> None:
        self._digests = array("Q", bytes(8 * _SLOTS_MIN))
        self._ranks = array("I", bytes(4 * _SLOTS_MIN))
        self._mask = _SLOTS_MIN - 1
        self._length = 0
        self._chunks: list[bytes] = []
        self._texts: list[str] = []

    def __len__(self) -> int:
        return self._length

    def find(self, text: str) -> int | None:
        """Return the rank of an id, None if it is not there."""
        digest = digest_of(text)
        slot = self._slot(digest)
        return self._ranks[slot] if self._digests[slot] else None

    def add(self, text: str) -> tuple[int, bool]:
        """Return the rank of an id and whether it is new, adding it if so."""
        digest = digest_of(text)
        slot = self._slot(digest)
        if self._digests[slot]:
            return self._ranks[slot], False
        rank = self._length
        self._digests[slot], self._ranks[slot] = digest, rank
        self._length += 1
        self._texts.append(text)
        if len(self._texts) == _CHUNK:
            self._chunks.append(zlib.compress("\0".join(self._texts).encode(errors="surrogatepass"), 1))
            self._texts.clear()
        if self._length > _LOAD_MAX * (self._mask + 1):
            self._grow()
        return rank, True

    def text(self, rank: int) -> str:
        """Return the id with this rank; slow, for examples only."""
        assert 0 <= rank < self._length
        index, place = divmod(rank, _CHUNK)
        if index == len(self._chunks):
            return self._texts[place]
        return zlib.decompress(self._chunks[index]).decode(errors="surrogatepass").split("\0")[place]

    def bytes_used(self) -> int:
        """Return about how much memory the table takes, bytes."""
        slots = self._mask + 1
        return 12 * slots + sum(len(each) for each in self._chunks) + sum(len(each) for each in self._texts)

    def _slot(self, digest: int) -> int:
        digests, mask = self._digests, self._mask
        slot = digest & mask
        while (found := digests[slot]) and found != digest:
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        old_digests, old_ranks = self._digests, self._ranks
        slots = 2 * (self._mask + 1)
        self._digests, self._ranks = array("Q", bytes(8 * slots)), array("I", bytes(4 * slots))
        self._mask = slots - 1
        for digest, rank in zip(old_digests, old_ranks, strict=True):
            if digest:
                slot = self._slot(digest)
                self._digests[slot], self._ranks[slot] = digest, rank
