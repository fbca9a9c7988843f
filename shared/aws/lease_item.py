"""The DynamoDB item of a lease row: KCL's attribute names where the meaning is the same."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from shared.errors import InvalidRequestError
from shared.hash_key import HashKeyRange
from shared.lease import AT_TRIM_HORIZON, NO_MARKS, UNSET, Checkpoint, Lease, LeaseChange, Marks, PendingFlush
from shared.limits import DYNAMODB_ITEM_BYTES_MAX, KIB, MIB
from shared.records import Position

LEASE_TYPE: Final = "LEASE"
_PENDING_BYTES_MAX: Final = 16 * MIB  # inflated
_PENDING_PACKED_MIN: Final = 4 * KIB  # a shorter text is left readable
_MARKS_BYTES_MAX: Final = 4 * MIB  # inflated; a row holds at most 400 KB

# Field of a Lease -> attribute of the row. leaseOwner, checkpoint and the rest of that kind are KCL's names.
ATTRIBUTES: Final = {
    "owner": "leaseOwner",
    "epoch": "epoch",
    "heartbeat": "leaseCounter",
    "version": "version",
    "write_id": "writeId",
    "children": "childShardIds",
    "pending": "pendingFlush",
    "marks": "marks",
    "attempts": "attempts",
    "attempted_by": "attemptedBy",
    "finished_at": "finishedAt",
    "is_paused": "isPaused",
    "generation": "generation",
    "start_timestamp": "startTimestamp",
    "seek_to": "seekTo",
    "halted_epoch": "haltedEpoch",
    "read_through": "readThrough",
    "closed_until": "closedUntil",
    "successor": "successor",
    "load": "load",
}


def changed_attributes(change: LeaseChange) -> dict[str, Any]:
    """Return what a change sets, by attribute; None where the attribute is to be absent."""
    changed: dict[str, Any] = {}
    for field, attribute in ATTRIBUTES.items():
        value = getattr(change, field)
        if value is not UNSET:
            changed[attribute] = attribute_of(value)
    if change.checkpoint is not UNSET:
        assert isinstance(change.checkpoint, Checkpoint)
        changed |= _checkpoint_attributes(change.checkpoint)
    return changed


def _checkpoint_attributes(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint": {"S": checkpoint.text},
        "checkpointSubSequenceNumber": {"N": str(checkpoint.position.sub_sequence_number)},
    }


def attribute_of(value: Any) -> Any:
    """Return the DynamoDB form of a field's value; None where the attribute is to be absent."""
    if value is None or value is False or value in ((), "", {}):
        return None
    kind, stored = "N", str(value)
    match value:
        case True:
            return {"BOOL": True}
        case PendingFlush():
            text = _pending_to_text(value)
            # Names of many objects are much alike.
            if len(text) >= _PENDING_PACKED_MIN:
                return {"B": zlib.compress(text.encode())}
            kind, stored = "S", text
        case Checkpoint():
            kind, stored = "S", value.text
        case str():
            kind, stored = "S", value
        case tuple():
            return {"SS": list(value)}
        case Mapping():
            return {"B": _marks_to_bytes(value)}
    return {kind: stored}


def _marks_to_bytes(marks: Marks) -> bytes:
    packed = zlib.compress(orjson.dumps(dict(marks)), 1)
    if len(packed) > DYNAMODB_ITEM_BYTES_MAX // 2:
        raise InvalidRequestError(
            f"Duplicate marks take {len(packed):,} bytes; a lease row has room for {DYNAMODB_ITEM_BYTES_MAX // 2:,}"
        )
    return packed


def item_from_lease(lease: Lease) -> dict[str, Any]:
    """Return the DynamoDB item of a lease."""
    item: dict[str, Any] = {"leaseKey": {"S": lease.shard_id}, "entityType": {"S": LEASE_TYPE}}
    item |= _checkpoint_attributes(lease.checkpoint)
    for field, attribute in ATTRIBUTES.items():
        value = attribute_of(getattr(lease, field))
        if value is not None:
            item[attribute] = value
    if lease.parents:
        item["parentShardId"] = {"SS": list(lease.parents)}
    if lease.hash_key_range is not None:
        item["startingHashKey"] = {"S": str(lease.hash_key_range.start)}
        item["endingHashKey"] = {"S": str(lease.hash_key_range.end)}
    return item


