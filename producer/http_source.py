"""A paginated HTTP API as a source of events: one page in memory at a time, resumed after the acknowledged ones."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
import orjson

from producer.bookmark import Bookmark, BookmarkStore
from producer.core.line_framer import OverlongLine
from producer.core.page_loop import PageLoop
from producer.core.page_walk import ApiPlan, PagePlace, PageWalk, TokenPlan, same_origin, told
from producer.failure_log import FailureLog
from producer.former_run import FormerRun
from producer.source import CHUNK_BYTES, Chunk
from shared.errors import ConfigurationError, SourceError
from shared.lanes import LaneDivision
from shared.limits import KIB
from shared.ports import Clock, Random, Telemetry
from shared.retry import Backoff

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_REDIRECTS_MAX: Final = 5
_PLACES_MAX: Final = 1024  # read and not yet bookmarked; a link has up to 8 KiB
_OK: Final = 200
_UNAUTHORIZED: Final = 401
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERROR: Final = 500
_TOKEN_BYTES_MAX: Final = 64 * KIB
_TOKEN_CHARACTERS_MAX: Final = 16 * KIB
_HEAD_BYTES: Final = 1 * KIB  # of an item that is too long, kept in the dead letters
_BACKOFF: Final = Backoff(0.5, 30)


class _RetryError(Exception):
    """The call failed in a way that may pass; `seconds` is what the server asked us to wait, if it did."""

    def __init__(self, what: str, seconds: float | None = None) -> None:
        super().__init__(what)
        self.seconds = seconds


class HttpSource:
    """Items of an API as lines of JSON; an item's offset is its rising number, so that event ids last over restarts.

    Its bookmark is the page after whose items everything is acknowledged. The state in the bookmark is the place in
    the API, a newline, and the parser's state.
    """

    def __init__(
        self,
        plan: ApiPlan,
        *,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        store: BookmarkStore,
        bookmark: Bookmark,
        line_bytes_max: int,
        environment: Mapping[str, str] | None = None,
        backoff: Backoff = _BACKOFF,
    ) -> None:
        self.name = plan.told_url
        self.bookmark = bookmark
        self.former = FormerRun(bookmark.generation)  # which may have read any page that there is
        self._plan = plan
        self._walk = PageWalk(plan)
        self._loop = PageLoop(self.name)
        self._clock = clock
        self._random = random
        self._telemetry = telemetry
        self._failures = FailureLog(telemetry, clock)
        self._store = store
        self._line_bytes_max = line_bytes_max
        self._backoff = backoff
        self._tokens = None if plan.token is None else _Tokens(plan, plan.token, environment or os.environ)
        self._place = place_of(bookmark, plan)
        self._done: deque[PagePlace] = deque()  # pages read and not yet bookmarked
        self._stopped = asyncio.Event()
        self._patience: asyncio.Timeout | None = None  # of the call under way

    def stop(self) -> None:
        """Read no further; a call under way is given up, its page is read by the next start."""
        self._stopped.set()
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def move_bookmark(
        self, generation: int, offset: int, state: bytes, lanes: LaneDivision | None = None
    ) -> bool:
        """Store that all items before number `offset` are done; False (and a warning) if the disk did not take it."""
        place = self._place
        while self._done and self._done[0].index <= offset:
            place = self._done.popleft()
        if place.index != offset:
            return lanes is None  # nothing new: the bookmark is there already, or no page that is held ends there
        moved = self.bookmark.at(generation, offset, place.encode() + b"\n" + state, lanes)
        try:
            await self._store.save(moved)
        except OSError as error:
            self._done.appendleft(place)
            self._failures.error("bookmark_not_saved", self._store.path, error)
            return False
        self.bookmark, self._place = moved, place
        return True

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """Read page after page to the last; SourceError where the API fails for good."""
        place: PagePlace | None = self._place
        async with aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None),
        ) as session:
            for _ in range(self._plan.pages_max):
                if place is None or self._stopped.is_set():
                    return
                address = self._walk.address(place)
                self._loop.go_to(address, place.page + 1)
                body = await self._fetch(session, address, place)
                if body is None:
                    return
                page = self._walk.read(place, body)
                self._loop.read(page.whole, place.page + 1)
                if page.items:
                    self._hold(page.done)
                yield self._chunk(page.items, page.done, len(body))
                place = page.next
        if place is not None:
            raise SourceError(
                f"{self.name} has more than {self._plan.pages_max:,} pages",
                hint="Start again to go on from the bookmark, or raise `pages_max`",
            )

    def _hold(self, place: PagePlace) -> None:
        """Keep a place for a bookmark; of too many every second one, as any bookmark is right, and the last is kept."""
        self._done.append(place)
        if len(self._done) > _PLACES_MAX:
            self._done = deque(list(self._done)[::-2][::-1])

    def _chunk(self, items: tuple[bytes, ...], done: PagePlace, bytes_read: int) -> Chunk:
        first = done.index - len(items)
        lines: list[tuple[int, bytes]] = []
        overlong: list[OverlongLine] = []
        for index, item in enumerate(items, start=first):
            if len(item) > self._line_bytes_max:
                overlong.append(OverlongLine(index, len(item), item[:_HEAD_BYTES]))
            else:
                lines.append((index, item))
        return Chunk(self.bookmark.source, lines, overlong, done.index, 0, bytes_read)

    async def _fetch(self, session: aiohttp.ClientSession, url: str, place: PagePlace) -> bytes | None:
        """Fetch one page, patiently within bounds; None if it was time to stop."""
        failure = ""
        for attempt in range(self._plan.attempts_max):
            try:
                async with asyncio.timeout(self._plan.call_timeout_seconds) as self._patience:
                    return await self._get(session, url)
            except (_RetryError, TimeoutError, aiohttp.ClientError, OSError) as error:
                if self._stopped.is_set():
                    return None
                failure = _reason(error, self._plan)
                asked = error.seconds if isinstance(error, _RetryError) else None
            finally:
                self._patience = None
            if attempt + 1 == self._plan.attempts_max:
                break
            seconds = self._backoff.delay(attempt, self._random) if asked is None else asked
            self._telemetry.warning(
                "http_source_retried", url=self.name, page=place.page + 1, reason=failure, seconds=round(seconds, 3)
            )
            if await self._pause(seconds):
                return None
        raise SourceError(
            f"page {place.page + 1:,} of {self.name} was not read in {self._plan.attempts_max} attempts: {failure}",
            hint="Start again to go on from the bookmark",
        )

    async def _pause(self, seconds: float) -> bool:
        """Wait; True if it is time to stop."""
        with suppress(TimeoutError):  # the time is over, which is the ordinary case
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        return self._stopped.is_set()

    async def _get(self, session: aiohttp.ClientSession, url: str) -> bytes:
        is_renewed = False
        redirects = 0
        while True:
            headers = {} if self._tokens is None else {"Authorization": f"Bearer {await self._tokens.current(session)}"}
            async with session.get(url, headers=headers, allow_redirects=False) as answer:
                if answer.status == _UNAUTHORIZED and self._tokens is not None and not is_renewed:
                    is_renewed = True
                    self._tokens.forget(self.name)
                    continue
                if answer.status in _REDIRECTS:
                    redirects += 1
                    target = same_origin(url, answer.headers.get("Location", ""))
                    if target is None or redirects > _REDIRECTS_MAX:
                        raise SourceError(
                            f"{told(url)} redirects to another host, or more than {_REDIRECTS_MAX} times",
                            hint="Give the address it ends at as `url`, if you trust it",
                        )
                    url = target
                    continue
                self._check_status(answer)
                return await read_bounded(answer, self._plan.response_bytes_max, self.name)

    def _check_status(self, answer: aiohttp.ClientResponse) -> None:
        status = answer.status
        if status == _OK:
            return
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERROR:
            raise _RetryError(f"status {status}", self._retry_after(answer.headers.get("Retry-After", "")))
        raise SourceError(
            f"{self.name} answered with status {status}",
            hint="Is the token right?" if status in {401, 403} else "Do `url` and `parameters` fit the API?",
        )

    def _retry_after(self, text: str) -> float | None:
        """Read Retry-After (RFC 9110, section 10.2.3), seconds or a date, bounded; None if there is none."""
        if text.isascii() and text.isdecimal():
            seconds = float(text[:10])
        else:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - self._clock.wall()
            except (ValueError, TypeError, OverflowError, OSError):
                return None
        return min(max(0.0, seconds), self._plan.retry_after_seconds_max)


class _Tokens:
    """The bearer token: from its variable at first, from the token endpoint when there is none or it was refused."""

    def __init__(self, api: ApiPlan, plan: TokenPlan, environment: Mapping[str, str]) -> None:
        self._api = api
        self._plan = plan
        self._environment = environment
        self._token = ""
        if plan.environment and (given := environment.get(plan.environment)):
            self._token = _checked(given)
        if not plan.url and not self._token:
            raise _no_variable(plan.environment)

    def forget(self, name: str) -> None:
        """Drop a token that was refused; SourceError if there is no way to a new one."""
        if not self._plan.url:
            raise SourceError(
                f"{name} refused the token (status 401)", hint=f"Is the token in {self._plan.environment} still valid?"
            )
        self._token = ""

    async def current(self, session: aiohttp.ClientSession) -> str:
        """Return the token, asking for one if there is none."""
        if not self._token:
            self._token = await self._ask(session)
        return self._token

    async def _ask(self, session: aiohttp.ClientSession) -> str:
        plan = self._plan
        form = {"grant_type": "client_credentials"}
        for field, variable in (
            ("client_id", plan.client_id_environment),
            ("client_secret", plan.client_secret_environment),
        ):
            if not (value := self._environment.get(variable)):
                raise _no_variable(variable)
            form[field] = value
        if plan.scope:
            form["scope"] = plan.scope
        name = told(plan.url)
        async with session.post(plan.url, data=form, allow_redirects=False) as answer:
            if answer.status == _TOO_MANY_REQUESTS or answer.status >= _SERVER_ERROR:
                raise _RetryError(f"status {answer.status} from the token endpoint")
            if answer.status != _OK:
                raise SourceError(
                    f"the token endpoint {name} answered with status {answer.status}",
                    hint=f"Are {plan.client_id_environment} and {plan.client_secret_environment} right?",
                )
            body = await read_bounded(answer, _TOKEN_BYTES_MAX, name)
        return _checked(_token_of(body), f"the answer of the token endpoint {name}")


def _token_of(body: bytes) -> Any:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:  # its message must not carry the body along
        return None
    return answer.get("access_token") if isinstance(answer, dict) else None


def _checked(token: Any, place: str = "the token's variable") -> str:
    """Return a token that may stand in a header; the message never shows it."""
    if not isinstance(token, str) or not 0 < len(token) <= _TOKEN_CHARACTERS_MAX or not token.isascii():
        raise SourceError(f"{place} holds no token of 1 to {_TOKEN_CHARACTERS_MAX:,} ASCII characters")
    if not token.isprintable() or " " in token:
        raise SourceError(f"{place} holds no token: it has spaces or control characters")
    return token


def _no_variable(name: str) -> ConfigurationError:
    return ConfigurationError(f"the variable {name[:100]} is not set", hint="The HTTP source names it for its token")


def _reason(error: BaseException, plan: ApiPlan) -> str:
    """Say what went wrong without the address, which may hold secrets in its query."""
    if isinstance(error, _RetryError):
        return str(error)
    if isinstance(error, TimeoutError):
        return f"no answer in {plan.call_timeout_seconds:g} s"
    return f"the connection failed ({type(error).__name__})"


async def read_bounded(answer: aiohttp.ClientResponse, bytes_max: int, name: str) -> bytes:
    """Read a body of at most `bytes_max` bytes; SourceError if it is longer or packed, which was not asked for."""
    if answer.headers.get("Content-Encoding", "identity").lower() not in {"", "identity"}:
        raise SourceError(f"{name} packed its answer although that was not asked for")
    body = bytearray()
    async for piece in answer.content.iter_chunked(CHUNK_BYTES):
        body += piece
        if len(body) > bytes_max:
            raise SourceError(
                f"{name} answered with more than {bytes_max:,} bytes",
                hint="Lower `page_items_max`, or raise `response_bytes_max`",
            )
    return bytes(body)


def place_of(bookmark: Bookmark, plan: ApiPlan) -> PagePlace:
    """Return the place in a bookmark, the beginning for a new one; ConfigurationError if it is not usable."""
    stored, _, _ = bookmark.state.partition(b"\n")
    place = PagePlace.decode(stored, plan) if stored else PagePlace()
    if place.index != bookmark.offset:
        raise ConfigurationError(
            f"the bookmark is at item {bookmark.offset:,}, its place in the API at {place.index:,}",
            hint="Delete the bookmark to read the API from its beginning",
        )
    return place


def parser_state_of(bookmark: Bookmark) -> bytes:
    """Return the parser's part of the state."""
    return bookmark.state.partition(b"\n")[2]
