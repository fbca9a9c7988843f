"""One source into one stream, put together: what the command line, the demo and the simulation call."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from producer.bookmark import Bookmark, BookmarkStore, bookmark_path
from producer.bookmark_lock import lock_bookmark
from producer.core.country import TABLE_BYTES_MAX, CountryTable
from producer.core.line import LineParser
from producer.core.line_format import LineFormat, open_parser
from producer.core.page_walk import ApiPlan
from producer.core.site import BUILT_IN, DEFAULT, Site
from producer.core.visit_line import VisitLineParser
from producer.crawler import is_crawler
from producer.dead_letters import DeadLetters
from producer.gzip_reader import MAGIC
from producer.http_source import HttpSource, parser_state_of
from producer.open_source import STANDARD_INPUT, open_once
from producer.producer import Producer
from producer.run_summary import RunSummary
from producer.source import LineSource, identify, open_file
from producer.source_run import EventReceipt, SourceRun
from producer.tailer import Tailer
from shared.errors import ConfigurationError, SourceError
from shared.lanes import WHOLE, LaneDivision
from shared.lifecycle import StopSignal
from shared.limits import MIB
from shared.ports import Clock, Files, Kinesis, Random, Telemetry
from shared.settings import Ordering, ProducerSettings

__all__ = ["RunSummary", "SourceOptions", "load_api", "load_site", "lock_source", "run_source"]

_SITE_BYTES_MAX: Final = 1 * MIB
_KEY_BYTES: Final = 32
_SOURCE_ID: Final = re.compile(r"[a-z0-9-]{1,28}")  # a generation of a followed file is added to it
_RANDOM_ID_BITS: Final = 80


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """What to read and how.

    `path` is a file (absolute where it is followed: bookmarks are found by it) or `-` for standard input.
    `source_id` names the source in event ids. Without it a file that is read once gets a new one each time, because
    sending a file again on purpose is no mistake: its events must not be dropped as duplicates. With it they are.
    """

    path: str
    line_format: LineFormat = LineFormat.AUTO
    is_followed: bool = False
    site: Site = DEFAULT
    countries_path: str | None = None
    source_id: str | None = None
    session_key: bytes | None = None
    events_per_second: float | None = None
    lines_max: int | None = None
    api: ApiPlan | None = None  # read instead of `path`, as JSON, from the bookmark on


async def run_source(
    options: SourceOptions,
    *,
    stream: str,
    kinesis: Kinesis,
    files: Files,
    clock: Clock,
    random: Random,
    telemetry: Telemetry,
    settings: ProducerSettings,
    stop: StopSignal | None = None,
    on_receipt: EventReceipt | None = None,
    on_progress: Callable[[RunSummary], None] | None = None,
) -> RunSummary:
    """Read the source into the stream until its end, `lines_max` or `stop`; return the counts.

    Raises ConfigurationError and SourceError for what can't be read, ServiceError where AWS refuses.
    """
    _check(options)
    if not options.is_followed:
        # Somebody waits for this run: an error that no retry mends is theirs to mend. A followed file goes on for ever.
        settings = settings.model_copy(update={"refused_backoff_seconds_max": 0.0})
    parser = await _open_parser(options, files, random, settings)
    source: LineSource
    resumed: Tailer | HttpSource | None = None
    if options.api is not None:
        source = resumed = await _open_api(
            options.api, options, parser, stream, files, clock, random, telemetry, settings
        )
    elif options.is_followed:
        source = resumed = await _open_tailer(options, parser, stream, files, clock, random, telemetry, settings)
    else:
        source_id = options.source_id or f"{random.getrandbits(_RANDOM_ID_BITS):020x}"
        source = await open_once(files, options.path, source_id=source_id, line_bytes_max=settings.line_bytes_max)
    may_cut = _may_cut(options, settings)
    async with Producer(
        stream,
        kinesis=kinesis,
        clock=clock,
        random=random,
        telemetry=telemetry,
        settings=settings,
        lanes=_lanes_of(resumed) or (None if may_cut and resumed is None else WHOLE),
        may_cut=may_cut,
    ) as producer:
        if resumed is not None:
            resumed.bookmark = replace(resumed.bookmark, lanes=producer.lanes)
        run = SourceRun(
            source,
            parser,
            producer,
            clock=clock,
            settings=settings,
            dead_letters=DeadLetters(files, clock, settings.state_dir, source.name),
            bookmarks=resumed,
            generation=resumed.bookmark.generation if resumed else 0,
            events_per_second=options.events_per_second,
            lines_max=options.lines_max,
            on_receipt=on_receipt,
            on_progress=on_progress,
        )
        summary = await run.run(stop or StopSignal())
        await producer.close(0)  # the run has drained; what is left now is left
    return summary


def _may_cut(options: SourceOptions, settings: ProducerSettings) -> bool:
    """Whether lanes may be cut along the shards that there are."""
    # Nothing tells of a named source that is read once how lanes were cut the last time, nor how far an earlier run
    # has sent the pages of an API. A followed file has a bookmark before its first event.
    is_known = options.is_followed or (options.api is None and options.source_id is None)
    return is_known and settings.lanes_fine


def _lanes_of(resumed: Tailer | HttpSource | None) -> LaneDivision | None:
    """Return how a source's lanes are cut, so that its events get the ids they had; None if it has none yet."""
    return None if resumed is None else resumed.bookmark.lanes


