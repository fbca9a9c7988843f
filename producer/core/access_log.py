"""Reads a line of an access log: Combined Log Format of Apache and nginx, with or without further fields at the end."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

from shared.compiled import COLUMNS

ADDRESS_BYTES_MAX: Final = 255  # a host name; addresses are shorter
_TIME_BYTES: Final = len("26/Jan/2019:19:45:25 +0330")
_DAYS_KEPT_MAX: Final = 1_024
_DAY_SECONDS: Final = 24 * 60 * 60
_STATUSES: Final = {b" %d " % status: status for status in range(100, 1_000)}
_ZONE_MINUTES_MAX: Final = 24 * 60
_LAST_SECOND: Final = 60  # 60 is a leap second
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
TIME_MAX: Final = int((datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH).total_seconds())
_MONTHS: Final = {
    name: number + 1
    for number, name in enumerate(
        (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
    )
}
_DATE: Final = re.compile(rb"([0-9]{2})/([A-Z][a-z]{2})/([0-9]{4})")
_ZONE: Final = re.compile(rb" ([+-])([0-9]{2})([0-9]{2})")
# What a time of day is made of: looked up, not parsed.
_MINUTES: Final = {b":%02d:%02d:" % divmod(minute, 60): minute * 60 for minute in range(24 * 60)}
_SECONDS: Final = {b"%02d" % second: second for second in range(_LAST_SECOND + 1)}
_ISO_MINUTES: Final = [f"T{hour:02}:{minute:02}:" for hour in range(24) for minute in range(60)]
_ISO_SECONDS: Final = [f"{second:02}Z" for second in range(60)]
_new_tuple: Final[Any] = tuple.__new__  # half the time of a NamedTuple's own constructor
# Apache writes a quote inside a field as \" and a backslash as \\; nginx writes both in hex, so it needs none of this.
_FIELD: Final = rb'"([^"\\]*(?:\\.[^"\\]*)*+)"'
_GAP: Final = rb'([^"]*)'
_ESCAPED: Final = re.compile(_GAP + _FIELD + _GAP + _FIELD + _GAP + _FIELD + rb"(.*)", re.DOTALL)


class LoggedRequest(NamedTuple):
    """One request as the server logged it; byte fields are as in the log, escapes included."""

    address: bytes  # client address or host name
    time: int  # seconds since the epoch
    request: bytes  # `GET /path?query HTTP/1.1`, or whatever the client sent instead
    status: int
    user_agent: bytes


class LoggedTarget(NamedTuple):
    """One request as the server logged it, with what it asked for."""

    address: bytes
    time: int
    status: int
    user_agent: bytes
    method: bytes  # empty if it was no HTTP request, as the path is
    path: bytes  # without query


class AccessLogReader:
    """Splits lines.

    The way by quotes costs about a fifth of a regular expression that knows escapes, so that one is kept for lines
    that have an escaped quote.
    """

    def read(self, line: bytes) -> LoggedRequest | None:
        """Return the request of one line (without newline); None if it is not in Combined Log Format."""
        if b'\\"' in line:
            match = _ESCAPED.fullmatch(line)
            if match is None:
                return None
            parts: list[bytes] = list(match.groups())
        else:
            parts = line.split(b'"', 6)
            if len(parts) != 7:  # noqa: PLR2004 - what three quoted fields leave
                return None
        head, request, numbers, _, between, user_agent, rest = parts
        # What follows the user agent is the server's own; its quotes must come in pairs or a field was cut.
        if between != b" " or (rest and (rest[0] not in b" \t\r" or rest.count(b'"') & 1)):
            return None
        status = _status_of(numbers)
        time = _time_of(head)
        address = head[: head.find(b" ")]
        if status is None or time is None or not 0 < len(address) <= ADDRESS_BYTES_MAX:
            return None
        request_logged: LoggedRequest = _new_tuple(LoggedRequest, (address, time, request, status, user_agent))
        return request_logged

    def read_target(self, line: bytes) -> LoggedTarget | None:
        """Return what `read` and `split_target` tell of a line, in a quarter of the time."""
        parts = None if COLUMNS is None else COLUMNS.read_log_line(line)
        if parts is None:
            logged = self.read(line)
            if logged is None:
                return None
            return LoggedTarget(
                logged.address, logged.time, logged.status, logged.user_agent, *split_target(logged.request)
            )
        address, date, zone, second, status, user_agent, method, path = parts
        day = _day_of(date, zone)
        if day is None or not 0 <= day + second <= TIME_MAX:
            return None
        target: LoggedTarget = _new_tuple(LoggedTarget, (address, day + second, status, user_agent, method, path))
        return target


def _time_of(head: bytes) -> int | None:
    """Read the time at the end of `ADDRESS IDENT USER [TIME] `."""
    return (
        parse_time(head[-2 - _TIME_BYTES : -2])
        if head[-_TIME_BYTES - 4 : -_TIME_BYTES - 2] == b" [" and head[-2:] == b"] "
        else None
    )


def _status_of(numbers: bytes) -> int | None:
    """Read ` STATUS BYTES `."""
    status = _STATUSES.get(numbers[:5])
    size = numbers[5:-1]
    return status if numbers[-1:] == b" " and (size.isdigit() or size == b"-") else None


def parse_time(text: bytes) -> int | None:
    """Return the seconds since the epoch of `26/Jan/2019:19:45:25 +0330`; None if it is no such time."""
    if len(text) != _TIME_BYTES:
        return None
    minute, second = _MINUTES.get(text[11:18]), _SECONDS.get(text[18:20])
    day = _day_of(text[:11], text[20:])
    if day is None or minute is None or second is None:
        return None
    time = day + minute + second
    return time if 0 <= time <= TIME_MAX else None


@lru_cache(maxsize=_DAYS_KEPT_MAX)
def _day_of(date: bytes, zone: bytes) -> int | None:
    """Return the seconds since the epoch at which a day begins in a zone: `26/Jan/2019`, ` +0330`."""
    match, zone_match = _DATE.fullmatch(date), _ZONE.fullmatch(zone)
    if match is None or zone_match is None:
        return None
    day, month, year = match.groups()
    sign, hours, minutes = zone_match.groups()
    offset = int(hours) * 60 + int(minutes)
    if offset >= _ZONE_MINUTES_MAX:
        return None
    try:
        start = datetime(int(year), _MONTHS[month], int(day), tzinfo=UTC)
    except (KeyError, ValueError):
        return None
    return int((start - _EPOCH).total_seconds()) - (-offset if sign == b"-" else offset) * 60


def iso_time(time: int) -> str:
    """Return seconds since the epoch as ISO 8601 in UTC, `2019-01-26T16:15:25Z`."""
    day, second = divmod(time, _DAY_SECONDS)
    return _iso_day(day) + _ISO_MINUTES[second // 60] + _ISO_SECONDS[second % 60]


@lru_cache(maxsize=_DAYS_KEPT_MAX)
def _iso_day(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).date().isoformat()


def split_target(request: bytes) -> tuple[bytes, bytes]:
    """Split a logged request into its method and its path without query; both empty if it is no HTTP request.

    Clients send spaces in paths and absolute targets (`http://host/path`); both are understood.
    """
    method, _, target = request.partition(b" ")
    head, protocol, _ = target.rpartition(b" HTTP/")
    path = head if protocol else target
    if b"?" in path or b"#" in path:
        path = path.partition(b"?")[0].partition(b"#")[0]
    if not path.startswith(b"/"):
        _, scheme, rest = path.partition(b"://")
        host, slash, tail = rest.partition(b"/")
        if not scheme or not host:
            return b"", b""
        path = slash + tail or b"/"
    return method, path
