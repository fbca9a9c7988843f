"""Make, or remove, what the pipeline runs on: the streams, the lease table and the bucket of one application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import orjson

from infra.delivery import DeliveryStream, Role, delivery_names, role_name
from infra.resource import TAG, Bucket, Report, Resource, Stream, Table
from shared.aws.control import ControlAdapter, open_control
from shared.aws.delivery import DeliveryAdapter, open_delivery
from shared.errors import ConfigurationError, ServiceError, ThrottledError
from shared.settings import INTERNATIONAL, ConsumerSettings
from shared.terminal import say

SOURCE_STREAM: Final = "headrace-data-stream"
DEST_STREAMS: Final[Mapping[str, str]] = {
    "USA": "headrace-usa-data-stream",
    INTERNATIONAL: "headrace-international-data-stream",
}
APP: Final = "headrace"
SHARDS: Final = 2

_BUCKET_PREFIX: Final = "headrace-archive-"
_DEADLINE_SECONDS: Final = 300.0
_POLL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Deprovisioned:
    """What `deprovision` found: resources that are gone now, and resources that it left alone."""

    gone: tuple[str, ...]
    kept: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """Return the names under the keys that `--output json` prints."""
        return {"gone": list(self.gone), "kept": list(self.kept)}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted: the names, and the shards per stream (None: on-demand streams).

    An empty `bucket` means `headrace-archive-ACCOUNT`, or none where there are no destinations: a function of the
    user's own needs neither. The lease table has the name of the application. With `has_delivery`, a Firehose delivery
    stream takes each destination stream to a bucket of its own.
    """

    source_stream: str = SOURCE_STREAM
    dest_streams: Mapping[str, str] = field(default_factory=lambda: DEST_STREAMS)
    bucket: str = ""
    app: str = APP
    shards: int | None = SHARDS
    has_delivery: bool = False

    @classmethod
    def of(cls, settings: ConsumerSettings, *, shards: int | None = SHARDS, has_delivery: bool = False) -> Plan:
        """Return the plan for settings; destinations that were given as none are none."""
        is_named = "dest_streams" in settings.model_fields_set
        return cls(
            source_stream=settings.source_stream or SOURCE_STREAM,
            dest_streams=settings.dest_streams if is_named else DEST_STREAMS,
            bucket=settings.bucket,
            app=settings.app,
            shards=shards,
            has_delivery=has_delivery,
        )

    @property
    def streams(self) -> tuple[str, ...]:
        """All stream names, each once, the source first."""
        return tuple(dict.fromkeys((self.source_stream, *self.dest_streams.values())))


@dataclass(frozen=True, slots=True)
class Provisioned:
    """The names that exist now, as the producer and the consumer are told them."""

    source_stream: str
    dest_streams: Mapping[str, str]
    bucket: str
    table: str
    delivery_buckets: Mapping[str, str] = field(default_factory=dict)  # delivery stream -> where it writes

    @property
    def next_step(self) -> str:
        """What reads the source stream now: a command, or the library where events go nowhere else."""
        if not (self.dest_streams or self.bucket):
            return f'In Python: from consumer import Consumer; Consumer("{self.source_stream}", app="{self.table}")'
        dests = f" --dest_streams '{orjson.dumps(dict(self.dest_streams)).decode()}'" if self.dest_streams else ""
        bucket = f" --bucket {self.bucket}" if self.bucket else ""
        return f"headrace consume --source_stream {self.source_stream}{dests}{bucket} --app {self.table}"

    def as_json(self) -> dict[str, object]:
        """Return the names under the keys that `--output json` prints."""
        return {
            "source_stream": self.source_stream,
            "dest_streams": dict(self.dest_streams),
            "bucket": self.bucket,
            "table": self.table,
            **({"delivery_buckets": dict(self.delivery_buckets)} if self.delivery_buckets else {}),
        }


async def provision(
    plan: Plan,
    *,
    control: ControlAdapter | None = None,
    delivery: DeliveryAdapter | None = None,
    report: Report = say,
    deadline_seconds: float = _DEADLINE_SECONDS,
    poll_seconds: float = _POLL_SECONDS,
) -> Provisioned:
    """Make what `plan` names and is not there, and wait until all of it can be used.

    What exists is left alone. Raises ServiceError when the deadline passes, and whatever AWS refuses.
    """
    async with _opened(plan, control, delivery) as (control_plane, delivery_plane):
        bucket = await _bucket_name(control_plane, plan)
        resources = _resources(control_plane, delivery_plane, plan, bucket, report)
        await _settle([each.advance for each in resources], "ready", deadline_seconds, poll_seconds)
    return Provisioned(
        plan.source_stream,
        dict(plan.dest_streams),
        bucket,
        plan.app,
        {name: to for name, to, _ in _deliveries(plan, bucket)},
    )


