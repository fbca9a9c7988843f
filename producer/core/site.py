"""Which paths of a web site are what: assets, internal pages, products, the basket, orders; configuration, not code."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from functools import lru_cache
from typing import Any, Final

from producer.core.access_log import AccessLogReader, split_target
from shared.errors import ConfigurationError

PATTERN_CHARACTERS_MAX: Final = 500
PATHS_MAX: Final = 200
NAME_CHARACTERS_MAX: Final = 100
PATH_BYTES_MAX: Final = 1_024  # only this much of a path is looked at
PRODUCT_CHARACTERS_MAX: Final = 64
PATH_SEGMENTS_MAX: Final = 5
CHOICE_LINES_MAX: Final = 5_000
ACTIONS_KEPT_MAX: Final = 4_096  # of the paths asked for last

_GROUP: Final = "product"
_PLAIN_SEGMENT: Final = re.compile(r"[A-Za-z][A-Za-z_.-]{0,39}")


class Action(Enum):
    """What a visitor did."""

    PAGE_VIEW = "page_view"
    PRODUCT_VIEW = "product_view"
    BASKET_ADD = "basket_add"
    BASKET_VIEW = "basket_view"
    CHECKOUT = "checkout"
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Site:
    """The profile of one web site. Paths are matched without their query.

    `asset_paths` and `internal_paths` are literal beginnings that end at a `/` or at the end of the path;
    `asset_suffixes` are file name endings without the dot, in lower case. The five patterns are regular expressions
    matched at the beginning of the path; `product_view` and `basket_add` have a group named `product`. They come from
    the operator, so they are trusted to be sane; their length and what they are matched against is bounded.
    `path_segments` is how many leading segments of a path a page_view may tell (0: none).
    """

    name: str
    asset_paths: tuple[str, ...]
    asset_suffixes: tuple[str, ...]
    internal_paths: tuple[str, ...]
    product_view: str
    basket_add: str
    basket_view: str
    checkout: str
    order: str
    path_segments: int = 2

    def __post_init__(self) -> None:
        """Check every field; raises ConfigurationError naming the first that is not usable."""
        _check_name(self.name)
        for field in ("asset_paths", "internal_paths"):
            _check_texts(field, getattr(self, field), must_start_with="/")
        _check_texts("asset_suffixes", self.asset_suffixes)
        for field in ("product_view", "basket_add"):
            _check_pattern(field, getattr(self, field), with_product=True)
        for field in ("basket_view", "checkout", "order"):
            _check_pattern(field, getattr(self, field), with_product=False)
        if type(self.path_segments) is not int or not 0 <= self.path_segments <= PATH_SEGMENTS_MAX:
            raise _unusable("path_segments", f"not a number from 0 to {PATH_SEGMENTS_MAX}")

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any]) -> Site:
        """Return a profile from configuration, e.g. a TOML table; a field left out is taken from DEFAULT.

        Raises ConfigurationError for an unknown field or a value that is not usable.
        """
        names = [field.name for field in fields(Site)]
        for field in mapping:
            if field not in names:
                raise _unusable(str(field)[:NAME_CHARACTERS_MAX], f"unknown; the fields are {', '.join(names)}")
        given = {field: tuple(value) if isinstance(value, list) else value for field, value in mapping.items()}
        return Site(**{name: given.get(name, getattr(DEFAULT, name)) for name in names})


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= NAME_CHARACTERS_MAX:
        raise _unusable("name", f"not a text of 1 to {NAME_CHARACTERS_MAX} characters")


def _check_texts(field: str, texts: object, must_start_with: str = "") -> None:
    if not isinstance(texts, tuple) or len(texts) > PATHS_MAX:
        raise _unusable(field, f"not a list of at most {PATHS_MAX} texts")
    for text in texts:
        if not isinstance(text, str) or not 0 < len(text) <= NAME_CHARACTERS_MAX:
            raise _unusable(field, f"an entry is not a text of 1 to {NAME_CHARACTERS_MAX} characters")
        if not text.startswith(must_start_with):
            raise _unusable(field, f"an entry does not start with {must_start_with}")


def _check_pattern(field: str, pattern: object, *, with_product: bool) -> None:
    if not isinstance(pattern, str) or not 0 < len(pattern) <= PATTERN_CHARACTERS_MAX:
        raise _unusable(field, f"not a regular expression of 1 to {PATTERN_CHARACTERS_MAX} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # e.g. `[[`: what it means is about to change
            compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError, FutureWarning) as error:
        raise _unusable(field, f"not a regular expression: {error}") from error
    if with_product and _GROUP not in compiled.groupindex:
        raise _unusable(field, f"it has no group named `{_GROUP}`, written (?P<{_GROUP}>...)")


def _unusable(field: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"site profile: `{field}` is not usable: {why}", hint="A field that is left out keeps its default"
    )


class PathClassifier:
    """A site profile made ready for matching."""

    def __init__(self, site: Site) -> None:
        self._assets = _literal_beginnings(site.asset_paths)
        self._suffixes = frozenset(suffix.lower().encode() for suffix in site.asset_suffixes)
        self._internal = _literal_beginnings(site.internal_paths)
        self._product_view = re.compile(site.product_view)
        self._basket_add = re.compile(site.basket_add)
        self._others = (
            (Action.BASKET_VIEW, re.compile(site.basket_view)),
            (Action.CHECKOUT, re.compile(site.checkout)),
            (Action.ORDER, re.compile(site.order)),
        )
        self._path_segments = site.path_segments
        self._action_of_head = lru_cache(maxsize=ACTIONS_KEPT_MAX)(self._judge)

    def is_asset(self, path: bytes) -> bool:
        """Whether a path is fetched by pages rather than asked for by people."""
        if self._assets.match(path) is not None:
            return True
        _, dot, suffix = path.rpartition(b".")
        return bool(dot) and suffix.lower() in self._suffixes

    def is_internal(self, path: bytes) -> bool:
        """Whether a path belongs to the people who run the site."""
        return self._internal.match(path) is not None

    def action_of(self, path: bytes) -> tuple[Action, str]:
        """Return what a request for a path means, and the product code it names or an empty string."""
        return self._action_of_head(path[:PATH_BYTES_MAX])

    def _judge(self, head: bytes) -> tuple[Action, str]:
        text = head.decode("utf-8", "replace")
        for action, pattern in ((Action.PRODUCT_VIEW, self._product_view), (Action.BASKET_ADD, self._basket_add)):
            match = pattern.match(text)
            if match is not None:
                product = match[_GROUP] or ""
                if 0 < len(product) <= PRODUCT_CHARACTERS_MAX:
                    return action, product
        for action, pattern in self._others:
            if pattern.match(text) is not None:
                return action, ""
        return Action.PAGE_VIEW, ""

    def told_path(self, path: bytes) -> str:
        """Return the part of a path that an event may tell: its first segments, as far as they are plain words.

        Paths hold search phrases, order numbers and names; a segment that is not made of ASCII letters, `.`, `_` and
        `-` becomes `*` and ends the path, and so does what lies beyond the profile's number of segments.
        """
        told: list[str] = []
        for segment in path[1:PATH_BYTES_MAX].decode("utf-8", "replace").split("/"):
            if not segment:
                continue
            if len(told) == self._path_segments or _PLAIN_SEGMENT.fullmatch(segment) is None:
                told.append("*")
                break
            told.append(segment)
        return "/" + "/".join(told)

    def has_paths(self) -> bool:
        """Whether page views tell their path at all."""
        return self._path_segments > 0


def _literal_beginnings(paths: tuple[str, ...]) -> re.Pattern[bytes]:
    if not paths:
        return re.compile(rb"(?!)")
    return re.compile(rb"(?:%b)(?:/|$)" % b"|".join(re.escape(path.rstrip("/").encode()) for path in paths))


_SUFFIXES: Final = (
    *("css", "js", "mjs", "map", "json", "xml", "txt", "webmanifest"),
    *("png", "jpg", "jpeg", "gif", "webp", "avif", "svg", "ico", "bmp"),
    *("woff", "woff2", "ttf", "otf", "eot", "mp4", "webm", "mp3"),
)

DEFAULT: Final = Site(
    name="default",
    asset_paths=("/static", "/assets", "/images", "/image", "/img", "/css", "/js", "/fonts", "/media", "/favicon.ico"),
    asset_suffixes=_SUFFIXES,
    internal_paths=("/admin", "/administrator", "/internal", "/healthz", "/readyz", "/metrics", "/server-status"),
    product_view=r"/products?/(?P<product>[A-Za-z0-9_-]{1,64})(?:/|$)",
    basket_add=r"/(?:basket|cart)/add/(?P<product>[A-Za-z0-9_-]{1,64})(?:/|$)",
    basket_view=r"/(?:basket|cart)(?:/view)?/?$",
    checkout=r"/(?:(?:basket|cart)/)?checkout(?:/|$)",
    order=r"/order/(?:create|confirm|complete)/?$",
)

# The shop behind the public log of zanbil.ir (2019). A product page is /product/PRODUCT[/MODEL][/NAME] and what is put
# into the basket is a model, so the model is the product code wherever the page names one.
ZANBIL: Final = Site(
    name="zanbil",
    asset_paths=(
        *("/static", "/image", "/images", "/m/productImage", "/settings/logo", "/plugins", "/js", "/favicon.ico"),
        *("/amp-helper-frame.html", "/amp-permission-dialog.html", "/manifest.json", "/ajaxFilter", "/ajaxSearch"),
        *("/amp_preconnect_polyfill_404_or_other_error_expected._Do_not_worry_about_it", "/discountLabel", "/site"),
        *("/m/updateVariation", "/m/prepareSearch", "/m/alexaGooleAnalitic", "/province", "/simpleCaptcha"),
        *("/basket/provinces", "/basket/cities", "/basket/alert"),
    ),
    asset_suffixes=_SUFFIXES,
    internal_paths=("/orderAdministration", "/rapidGrails", "/delivery", "/message", "/errors"),
    product_view=r"/(?:m/)?product/(?:[0-9]{1,10}/)?(?P<product>[0-9]{1,10})(?:/|$)",
    basket_add=r"/(?:m/)?basket/add/(?P<product>[0-9]{1,10})(?:/|$)",
    basket_view=r"/(?:m/)?basket/view/?$",
    checkout=r"/(?:m/)?(?:basket/checkout|order/create/deliveryMethodForm)(?:/|$)",
    order=r"/(?:m/)?order/create/?$",
)

BUILT_IN: Final = (DEFAULT, ZANBIL)


def choose_site(lines: Sequence[bytes]) -> Site:
    """Return the built-in profile that finds the most products in the head of a log; DEFAULT if none finds more.

    At most the first 5,000 lines are looked at.
    """
    reader = AccessLogReader()
    paths = [
        split_target(request.request)[1]
        for line in lines[:CHOICE_LINES_MAX]
        if (request := reader.read(line.rstrip(b"\r\n"))) is not None
    ]
    best, best_count = DEFAULT, 0
    for site in BUILT_IN:
        classifier = PathClassifier(site)
        count = sum(bool(classifier.action_of(path)[1]) for path in paths)
        if count > best_count:
            best, best_count = site, count
    return best
