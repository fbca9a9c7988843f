"""Notices an API that leads in circles: the same page again, or an address that it led to before."""

from __future__ import annotations

import hashlib
from typing import Final

from shared.errors import SourceError

_ADDRESSES_MAX: Final = 10_000  # that are remembered, as digests; a longer circle ends at `pages_max`


class PageLoop:
    """What was read of an API so far, as far as a circle shows by it; `name` is the API's in messages.

    No two pages of a list of events have the same items, but an API that does not know the parameter for the page
    answers so for ever, and so may one that is asked for a page behind its last.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._addresses: dict[bytes, None] = {}  # oldest first
        self._items = b""  # digest of the page before

    def go_to(self, address: str, number: int) -> None:
        """Take the address of the page with this number; SourceError if it was read before."""
        digest = _digest(address.encode())
        if digest in self._addresses:
            raise SourceError(
                f"page {number:,} of {self._name} is one that was read before: its links lead in a circle",
                hint="Does `next` name the link to the next page?",
            )
        self._addresses[digest] = None
        if len(self._addresses) > _ADDRESSES_MAX:
            del self._addresses[next(iter(self._addresses))]

    def read(self, items: tuple[bytes, ...], number: int) -> None:
        """Take all items of the page with this number; SourceError if they are those of the page before it."""
        digest = _digest(b"\n".join(items)) if items else b""
        if digest and digest == self._items:
            raise SourceError(
                f"page {number:,} of {self._name} has the very items of the page before it",
                hint="Do `style`, `page_parameter` and `offset_parameter` of the HTTP source fit the API?",
            )
        self._items = digest


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
