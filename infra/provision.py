"""Make, or remove, what the pipeline runs on: the streams, the lease table and the bucket of one application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.aws.control import ControlAdapter, StreamState, Tags, open_control
from shared.errors import AccessDeniedError, ConfigurationError, ServiceError, ThrottledError
from shared.settings import INTERNATIONAL
from shared.terminal import say

SOURCE_STREAM: Final = "headrace-data-stream"
DEST_STREAMS: Final[Mapping[str, str]] = {
    "USA": "headrace-usa-data-stream",
    INTERNATIONAL: "headrace-international-data-stream",
}
APP: Final = "headrace"
SHARDS: Final = 2
TAG: Final = "headrace:app"
"""The tag that says which application provisioned a resource; without it nothing is ever removed."""

_BUCKET_PREFIX: Final = "headrace-archive-"
_DEADLINE_SECONDS: Final = 300.0
_POLL_SECONDS: Final = 1.0
_READY: Final = frozenset({"ACTIVE", "UPDATING"})

Report = Callable[[str], None]


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

    An empty `bucket` means `headrace-archive-ACCOUNT`; the lease table has the name of the application.
    """

    source_stream: str = SOURCE_STREAM
    dest_streams: Mapping[str, str] = field(default_factory=lambda: DEST_STREAMS)
    bucket: str = ""
    app: str = APP
    shards: int | None = SHARDS

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

    def as_json(self) -> dict[str, object]:
        """Return the names under the keys that `--output json` prints."""
        return {
            "source_stream": self.source_stream,
            "dest_streams": dict(self.dest_streams),
            "bucket": self.bucket,
            "table": self.table,
        }


async def provision(
    plan: Plan,
    *,
    control: ControlAdapter | None = None,
    report: Report = say,
    deadline_seconds: float = _DEADLINE_SECONDS,
    poll_seconds: float = _POLL_SECONDS,
) -> Provisioned:
    """Make what `plan` names and is not there, and wait until all of it can be used.

    What exists is left alone. Raises ServiceError when the deadline passes, and whatever AWS refuses.
    """
    if control is None:
        async with open_control() as opened:
            return await provision(
                plan, control=opened, report=report, deadline_seconds=deadline_seconds, poll_seconds=poll_seconds
            )
    bucket = await _bucket_name(control, plan)
    resources = _resources(control, plan, bucket, report)
    await _settle([each.advance for each in resources], "ready", deadline_seconds, poll_seconds)
    return Provisioned(plan.source_stream, dict(plan.dest_streams), bucket, plan.app)


async def deprovision(
    plan: Plan,
    *,
    force: bool = False,
    control: ControlAdapter | None = None,
    report: Report = say,
    deadline_seconds: float = _DEADLINE_SECONDS,
    poll_seconds: float = _POLL_SECONDS,
) -> Deprovisioned:
    """Remove what `provision` made for this application, and wait until it is gone.

    What lacks the tag of this application is left alone. A bucket that holds objects is removed only with `force`:
    ConfigurationError otherwise, after everything else is gone.
    """
    if control is None:
        async with open_control() as opened:
            return await deprovision(
                plan,
                force=force,
                control=opened,
                report=report,
                deadline_seconds=deadline_seconds,
                poll_seconds=poll_seconds,
            )
    bucket = await _bucket_name(control, plan)
    resources = _resources(control, plan, bucket, report, force=force)
    await _settle([each.retire for each in resources], "gone", deadline_seconds, poll_seconds)
    if any(isinstance(each, _Bucket) and each.is_full for each in resources):
        raise ConfigurationError(
            f"Bucket `{bucket}` holds objects and was left alone",
            hint="`headrace provision --delete --force` deletes the objects, too",
        )
    return Deprovisioned(
        gone=tuple(each.name for each in resources if not each.is_kept),
        kept=tuple(each.name for each in resources if each.is_kept),
    )


async def _bucket_name(control: ControlAdapter, plan: Plan) -> str:
    return plan.bucket or _BUCKET_PREFIX + await control.read_account()


def _resources(
    control: ControlAdapter, plan: Plan, bucket: str, report: Report, *, force: bool = False
) -> tuple[_Stream | _Table | _Bucket, ...]:
    tags = {TAG: plan.app}
    return (
        *(_Stream(control, name, plan.shards, tags, report) for name in plan.streams),
        _Table(control, plan.app, tags, report),
        _Bucket(control, bucket, tags, report, force=force),
    )


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