def _path_of_bookmark(options: SourceOptions, stream: str, settings: ProducerSettings) -> str:
    name = options.path if options.api is None else f"{options.api.style.value} {options.api.bookmark_name}"
    return bookmark_path(settings.state_dir, stream, name)


@contextmanager
def lock_source(
    options: SourceOptions, stream: str, settings: ProducerSettings, telemetry: Telemetry
) -> Iterator[None]:
    """Hold the bookmark of a source on this machine's disk, if it has one, so that no second producer goes by it."""
    _check(options)
    if options.is_followed or options.api is not None:
        with lock_bookmark(_path_of_bookmark(options, stream, settings), telemetry):
            yield
    else:
        yield


def _check(options: SourceOptions) -> None:
    if options.source_id is not None and not _SOURCE_ID.fullmatch(options.source_id):
        message = f"source id {options.source_id[:40]!r} is not usable: 1 to 28 of a-z, 0-9 and - are allowed"
        raise ConfigurationError(message, hint="E.g. --source-id shop-web-1")
    if options.api is not None and (options.is_followed or options.line_format is not LineFormat.JSON):
        raise ConfigurationError("an HTTP source is read to its end, as JSON", hint="Omit --follow and --format")
    if options.is_followed and options.path == STANDARD_INPUT:
        raise ConfigurationError("standard input can't be followed", hint="It is read to its end anyway: omit --follow")


async def _open_parser(options: SourceOptions, files: Files, random: Random, settings: ProducerSettings) -> LineParser:
    if options.line_format not in {LineFormat.AUTO, LineFormat.COMBINED}:
        return open_parser(options.line_format, _no_visits)
    is_auto = options.line_format is LineFormat.AUTO
    key = options.session_key or await _load_key(files, random, settings.state_dir, is_auto=is_auto)
    countries = await _load_countries(files, options.countries_path)
    return open_parser(options.line_format, lambda: VisitLineParser(options.site, key, is_crawler, countries))


def _no_visits() -> VisitLineParser:
    msg = "a format without visits opens no parser for them"
    raise AssertionError(msg)


async def _load_key(files: Files, random: Random, state_dir: str, *, is_auto: bool) -> bytes:
    """Read the key of the session ids, or draw it once: with another key the same visitors would get other ids."""
    path = f"{state_dir}/session-key"
    try:
        stored = await files.read_all(path, 2 * _KEY_BYTES + 1)
        if stored is not None:
            key = bytes.fromhex(stored.decode("ascii"))
            if len(key) == _KEY_BYTES:
                return key
        else:
            key = random.getrandbits(8 * _KEY_BYTES).to_bytes(_KEY_BYTES, "big")
            await files.write_atomically(path, key.hex().encode() + b"\n")
            return key
    except ValueError:
        pass  # no hex: the same as a key of the wrong length
    except OSError as error:
        raise ConfigurationError(
            f"the session key {path} can't be kept: {error.strerror or error}",
            hint="Choose a folder with --state-dir, or set HEADRACE_PRODUCER_SESSION_KEY to 64 hex digits"
            + ("; lines that are no access log need no key: give --format json or csv" if is_auto else ""),
        ) from error
    raise ConfigurationError(
        f"the session key {path} is not {2 * _KEY_BYTES} hex digits",
        hint="Delete it to get a new one; visitors then get new session ids",
    )


async def _load_countries(files: Files, path: str | None) -> CountryTable | None:
    return None if path is None else CountryTable.from_bytes(await _read_small(files, path, TABLE_BYTES_MAX))


