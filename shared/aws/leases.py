"""The LeaseStore port over aiobotocore: one DynamoDB table, KCL's attribute names where the meaning is the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson
from botocore.exceptions import ClientError

from shared.aws.error_map import aws_errors
from shared.aws.lease_item import (
    ATTRIBUTES,
    LEASE_TYPE,
    attribute_of,
    changed_attributes,
    is_lease,
    item_from_lease,
    lease_from_item,
)
from shared.errors import InvalidRequestError
from shared.lease import UNSET, Lease, LeaseChange, LeaseExpectation, Presence, TableRows
from shared.ports import ConditionFailedError

# Shard ids are `shardId-...`, so that no shard can ever have this key.
APPLICATION_KEY: Final = "@application"
SCHEMA_KEY: Final = "@schema"  # an item of its own: each worker that starts writes the application's anew
_CONDITION_FAILED: Final = "ConditionalCheckFailedException"
_PRESENCE_PREFIX: Final = "@worker/"
_PRESENCE_TYPE: Final = "WORKER"
_EPOCH_BEYOND: Final = 1 << 40  # of a row whose epoch can't be read: higher than any that was counted up to


class LeaseAdapter:
    """The lease table of one application."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    async def list_leases(self) -> tuple[Lease, ...]:
        """Read all rows, strongly consistent; InvalidRequestError if one is damaged."""
        leases = [lease_from_item(each) for each in await self._scan() if is_lease(each)]
        return tuple(sorted(leases, key=lambda lease: lease.shard_id))

    async def list_rows(self) -> TableRows:
        """Read all rows and presences, strongly consistent; damaged rows are only named."""
        leases: list[Lease] = []
        presences: list[Presence] = []
        damaged: list[str] = []
        for item in await self._scan():
            if is_lease(item):
                try:
                    leases.append(lease_from_item(item))
                except InvalidRequestError:
                    damaged.append(str(item["leaseKey"]["S"]))
            elif item["entityType"].get("S") == _PRESENCE_TYPE:
                presences.append(_presence_from_item(item))
        return TableRows(
            tuple(sorted(leases, key=lambda lease: lease.shard_id)), tuple(presences), tuple(sorted(damaged))
        )

    async def _scan(self) -> list[Any]:
        items: list[Any] = []
        request: dict[str, Any] = {"TableName": self._table, "ConsistentRead": True}
        while True:
            with aws_errors("dynamodb", "Scan", self._table):
                answer = await self._client.scan(**request)
            items += answer["Items"]
            if not answer.get("LastEvaluatedKey"):
                return items
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def replace_damaged(self, lease: Lease) -> bool:
        """Put `lease` in the place of a row that can't be read, at a higher epoch; False if it can be read now.

        Conditional on every attribute of the damaged row, so that two who repair it don't undo each other.
        """
        item = await self._read_item(lease.shard_id)
        if not item:
            return False
        try:
            lease_from_item(item)
        except InvalidRequestError:
            expression = _Expression()
            condition = expression.equality(item)
        else:
            return False
        try:
            epoch = int(item["epoch"]["N"]) + 1
        except (KeyError, TypeError, ValueError):
            epoch = _EPOCH_BEYOND
        try:
            await self._conditional(
                "PutItem",
                self._client.put_item,
                TableName=self._table,
                Item=item_from_lease(replace(lease, epoch=epoch)),
                ConditionExpression=condition,
                **expression.placeholders(),
            )
        except ConditionFailedError:
            return False
        return True

    async def write_presence(self, presence: Presence) -> None:
        """Say that a worker is there."""
        item: dict[str, Any] = {
            "leaseKey": {"S": _PRESENCE_PREFIX + presence.worker_id},
            "entityType": {"S": _PRESENCE_TYPE},
            "leaseCounter": {"N": str(presence.heartbeat)},
        }
        if presence.is_leaving:
            item["isLeaving"] = {"BOOL": True}
        with aws_errors("dynamodb", "PutItem", self._table):
            await self._client.put_item(TableName=self._table, Item=item)

    async def delete_presence(self, worker_id: str, heartbeat: int | None = None) -> None:
        """Take a presence away; with `heartbeat`, only one that stands still there."""
        request: dict[str, Any] = {"TableName": self._table, "Key": {"leaseKey": {"S": _PRESENCE_PREFIX + worker_id}}}
        if heartbeat is not None:
            request["ConditionExpression"] = "leaseCounter = :seen"
            request["ExpressionAttributeValues"] = {":seen": {"N": str(heartbeat)}}
        with aws_errors("dynamodb", "DeleteItem", self._table):
            try:
                await self._client.delete_item(**request)
            except ClientError as error:
                # It moved, or is gone: either way it is not ours to remove any more.
                if error.response.get("Error", {}).get("Code") != _CONDITION_FAILED:
                    raise

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
        return _description_from_item(item) if item else None

    async def write_application(self, description: Mapping[str, Any]) -> Mapping[str, Any]:
        """Store what the application says of itself, unless it reads another stream; return what is stored."""
        item = {
            "leaseKey": {"S": APPLICATION_KEY},
            "entityType": {"S": "APPLICATION"},
            "description": {"S": orjson.dumps(dict(description)).decode()},
        }
        condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(sourceStream)"}
        if stream := description.get("source_stream"):
            item["sourceStream"] = {"S": stream}
            condition["ConditionExpression"] += " OR sourceStream = :stream"
            condition["ExpressionAttributeValues"] = {":stream": {"S": stream}}
        held = await self._hold(item, **condition)
        return _description_from_item(held) if held else description

    async def delete_application(self) -> None:
        """Take away what the application said of itself, and the columns of its archive."""
        for key in (SCHEMA_KEY, APPLICATION_KEY):
            with aws_errors("dynamodb", "DeleteItem", self._table):
                await self._client.delete_item(TableName=self._table, Key={"leaseKey": {"S": key}})

    async def hold_schema(self, schema: str) -> str:
        """Store the columns of the archive unless there are some; return those that are stored."""
        item = {"leaseKey": {"S": SCHEMA_KEY}, "entityType": {"S": "SCHEMA"}, "schema": {"S": schema}}
        held = await self._hold(item, ConditionExpression="attribute_not_exists(leaseKey)")
        return str(held["schema"]["S"]) if held else schema

    async def _hold(self, item: Any, **condition: Any) -> Any:
        """Put an item under a condition; return the one that is there where it does not hold."""
        with aws_errors("dynamodb", "PutItem", self._table):
            try:
                await self._client.put_item(
                    TableName=self._table, Item=item, ReturnValuesOnConditionCheckFailure="ALL_OLD", **condition
                )
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != _CONDITION_FAILED:
                    raise
                return error.response["Item"]
        return None

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
                if error.response.get("Error", {}).get("Code") != _CONDITION_FAILED:
                    raise
                item: Any = error.response.get("Item")
        raise ConditionFailedError(_readable(item))