class _Stream:
    """A data stream on its way to being there, or gone."""

    def __init__(self, control: ControlAdapter, name: str, shards: int | None, tags: Tags, report: Report) -> None:
        self._control = control
        self.name = name
        self._shards = shards
        self._tags = tags
        self._report = report
        self._is_ours = False
        self.is_kept = False

    async def advance(self) -> bool:
        state = await self._control.describe_stream(self.name)
        if state is None:
            await self._control.create_stream(self.name, shards=self._shards, tags=self._tags)
            self._is_ours = True
            size = "on-demand" if self._shards is None else _count(self._shards, "shard")
            self._report(f"Stream `{self.name}`: being made, {size}")
            return False
        if state.status not in _READY:
            return False
        self._report(f"Stream `{self.name}`: " + ("ready" if self._is_ours else self._describe_existing(state)))
        return True

    async def retire(self) -> bool:
        state = await self._control.describe_stream(self.name)
        if state is None:
            self._report(f"Stream `{self.name}`: gone")
            return True
        if state.status == "DELETING":
            return False
        if not _is_marked(await self._control.read_stream_tags(self.name), self._tags):
            self.is_kept = True
            self._report(f"Stream `{self.name}`: left alone, it was not made for this application")
            return True
        await self._control.delete_stream(self.name)
        return False

    def _describe_existing(self, state: StreamState) -> str:
        wanted = "on-demand" if self._shards is None else _count(self._shards, "shard")
        present = "on-demand" if state.on_demand else _count(state.open_shard_count, "shard")
        if wanted == present:
            return f"exists, {present}"
        return f"exists with {present} and is left so; {wanted} asked for"


class _Table:
    """A lease table on its way to being there, or gone."""

    def __init__(self, control: ControlAdapter, name: str, tags: Tags, report: Report) -> None:
        self._control = control
        self.name = name
        self._tags = tags
        self._report = report
        self._is_ours = False
        self.is_kept = False

    async def advance(self) -> bool:
        status = await self._control.describe_table(self.name)
        if status is None:
            await self._control.create_lease_table(self.name, tags=self._tags)
            self._is_ours = True
            self._report(f"Table `{self.name}`: being made")
            return False
        if status not in _READY:
            return False
        self._report(f"Table `{self.name}`: " + ("ready" if self._is_ours else "exists"))
        return True

    async def retire(self) -> bool:
        status = await self._control.describe_table(self.name)
        if status is None:
            self._report(f"Table `{self.name}`: gone")
            return True
        if status == "DELETING":
            return False
        if not _is_marked(await self._control.read_table_tags(self.name), self._tags):
            self.is_kept = True
            self._report(f"Table `{self.name}`: left alone, it was not made for this application")
            return True
        await self._control.delete_table(self.name)
        return False


class _Bucket:
    """A bucket on its way to being there, or gone; `is_full` says that it was kept for its objects."""

    def __init__(self, control: ControlAdapter, name: str, tags: Tags, report: Report, *, force: bool) -> None:
        self._control = control
        self.name = name
        self._tags = tags
        self._report = report
        self._force = force
        self.is_full = False
        self.is_kept = False

    async def advance(self) -> bool:
        if not await self._exists():
            await self._control.create_bucket(self.name, tags=self._tags)
            self._report(f"Bucket `{self.name}`: ready")
            return True
        if _is_marked(await self._control.read_bucket_tags(self.name), self._tags):
            # A run that was cut short may have made the bucket and not yet protected it.
            await self._control.protect_bucket(self.name)
        self._report(f"Bucket `{self.name}`: exists")
        return True

    async def retire(self) -> bool:
        if not await self._exists():
            self._report(f"Bucket `{self.name}`: gone")
            return True
        if not _is_marked(await self._control.read_bucket_tags(self.name), self._tags):
            self.is_kept = True
            self._report(f"Bucket `{self.name}`: left alone, it was not made for this application")
            return True
        if self._force:
            while await self._control.empty_bucket(self.name):
                pass
        self.is_full = not await self._control.delete_bucket(self.name)
        # A writer can fill the bucket again after it was emptied: with `force`, until the deadline.
        return self.is_full and not self._force

    async def _exists(self) -> bool:
        try:
            return await self._control.has_bucket(self.name)
        except AccessDeniedError as error:
            raise ConfigurationError(
                f"Bucket `{self.name}` is not accessible; bucket names are shared by all accounts",
                hint="Choose another name with --bucket, or check the permissions",
            ) from error


def _is_marked(tags: Tags, ours: Tags) -> bool:
    return all(tags.get(key) == value for key, value in ours.items())


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
