"""The invented shop of the sample log: its products, its visitors' networks and browsers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CATEGORY_SIZE: Final = 15
_CATEGORIES: Final = (
    ("S10", "classic-cars", "Coupe"),
    ("S12", "motorcycles", "Tourer"),
    ("S18", "vintage-cars", "Roadster"),
    ("S24", "trucks-and-buses", "Omnibus"),
    ("S32", "trains", "Locomotive"),
    ("S50", "ships", "Schooner"),
    ("S72", "planes", "Biplane"),
    ("S700", "garage-and-tools", "Workbench"),
)
_MAKERS: Final = (
    *("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Ginkgo", "Hazel"),
    *("Ivy", "Juniper", "Larch", "Maple", "Oak", "Pine", "Rowan"),
)


@dataclass(frozen=True, slots=True)
class Product:
    """One product; `category` and `place` (0 to 14) put it next to the products it is looked at with."""

    code: str
    slug: str
    category: int
    place: int

    @property
    def path(self) -> str:
        """Its page."""
        return f"/product/{self.code}/{self.slug}"


CATEGORY_NAMES: Final = tuple(name for _, name, _ in _CATEGORIES)
PRODUCTS: Final = tuple(
    Product(
        code=f"{series}_{1009 + 71 * place + 337 * category}",
        slug=f"{1904 + 5 * place + category}-{_MAKERS[place]}-{noun}".lower(),
        category=category,
        place=place,
    )
    for category, (series, _, noun) in enumerate(_CATEGORIES)
    for place in range(CATEGORY_SIZE)
)
# Who collects one also looks at the other: pairs of categories that a recommender can find.
COMPANIONS: Final = {0: 2, 1: 7, 2: 0, 3: 4, 4: 3, 5: 6, 6: 5, 7: 1}


@dataclass(frozen=True, slots=True)
class Network:
    """A block of addresses kept for documentation (RFC 5737, RFC 3849) or private use (RFC 1918): nobody's own."""

    prefix: str  # text before the last number
    first: int
    last: int
    country: str  # empty: in no table
    share: float  # of the visitors


NETWORKS: Final = (
    Network("192.0.2.", 1, 254, "US", 0.34),
    Network("10.20.30.", 1, 254, "US", 0.06),
    Network("198.51.100.", 0, 127, "DE", 0.18),
    Network("198.51.100.", 128, 255, "FR", 0.14),
    Network("203.0.113.", 0, 127, "JP", 0.12),
    Network("203.0.113.", 128, 255, "BR", 0.08),
    Network("10.99.0.", 1, 254, "", 0.05),
    Network("2001:db8::", 1, 99, "", 0.03),
)

BROWSERS: Final = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/144.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Linux; Android 16; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:146.0) Gecko/20100101 Firefox/146.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Safari/605.1.15",
)
# The first three are on every list of crawlers; the last is one that calls itself a browser and asks for /robots.txt.
CRAWLERS: Final = (
    ("198.51.100.250", "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
    ("203.0.113.251", "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"),
    ("10.99.0.253", "python-requests/2.32.5"),
    ("192.0.2.252", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
)


def country_table() -> str:
    """Return the networks as `ip_from,ip_to,code` lines, the form that the producer reads; sorted, IPv4 only."""
    rows = sorted(
        (_number(f"{network.prefix}{network.first}"), _number(f"{network.prefix}{network.last}"), network.country)
        for network in NETWORKS
        if network.country
    )
    return "".join(f"{start},{end},{country}\n" for start, end, country in rows)


def _number(address: str) -> int:
    number = 0
    for octet in address.split("."):
        number = number << 8 | int(octet)
    return number