async def load_site(files: Files, name: str) -> Site:
    """Return a built-in profile by its name, or the one in a TOML file; ConfigurationError if it is neither."""
    for site in BUILT_IN:
        if site.name == name:
            return site
    names = " or ".join(site.name for site in BUILT_IN)
    if not name.endswith(".toml"):
        raise ConfigurationError(f"there is no site profile {name!r}", hint=f"Use {names}, or the path of a .toml file")
    try:
        mapping: dict[str, Any] = tomllib.loads((await _read_small(files, name, _SITE_BYTES_MAX)).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"the site profile {name} is not TOML: {str(error)[:200]}") from error
    return Site.from_mapping({"name": "own", **mapping})


async def _read_small(files: Files, path: str, bytes_max: int) -> bytes:
    try:
        data = await files.read_all(path, bytes_max)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror or error}") from error
    if data is None:
        raise ConfigurationError(f"{path} does not exist", hint="Check the path")
    return data


async def load_api(files: Files, path: str) -> ApiPlan:
    """Read the TOML file that describes a paginated HTTP API; ConfigurationError if it is not usable."""
    try:
        mapping: dict[str, Any] = tomllib.loads((await _read_small(files, path, _SITE_BYTES_MAX)).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(
            f"the HTTP source {path} is not TOML: {str(error)[:200]}",
            hint='E.g. url = "https://api.example.com/visits"; texts stand in quotes',
        ) from error
    return ApiPlan.from_mapping(mapping)


async def _load_bookmark(
    store: BookmarkStore, options: SourceOptions, random: Random, state: bytes, ordering: Ordering
) -> Bookmark:
    """Take up a bookmark, or begin one at `state`."""
    try:
        bookmark = await store.load()
    except OSError as error:
        raise SourceError(f"the bookmark {store.path} can't be read: {error.strerror or error}") from error
    if bookmark is None:
        source_id = options.source_id or f"{random.getrandbits(_RANDOM_ID_BITS):020x}"
        return Bookmark(source_id, state=state, ordering=ordering)
    if options.source_id not in {None, bookmark.source}:
        raise ConfigurationError(
            f"the bookmark {store.path} is of source {bookmark.source}, not {options.source_id}",
            hint="Leave --source-id out, or delete the bookmark to read the source from its beginning",
        )
    if bookmark.ordering not in {None, ordering}:
        # What a crash left behind it may be in the stream already: under the ids of the other one nobody knew it again.
        raise ConfigurationError(
            f"the bookmark {store.path} was begun with ordering {bookmark.ordering.value}, not {ordering.value}",
            hint=f"Go on with --ordering {bookmark.ordering.value}, or delete the bookmark to read the source from its"
            " beginning; the events will count as new ones",
        )
    return replace(bookmark, ordering=ordering)


async def _open_api(
    plan: ApiPlan,
    options: SourceOptions,
    parser: LineParser,
    stream: str,
    files: Files,
    clock: Clock,
    random: Random,
    telemetry: Telemetry,
    settings: ProducerSettings,
) -> HttpSource:
    """Take up the bookmark of an API, or begin one."""
    store = BookmarkStore(files, _path_of_bookmark(options, stream, settings))
    bookmark = await _load_bookmark(store, options, random, b"", settings.ordering)
    parser.restore(parser_state_of(bookmark))
    return HttpSource(
        plan,
        clock=clock,
        random=random,
        telemetry=telemetry,
        store=store,
        bookmark=bookmark,
        line_bytes_max=settings.line_bytes_max,
    )


async def _open_tailer(
    options: SourceOptions,
    parser: LineParser,
    stream: str,
    files: Files,
    clock: Clock,
    random: Random,
    telemetry: Telemetry,
    settings: ProducerSettings,
) -> Tailer:
    """Take up the bookmark of a followed file, or begin one; look at the file, so that a bad path fails now."""
    store = BookmarkStore(files, _path_of_bookmark(options, stream, settings))
    bookmark = await _load_bookmark(store, options, random, parser.snapshot(), settings.ordering)
    parser.restore(bookmark.state)
    if await identify(files, options.path) is not None:
        file = await open_file(files, options.path)
        try:
            head = await file.read_at(0, len(MAGIC))
        except OSError:
            head = b""  # tried again while following
        finally:
            await file.close()
        if head == MAGIC:
            message = f"{options.path} is gzip, which does not grow by lines and can't be followed"
            raise ConfigurationError(message, hint="Omit --follow to read it once, or follow the log it was made of")
    return Tailer(
        options.path,
        files=files,
        clock=clock,
        telemetry=telemetry,
        store=store,
        bookmark=bookmark,
        line_bytes_max=settings.line_bytes_max,
        rotate_wait_seconds=settings.rotate_wait_seconds,
    )
