"""Where a seek sends each shard of a group: a pure decision over the shard list and the rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from consumer.core.shard_graph import Ancestry
from infra.audit.core.lineage import lineage_order
from shared.errors import ConfigurationError
from shared.lease import AT_TRIM_HORIZON, Checkpoint, CheckpointKind, Lease, LeaseChange
from shared.records import TRIM_HORIZON, Shard, Start, StartKind


@dataclass(frozen=True, slots=True)
class SeekTarget:
    """A place in time: from `timestamp` on (seconds since the epoch), or with None all that the stream still has.

    LATEST is the moment of the command. A LATEST of each shard's own would move on until its next owner reads.
    """

    timestamp: float | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """What the rows get."""
        return AT_TRIM_HORIZON if self.timestamp is None else Checkpoint(CheckpointKind.AT_TIMESTAMP)

    @property
    def start(self) -> Start:
        """Where reading begins."""
        if self.timestamp is None:
            return TRIM_HORIZON
        return Start(StartKind.AT_TIMESTAMP, timestamp=self.timestamp)


def chosen_shards(shards: Iterable[Shard], names: Iterable[str]) -> tuple[Shard, ...]:
    """Return the shards of these names with all their descendants (no names: all), each after its parents.

    Descendants go along: what they hold comes after what is read again. ConfigurationError for an unknown name.
    """
    listed = {shard.shard_id: shard for shard in shards}
    wanted = set(names) or set(listed)
    for name in wanted:
        if name not in listed:
            raise ConfigurationError(
                f"Shard `{name[:128]}` is not in the stream", hint="`headrace status` lists the shards"
            )
    order = lineage_order({name: shard.parents for name, shard in listed.items()})
    found = descendants(listed, wanted)
    return tuple(listed[name] for name in order if name in found)


def descendants(shards: Mapping[str, Shard], ancestors: Collection[str]) -> frozenset[str]:
    """Return the shards that come from any of these, and these."""
    found = set(ancestors)
    for name in lineage_order({name: shard.parents for name, shard in shards.items()}):
        if found.intersection(shards[name].parents):
            found.add(name)
    return frozenset(found)


def change_for(row: Lease, target: SeekTarget) -> LeaseChange:
    """Return what sends a row to a target and sets it free.

    The next owner completes it (marks, generation), after it has finished a pending flush. The checkpoint of a row
    without one is moved at once, which also opens a finished shard again.
    """
    change = LeaseChange(
        owner=None,
        successor=None,
        seek_to=target.checkpoint,
        start_timestamp=target.timestamp,
        finished_at=None,
        read_through=None,
        closed_until=None,
        attempts=0,
        attempted_by=(),
    )
    return change if row.pending is not None else replace(change, checkpoint=target.checkpoint)


def row_for(shard: Shard, target: SeekTarget, rows: Mapping[str, Lease]) -> Lease:
    """Return the row of a shard that this group has not followed until now."""
    return Lease(
        shard_id=shard.shard_id,
        checkpoint=target.checkpoint,
        seek_to=target.checkpoint,
        start_timestamp=target.timestamp,
        parents=shard.parents,
        hash_key_range=shard.hash_key_range,
        generation=max((rows[parent].generation for parent in shard.parents if parent in rows), default=0),
    )


def followed_later(shards: Iterable[Shard], rows: Mapping[str, Lease], moved: Collection[str]) -> frozenset[str]:
    """Return the shards that get their row from a worker: an ancestor has one already, or gets it now.

    Their rows inherit where the ancestor was sent. Made by the seek, they could be read before a parent that has no row
    yet. `rows`: by shard; `moved`: those that a seek would give one or send elsewhere.
    """
    followed: set[str] = set()
    listed = {shard.shard_id: shard for shard in shards}
    ancestry = Ancestry(listed, rows)
    for shard in sorted(listed.values(), key=lambda each: each.shard_id):  # ids rise: parents come first
        parents = ancestry.parents_of(shard)
        if any(parent in rows or parent in moved or parent in followed for parent in parents):
            followed.add(shard.shard_id)
    return frozenset(followed.difference(rows))
