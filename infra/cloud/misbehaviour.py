"""The one place per request through which delays, errors and lost replies are injected; by default nothing happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from infra.cloud.service_request import ServiceRequest


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
    """An answer, whole; its body trickles at `bytes_per_second` and is cut after `bytes_max` if these are given."""

    status: int
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)
    bytes_per_second: int | None = None
    bytes_max: int | None = None


@dataclass(frozen=True, slots=True)
class Admission:
    """What becomes of a subscription: refused by a reply, or cut after so many events (0: at once)."""

    reply: Reply | None = None
    events_max: int | None = None


CarryOut = Callable[["ServiceRequest"], Awaitable[Reply]]
"""Really does what a request asks for; never raises for a refusal, which is a reply as well."""


class Misbehaviour(Protocol):
    """Stands between every request and what carries it out."""

    async def answer(self, request: ServiceRequest, carry_out: CarryOut) -> Reply | None:
        """Answer a request, by carrying it out (now, later, changed) or not; None cuts the connection."""

    async def admit(self, request: ServiceRequest) -> Admission:
        """Let a SubscribeToShard call through, or not, or not for long."""


class GoodBehaviour:
    """Nothing goes wrong."""

    async def answer(self, request: ServiceRequest, carry_out: CarryOut) -> Reply | None:
        """Carry it out."""
        return await carry_out(request)

    async def admit(self, _request: ServiceRequest) -> Admission:
        """Let it through."""
        return Admission()
