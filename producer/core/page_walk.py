"""Walks the pages of an HTTP API: which address comes next, what items a page holds, and where a restart goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from shared.errors import ConfigurationError, SourceError
from shared.limits import KIB, MIB

URL_CHARACTERS_MAX: Final = 8 * KIB
NAME_CHARACTERS_MAX: Final = 200
PARAMETERS_MAX: Final = 50
PATH_PARTS_MAX: Final = 16
INDEX_MAX: Final = 2**53
_PORTS: Final = {"http": 80, "https": 443}
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class PageStyle(Enum):
    """How an API tells its pages apart."""

    PAGE = "page"  # ?page=3
    OFFSET = "offset"  # ?offset=200&limit=100
    NEXT_LINK = "next_link"  # each answer names the next address


@dataclass(frozen=True, slots=True)
class TokenPlan:
    """Where the bearer token comes from: a variable, or the client credentials grant (RFC 6749, section 4.4)."""

    environment: str = ""  # the variable that holds a token
    url: str = ""  # where a token is asked for, if there is none or it is refused
    client_id_environment: str = ""
    client_secret_environment: str = ""
    scope: str = ""

    def __post_init__(self) -> None:
        """Check that there is a way to a token."""
        for field in fields(self):
            _check_text(f"token.{field.name}", getattr(self, field.name), URL_CHARACTERS_MAX)
        if self.url:
            parts = check_url("token.url", self.url)
            if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
                raise _unusable("token.url", "credentials go over https only")
            if not (self.client_id_environment and self.client_secret_environment):
                raise _unusable("token.url", "client_id_environment and client_secret_environment are needed with it")
        elif not self.environment:
            raise _unusable("token", "`environment` or `url` is needed")


@dataclass(frozen=True, slots=True)
class ApiPlan:
    """The description of a paginated API.

    `items` and `next` are keys joined by dots, from the answer down to the list of items and to the next link; empty:
    the answer itself is the list. The API must list its items in a lasting order, oldest first: an item's place is its
    identity.
    """

    url: str
    style: PageStyle = PageStyle.PAGE
    items: str = ""
    next: str = ""
    page_parameter: str = "page"
    page_first: int = 1
    offset_parameter: str = "offset"
    size_parameter: str = "limit"
    page_items_max: int = 100
    response_bytes_max: int = 8 * MIB
    pages_max: int = 1_000_000
    call_timeout_seconds: float = 30
    attempts_max: int = 8
    retry_after_seconds_max: float = 120
    parameters: tuple[tuple[str, str], ...] = ()
    token: TokenPlan | None = None

    def __post_init__(self) -> None:
        """Check every field; raises ConfigurationError naming the first that is not usable."""
        parts = check_url("url", self.url)
        if self.token is not None and parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise _unusable("url", "a token goes over https only")
        for name in ("items", "next"):
            _check_text(name, getattr(self, name), NAME_CHARACTERS_MAX)
            if getattr(self, name).count(".") >= PATH_PARTS_MAX:
                raise _unusable(name, f"more than {PATH_PARTS_MAX} keys")
        for name in ("page_parameter", "offset_parameter", "size_parameter"):
            _check_text(name, getattr(self, name), NAME_CHARACTERS_MAX)
        if self.style is PageStyle.NEXT_LINK and not self.next:
            raise _unusable("next", 'needed with style = "next_link"')
        if self.style is PageStyle.PAGE and not self.page_parameter:
            raise _unusable("page_parameter", 'needed with style = "page"')
        if self.style is PageStyle.OFFSET and not self.offset_parameter:
            raise _unusable("offset_parameter", 'needed with style = "offset"')
        for name, low, high in _INTEGERS:
            _check_number(name, getattr(self, name), low, high, int)
        for name, least, most in _SECONDS:
            _check_number(name, getattr(self, name), least, most, (int, float))

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any]) -> ApiPlan:
        """Return the plan that a TOML table describes; ConfigurationError for an unknown field or a wrong value."""
        given = dict(mapping)
        _check_fields(given, ApiPlan, "")
        if "url" not in given:
            raise _unusable("url", "missing")
        if "style" in given:
            styles = {each.value: each for each in PageStyle}
            if not isinstance(given["style"], str) or given["style"] not in styles:
                raise _unusable("style", f"not one of {', '.join(styles)}")
            given["style"] = styles[given["style"]]
        given["parameters"] = _parameters(given.get("parameters", {}))
        token = given.get("token")
        if token is not None:
            if not isinstance(token, dict):
                raise _unusable("token", "not a table")
            _check_fields(token, TokenPlan, "token.")
            given["token"] = TokenPlan(**token)
        return ApiPlan(**given)

    @property
    def bookmark_name(self) -> str:
        """What the bookmark is found by: everything that decides which items there are."""
        return f"{self.url} {self.items} {urlencode(self.parameters)}"

    @property
    def told_url(self) -> str:
        """The address as messages and dead letters may show it: without its query."""
        return told(self.url)


_INTEGERS: Final = (
    ("page_first", 0, 1_000_000),
    ("page_items_max", 1, 10_000),
    ("response_bytes_max", 1 * KIB, 64 * MIB),
    ("pages_max", 1, 1_000_000_000),
    ("attempts_max", 1, 100),
)

_SECONDS: Final = (("call_timeout_seconds", 0.1, 600.0), ("retry_after_seconds_max", 0.0, 3600.0))


def _check_fields(given: Mapping[str, Any], kind: type[ApiPlan | TokenPlan], prefix: str) -> None:
    names = [field.name for field in fields(kind)]
    for name in given:
        if name not in names:
            raise _unusable(f"{prefix}{str(name)[:40]}", f"unknown; the fields are {', '.join(names)}")


def _parameters(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or len(value) > PARAMETERS_MAX:
        raise _unusable("parameters", f"not a table of at most {PARAMETERS_MAX} texts")
    for name, text in value.items():
        _check_text("parameters", name, NAME_CHARACTERS_MAX)
        _check_text("parameters", text, NAME_CHARACTERS_MAX)
    return tuple(value.items())


def _check_text(field: str, value: object, characters_max: int) -> None:
    if not isinstance(value, str) or len(value) > characters_max or not value.isprintable():
        raise _unusable(field, f"not a text of at most {characters_max:,} printable characters")


def _check_number(
    field: str, value: object, low: float, high: float, kind: type[int] | tuple[type[int], type[float]]
) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        raise _unusable(field, f"not a number from {low:,} to {high:,}")


def check_url(field: str, url: object) -> SplitResult:
    """Return the parts of an http or https address without user and fragment; ConfigurationError otherwise."""
    _check_text(field, url, URL_CHARACTERS_MAX)
    parts = _split(str(url))
    if parts is None or " " in str(url):
        raise _unusable(field, "not an http:// or https:// address without user, password and fragment")
    return parts


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        port = parts.port  # reading it checks it
    except ValueError:
        return None
    usable = parts.scheme in _PORTS and parts.hostname and "@" not in parts.netloc and not parts.fragment
    return parts if usable and port != 0 else None


def _unusable(field: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"HTTP source: `{field}` is not usable: {why}",
        hint='E.g. url = "https://api.example.com/visits", style = "page", items = "data"',
    )


def origin_of(parts: SplitResult) -> tuple[str, str, int]:
    """Return scheme, host and port: what a request may not leave."""
    return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]


def same_origin(url: str, link: str) -> str | None:
    """Resolve a link found at `url`; None if it leaves scheme, host or port, or is no usable address."""
    if len(link) > URL_CHARACTERS_MAX or not link.isprintable():
        return None
    own = _split(url)
    try:
        target = urljoin(url, link)
    except ValueError:
        return None
    parts = _split(target)
    if own is None or parts is None or origin_of(parts) != origin_of(own):
        return None
    return target


def told(url: str) -> str:
    """Return an address without its query, which may hold a secret."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


