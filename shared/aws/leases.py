"""The LeaseStore port over aiobotocore: one DynamoDB table, KCL's attribute names where the meaning is the same."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final

import orjson
from botocore.exceptions import ClientError

from shared.aws.error_map import aws_errors
from shared.errors import InvalidRequestError
from shared.hash_key import HashKeyRange
from shared.lease import (
    AT_TRIM_HORIZON,
    NO_MARKS,
    UNSET,
    Checkpoint,
    Lease,
    LeaseChange,
    LeaseExpectation,
    Marks,
    PendingFlush,
)
from shared.limits import DYNAMODB_ITEM_BYTES_MAX, MIB
from shared.ports import ConditionFailedError
from shared.records import Position

# Shard ids are `shardId-...`, so that no shard can ever have this key.
APPLICATION_KEY: Final = "@application"
_LEASE_TYPE: Final = "LEASE"
_MARKS_BYTES_MAX: Final = 4 * MIB  # inflated; a row holds at most 400 KB

# Field of a Lease -> attribute of the row. leaseOwner, checkpoint and the rest of that kind are KCL's names.
_ATTRIBUTES: Final = {
    "owner": "leaseOwner",
    "epoch": "epoch",
    "heartbeat": "leaseCounter",
    "version": "version",
    "write_id": "writeId",
    "children": "childShardIds",
    "pending": "pendingFlush",
    "marks": "marks",
    "attempts": "attempts",
    "finished_at": "finishedAt",
    "is_paused": "isPaused",
    "generation": "generation",
    "start_timestamp": "startTimestamp",
    "seek_to": "seekTo",
    "halted_epoch": "haltedEpoch",
    "read_through": "readThrough",
}


class LeaseAdapter:
    """The lease table of one application."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    async def list_leases(self) -> tuple[Lease, ...]:
        """Read all rows, strongly consistent."""
        leases: list[Lease] = []
        request: dict[str, Any] = {"TableName": self._table, "ConsistentRead": True}
        while True:
            with aws_errors("dynamodb", "Scan", self._table):
                answer = await self._client.scan(**request)
            leases.extend(lease_from_item(each) for each in answer["Items"] if _is_lease(each))
            if not answer.get("LastEvaluatedKey"):
                return tuple(sorted(leases, key=lambda lease: lease.shard_id))
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def read_lease(self, shard_id: str) -> Lease | None:
        """Read one row, strongly consistent."""
        item = await self._read_item(shard_id)
        return lease_from_item(item) if item else None

    async def create_lease(self, lease: Lease) -> None:
        """Write a row if there is none; ConditionFailedError otherwise."""
        await self._conditional(
            "PutItem",
            self._client.put_item,
            TableName=self._table,
            Item=item_from_lease(lease),
            ConditionExpression="attribute_not_exists(leaseKey)",
        )

    async def update_lease(self, shard_id: str, expectation: LeaseExpectation, change: LeaseChange) -> Lease:
        """Apply `change` if the row exists and `expectation` holds; return the new row."""
        expression = _Expression()
        condition = expression.condition(expectation)
        update = expression.update(change)
        answer = await self._conditional(
            "UpdateItem",
            self._client.update_item,
            TableName=self._table,
            Key={"leaseKey": {"S": shard_id}},
            ConditionExpression=condition,
            UpdateExpression=update,
            ReturnValues="ALL_NEW",
            **expression.placeholders(),
        )
        return lease_from_item(answer["Attributes"])

    async def delete_lease(self, shard_id: str, expectation: LeaseExpectation) -> None:
        """Delete a row if `expectation` holds; ConditionFailedError otherwise."""
        expression = _Expression()
        condition = expression.condition(expectation)
        await self._conditional(
            "DeleteItem",
            self._client.delete_item,
            TableName=self._table,
            Key={"leaseKey": {"S": shard_id}},
            ConditionExpression=condition,
            **expression.placeholders(),
        )

    async def read_application(self) -> Mapping[str, Any] | None:
        """Read what the application said of itself, if it ever ran."""
        item = await self._read_item(APPLICATION_KEY)
        if not item:
            return None
        description: Mapping[str, Any] = orjson.loads(item["description"]["S"])
        return description

    async def write_application(self, description: Mapping[str, Any]) -> None:
        """Store what the application says of itself."""
        with aws_errors("dynamodb", "PutItem", self._table):
            await self._client.put_item(
                TableName=self._table,
                Item={
                    "leaseKey": {"S": APPLICATION_KEY},
                    "entityType": {"S": "APPLICATION"},
                    "description": {"S": orjson.dumps(dict(description)).decode()},
                },
            )

    async def _read_item(self, key: str) -> Any:
        with aws_errors("dynamodb", "GetItem", self._table):
            answer = await self._client.get_item(
                TableName=self._table, Key={"leaseKey": {"S": key}}, ConsistentRead=True
            )
        return answer.get("Item")

    async def _conditional(self, operation: str, call: Any, **request: Any) -> Any:
        with aws_errors("dynamodb", operation, self._table):
            try:
                return await call(ReturnValuesOnConditionCheckFailure="ALL_OLD", **request)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "ConditionalCheckFailedException":
                    raise
                item: Any = error.response.get("Item")
        raise ConditionFailedError(lease_from_item(item) if item else None)