async def deprovision(
    plan: Plan,
    *,
    force: bool = False,
    control: ControlAdapter | None = None,
    delivery: DeliveryAdapter | None = None,
    report: Report = say,
    deadline_seconds: float = _DEADLINE_SECONDS,
    poll_seconds: float = _POLL_SECONDS,
) -> Deprovisioned:
    """Remove what `provision` made for this application, and wait until it is gone.

    What lacks the tag of this application is left alone. A bucket that holds objects is removed only with `force`:
    ConfigurationError otherwise, after everything else is gone.
    """
    async with _opened(plan, control, delivery) as (control_plane, delivery_plane):
        bucket = await _bucket_name(control_plane, plan)
        resources = _resources(control_plane, delivery_plane, plan, bucket, report, force=force)
        await _settle([each.retire for each in resources], "gone", deadline_seconds, poll_seconds)
    full = [each.name for each in resources if isinstance(each, Bucket) and each.is_full]
    if full:
        raise ConfigurationError(
            f"Bucket `{full[0]}` holds objects and was left alone",
            hint="`headrace provision --delete --force` deletes the objects, too",
        )
    return Deprovisioned(
        gone=tuple(each.name for each in resources if not each.is_kept),
        kept=tuple(each.name for each in resources if each.is_kept),
    )


@asynccontextmanager
async def _opened(
    plan: Plan, control: ControlAdapter | None, delivery: DeliveryAdapter | None
) -> AsyncIterator[tuple[ControlAdapter, DeliveryAdapter | None]]:
    """Open the adapters that were not given and are needed."""
    async with AsyncExitStack() as stack:
        if plan.has_delivery and delivery is None:
            delivery = await stack.enter_async_context(open_delivery())
        if control is None:
            control = await stack.enter_async_context(open_control())
        yield control, delivery


async def _bucket_name(control: ControlAdapter, plan: Plan) -> str:
    if plan.bucket or not plan.dest_streams:
        return plan.bucket
    return _BUCKET_PREFIX + await control.read_account()


def _deliveries(plan: Plan, bucket: str) -> list[tuple[str, str, str]]:
    """Return delivery stream, its bucket and its source stream for each destination; two must not share a name."""
    if not plan.has_delivery:
        return []
    named = [(*delivery_names(plan.app, bucket, name), stream) for name, stream in plan.dest_streams.items()]
    if len({name for name, _, _ in named}) < len(named):
        raise ConfigurationError(
            "Two destinations would share a delivery stream", hint="Let their names differ in letters or digits"
        )
    return named


def _resources(
    control: ControlAdapter,
    delivery: DeliveryAdapter | None,
    plan: Plan,
    bucket: str,
    report: Report,
    *,
    force: bool = False,
) -> tuple[Resource, ...]:
    tags = {TAG: plan.app}
    made: list[Resource] = [
        *(Stream(control, name, plan.shards, tags, report) for name in plan.streams),
        Table(control, plan.app, tags, report),
        *([Bucket(control, bucket, tags, report, force=force)] if bucket else []),
    ]
    deliveries = _deliveries(plan, bucket)
    if delivery is not None and deliveries:
        streams, buckets = [stream for _, _, stream in deliveries], [to for _, to, _ in deliveries]
        role = Role(control, delivery, role_name(plan.app), streams=streams, buckets=buckets, tags=tags, report=report)
        made += [Bucket(control, each, tags, report, force=force) for each in buckets]
        made.append(role)
        made += [
            DeliveryStream(control, delivery, name, stream=stream, bucket=to, role=role, tags=tags, report=report)
            for name, to, stream in deliveries
        ]
    return tuple(made)


async def _settle(
    steps: Sequence[Callable[[], Awaitable[bool]]], goal: str, deadline_seconds: float, poll_seconds: float
) -> None:
    """Take each step again and again until all have said True; all of them advance side by side."""
    waiting = list(steps)
    reason = "the service is still at work"
    try:
        async with asyncio.timeout(deadline_seconds):
            while True:
                still: list[Callable[[], Awaitable[bool]]] = []
                for step in waiting:
                    try:
                        done = await step()
                    except ThrottledError as error:
                        # Made, changed or removed at this moment, or too many at once: both pass.
                        done, reason = False, str(error)
                    if not done:
                        still.append(step)
                waiting = still
                if not waiting:
                    return
                await asyncio.sleep(poll_seconds)
    except TimeoutError as error:
        raise ServiceError(
            f"{len(waiting)} of {len(steps)} resources are not {goal} after {deadline_seconds:,.0f} s: {reason}",
            hint="Run the same command again: it goes on where it stopped",
        ) from error