@dataclass(frozen=True, slots=True)
class PagePlace:
    """A page and how far it is done: its first `skip` items are; `index` counts all items before what is left of it.

    Everything at and after it is read again by a restart, so that a last page that has grown since is no loss.
    """

    page: int = 0  # 0 is the first, whatever number the API gives it
    index: int = 0
    skip: int = 0
    link: str = ""  # address of the page where links lead on; empty: the first

    def encode(self) -> bytes:
        """Return the stored form, one line of JSON."""
        return json.dumps([self.page, self.index, self.skip, self.link]).encode()

    @staticmethod
    def decode(data: bytes, plan: ApiPlan) -> PagePlace:
        """Read the stored form; ConfigurationError if it is no place of this plan."""
        try:
            page, index, skip, link = json.loads(data)
        except (ValueError, TypeError, RecursionError):
            raise _bad_place() from None
        if any(type(each) is not int or not 0 <= each <= INDEX_MAX for each in (page, index, skip)):
            raise _bad_place()
        if not isinstance(link, str) or (link and same_origin(plan.url, link) != link):
            raise _bad_place()
        return PagePlace(page, index, skip, link)


def _bad_place() -> ConfigurationError:
    return ConfigurationError(
        "the saved place in the API is not usable: damaged, or of another API",
        hint="Delete the bookmark to read the API from its beginning; the events will count as new ones",
    )


