"""Tells crawlers from people: by their user agent, and by what only a crawler does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

USER_AGENT_BYTES_MAX: Final = 512  # a longer one is cut before it is matched or kept
VERDICTS_MAX: Final = 4_096
FETCHERS_MAX: Final = 10_000
ROBOTS_PATH: Final = b"/robots.txt"
_NONE_GIVEN: Final = frozenset((b"", b"-"))


class BotDetector:
    """Judges user agents by a list of patterns, and clients by whether they have asked for /robots.txt.

    `is_crawler` says whether a user agent is on the list. Going through the list takes about 0.1 ms, so verdicts are
    kept for the last 4,096 user agents; being a pure function of the user agent they are not part of the state.
    """

    def __init__(self, is_crawler: Callable[[str], bool]) -> None:
        self._listed = is_crawler
        self.is_bot_agent: Callable[[bytes], bool] = lru_cache(maxsize=VERDICTS_MAX)(self._judge)
        self._fetchers: dict[bytes, None] = {}

    def _judge(self, user_agent: bytes) -> bool:
        # Browsers send a user agent, always; without one there is no session to speak of either.
        return user_agent in _NONE_GIVEN or self._listed(user_agent.decode("utf-8", "replace"))

    def note_fetch(self, client: bytes) -> None:
        """Remember that a client asked for /robots.txt; beyond 10,000 the one that asked longest ago is forgotten."""
        self._fetchers.pop(client, None)
        self._fetchers[client] = None
        if len(self._fetchers) > FETCHERS_MAX:
            del self._fetchers[next(iter(self._fetchers))]

    def has_fetched(self, client: bytes) -> bool:
        """Whether a client has asked for /robots.txt before."""
        return client in self._fetchers

    def fetchers(self) -> tuple[bytes, ...]:
        """Return the remembered clients, the one that asked longest ago first."""
        return tuple(self._fetchers)

    def restore(self, fetchers: Iterable[bytes]) -> None:
        """Remember these clients instead, in their order."""
        self._fetchers = {}
        for client in fetchers:
            self.note_fetch(client)
