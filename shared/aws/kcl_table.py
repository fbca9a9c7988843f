"""A lease table of the Kinesis Client Library as items: read whole, written item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from shared.aws.error_map import aws_errors


class KclTableAdapter:
    """The items of one table, in DynamoDB's own form."""

    def __init__(self, client: Any, table: str) -> None:
        self._client = client
        self._table = table

    async def scan(self) -> Sequence[Mapping[str, Any]]:
        """Read all items, strongly consistent; TableNotFoundError if there is no such table."""
        items: list[Mapping[str, Any]] = []
        request: dict[str, Any] = {"TableName": self._table, "ConsistentRead": True}
        while True:
            with aws_errors("dynamodb", "Scan", self._table):
                answer = await self._client.scan(**request)
            items += answer["Items"]
            if not answer.get("LastEvaluatedKey"):
                return items
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def put_unowned(self, item: Mapping[str, Any]) -> bool:
        """Write an item; False if one with an owner is in its place."""
        with aws_errors("dynamodb", "PutItem", self._table):
            try:
                await self._client.put_item(
                    TableName=self._table,
                    Item=dict(item),
                    ConditionExpression="attribute_not_exists(leaseOwner)",
                )
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "ConditionalCheckFailedException":
                    raise
                return False
        return True