class _Expression:
    """Collects the placeholders of one conditional update."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    def condition(self, expectation: LeaseExpectation) -> str:
        terms = ["attribute_exists(leaseKey)"]
        for field in ("owner", "epoch", "heartbeat", "version", "successor"):
            expected = getattr(expectation, field)
            if expected is UNSET:
                continue
            name = self._name(ATTRIBUTES[field])
            if expected is None:
                terms.append(f"attribute_not_exists({name})")
            else:
                terms.append(f"{name} = {self._value(attribute_of(expected))}")
        return " AND ".join(terms)

    def equality(self, item: Mapping[str, Any]) -> str:
        """Return the condition that a row still has exactly these values."""
        return " AND ".join(f"{self._name(name)} = {self._value(value)}" for name, value in item.items())

    def update(self, change: LeaseChange) -> str:
        sets: list[str] = []
        removes: list[str] = []
        # A change of nothing still asks whether the condition holds, and an empty expression is refused.
        changed = changed_attributes(change) or {"entityType": {"S": LEASE_TYPE}}
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


def _description_from_item(item: Any) -> Mapping[str, Any]:
    description: Mapping[str, Any] = orjson.loads(item["description"]["S"])
    return description


def _presence_from_item(item: Any) -> Presence:
    return Presence(
        worker_id=str(item["leaseKey"]["S"]).removeprefix(_PRESENCE_PREFIX),
        heartbeat=int(item.get("leaseCounter", {}).get("N", 0)),
        is_leaving="isLeaving" in item,
    )


def _readable(item: Any) -> Lease | None:
    """Return the row that refused a write; a damaged one is like none: it is nobody's."""
    try:
        return lease_from_item(item) if item else None
    except InvalidRequestError:
        return None
