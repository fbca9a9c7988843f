"""Rows of KCL 2.x and 3.x lease tables and our rows, each made from the other: pure, item by item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared.errors import ConfigurationError
from shared.hash_key import HashKeyRange
from shared.lease import Checkpoint, CheckpointKind, Lease
from shared.records import Position

# Names and types: DynamoDBLeaseSerializer.java of KCL 2.7.3 and 3.5. A row without entityType is a lease.
_LEASE_TYPE: Final = "LEASE"
_SHARD_PREFIX: Final = "shardId-"


def is_lease(item: Mapping[str, Any]) -> bool:
    """Whether an item is a lease: KCL 3.5 keeps its leader, its state and its worker metrics in the same table."""
    return str(item.get("entityType", {}).get("S", _LEASE_TYPE)) == _LEASE_TYPE


def row_from_item(item: Mapping[str, Any], now: float) -> Lease:
    """Return our row for a KCL lease; ConfigurationError for one that we can't take over, or that is damaged.

    A checkpoint that KCL has only prepared (`pendingCheckpoint`) was not reached: reading goes on at the stored one.
    """
    try:
        return _row(item, now)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"KCL lease `{_key_of(item)}` is not readable: {type(error).__name__}: {str(error)[:200]}",
            hint="Is --table the lease table of a KCL 2.x or 3.x application? Correct that row, or remove it",
        ) from error


def _key_of(item: Mapping[str, Any]) -> str:
    key = item.get("leaseKey")
    return str(key.get("S", "?"))[:128] if isinstance(key, Mapping) else "?"


def _row(item: Mapping[str, Any], now: float) -> Lease:
    shard_id = item["leaseKey"]["S"]
    if not shard_id.startswith(_SHARD_PREFIX):
        raise ConfigurationError(
            f"KCL lease `{shard_id[:128]}` is one of a multi-stream application",
            hint="One application of ours reads one stream: import from a table with the leases of one stream",
        )
    checkpoint = Checkpoint.parse(item["checkpoint"]["S"], _number(item, "checkpointSubSequenceNumber"))
    covered: HashKeyRange | None = None
    if "startingHashKey" in item and "endingHashKey" in item:
        covered = HashKeyRange(int(item["startingHashKey"]["S"]), int(item["endingHashKey"]["S"]))
    return Lease(
        shard_id=shard_id,
        checkpoint=checkpoint,
        parents=_names(item, "parentShardId"),
        children=_names(item, "childShardIds"),
        hash_key_range=covered,
        # KCL keeps no time; from now on the tombstone is as old as the import.
        finished_at=now if checkpoint.is_shard_end else None,
    )


def _number(item: Mapping[str, Any], attribute: str) -> int:
    number = int(item[attribute]["N"]) if attribute in item else 0
    if number < 0:
        raise ValueError(attribute)
    return number


def _names(item: Mapping[str, Any], attribute: str) -> tuple[str, ...]:
    return tuple(sorted(item[attribute]["SS"])) if attribute in item else ()


def item_from_row(row: Lease) -> dict[str, Any]:
    """Return the KCL lease for our row; ConfigurationError for what KCL can't express."""
    if row.pending is not None or row.seek_to is not None:
        raise ConfigurationError(
            f"Shard `{row.shard_id}` has a flush or a seek to finish, which KCL knows nothing of",
            hint="Run a worker until `headrace status` shows none, and stop it",
        )
    if row.checkpoint.kind is CheckpointKind.AT_TIMESTAMP and row.start_timestamp is not None:
        raise ConfigurationError(
            f"Shard `{row.shard_id}` starts at a time of its own, which KCL can't express",
            hint="Run a worker until it has stored a checkpoint, and stop it",
        )
    position = row.checkpoint.position if row.checkpoint.kind is CheckpointKind.NUMBER else Position(0)
    if position.sub_sequence_number < 0:
        raise ConfigurationError(
            f"Shard `{row.shard_id}` stands before its first record, which KCL can't express",
            hint="Run a worker until it has stored a checkpoint, and stop it",
        )
    item: dict[str, Any] = {
        "leaseKey": {"S": row.shard_id},
        "leaseCounter": {"N": "0"},
        "ownerSwitchesSinceCheckpoint": {"N": "0"},
        "checkpoint": {"S": row.checkpoint.text},
        "checkpointSubSequenceNumber": {"N": str(position.sub_sequence_number)},
    }
    if row.parents:
        item["parentShardId"] = {"SS": list(row.parents)}
    if row.children:
        item["childShardIds"] = {"SS": list(row.children)}
    if row.hash_key_range is not None:
        item["startingHashKey"] = {"S": str(row.hash_key_range.start)}
        item["endingHashKey"] = {"S": str(row.hash_key_range.end)}
    return item
