"""A request to the local cloud: which service and operation it means, and whether it changes anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, urlsplit

from infra.cloud.core.engine import REGION
from infra.cloud.misbehaviour import Call

_SCOPE: Final = re.compile(
    r"Credential=[^/,\s]{1,128}/[0-9]{8}/(?P<region>[a-z0-9-]{1,32})/(?P<service>[a-z0-9-]{1,64})/aws4_request",
    re.ASCII | re.IGNORECASE,
)
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_READING: Final = (
    "Get",
    "List",
    "Describe",
    "Head",
    "Query",
    "Scan",
    "BatchGet",
    "TransactGet",
    "Validate",
    "Estimate",
)
_FORM_PREFIX: Final = 4_096
_TARGET_SERVICES: Final = {
    "Kinesis_20131202": "kinesis",
    "Firehose_20150804": "firehose",
    "DynamoDB_20120810": "dynamodb",
    "DynamoDBStreams_20120810": "dynamodbstreams",
    "GraniteServiceVersion20100801": "monitoring",
    "AmazonSSM": "ssm",
    "Logs_20140328": "logs",
}


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """One HTTP request, whole; `target` is the path with its query, as it came."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str:
        """The first header of that name (given in lower case), or an empty string."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def call(self) -> Call:
        """Service, operation and region by X-Amz-Target first, then by the credential scope and the form."""
        amz_target = self.header("x-amz-target")
        prefix, _, operation = amz_target.rpartition(".")
        scope = _SCOPE.search(self.header("authorization"))
        service = _TARGET_SERVICES.get(prefix) or (scope["service"].lower() if scope else "")
        if not operation and "x-www-form-urlencoded" in self.header("content-type"):
            operation = parse_qs(self.body[:_FORM_PREFIX].decode("utf-8", "replace")).get("Action", [""])[0]
        return Call(
            service=service or "s3",
            operation=operation,
            region=scope["region"].lower() if scope else REGION,
            method=self.method,
            path=urlsplit(self.target).path,
        )

    def changes_something(self) -> bool:
        """Whether the request may change the state of a service."""
        operation = self.call.operation
        return not operation.startswith(_READING) if operation else self.method not in _SAFE_METHODS
