"""Builds an aggregate record by record."""

from __future__ import annotations

from shared.aggregation import encode_aggregate
from shared.records import PutEntry


class Aggregate:
    """User records, in the order in which they are added."""

    def __init__(self) -> None:
        self._datas: list[bytes] = []
        self._keys: list[str] = []
        self._hash_keys: list[int | None] = []

    def append(self, data: bytes, partition_key: str, explicit_hash_key: int | None = None) -> None:
        """Add a user record."""
        self._datas.append(data)
        self._keys.append(partition_key)
        self._hash_keys.append(explicit_hash_key)

    def encode(self) -> PutEntry:
        """Return the stream record; errors as in encode_aggregate."""
        is_plain = set(self._hash_keys) <= {None}
        return encode_aggregate(self._datas, self._keys, None if is_plain else self._hash_keys)