@dataclass(frozen=True, slots=True)
class Page:
    """What one answer holds: all items, those not yet done, the place after them, and the next page (None: the end)."""

    whole: tuple[bytes, ...]
    items: tuple[bytes, ...]
    done: PagePlace
    next: PagePlace | None


class PageWalk:
    """The rules of one API. Sizes are bounded by the caller, who reads at most `response_bytes_max`."""

    def __init__(self, plan: ApiPlan) -> None:
        self._plan = plan

    def address(self, place: PagePlace) -> str:
        """Return the address of a page."""
        plan = self._plan
        if place.link:
            return place.link
        parts = urlsplit(plan.url)
        query = [*parse_qsl(parts.query, keep_blank_values=True), *plan.parameters]
        if plan.style is PageStyle.PAGE:
            query.append((plan.page_parameter, str(plan.page_first + place.page)))
        elif plan.style is PageStyle.OFFSET:
            query.append((plan.offset_parameter, str(place.index)))
        if plan.size_parameter:
            query.append((plan.size_parameter, str(plan.page_items_max)))
        return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", urlencode(query), ""))

    def read(self, place: PagePlace, body: bytes) -> Page:
        """Read the answer for a page; SourceError if it is not what the plan says."""
        plan = self._plan
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):  # the message of the cause would show the body
            raise self._wrong(place, "is not JSON, or too deep") from None
        items = _at(answer, plan.items)
        if not isinstance(items, list):
            raise self._wrong(place, f"has no list at `{plan.items or 'its top'}`")
        if plan.style is PageStyle.OFFSET:
            place = replace(place, skip=0)  # the offset has left out what is done
        whole = tuple(_encode(each) for each in items)
        left = whole[place.skip :]
        done = replace(place, index=place.index + len(left), skip=max(place.skip, len(whole)))
        return Page(whole, left, done, self._next(done, answer, has_items=bool(whole)))

    def _next(self, done: PagePlace, answer: object, *, has_items: bool) -> PagePlace | None:
        """Return the next page; numbered pages end at an empty one only, since an API may make pages smaller."""
        if self._plan.style is not PageStyle.NEXT_LINK:
            return PagePlace(done.page + 1, done.index) if has_items else None
        link = _at(answer, self._plan.next)
        if link is None or link == "":
            return None
        here = self.address(done)
        target = same_origin(here, link) if isinstance(link, str) else None
        if target is None:
            raise self._wrong(done, f"has a link at `{self._plan.next}` that leads to another host or nowhere")
        if target == here:
            raise self._wrong(done, f"has a link at `{self._plan.next}` that leads to itself")
        return PagePlace(done.page + 1, done.index, 0, target)

    def _wrong(self, place: PagePlace, what: str) -> SourceError:
        return SourceError(
            f"page {place.page + 1:,} of {self._plan.told_url} {what}",
            hint="Do `style`, `items` and `next` of the HTTP source fit the API?",
        )


def _at(answer: object, path: str) -> object:
    found = answer
    for key in path.split(".") if path else ():
        if not isinstance(found, dict) or key not in found:
            return None
        found = found[key]
    return found


def _encode(item: object) -> bytes:
    """Return an item as one line; what JSON proper does not know stays recognisable and is rejected as an event."""
    try:
        return json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(item, separators=(",", ":")).encode()
