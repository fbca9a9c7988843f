"""The one place per request through which delays, errors and lost replies are injected; by default nothing happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Call:
    """What a request asks for: `service` such as kinesis, dynamodb or s3; `operation` empty where only REST tells."""

    service: str
    operation: str
    region: str
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, whole."""

    status: int
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)


class Misbehaviour(Protocol):
    """Decides what goes wrong with a call."""

    async def before(self, call: Call) -> Reply | None:
        """Wait as long as the call is to be delayed; a reply answers it without carrying it out."""

    async def after(self, call: Call, reply: Reply) -> Reply | None:
        """Return the reply, or another; None cuts the connection although the call was carried out."""


class GoodBehaviour:
    """Nothing goes wrong."""

    async def before(self, _call: Call) -> Reply | None:
        """Let the call through at once."""
        return None

    async def after(self, _call: Call, reply: Reply) -> Reply | None:
        """Pass the reply on."""
        return reply
