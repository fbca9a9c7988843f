"""A running application as an operator's command sees it: its description, its rows, its streams and its bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from consumer.retrier import Retrier
from infra.pipeline import new_random
from shared.aws.session import Aws, open_aws
from shared.clock import SystemClock
from shared.errors import ConfigurationError
from shared.ports import Clock, Kinesis, LeaseStore, ObjectStore, Random
from shared.retry import Backoff
from shared.settings import ConsumerSettings, load_settings
from shared.telemetry import SilentTelemetry

# Somebody waits at a terminal: an outage of more than about ten seconds is an answer, too.
ATTEMPTS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Group:
    """The ports of one application; `application` is what its workers said of it."""

    app: str
    application: Mapping[str, Any]
    kinesis: Kinesis
    leases: LeaseStore
    objects: ObjectStore | None
    clock: Clock
    random: Random
    retrier: Retrier = field(init=False)

    def __post_init__(self) -> None:
        retrier = Retrier(Backoff(0.05, 2), self.random, SilentTelemetry())
        object.__setattr__(self, "retrier", retrier)

    @property
    def source_stream(self) -> str:
        """The stream that the group reads."""
        return str(self.application["source_stream"])


@asynccontextmanager
async def open_group(app: str | None) -> AsyncIterator[Group]:
    """Open the application's ports; ConfigurationError if no worker of it ever ran."""
    settings = load_settings(ConsumerSettings, app=app)
    async with open_aws(call_timeout_seconds=settings.call_timeout_seconds) as aws:
        leases = await aws.leases(settings.app)
        application = await leases.read_application()
        if application is None or not isinstance(application.get("source_stream"), str):
            raise ConfigurationError(
                f"Application `{settings.app}` has no description in its lease table",
                hint="Run `headrace consume` with this --app, or name another one",
            )
        yield await _group(aws, settings.app, application, leases)


async def _group(aws: Aws, app: str, application: Mapping[str, Any], leases: LeaseStore) -> Group:
    bucket = application.get("bucket")
    return Group(
        app=app,
        application=application,
        kinesis=await aws.kinesis(),
        leases=leases,
        objects=await aws.objects(bucket) if bucket else None,
        clock=SystemClock(),
        random=new_random(),
    )
