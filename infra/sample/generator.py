"""Invents a web-server log, line by line, from a seed: Combined Log Format, a day of a small shop."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Final, TypeVar

from infra.sample.shop import BROWSERS, CATEGORY_NAMES, CATEGORY_SIZE, COMPANIONS, CRAWLERS, NETWORKS, PRODUCTS, Product

SEED: Final = 20_260_302
LINES: Final = 20_000

_START: Final = datetime(2026, 3, 2, 5, 0, 0, tzinfo=UTC)
_ZONE: Final = timezone(timedelta(hours=1))
_SITE: Final = "https://shop.example"
_SESSION_SECONDS_MEAN: Final = 50.0  # between two visitors
_CRAWL_SECONDS: Final = 420
_PAUSE_SECONDS: Final = 2_700  # longer than the 30 minutes that end a session
_LATE_SECONDS: Final = 3
_LATE_EVERY: Final = 397
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PAGE_ASSETS: Final = ("/static/site.css", "/static/site.js", "/images/logo.svg")
_LANDINGS: Final = ("https://www.google.com/", "-", "https://www.bing.com/", f"{_SITE}/")
_PHRASES: Final = ("red+roadster", "schooner", "gift+ideas", "steam+locomotive", "1:18")

# What goes wrong in real logs: a cut line, a line of another program, bytes of no text, a bad time, and a lost quote.
_MALFORMED: Final = {
    2_003: "192.0.2.17 - - [02/Mar/2026:07:1",
    6_011: "nginx: [warn] 4096 worker_connections exceed open file resource limit: 1024",
    9_973: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    14_009: '198.51.100.9 - - [31/Feb/2026:12:00:00 +0100] "GET / HTTP/1.1" 200 5120 "-" "Mozilla/5.0"',
    18_013: '203.0.113.40 - - [02/Mar/2026:16:40:00 +0100] "GET / HTTP/1.1" 200 5120 "-" "Mozilla/5.0 (X11',
}

ItemT = TypeVar("ItemT")


class Chance:
    """Seeded chance made of `random()` alone: the only method whose numbers are the same in every Python."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - an invented log needs no secrets

    def happens(self, probability: float) -> bool:
        """Return True with a probability."""
        return self._random.random() < probability

    def below(self, limit: int) -> int:
        """Return an integer from 0 to limit - 1, all equally likely."""
        return int(self._random.random() * limit)

    def low(self, limit: int) -> int:
        """Return an integer from 0 to limit - 1, the low ones more likely."""
        return int(self._random.random() ** 2 * limit)

    def pick(self, items: Sequence[ItemT]) -> ItemT:
        """Return one of the items."""
        return items[self.below(len(items))]


@dataclass(frozen=True, slots=True)
class Client:
    """A visitor's address and browser."""

    address: str
    user_agent: str


@dataclass(frozen=True, slots=True, order=True)
class Hit:
    """One request, ordered by time and then by the order of making."""

    time: int  # seconds since the log's start
    number: int
    client: Client
    request: str
    status: int
    size: int
    referer: str


class Visit:
    """Writes down the requests of one client, one after the other."""

    def __init__(self, client: Client, time: int, chance: Chance, numbers: Iterator[int]) -> None:
        self.client = client
        self.time = time
        self.hits: list[Hit] = []
        self._chance = chance
        self._numbers = numbers
        self._is_first_page = True
        self._page = chance.pick(_LANDINGS)

    def request(self, path: str, *, method: str = "GET", status: int = 200, size: int | None = None) -> None:
        """Ask for something without leaving the page."""
        size = _size_of(path) if size is None else size
        line = f"{method} {path} HTTP/1.1"
        self.hits.append(Hit(self.time, next(self._numbers), self.client, line, status, size, self._page))

    def open_page(self, path: str, images: Sequence[str] = (), status: int = 200) -> None:
        """Go to a page and fetch what it shows; the site's own files only come with the first page."""
        self.time += 4 + self._chance.low(75)
        self.request(path, status=status)
        self._page = _SITE + path
        if self._is_first_page:
            self._is_first_page = False
            for asset in _PAGE_ASSETS:
                self.request(asset)
            if self._chance.happens(0.3):
                self.request("/favicon.ico")
        for image in images:
            self.request(image)


def _size_of(path: str) -> int:
    """Return the size of what is at a path: always the same, and different from most others."""
    size = 0
    for character in path:
        size = (size * 31 + ord(character)) % 8_191
    return 1_200 + size


def _image_of(product: Product) -> str:
    return f"/images/products/{product.code}.jpg"


def _client(chance: Chance) -> Client:
    draw = chance.below(1_000) / 1_000
    for network in NETWORKS:
        draw -= network.share
        if draw < 0:
            break
    # A few numbers of each block only, so that some visitors come back.
    number = network.first + 1 + chance.below(min(90, network.last - network.first - 1))
    return Client(f"{network.prefix}{number}", chance.pick(BROWSERS))


def _next_product(product: Product, chance: Chance) -> Product:
    """Go to a neighbour mostly, sometimes to the same place of the companion category, seldom anywhere."""
    if chance.happens(0.70):
        place = (product.place + 1 + chance.low(3)) % CATEGORY_SIZE
        return PRODUCTS[product.category * CATEGORY_SIZE + place]
    if chance.happens(0.75):
        return PRODUCTS[COMPANIONS[product.category] * CATEGORY_SIZE + product.place]
    return chance.pick(PRODUCTS)


