"""Access-log lines become session events; bots, assets, errors and internal pages are left out and counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from producer.core.access_log import AccessLogReader, LoggedTarget, iso_time
from producer.core.bot import ROBOTS_PATH, USER_AGENT_BYTES_MAX, BotDetector
from producer.core.country import CountryTable
from producer.core.line import (
    FILTERED_BLANK,
    MALFORMED_LINE,
    EventColumns,
    FilteredLine,
    LineResult,
    ParsedEvent,
    RejectedLine,
    unusable_state,
)
from producer.core.session import SESSIONS_MAX_DEFAULT, SessionTable
from producer.core.site import Action, PathClassifier, Site

FILTERED_ASSET: Final = FilteredLine("asset")
FILTERED_BOT: Final = FilteredLine("bot")
FILTERED_INTERNAL: Final = FilteredLine("internal")
FILTERED_METHOD: Final = FilteredLine("method")
FILTERED_STATUS: Final = FilteredLine("status")
REJECTED_LINE: Final = RejectedLine(MALFORMED_LINE, "not a line in Combined Log Format")

_METHODS: Final = frozenset((b"GET", b"POST"))
_OK: Final = range(200, 300)
_REDIRECTED: Final = range(300, 400)
_NOT_MODIFIED: Final = 304
# An action answers with a redirect by custom; a page that redirects was not seen, and its target has its own line.
_REDIRECTING: Final = frozenset((Action.BASKET_ADD, Action.CHECKOUT, Action.ORDER))
_STATE_VERSION: Final = 1
_new_tuple: Final[Any] = tuple.__new__  # half the time of a NamedTuple's own constructor


class VisitLineParser:
    """Reads the log of one web server with one site profile.

    The order of the questions decides what a line is counted as: malformed, `method` (neither GET nor POST, or no
    HTTP at all), `bot` (by user agent, or a client's /robots.txt), `asset`, `internal`, `status`, and last `bot` by
    behaviour: a client that has asked for /robots.txt before. Events tell neither address nor user agent nor query.

    `key` (16 to 64 bytes) keys the session ids; with another key the same visitors get other ids. `is_crawler` judges
    a user agent; `countries` may be None, then events have no country.
    """

    def __init__(
        self,
        site: Site,
        key: bytes,
        is_crawler: Callable[[str], bool],
        countries: CountryTable | None = None,
        sessions_max: int = SESSIONS_MAX_DEFAULT,
    ) -> None:
        self._reader = AccessLogReader()
        self._paths = PathClassifier(site)
        self._bots = BotDetector(is_crawler)
        self._countries = countries
        self._sessions = SessionTable(key, sessions_max)

    @property
    def sessions_started(self) -> int:
        """How many sessions this parser has started since it was made."""
        return self._sessions.started_count

    def parse(self, line: bytes) -> LineResult:
        """Judge one line."""
        logged = self._reader.read_target(line)
        if logged is None:
            return REJECTED_LINE if line.strip() else FILTERED_BLANK
        return self._filter(logged) or self._parse_page(logged)

    def _filter(self, logged: LoggedTarget) -> FilteredLine | None:
        _, _, _, user_agent, method, path = logged
        if path == ROBOTS_PATH:
            self._bots.note_fetch(self._client_of(logged))
            return FILTERED_BOT
        if method not in _METHODS:
            return FILTERED_METHOD
        if self._bots.is_bot_agent(user_agent[:USER_AGENT_BYTES_MAX]):
            return FILTERED_BOT
        if self._paths.is_asset(path):
            return FILTERED_ASSET
        if self._paths.is_internal(path):
            return FILTERED_INTERNAL
        return None

    def _parse_page(self, logged: LoggedTarget) -> LineResult:
        path = logged.path
        action, product_code = self._paths.action_of(path)
        if not _is_success(logged.status, action):
            return FILTERED_STATUS
        client = self._client_of(logged)
        if self._bots.has_fetched(client):
            return FILTERED_BOT
        session = self._sessions.visit(client, logged.time)
        event: dict[str, Any] = {
            "session_id": session.session_id,
            "timestamp": iso_time(logged.time),
            "action": action.value,
        }
        if action is Action.PAGE_VIEW and self._paths.has_paths():
            event["path"] = self._paths.told_path(path)
        if product_code:
            event["product_code"] = product_code
            if action is Action.BASKET_ADD:
                session.add_to_basket(product_code)
            else:
                session.view(product_code)
        country = self._countries.country_of(logged.address) if self._countries is not None else None
        if country is not None:
            event["country"] = country
        event["browse_history"] = session.browse_history()
        parsed: ParsedEvent = _new_tuple(ParsedEvent, (orjson.dumps(event), session.session_id, False))
        return parsed

    def _client_of(self, logged: LoggedTarget) -> bytes:
        return self._sessions.client_of(logged.address, logged.user_agent[:USER_AGENT_BYTES_MAX])

    def parse_events(self, lines: Sequence[bytes]) -> EventColumns | None:  # noqa: ARG002 - as the protocol has it
        """Return None: lines are judged one by one."""
        return None

    def skip(self, quotes: int) -> RejectedLine | None:  # noqa: ARG002 - as the protocol has it
        """Return None: a line is whole by itself."""
        return None

    def finish(self) -> RejectedLine | None:
        """Return None: a line is whole by itself."""
        return None

    def snapshot(self) -> bytes:
        """Return sessions and known bots as JSON; clients appear as keyed digests only."""
        return orjson.dumps(
            {
                "version": _STATE_VERSION,
                "sessions": self._sessions.rows(),
                "fetchers": [client.hex() for client in self._bots.fetchers()],
            }
        )

    def restore(self, state: bytes) -> None:
        """Take up sessions and known bots again."""
        try:
            saved = orjson.loads(state)
            if saved["version"] != _STATE_VERSION:
                raise unusable_state()
            fetchers = [bytes.fromhex(client) for client in saved["fetchers"]]
            self._sessions.restore(saved["sessions"])
        except (ValueError, TypeError, KeyError, AttributeError):
            raise unusable_state() from None
        self._bots.restore(fetchers)


def _is_success(status: int, action: Action) -> bool:
    return status in _OK or status == _NOT_MODIFIED or (status in _REDIRECTED and action in _REDIRECTING)
