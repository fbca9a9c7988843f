"""Streams, lease tables and buckets on their way to being there, or gone, one small step at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from shared.aws.control import ControlAdapter, StreamState, Tags
from shared.errors import AccessDeniedError, ConfigurationError

Report = Callable[[str], None]
TAG: Final = "headrace:app"
READY: Final = frozenset({"ACTIVE", "UPDATING"})


class Resource(Protocol):
    """Something with a name that is made or removed; both methods are called again until they say True."""

    name: str
    is_kept: bool  # at its removal: it exists and is not ours

    async def advance(self) -> bool:
        """Make what is missing; True once it can be used."""
        ...

    async def retire(self) -> bool:
        """Remove it if it is ours; True once it is gone, or left alone."""
        ...


class Stream:
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
        """See Resource."""
        state = await self._control.describe_stream(self.name)
        if state is None:
            await self._control.create_stream(self.name, shards=self._shards, tags=self._tags)
            self._is_ours = True
            size = "on-demand" if self._shards is None else _count(self._shards, "shard")
            self._report(f"Stream `{self.name}`: being made, {size}")
            return False
        if state.status not in READY:
            return False
        self._report(f"Stream `{self.name}`: " + ("ready" if self._is_ours else self._describe_existing(state)))
        return True

    async def retire(self) -> bool:
        """See Resource."""
        state = await self._control.describe_stream(self.name)
        if state is None:
            self._report(f"Stream `{self.name}`: gone")
            return True
        if state.status == "DELETING":
            return False
        if not is_marked(await self._control.read_stream_tags(self.name), self._tags):
            self.is_kept = True
            self._report(f"Stream `{self.name}`: left alone, it was not made for this application")
            return True
        # `consume --fan-out` registers one under the application's name; those of others keep the stream.
        if not await self._control.deregister_consumer(self.name, self._tags[TAG]):
            await self._control.delete_stream(self.name)
        return False

    def _describe_existing(self, state: StreamState) -> str:
        wanted = "on-demand" if self._shards is None else _count(self._shards, "shard")
        present = "on-demand" if state.on_demand else _count(state.open_shard_count, "shard")
        if wanted == present:
            return f"exists, {present}"
        return f"exists with {present} and is left so; {wanted} asked for"


class Table:
    """A lease table on its way to being there, or gone."""

    def __init__(self, control: ControlAdapter, name: str, tags: Tags, report: Report) -> None:
        self._control = control
        self.name = name
        self._tags = tags
        self._report = report
        self._is_ours = False
        self.is_kept = False

    async def advance(self) -> bool:
        """See Resource."""
        state = await self._control.describe_table(self.name)
        if state is None:
            await self._control.create_lease_table(self.name, tags=self._tags)
            self._is_ours = True
            self._report(f"Table `{self.name}`: being made")
            return False
        if state.status not in READY:
            return False
        if not self._is_ours and not state.has_lease_key:
            raise ConfigurationError(
                f"Table `{self.name}` is no lease table: its key is not the text `leaseKey`",
                hint="Choose another application name (--app)",
            )
        self._report(f"Table `{self.name}`: " + ("ready" if self._is_ours else "exists"))
        return True

    async def retire(self) -> bool:
        """See Resource."""
        state = await self._control.describe_table(self.name)
        if state is None:
            self._report(f"Table `{self.name}`: gone")
            return True
        if state.status == "DELETING":
            return False
        if not is_marked(await self._control.read_table_tags(self.name, state.arn), self._tags):
            self.is_kept = True
            self._report(f"Table `{self.name}`: left alone, it was not made for this application")
            return True
        await self._control.delete_table(self.name)
        return False


class Bucket:
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
        """See Resource."""
        if not await self._exists():
            await self._control.create_bucket(self.name, tags=self._tags)
            self._report(f"Bucket `{self.name}`: ready")
            return True
        if is_marked(await self._control.read_bucket_tags(self.name), self._tags):
            # A run that was cut short may have made the bucket and not yet protected it.
            await self._control.protect_bucket(self.name)
        self._report(f"Bucket `{self.name}`: exists")
        return True

    async def retire(self) -> bool:
        """See Resource."""
        if not await self._exists():
            self._report(f"Bucket `{self.name}`: gone")
            return True
        if not is_marked(await self._control.read_bucket_tags(self.name), self._tags):
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


def is_marked(tags: Tags, ours: Tags) -> bool:
    """Whether a resource bears all of our tags."""
    return all(tags.get(key) == value for key, value in ours.items())


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
