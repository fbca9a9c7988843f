"""Brings archived objects into a folder, so that SQL can read them: from S3, or where a copy lies already."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Final, TypeVar

from consumer.core.object_key import GAP_FOLDER, REDRIVEN_FOLDER
from infra.query.archive_object import ArchiveObject, bytes_of
from shared.errors import ConfigurationError, ServiceError, SourceError
from shared.ports import ObjectStore, Random, StoredObject
from shared.retry import Backoff

T = TypeVar("T")
_DOWNLOADS_MAX: Final = 8  # at a time; each holds one object in memory
_ATTEMPTS_MAX: Final = 8
_BACKOFF: Final = Backoff(0.1, 5)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of an archive are asked for; instants are UTC, prefixes have no expressions, keys are of `zone`."""

    archive_prefix: str
    error_prefix: str
    since: datetime | None = None
    until: datetime | None = None
    bytes_max: int = 4 << 30
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class Found:
    """The objects of a selection: archived events and dead letters; `unknown` are somebody else's."""

    archived: tuple[ArchiveObject, ...]
    dead_letters: tuple[ArchiveObject, ...]
    unknown: int

    @property
    def all(self) -> tuple[ArchiveObject, ...]:
        """Every object that is to be read."""
        return self.archived + self.dead_letters


def select(stored: Sequence[StoredObject], selection: Selection) -> Found:
    """Sort objects into archived ones and dead letters, and leave out those of other hours.

    ConfigurationError if they are more than `bytes_max` together.
    """
    kept: list[ArchiveObject] = []
    unknown = 0
    aside = (selection.error_prefix + GAP_FOLDER, selection.error_prefix + REDRIVEN_FOLDER)
    for each in stored:
        if each.key.startswith(aside) or each.is_folder:
            continue
        parsed = ArchiveObject.parse(each.key, each.size, selection.zone)
        if parsed is None:
            unknown += 1
        elif parsed.may_hold(selection.since, selection.until):
            kept.append(parsed)
    is_nested = selection.error_prefix.startswith(selection.archive_prefix)
    dead_letters = tuple(
        each
        for each in kept
        if each.key.startswith(selection.error_prefix)
        and (is_nested or not each.key.startswith(selection.archive_prefix))
    )
    refused = {each.key for each in dead_letters}
    archived = tuple(each for each in kept if each.key.startswith(selection.archive_prefix) and each.key not in refused)
    found = Found(archived, dead_letters, unknown)
    if bytes_of(found.all) > selection.bytes_max:
        raise ConfigurationError(
            f"{len(found.all):,} objects hold {bytes_of(found.all):,} bytes; the limit is {selection.bytes_max:,}",
            hint="Ask for fewer hours with --since and --until, or raise --bytes-max",
        )
    return found


def list_folder(folder: Path, prefixes: Sequence[str]) -> list[StoredObject]:
    """Return the files of a copy of the bucket whose keys start with one of the prefixes, in key order.

    SourceError if the folder can't be read.
    """
    if not folder.is_dir():
        raise SourceError(f"`{folder}` is no folder", hint="Name the folder that holds the copy of the bucket")
    try:
        files = [path for path in folder.rglob("*") if path.is_file()]
        keyed = sorted((path.relative_to(folder).as_posix(), path.stat().st_size) for path in files)
    except OSError as error:
        raise SourceError(f"`{folder}` can't be read: {error.strerror}") from error
    return [StoredObject(key, size) for key, size in keyed if key.startswith(tuple(prefixes))]


class Download:
    """Copies objects of one bucket into a folder; every call is repeated a bounded number of times."""

    def __init__(
        self, objects: ObjectStore, *, random: Random, sleep: Callable[[float], Awaitable[None]], folder: Path
    ) -> None:
        self._objects = objects
        self._random = random
        self._sleep = sleep
        self._folder = folder

    async def list_prefixes(self, prefixes: Sequence[str]) -> list[StoredObject]:
        """Return every object below the prefixes, each once, in key order."""
        listed: dict[str, StoredObject] = {}
        for prefix in prefixes:

            async def walk(prefix: str = prefix) -> list[StoredObject]:
                return [each async for each in self._objects.list_objects(prefix)]

            for each in await self._call(walk):
                listed[each.key] = each
        return [listed[key] for key in sorted(listed)]

    async def fetch(self, wanted: Sequence[ArchiveObject]) -> None:
        """Fetch objects, several at a time. SourceError if the folder doesn't take them."""
        for start in range(0, len(wanted), _DOWNLOADS_MAX):
            async with asyncio.TaskGroup() as group:
                for each in wanted[start : start + _DOWNLOADS_MAX]:
                    group.create_task(self._fetch_one(each))

    async def _fetch_one(self, wanted: ArchiveObject) -> None:
        body = await self._call(lambda: self._objects.get_object(wanted.key))
        path = self._folder / wanted.key
        try:
            await asyncio.to_thread(_write, path, body)
        except OSError as error:
            raise SourceError(
                f"object `{wanted.key}` can't be kept in `{self._folder}`: {error.strerror}",
                hint="TMPDIR names another folder for the copies",
            ) from error

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(_ATTEMPTS_MAX - 1):
            try:
                return await call()
            except ServiceError as error:
                if not error.retryable:
                    raise
                await self._sleep(_BACKOFF.delay(attempt, self._random))
        return await call()


def _write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