def lease_from_item(item: Any) -> Lease:
    """Read a lease from a DynamoDB item; InvalidRequestError if the row is damaged."""
    try:
        return _read_item(item)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, zlib.error) as error:
        key = item.get("leaseKey") if isinstance(item, dict) else None
        key = key.get("S", "?") if isinstance(key, dict) else "?"
        raise InvalidRequestError(
            f"Lease row `{str(key)[:128]}` is damaged: {type(error).__name__}",
            hint="Delete the row to start the shard anew, or restore it from a backup",
        ) from error


def _read_item(item: Any) -> Lease:
    def number(attribute: str) -> int:
        return int(item[attribute]["N"]) if attribute in item else 0

    def instant(attribute: str) -> float | None:
        return float(item[attribute]["N"]) if attribute in item else None

    checkpoint = AT_TRIM_HORIZON
    if "checkpoint" in item:
        checkpoint = Checkpoint.parse(item["checkpoint"]["S"], number("checkpointSubSequenceNumber"))
    covered: HashKeyRange | None = None
    if "startingHashKey" in item and "endingHashKey" in item:
        covered = HashKeyRange(int(item["startingHashKey"]["S"]), int(item["endingHashKey"]["S"]))
    return Lease(
        shard_id=item["leaseKey"]["S"],
        owner=item["leaseOwner"]["S"] if "leaseOwner" in item else None,
        epoch=number("epoch"),
        heartbeat=number("leaseCounter"),
        version=number("version"),
        write_id=item["writeId"]["S"] if "writeId" in item else "",
        checkpoint=checkpoint,
        parents=tuple(sorted(item["parentShardId"]["SS"])) if "parentShardId" in item else (),
        children=tuple(sorted(item["childShardIds"]["SS"])) if "childShardIds" in item else (),
        hash_key_range=covered,
        pending=_pending_from_attribute(item["pendingFlush"]) if "pendingFlush" in item else None,
        marks=_marks_from_bytes(item["marks"]["B"]) if "marks" in item else NO_MARKS,
        attempts=number("attempts"),
        attempted_by=tuple(sorted(item["attemptedBy"]["SS"])) if "attemptedBy" in item else (),
        finished_at=instant("finishedAt"),
        is_paused=item["isPaused"]["BOOL"] is True if "isPaused" in item else False,
        generation=number("generation"),
        start_timestamp=instant("startTimestamp"),
        seek_to=Checkpoint.parse(item["seekTo"]["S"]) if "seekTo" in item else None,
        halted_epoch=number("haltedEpoch"),
        read_through=instant("readThrough"),
        closed_until=instant("closedUntil"),
        successor=item["successor"]["S"] if "successor" in item else None,
        load=number("load"),
    )


def is_lease(item: Any) -> bool:
    """Whether an item of the table is a lease row."""
    # KCL's rule: a row without entityType is a lease (reference: EntityType.java of KCL 3.5).
    return str(item.get("entityType", {}).get("S", LEASE_TYPE)) == LEASE_TYPE


def _marks_from_bytes(packed: bytes) -> Marks:
    loaded = orjson.loads(_inflate(packed, _MARKS_BYTES_MAX))
    return {str(key): int(value) for key, value in loaded.items()}


def _inflate(packed: bytes, bytes_max: int) -> bytes:
    inflater = zlib.decompressobj()
    data = inflater.decompress(packed, bytes_max)
    if inflater.unconsumed_tail:
        msg = "an attribute inflates to more than its bound"
        raise ValueError(msg)
    return data


def _pending_from_attribute(attribute: Any) -> PendingFlush:
    packed = attribute.get("B")
    return _pending_from_text(attribute["S"] if packed is None else _inflate(packed, _PENDING_BYTES_MAX).decode())


def _pending_to_text(pending: PendingFlush) -> str:
    # Sequence numbers have up to 56 digits: decimal text, since JSON numbers would lose them.
    return orjson.dumps(
        {
            "keys": pending.keys,
            "first": [str(part) for part in pending.first],
            "last": [str(part) for part in pending.last],
            "count": pending.count,
            "formatVersion": pending.format_version,
        }
    ).decode()


def _pending_from_text(text: str) -> PendingFlush:
    loaded = orjson.loads(text)
    return PendingFlush(
        keys=tuple(loaded["keys"]),
        first=Position(*(int(part) for part in loaded["first"])),
        last=Position(*(int(part) for part in loaded["last"])),
        count=int(loaded["count"]),
        format_version=str(loaded["formatVersion"]),
    )
