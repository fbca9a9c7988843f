"""Which shards get a lease row, and which rows may be read: parents before children, through splits and merges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from consumer.core.range_index import RangeIndex
from shared.lease import AT_LATEST, AT_TRIM_HORIZON, Checkpoint, CheckpointKind, Lease, Marks
from shared.records import Shard


def merge_marks(rows: Iterable[Lease]) -> Marks:
    """Return the highest offset per (source, lane) over the rows of a shard's parents.

    The order of the first row is kept and what only later rows know is appended: the order is what decides which
    source is forgotten first (see `duplicate_marks`), so it has to be the same for everyone who computes it.
    """
    merged: dict[str, int] = {}
    for row in rows:
        for key, offset in row.marks.items():
            if offset > merged.get(key, -1):
                merged[key] = offset
    return merged


def may_start(lease: Lease, leases: Mapping[str, Lease]) -> bool:
    """Whether a row may be read now: it is unfinished, and each parent that has a row is at SHARD_END.

    A parent without a row was trimmed before this application saw it; see `Ancestry.parents_of`.
    """
    if lease.checkpoint.is_shard_end:
        return False
    return all(leases[parent].checkpoint.is_shard_end for parent in lease.parents if parent in leases)


class Ancestry:
    """What the listing and the table tell together about who comes before a shard."""

    def __init__(self, listed: Mapping[str, Shard], leases: Mapping[str, Lease]) -> None:
        self._listed = listed
        self._leases = leases
        self._followed: dict[str, bool] = {}

    def parents_of(self, shard: Shard) -> tuple[str, ...]:
        """Return the shards that have to be read before a shard, and that it inherits from.

        These are its parents, unless one was trimmed that never got a row. In its place stand the last ones before it
        of the same hash keys that are known, however many reshardings lie between. Ids rise, and ranges of shards that
        are open at once never overlap, so that such a shard with a lower id is an ancestor.
        """
        if all(parent in self._listed or parent in self._leases for parent in shard.parents):
            return shard.parents
        overlapping = self._closed_index.overlapping(shard.hash_key_range)
        before = {name for name in overlapping if name < shard.shard_id}
        nearest = before.difference(*(self._closed[name].parents for name in before))
        return tuple(sorted({*shard.parents, *nearest}))

    @cached_property
    def _closed(self) -> dict[str, Shard | Lease]:
        """All that may be an ancestor; a row knows the ancestors that stand in for its parents, too."""
        known: list[Shard | Lease] = [each for each in self._listed.values() if not each.is_open]
        known += [
            row for name, row in self._leases.items() if name not in self._listed or not self._listed[name].is_open
        ]
        return {each.shard_id: each for each in known if each.hash_key_range is not None}

    @cached_property
    def _closed_index(self) -> RangeIndex:
        return RangeIndex(
            (name, each.hash_key_range) for name, each in self._closed.items() if each.hash_key_range is not None
        )

    def is_followed(self, shard: Shard) -> bool:
        """Whether an ancestor has a row; walked without recursion, as a chain of reshardings may be long."""
        known = self._followed
        path = [shard]
        while path:
            current = path[-1]
            if current.shard_id in known:
                path.pop()
                continue
            parents = self.parents_of(current)
            if any(parent in self._leases for parent in parents):
                known[current.shard_id] = True
                continue
            unknown = [self._listed[each] for each in parents if each in self._listed and each not in known]
            if unknown:
                path.extend(unknown)
                continue
            known[current.shard_id] = any(known.get(parent, False) for parent in parents)
        return known[shard.shard_id]


def rows_to_create(
    shards: Iterable[Shard], leases: Mapping[str, Lease], initial: Checkpoint = AT_TRIM_HORIZON
) -> tuple[Lease, ...]:
    """Return the rows that are missing, in the order of shard ids.

    A shard gets its row once all its parents are finished or trimmed (absent from the listing and from the table).
    It starts at TRIM_HORIZON, whatever `initial` is, if this application follows one of its ancestors: what came
    into the child before it was seen must be read. Only shards without such an ancestor start at `initial`. With
    LATEST these are the open ones; closed ones have nothing that came after now. With AT_TIMESTAMP every row starts
    there: the time is a constant of the application, so that a child of a shard that ended before it has to keep it.
    A parent that never gets a row holds nobody up: rows of a first look at LATEST may have been made for a part of the
    open shards only, and the others have been closed since.
    """
    listed = {shard.shard_id: shard for shard in shards}
    created: list[Lease] = []
    ancestry = Ancestry(listed, leases)
    for shard in sorted(listed.values(), key=lambda each: each.shard_id):
        if shard.shard_id in leases:
            continue
        if initial == AT_LATEST and not ancestry.is_followed(shard):
            if shard.is_open:
                created.append(_row(shard, initial, ()))
            continue
        parents = [
            parent
            for parent in ancestry.parents_of(shard)
            if parent in leases or (parent in listed and _gets_row(listed[parent], initial, ancestry))
        ]
        rows = [leases[parent] for parent in parents if parent in leases]
        if len(rows) < len(parents) or not all(row.checkpoint.is_shard_end for row in rows):
            continue
        start = initial if initial.kind is CheckpointKind.AT_TIMESTAMP else AT_TRIM_HORIZON
        created.append(_inherit(_row(shard, start, rows), rows))
    return tuple(created)


def _gets_row(shard: Shard, initial: Checkpoint, ancestry: Ancestry) -> bool:
    return initial != AT_LATEST or shard.is_open or ancestry.is_followed(shard)


def _inherit(row: Lease, parents: Sequence[Lease]) -> Lease:
    """Hand on what an operator wished of the parents, a reading anew and its time, and which hours they had closed."""
    times = [parent.start_timestamp for parent in parents if parent.start_timestamp is not None]
    if not parents or len(times) < len(parents):
        start, timestamp = row.checkpoint, None
    else:
        start, timestamp = Checkpoint(CheckpointKind.AT_TIMESTAMP), min(times)
    return replace(
        row,
        checkpoint=start,
        start_timestamp=timestamp,
        generation=max((parent.generation for parent in parents), default=0),
        closed_until=max((each.closed_until for each in parents if each.closed_until is not None), default=None),
    )


def is_paused(lease: Lease, leases: Mapping[str, Lease]) -> bool:
    """Whether an operator paused a shard or an ancestor of it.

    Looked up rather than copied into the rows of children: a row that is made while the operator resumes would be
    paused for good.
    """
    seen = {lease.shard_id}
    unseen = [lease]
    while unseen:
        row = unseen.pop()
        if row.is_paused:
            return True
        parents = [leases[name] for name in row.parents if name in leases and name not in seen]
        seen.update(parent.shard_id for parent in parents)
        unseen += parents
    return False


def _row(shard: Shard, checkpoint: Checkpoint, parents: Sequence[Lease]) -> Lease:
    return Lease(
        shard_id=shard.shard_id,
        checkpoint=checkpoint,
        parents=tuple(dict.fromkeys((*shard.parents, *(parent.shard_id for parent in parents)))),
        hash_key_range=shard.hash_key_range,
        marks=merge_marks(parents),
    )


def of_former_stream(shards: Iterable[Shard], leases: Mapping[str, Lease], finished_before: float) -> list[str]:
    """Return the shards whose row can't be theirs: the stream was deleted and made again by its name.

    A shard keeps its hash keys for good, and is closed before its row is finished; a listing may lag behind that, so
    rows count that were finished before a time, in seconds since the epoch.
    """
    found: list[str] = []
    for shard in shards:
        row = leases.get(shard.shard_id)
        if row is None:
            continue
        is_other = row.hash_key_range is not None and row.hash_key_range != shard.hash_key_range
        if is_other or (shard.is_open and row.finished_at is not None and row.finished_at < finished_before):
            found.append(shard.shard_id)
    return found
