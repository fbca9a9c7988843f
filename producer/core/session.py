"""Sessions of visitors: who belongs to which, and what each has looked at; without keeping who they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from shared.errors import ConfigurationError

INACTIVITY_SECONDS: Final = 1_800
SESSIONS_MAX_DEFAULT: Final = 50_000
HISTORY_ITEMS_MAX: Final = 50
QUANTITY_MAX: Final = 1_000
KEY_BYTES_MIN: Final = 16
KEY_BYTES_MAX: Final = 64  # of BLAKE2b (RFC 7693)
CLIENT_BYTES: Final = 16
CLIENTS_KEPT_MAX: Final = 4_096  # whose digests are kept in memory, and nowhere else, together with who they are
_SESSION_ID_BYTES: Final = 16
_EVICTIONS_MAX: Final = 2
_CLIENT: Final = b"client"
_SESSION: Final = b"session"
_VIEWED: Final = 0


@dataclass(slots=True)
class Session:
    """One visit; times are seconds since the epoch by the log's own clock.

    `quantities` maps product codes, first seen first, to how many are in the basket; 0 for only viewed.
    """

    session_id: str
    start: int
    first: int
    last: int
    quantities: dict[str, int] = field(default_factory=dict)

    def view(self, product_code: str) -> None:
        """Note that a product was viewed; a reload changes nothing."""
        if product_code not in self.quantities:
            self._take(product_code, _VIEWED)

    def add_to_basket(self, product_code: str) -> None:
        """Note that a product was put into the basket, once more if it was in there."""
        quantity = self.quantities.get(product_code)
        if quantity is None:
            self._take(product_code, 1)
        else:
            self.quantities[product_code] = min(quantity + 1, QUANTITY_MAX)

    def _take(self, product_code: str, quantity: int) -> None:
        self.quantities[product_code] = quantity
        if len(self.quantities) > HISTORY_ITEMS_MAX:
            del self.quantities[next(iter(self.quantities))]

    def browse_history(self) -> list[dict[str, Any]]:
        """Return the products so far, first seen first; of more than 50 the newest 50."""
        return [
            {"product_code": code, "quantity": quantity or 1, "in_shopping_cart": quantity > _VIEWED}
            for code, quantity in self.quantities.items()
        ]


class SessionTable:
    """The sessions of a log, at most `sessions_max`, with lines in any order of time.

    A client is an address and a user agent, stored only as a keyed digest (BLAKE2b, RFC 7693): 2^32 addresses can be
    tried one by one against a plain hash. A line belongs to its client's session if its time lies inside it or at
    most 30 minutes before its first or after its last line; otherwise it starts a new session, which takes the old
    one's place. So lines out of order join their session, and a log whose days are in the wrong order still falls
    into sessions. The id names the client and the time of the line that started the session.

    The session used longest ago is dropped when the table is full, and before that when it ended over an hour before
    the line in hand; at most two a line, so that one line with a wild time does not end all sessions.
    """

    def __init__(self, key: bytes, sessions_max: int = SESSIONS_MAX_DEFAULT) -> None:
        if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
            raise ConfigurationError(
                f"the session key has {len(key):,} bytes", hint=f"It has {KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes"
            )
        assert sessions_max > 0, "a session table holds at least one session"
        self._key = key
        self.client_of: Callable[[bytes, bytes], bytes] = lru_cache(maxsize=CLIENTS_KEPT_MAX)(self._digest)
        self._sessions_max = sessions_max
        self._sessions: dict[bytes, Session] = {}
        self.started_count = 0

    def _digest(self, address: bytes, user_agent: bytes) -> bytes:
        """Return the digest that stands for a client, 16 bytes."""
        # The length in front keeps two different pairs from running into the same bytes.
        text = b"%d %b%b" % (len(address), address, user_agent)
        return blake2b(text, digest_size=CLIENT_BYTES, key=self._key, person=_CLIENT).digest()

    def visit(self, client: bytes, time: int) -> Session:
        """Return the session that a client's line at `time` (seconds since the epoch) belongs to."""
        session = self._sessions.pop(client, None)
        if session is None or not session.first - INACTIVITY_SECONDS <= time <= session.last + INACTIVITY_SECONDS:
            session = self._start(client, time, time, time)
            self.started_count += 1
        else:
            session.first = min(session.first, time)
            session.last = max(session.last, time)
        self._sessions[client] = session
        self._evict(time)
        return session

    def _start(self, client: bytes, start: int, first: int, last: int) -> Session:
        text = b"%b%d" % (client, start)
        digest = blake2b(text, digest_size=_SESSION_ID_BYTES, key=self._key, person=_SESSION)
        return Session(digest.hexdigest(), start, first, last)

    def _evict(self, time: int) -> None:
        for _ in range(_EVICTIONS_MAX):
            oldest = next(iter(self._sessions))
            is_over = self._sessions[oldest].last + 2 * INACTIVITY_SECONDS < time
            if not is_over and len(self._sessions) <= self._sessions_max:
                return
            del self._sessions[oldest]

    def __len__(self) -> int:
        return len(self._sessions)

    def rows(self) -> list[list[Any]]:
        """Return the table as JSON values, the session used longest ago first."""
        return [
            [client.hex(), session.start, session.first, session.last, session.quantities]
            for client, session in self._sessions.items()
        ]

    def restore(self, rows: Iterable[Any]) -> None:
        """Take up rows that `rows` returned; of more than `sessions_max` the last. Raises ValueError or TypeError."""
        sessions: dict[bytes, Session] = {}
        for client_hex, start, first, last, quantities in rows:
            client = bytes.fromhex(client_hex)
            if len(client) != CLIENT_BYTES or {type(start), type(first), type(last)} != {int} or first > last:
                raise ValueError("not a row of a session table")
            session = self._start(client, start, first, last)
            session.quantities = _check_quantities(quantities)
            sessions[client] = session
            if len(sessions) > self._sessions_max:
                del sessions[next(iter(sessions))]
        self._sessions = sessions


def _check_quantities(quantities: object) -> dict[str, int]:
    if not isinstance(quantities, dict) or len(quantities) > HISTORY_ITEMS_MAX:
        raise TypeError("not the quantities of a session")
    for quantity in quantities.values():
        if type(quantity) is not int or not 0 <= quantity <= QUANTITY_MAX:
            raise ValueError("not a quantity")
    return quantities
