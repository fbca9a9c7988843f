"""Remembers lease rows, so that one that disappears or can't be read any more is restored rather than begun anew."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

from consumer.core.range_index import RangeIndex
from shared.hash_key import FULL_RANGE
from shared.lease import Lease, TableRows
from shared.records import Shard

_TOMBSTONE_SECONDS_BEYOND_RETENTION: Final = 86_400.0


class RowMemory:
    """Last sights of rows; `patience_seconds` is how long a missing row is left to its owner, who knows it best."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._seen: dict[str, Lease] = {}
        self._missing_since: dict[str, float] = {}
        self._damaged_since: dict[str, float] = {}

    def note(self, rows: TableRows) -> None:
        """Take note of the rows that are there; between two looks a row may come and go."""
        for row in rows.leases:
            self._seen[row.shard_id] = row
            self._missing_since.pop(row.shard_id, None)

    def look(self, rows: TableRows, held: Mapping[str, Lease], listed: Collection[str], now: float) -> None:
        """Take note of what is there and what is missing, and of rows that only their holder has seen so far.

        Of a finished shard that the stream does not list any more nothing is kept.
        """
        self._seen = {**held, **self._seen}
        self.note(rows)
        present = {row.shard_id for row in rows.leases}
        for shard_id in [each for each in self._seen if each not in present]:
            if shard_id not in listed:
                del self._seen[shard_id]
                self._missing_since.pop(shard_id, None)
            else:
                self._missing_since.setdefault(shard_id, now)
        self._damaged_since = {name: self._damaged_since.get(name, now) for name in rows.damaged}

    def is_left_to_others(self, shard_id: str, now: float) -> bool:
        """Whether a shard is not to be begun anew: its row was seen, or is damaged and somebody may know it."""
        return shard_id in self._seen or now - self._damaged_since.get(shard_id, -math.inf) <= self._patience

    def to_restore(self, held: Mapping[str, Lease], now: float) -> tuple[Lease, ...]:
        """Return the rows to write again, without an owner and at a higher epoch.

        `held`: the rows of the leases that this worker holds or held last: nobody knows better how far the shard had
        come. Others are as old as the last look, so that what was committed since is read and stored again.
        """
        restored: list[Lease] = []
        for shard_id, since in sorted(self._missing_since.items()):
            row, seen = held.get(shard_id), self._seen[shard_id]
            if row is None or (row.epoch, row.version) < (seen.epoch, seen.version):
                row = seen if now - since > self._patience else None
            if row is not None:
                restored.append(replace(row, owner=None, successor=None, epoch=row.epoch + 1))
        return tuple(restored)


def tombstones_to_delete(
    leases: Mapping[str, Lease], shards: Sequence[Shard], wall: float, retention_seconds: float
) -> tuple[Lease, ...]:
    """Return finished rows that nothing needs any more: a day beyond retention, unlisted, and all inherited from.

    Before that, a delayed creation could bring a finished shard back to life. A listed shard that has no row yet
    inherits the marks of its parents, or, if these were trimmed before they had rows, of whoever had its hash keys.
    """
    beyond = retention_seconds + _TOMBSTONE_SECONDS_BEYOND_RETENTION
    listed = {shard.shard_id for shard in shards}
    heirs = RangeIndex((each.shard_id, each.hash_key_range) for each in shards if each.shard_id not in leases)
    return tuple(
        row
        for row in leases.values()
        if row.checkpoint.is_shard_end
        and row.finished_at is not None
        and wall - row.finished_at > beyond
        and row.shard_id not in listed
        and all(child in leases or child not in listed for child in row.children)
        and not any(row.shard_id < heir for heir in heirs.overlapping(row.hash_key_range or FULL_RANGE))
    )