class _Expression:
    """Collects the placeholders of one conditional update."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    def condition(self, expectation: LeaseExpectation) -> str:
        terms = ["attribute_exists(leaseKey)"]
        for field in ("owner", "epoch", "heartbeat", "version"):
            expected = getattr(expectation, field)
            if expected is UNSET:
                continue
            name = self._name(_ATTRIBUTES[field])
            if expected is None:
                terms.append(f"attribute_not_exists({name})")
            else:
                terms.append(f"{name} = {self._value(_to_attribute(expected))}")
        return " AND ".join(terms)

    def update(self, change: LeaseChange) -> str:
        sets: list[str] = []
        removes: list[str] = []
        # A change of nothing still asks whether the condition holds, and an empty expression is refused.
        changed = _changed_attributes(change) or {"entityType": {"S": _LEASE_TYPE}}
        for attribute, value in changed.items():
            name = self._name(attribute)
            if value is None:
                removes.append(name)
            else:
                sets.append(f"{name} = {self._value(value)}")
        parts = (["SET " + ", ".join(sets)] if sets else []) + (["REMOVE " + ", ".join(removes)] if removes else [])
        return " ".join(parts)

    def placeholders(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self._names:
            found["ExpressionAttributeNames"] = self._names
        if self._values:
            found["ExpressionAttributeValues"] = self._values
        return found

    def _name(self, attribute: str) -> str:
        placeholder = f"#{attribute}"
        self._names[placeholder] = attribute
        return placeholder

    def _value(self, value: Any) -> str:
        placeholder = f":v{len(self._values)}"
        self._values[placeholder] = value
        return placeholder


def _changed_attributes(change: LeaseChange) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for field, attribute in _ATTRIBUTES.items():
        value = getattr(change, field)
        if value is not UNSET:
            changed[attribute] = _to_attribute(value)
    if change.checkpoint is not UNSET:
        assert isinstance(change.checkpoint, Checkpoint)
        changed |= _checkpoint_attributes(change.checkpoint)
    return changed


def _checkpoint_attributes(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "checkpoint": {"S": checkpoint.text},
        "checkpointSubSequenceNumber": {"N": str(checkpoint.position.sub_sequence_number)},
    }


def _to_attribute(value: Any) -> Any:
    """Return the DynamoDB form of a field's value; None where the attribute is to be absent."""
    if value is None or value is False or value in ((), "", {}):
        return None
    kind, stored = "N", str(value)
    match value:
        case True:
            return {"BOOL": True}
        case PendingFlush():
            kind, stored = "S", _pending_to_text(value)
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
    item: dict[str, Any] = {"leaseKey": {"S": lease.shard_id}, "entityType": {"S": _LEASE_TYPE}}
    item |= _checkpoint_attributes(lease.checkpoint)
    for field, attribute in _ATTRIBUTES.items():
        value = _to_attribute(getattr(lease, field))
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
        pending=_pending_from_text(item["pendingFlush"]["S"]) if "pendingFlush" in item else None,
        marks=_marks_from_bytes(item["marks"]["B"]) if "marks" in item else NO_MARKS,
        attempts=number("attempts"),
        finished_at=instant("finishedAt"),
        is_paused=item["isPaused"]["BOOL"] is True if "isPaused" in item else False,
        generation=number("generation"),
        start_timestamp=instant("startTimestamp"),
        seek_to=Checkpoint.parse(item["seekTo"]["S"]) if "seekTo" in item else None,
        halted_epoch=number("haltedEpoch"),
        read_through=instant("readThrough"),
    )


def _is_lease(item: Any) -> bool:
    # KCL's rule: a row without entityType is a lease (reference: EntityType.java of KCL 3.5).
    return str(item.get("entityType", {}).get("S", _LEASE_TYPE)) == _LEASE_TYPE


def _marks_from_bytes(packed: bytes) -> Marks:
    inflater = zlib.decompressobj()
    data = inflater.decompress(packed, _MARKS_BYTES_MAX)
    if inflater.unconsumed_tail:
        msg = "marks inflate to more than the bound"
        raise ValueError(msg)
    loaded = orjson.loads(data)
    return {str(key): int(value) for key, value in loaded.items()}


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