def _shop(visit: Visit, chance: Chance) -> None:
    """Enter, look around, and perhaps buy."""
    category = chance.low(len(CATEGORY_NAMES))
    product = PRODUCTS[category * CATEGORY_SIZE + chance.low(CATEGORY_SIZE)]
    if chance.happens(0.35):
        visit.open_page("/")
    if chance.happens(0.45):
        shown = range(product.place, product.place + 4)
        images = [_image_of(PRODUCTS[category * CATEGORY_SIZE + place % CATEGORY_SIZE]) for place in shown]
        visit.open_page(f"/category/{CATEGORY_NAMES[category]}", images)
    elif chance.happens(0.25):
        visit.open_page(f"/search?q={chance.pick(_PHRASES)}")
    in_basket = 0
    for _ in range(1 + chance.low(9)):
        visit.open_page(product.path, [_image_of(product)])
        if chance.happens(0.06):
            visit.open_page(product.path)
        if chance.happens(0.14):
            visit.request(f"/basket/add/{product.code}", method="POST", status=302, size=0)
            in_basket += 1
        product = _next_product(product, chance)
    if in_basket:
        _buy(visit, chance)


def _buy(visit: Visit, chance: Chance) -> None:
    visit.open_page("/basket")
    if chance.happens(0.6):
        visit.open_page("/checkout")
        if chance.happens(0.7):
            visit.request("/order/confirm", method="POST", status=302, size=0)
            visit.open_page("/order/thanks")


def _mishaps(visit: Visit, chance: Chance) -> None:
    """Add what every log has: missing pages, failing servers, other methods, people who run the shop."""
    if chance.happens(0.05):
        visit.request(f"/product/S18_{chance.below(900)}", status=404, size=512)
    if chance.happens(0.02):
        visit.request("/basket", status=500, size=170)
    if chance.happens(0.02):
        visit.request("/", method="HEAD", size=0)
    if chance.happens(0.02):
        visit.request("/admin/orders", method="POST")


def _visitors(chance: Chance, numbers: Iterator[int]) -> Iterator[tuple[int, list[Hit]]]:
    """Yield one visitor's requests after the other, each with a time that no later yield goes behind."""
    time = 0
    while True:
        time += 1 + int(2 * _SESSION_SECONDS_MEAN * chance.below(1_000) / 1_000)
        visit = Visit(_client(chance), time, chance, numbers)
        _shop(visit, chance)
        _mishaps(visit, chance)
        yield time, visit.hits
        if chance.happens(0.04):
            again = Visit(visit.client, visit.time + _PAUSE_SECONDS, chance, numbers)
            _shop(again, chance)
            yield time, again.hits


def _crawls(chance: Chance, numbers: Iterator[int]) -> Iterator[tuple[int, list[Hit]]]:
    """Yield the rounds of the crawlers, in the same form."""
    time = 0
    while True:
        for address, user_agent in CRAWLERS:
            time += _CRAWL_SECONDS // 2 + chance.below(_CRAWL_SECONDS)
            visit = Visit(Client(address, user_agent), time, chance, numbers)
            visit.request("/robots.txt")
            for _ in range(3 + chance.below(8)):
                visit.time += 2
                visit.request(chance.pick(PRODUCTS).path)
            yield time, visit.hits


def _in_order(visits: Iterator[tuple[int, list[Hit]]]) -> Iterator[Hit]:
    """Yield the requests of overlapping visits by time."""
    waiting: list[Hit] = []
    for now, hits in visits:
        while waiting and waiting[0].time < now:
            yield heapq.heappop(waiting)
        for hit in hits:
            heapq.heappush(waiting, hit)


def lines(seed: int, count: int) -> Iterator[str]:
    """Yield `count` lines of the log, without newlines; the same seed gives the same lines, whatever the count.

    Characters are bytes (Latin-1): one of the malformed lines is no text. Every 397th line is written three seconds
    late, as servers log a request when it ends.
    """
    visitors = _visitors(Chance(seed), itertools.count(0, 2))
    crawls = _crawls(Chance(seed + 1), itertools.count(1, 2))
    hits = heapq.merge(_in_order(visitors), _in_order(crawls))
    for number, hit in enumerate(itertools.islice(hits, count)):
        malformed = _MALFORMED.get(number)
        if malformed is not None:
            yield malformed
            continue
        late = _LATE_SECONDS if number % _LATE_EVERY == _LATE_EVERY - 1 else 0
        yield _line(hit, hit.time - late)


def _line(hit: Hit, time: int) -> str:
    moment = (_START + timedelta(seconds=max(0, time))).astimezone(_ZONE)
    # Not strftime: the names of its months follow the locale.
    stamp = f"{moment:%d}/{_MONTHS[moment.month - 1]}/{moment:%Y:%H:%M:%S %z}"
    agent = hit.client.user_agent
    return f'{hit.client.address} - - [{stamp}] "{hit.request}" {hit.status} {hit.size} "{hit.referer}" "{agent}"'
