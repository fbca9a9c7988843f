"""What `headrace query` does, from its options to its exit code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from consumer.assembly import zone_of
from consumer.core.object_key import constant_prefix
from infra.pipeline import new_random
from infra.query.archive_object import bytes_of
from infra.query.copies import Download, Found, Selection, list_folder, select
from infra.query.database import Database
from infra.query.rows import Rows, csv_lines, json_lines, table_lines
from shared.aws.session import open_aws
from shared.errors import ConfigurationError, QueryError
from shared.lifecycle import ExitCode, run_work
from shared.settings import ConsumerSettings, load_settings
from shared.terminal import say, shows_progress, write_data

_NO_OBJECTS_HINT: Final = (
    "Without an object, views have a few fixed columns. `headrace consume` writes the first ones `flush_seconds` after"
    " it has read something (60 by default); `headrace audit` tells whether something waits"
)
Render = Callable[[Sequence[str], Rows], Iterator[str]]
RENDERERS: Final[Mapping[str, Render]] = {"table": table_lines, "json": json_lines, "csv": csv_lines}


def run_query(
    sql: str,
    *,
    app: str | None,
    bucket: str | None,
    folder: Path | None,
    since: str | None,
    until: str | None,
    bytes_max: int,
    output: str,
) -> int:
    """Run SQL over an archive: the bucket of an application, another bucket, or a folder with a copy of one."""
    settings = load_settings(ConsumerSettings, app=app, bucket=bucket)
    instants = (_instant(since, "--since"), _instant(until, "--until"))
    if folder is not None:
        selection = _selection({}, settings, instants, bytes_max)
        prefixes = (selection.archive_prefix, selection.error_prefix)
        found = select(list_folder(folder, prefixes), selection)
        _answer(sql, folder.resolve(), found, output, place=_place(selection, f"folder `{folder}`"))
    else:
        with TemporaryDirectory(prefix="headrace-query-") as copies:
            found, place = run_work(_fetch(settings, instants, bytes_max, Path(copies)))
            _answer(sql, Path(copies), found, output, place=place)
    return int(ExitCode.DONE)


def _answer(sql: str, folder: Path, found: Found, output: str, *, place: str) -> None:
    if found.unknown:
        say(f"Left out because their names are none that the archive writes: {found.unknown:,}")
    with closing(Database(folder)) as database:
        database.show(found.archived, found.dead_letters)
        try:
            names, rows = database.run(sql)
        except QueryError as error:
            if found.archived:
                raise
            raise QueryError(f"There are no objects {place}. {error}", hint=_NO_OBJECTS_HINT) from error
        if not found.all:
            say(f"There are no objects {place}")
        for line in RENDERERS[output](names, rows):
            write_data(line)


def _place(selection: Selection, container: str) -> str:
    """Return where was looked, and for what."""
    is_all = selection.since is None and selection.until is None
    return f"{'yet' if is_all else 'of these hours'} below `{selection.archive_prefix}` in {container}"


async def _fetch(
    settings: ConsumerSettings, instants: tuple[datetime | None, datetime | None], bytes_max: int, folder: Path
) -> tuple[Found, str]:
    async with open_aws(call_timeout_seconds=settings.call_timeout_seconds) as aws:
        described: Mapping[str, Any] = {}
        if not settings.bucket:
            described = await (await aws.leases(settings.app)).read_application() or {}
        bucket = settings.bucket or described.get("bucket")
        if not bucket:
            raise ConfigurationError(
                f"Application `{settings.app}` names no bucket in its lease table",
                hint="Has `headrace consume --bucket` run with this --app? Or name the bucket with --bucket",
            )
        selection = _selection(described, settings, instants, bytes_max)
        download = Download(await aws.objects(bucket), random=new_random(), sleep=asyncio.sleep, folder=folder)
        listed = await download.list_prefixes((selection.archive_prefix, selection.error_prefix))
        found = select(listed, selection)
        if shows_progress():
            say(f"Fetching {len(found.all):,} objects, {bytes_of(found.all):,} bytes, from bucket `{bucket}`")
        await download.fetch(found.all)
    return found, _place(selection, f"bucket `{bucket}`")


def _selection(
    described: Mapping[str, Any],
    settings: ConsumerSettings,
    instants: tuple[datetime | None, datetime | None],
    bytes_max: int,
) -> Selection:
    """Take the prefixes and the zone that the application wrote with, else those of the settings."""
    return Selection(
        archive_prefix=constant_prefix(described.get("archive_prefix") or settings.archive_prefix),
        error_prefix=constant_prefix(described.get("error_prefix") or settings.error_prefix),
        since=instants[0],
        until=instants[1],
        bytes_max=bytes_max,
        zone=zone_of(described.get("archive_time_zone") or settings.archive_time_zone),
    )


def _instant(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{option} is `{text[:40]}`, which is no time", hint="Write it as 2026-11-21 or 2026-11-21T10:00:00Z"
        ) from error
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
