"""An in-memory S3 bucket behind the port, with If-None-Match."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from typing import Any

from shared.errors import InvalidRequestError, ThrottledError
from shared.limits import S3_KEY_BYTES_MAX
from shared.ports import StoredObject
from tests.support.network import Network, PerfectNetwork


@dataclass(frozen=True, slots=True)
class FakeObject:
    """What a key holds."""

    body: bytes
    content_type: str
    content_encoding: str


class FakeObjects:
    """The port `ObjectStore`, whole, in memory; `overwritten` counts writes onto a key that held other bytes."""

    def __init__(self, network: Network | None = None) -> None:
        self.network: Network = network or PerfectNetwork()
        self.objects: dict[str, FakeObject] = {}
        self.overwritten: list[str] = []
        self.checks_cross = True

    async def put_object(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        content_encoding: str = "",
        only_if_absent: bool = True,
    ) -> bool:
        """Write an object, unless it must be absent and is not."""
        _check_key(key)
        described: dict[str, Any] = {"content_type": content_type, "content_encoding": content_encoding}
        return await self.network.call(
            "objects.put", lambda: self.land(key, body, only_if_absent=only_if_absent, **described)
        )

    def land(self, key: str, body: bytes, *, content_type: str, content_encoding: str, only_if_absent: bool) -> bool:
        """Do what S3 does with a write that has come; False if it must be absent and is not."""
        written = FakeObject(bytes(body), content_type, content_encoding)
        if only_if_absent:
            if self.network.happens("object_conflict"):
                raise ThrottledError(f"a write of `{key}` is under way", code="ConditionalRequestConflict")
            if key in self.objects:
                return False
        elif key in self.objects and self.objects[key] != written:
            self.overwritten.append(key)
        self.objects[key] = written
        return True

    async def check_write(self, key: str) -> None:
        """Allow every write; the network is crossed where `checks_cross`."""
        _check_key(key)
        if self.checks_cross:
            await self.network.call("objects.check_write", lambda: None)

    async def abort_uploads(self, keys: Collection[str]) -> int:
        """Find none: this bucket takes each object in one call."""
        return await self.network.call("objects.abort_uploads", lambda: 0)

    async def get_object(self, key: str) -> bytes:
        """Read a whole object."""
        _check_key(key)

        def land() -> bytes:
            if key not in self.objects:
                raise InvalidRequestError(f"`{key}` does not exist", code="NoSuchKey")
            return self.objects[key].body

        return await self.network.call("objects.get", land)

    async def list_objects(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        """Walk all objects below `prefix` in key order, as they are when the walk begins."""
        found = await self.network.call(
            "objects.list",
            lambda: [
                StoredObject(key, len(self.objects[key].body)) for key in sorted(self.objects) if key.startswith(prefix)
            ],
        )
        for each in found:
            yield each


def _check_key(key: str) -> None:
    # The adapter does so before it sends anything.
    if not 1 <= len(key.encode()) <= S3_KEY_BYTES_MAX:
        raise InvalidRequestError(f"the key has {len(key.encode())} bytes; 1..{S3_KEY_BYTES_MAX} are allowed")
