"""Access-log lines: reading, filtering, sessions, products."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from producer.core.access_log import AccessLogReader, LoggedRequest, iso_time, parse_time, split_target
from producer.core.bot import FETCHERS_MAX, BotDetector
from producer.core.country import CountryTable
from producer.core.line import FilteredLine, ParsedEvent, RejectedLine
from producer.core.session import HISTORY_ITEMS_MAX, SessionTable
from producer.core.site import DEFAULT, ZANBIL, Action, PathClassifier, Site, choose_site
from producer.core.visit_line import VisitLineParser
from producer.crawler import is_crawler
from shared.errors import ConfigurationError
from tests.support.ways import way  # noqa: F401 - each test is run both ways

KEY = b"0123456789abcdef"
START = 1_772_427_680  # 2026-03-02T05:01:20Z
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0"


def line(path: str = "/", at: int = 0, **other: Any) -> bytes:
    """Return an access-log line, `at` seconds after the start."""
    client = other.get("client", "192.0.2.1")
    agent = other.get("agent", BROWSER)
    request = other.get("request", f"{other.get('method', 'GET')} {path} HTTP/1.1")
    stamp = f"02/Mar/2026:{6 + at // 3600:02}:{at // 60 % 60:02}:{at % 60:02} +0100"
    text = f'{client} - - [{stamp}] "{request}" {other.get("status", 200)} 512 "-" "{agent}"'
    return text.encode("latin-1")


def open_visits(countries: CountryTable | None = None, sessions_max: int = 100) -> VisitLineParser:
    """Return a parser with the default profile and the real list of crawlers."""
    return VisitLineParser(DEFAULT, KEY, is_crawler, countries, sessions_max)


def events(parser: VisitLineParser, lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """Return the events of lines that must all be events."""
    decoded: list[dict[str, Any]] = []
    for each in lines:
        result = parser.parse(each)
        assert isinstance(result, ParsedEvent), result
        decoded.append(orjson.loads(result.data))
        assert decoded[-1]["session_id"] == result.partition_key
    return decoded


HEAD = b"192.0.2.1 - - [26/Jan/2019:19:45:25 +0330] "
TIME = 1_548_519_325


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD + b'"GET /a HTTP/1.1" 200 5 "-" "UA"', (b"GET /a HTTP/1.1", 200, b"UA")),
        (HEAD + b'"GET /a HTTP/1.1" 304 - "-" "UA" "-"', (b"GET /a HTTP/1.1", 304, b"UA")),
        (HEAD + b'"GET /a HTTP/1.1" 200 5 "-" "UA" "x" "y" 0.003\r', (b"GET /a HTTP/1.1", 200, b"UA")),
        (HEAD + b'"GET /a HTTP/1.1" 200 5 "-" ""', (b"GET /a HTTP/1.1", 200, b"")),
        (HEAD + b'"-" 408 0 "-" "-"', (b"-", 408, b"-")),
        (HEAD + b'"GET /\xff HTTP/1.1" 200 5 "\xfe" "\x00"', (b"GET /\xff HTTP/1.1", 200, b"\x00")),
        (HEAD + b'"GET /\\" HTTP/1.1" 200 5 "a\\"b" "c\\\\"', (b'GET /\\" HTTP/1.1', 200, b"c\\\\")),
        (HEAD + b'"GET /a HTTP/1.1" 200 5 "-" "a \\"b\\" c" "-"', (b"GET /a HTTP/1.1", 200, b'a \\"b\\" c')),
        (
            HEAD.replace(b"- -", b"- my [own] name") + b'"GET / HTTP/1.1" 200 5 "-" "UA"',
            (b"GET / HTTP/1.1", 200, b"UA"),
        ),
    ],
)
def test_a_combined_line_is_read(text: bytes, expected: tuple[bytes, int, bytes]) -> None:
    """Escaped quotes, further fields and bytes of no encoding are part of the format."""
    request, status, user_agent = expected
    assert AccessLogReader().read(text) == LoggedRequest(b"192.0.2.1", TIME, request, status, user_agent)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"x", b'""""""', b"\x16\x03\x01", HEAD, b'"' * 10_000, b"[" * 10_000 + b'\\"', b'\\"' * 5_000),
        HEAD + b'"GET / HTTP/1.1" 200 5 "-" "UA',
        HEAD + b'"GET / HTTP/1.1" 200 5 "-" UA',
        HEAD + b'"GET / HTTP/1.1" 200 5',
        HEAD + b'"GET / HTTP/1.1" 200 5 "-" "UA"x',
        HEAD + b'"GET / HTTP/1.1" 200 5 "-" "UA" "x',
        HEAD + b'"GET / HTTP/1.1" 200 5 "-" "a"b"',
        HEAD + b'"GET / HTTP/1.1" 200 5 "-" "UA\\"',
        HEAD + b'"GET / HTTP/1.1" 200 "-" "UA"',
        HEAD + b'"GET / HTTP/1.1" 20 5 "-" "UA"',
        HEAD + b'"GET / HTTP/1.1" 200 five "-" "UA"',
        HEAD + b'"GET / HTTP/1.1" \xb2\xb2\xb2 5 "-" "UA"',
        HEAD[1:].lstrip(b"92.01") + b'"GET / HTTP/1.1" 200 5 "-" "UA"',
        b"x" * 256 + HEAD + b'"GET / HTTP/1.1" 200 5 "-" "UA"',
        HEAD.replace(b"26/Jan", b"31/Feb") + b'"GET / HTTP/1.1" 200 5 "-" "UA"',
        HEAD.replace(b"[", b"") + b'"GET / HTTP/1.1" 200 5 "-" "UA"',
        b'192.0.2.1 - - "GET / HTTP/1.1" 200 5 "-" "UA"',
    ],
)
def test_another_line_is_not_read(text: bytes) -> None:
    """A cut, shifted or foreign line is no request, and costs no more than its length."""
    assert AccessLogReader().read(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"26/Jan/2019:19:45:25 +0330", "2019-01-26T16:15:25Z"),
        (b"31/Dec/2016:23:59:60 +0000", "2017-01-01T00:00:00Z"),
        (b"01/Jan/2000:00:00:00 -0930", "2000-01-01T09:30:00Z"),
        (b"29/Feb/2024:12:00:00 +0000", "2024-02-29T12:00:00Z"),
        (b"29/Feb/2023:12:00:00 +0000", None),
        (b"26/Jan/2019:24:00:00 +0000", None),
        (b"26/Jan/2019:19:45:61 +0000", None),
        (b"26/Jan/2019:19:45:25 +2400", None),
        (b"26/jan/2019:19:45:25 +0000", None),
        (b"26/Xyz/2019:19:45:25 +0000", None),
        (b"26/Jan/0000:19:45:25 +0000", None),
        (b"01/Jan/1970:00:00:00 +0100", None),
        (b"31/Dec/9999:23:59:60 -2359", None),
        (b"26/Jan/2019:19:45:25", None),
    ],
)
def test_a_time_is_read_with_its_zone(text: bytes, expected: str | None) -> None:
    """Times become UTC; what is no time from 1970 to 9999 is none."""
    time = parse_time(text)
    assert (None if time is None else iso_time(time)) == expected


@pytest.mark.parametrize(
    ("request_text", "expected"),
    [
        (b"GET / HTTP/1.1", (b"GET", b"/")),
        (b"GET /a?b=c#d HTTP/1.1", (b"GET", b"/a")),
        (b"GET /a#d?b HTTP/2.0", (b"GET", b"/a")),
        (b"GET /a b HTTP/1.1", (b"GET", b"/a b")),
        (b"GET /a", (b"GET", b"/a")),
        (b"GET http://shop.example/a?b HTTP/1.1", (b"GET", b"/a")),
        (b"GET http://shop.example HTTP/1.1", (b"GET", b"/")),
        (b"CONNECT shop.example:443 HTTP/1.1", (b"", b"")),
        (b"OPTIONS * HTTP/1.1", (b"", b"")),
        (b"GET :// HTTP/1.1", (b"", b"")),
        (b"-", (b"", b"")),
        (b"", (b"", b"")),
        (b"\x16\x03\x01", (b"", b"")),
    ],
)
def test_a_request_is_split_into_method_and_path(request_text: bytes, expected: tuple[bytes, bytes]) -> None:
    """The query goes; what is no HTTP request has neither method nor path."""
    assert split_target(request_text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", FilteredLine("blank")),
        (b" \t\r", FilteredLine("blank")),
        (b"x", RejectedLine("malformed-line", "not a line in Combined Log Format")),
        (line(method="HEAD"), FilteredLine("method")),
        (line(method="get"), FilteredLine("method")),
        (line(request="-", status=408), FilteredLine("method")),
        (line(agent="Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"), FilteredLine("bot")),
        (line(agent="-"), FilteredLine("bot")),
        (line(agent=""), FilteredLine("bot")),
        (line("/robots.txt"), FilteredLine("bot")),
        (line("/static/x"), FilteredLine("asset")),
        (line("/x/y.PNG?v=1"), FilteredLine("asset")),
        (line("/favicon.ico"), FilteredLine("asset")),
        (line("/admin"), FilteredLine("internal")),
        (line("/admin/orders/7"), FilteredLine("internal")),
        (line("/missing", status=404), FilteredLine("status")),
        (line(status=500), FilteredLine("status")),
        (line(status=301), FilteredLine("status")),
        (line(status=100), FilteredLine("status")),
        (line("/product/S24_2022", status=302), FilteredLine("status")),
    ],
)
def test_what_is_no_action_of_a_visitor_is_left_out_by_reason(
    text: bytes, expected: FilteredLine | RejectedLine
) -> None:
    """Each line that is no event is counted under exactly one reason."""
    assert open_visits().parse(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (line("/"), ("page_view", "/", None)),
        (line("/administrators"), ("page_view", "/administrators", None)),
        (line("/a.pngx"), ("page_view", "/a.pngx", None)),
        (line("/", status=304), ("page_view", "/", None)),
        (line("/search?q=jane+doe"), ("page_view", "/search", None)),
        (line("/track/order/9711030762/x"), ("page_view", "/track/order/*", None)),
        (line("/search/jane%20doe"), ("page_view", "/search/*", None)),
        (line("/a/b/c"), ("page_view", "/a/b/*", None)),
        (line("/\xe4/b"), ("page_view", "/*", None)),
        (line("//a//b/"), ("page_view", "/a/b", None)),
        (line("/product/S24_2022/a-truck?x=1"), ("product_view", None, "S24_2022")),
        (line("/products/S24_2022"), ("product_view", None, "S24_2022")),
        (line("/product/" + "x" * 65), ("page_view", "/product/*", None)),
        (line("/basket/add/S24_2022", method="POST", status=302), ("basket_add", None, "S24_2022")),
        (line("/cart/add/S24_2022"), ("basket_add", None, "S24_2022")),
        (line("/basket"), ("basket_view", None, None)),
        (line("/cart/view"), ("basket_view", None, None)),
        (line("/checkout/address"), ("checkout", None, None)),
        (line("/order/confirm", method="POST", status=303), ("order", None, None)),
        (line("/order/thanks"), ("page_view", "/order/thanks", None)),
    ],
)
def test_an_action_of_a_visitor_is_an_event(text: bytes, expected: tuple[str, str | None, str | None]) -> None:
    """The event tells the action, and either the product or the plain beginning of the page's path."""
    (event,) = events(open_visits(), [text])
    assert (event["action"], event.get("path"), event.get("product_code")) == expected


def test_the_fields_of_an_event_have_their_order() -> None:
    """Readers of the raw lines find the session first and the history last."""
    countries = CountryTable.from_bytes(b"3221225984,3221226239,US\n")
    view, add = events(open_visits(countries), [line("/"), line("/basket/add/A1")])
    assert list(view) == ["session_id", "timestamp", "action", "path", "country", "browse_history"]
    assert list(add) == ["session_id", "timestamp", "action", "product_code", "country", "browse_history"]
    assert (add["timestamp"], add["country"]) == ("2026-03-02T05:00:00Z", "USA")


def test_the_history_grows_with_the_session() -> None:
    """A view counts once, a basket takes a product and counts it up, a reload changes nothing."""
    paths = ["/product/A", "/product/A", "/basket/add/B", "/basket/add/B", "/product/B", "/basket/add/A", "/"]
    history = events(open_visits(), [line(path, at) for at, path in enumerate(paths)])[-1]["browse_history"]
    assert history == [
        {"product_code": "A", "quantity": 1, "in_shopping_cart": True},
        {"product_code": "B", "quantity": 2, "in_shopping_cart": True},
    ]


def test_the_history_keeps_the_newest_products() -> None:
    """A visitor who looks at everything does not make events without bound."""
    lines = [line(f"/product/P{number}", number) for number in range(HISTORY_ITEMS_MAX + 5)]
    history = events(open_visits(), lines)[-1]["browse_history"]
    assert [item["product_code"] for item in history] == [f"P{number}" for number in range(5, HISTORY_ITEMS_MAX + 5)]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0, 1_800, 3_600], [0, 0, 0]),
        ([0, 1_801], [0, 1]),
        ([3_600, 1_800, 0], [0, 0, 0]),
        ([1_801, 0], [0, 1]),
        ([0, 1_800, 10, 3_600], [0, 0, 0, 0]),
        ([0, 5_000, 10], [0, 1, 2]),
    ],
)
def test_thirty_minutes_of_silence_part_two_sessions(times: list[int], expected: list[int]) -> None:
    """A line joins a session that it lies inside of or 30 minutes from, on either side, in whatever order it comes."""
    ids = [event["session_id"] for event in events(open_visits(), [line("/", at) for at in times])]
    assert [list(dict.fromkeys(ids)).index(each) for each in ids] == expected


def test_a_session_is_of_one_address_and_one_browser() -> None:
    """Another address, another browser or another key gives another id; the same gives the same."""
    texts = [line("/"), line("/", client="192.0.2.2"), line("/", agent="Mozilla/5.0"), line("/", 1)]
    one, two, three, again = (event["session_id"] for event in events(open_visits(), texts))
    (other_key,) = events(VisitLineParser(DEFAULT, b"x" * 16, is_crawler), texts[:1])
    assert len({one, two, three, other_key["session_id"]}) == 4
    assert (again, len(one), set(one) <= set("0123456789abcdef")) == (one, 32, True)


def test_a_client_that_asks_for_robots_txt_is_a_bot_from_then_on() -> None:
    """Its earlier lines are events, its later ones are not, and other clients are not touched."""
    parser = open_visits()
    results = [parser.parse(text) for text in (line("/"), line("/robots.txt", status=404), line("/"))]
    assert [type(result) for result in results] == [ParsedEvent, FilteredLine, FilteredLine]
    assert results[1:] == [FilteredLine("bot")] * 2
    assert isinstance(parser.parse(line("/", client="192.0.2.2")), ParsedEvent)


def test_the_remembered_bots_are_bounded() -> None:
    """The client that asked longest ago is forgotten first; asking again renews."""
    bots = BotDetector(lambda _: False)
    for number in range(FETCHERS_MAX):
        bots.note_fetch(b"%d" % number)
    bots.note_fetch(b"0")
    bots.note_fetch(b"new")
    assert (bots.has_fetched(b"0"), bots.has_fetched(b"1"), bots.has_fetched(b"2")) == (True, False, True)
    assert len(bots.fetchers()) == FETCHERS_MAX


def test_a_user_agent_is_looked_up_once() -> None:
    """The list of crawlers is long, so its verdict is kept."""
    asked: list[str] = []
    parser = VisitLineParser(DEFAULT, KEY, lambda agent: bool(asked.append(agent)))
    for at in range(3):
        parser.parse(line("/", at))
    assert asked == [BROWSER]


def test_the_session_table_is_bounded() -> None:
    """The session used longest ago goes first; sessions long over go before the table is full."""
    table = SessionTable(KEY, sessions_max=3)
    for number in range(4):
        table.visit(b"%016d" % number, START)
    assert [row[0] for row in table.rows()] == [(b"%016d" % number).hex() for number in (1, 2, 3)]
    table.visit(b"%016d" % 9, START + 3_601)
    assert len(table) == 2


def test_one_wild_time_does_not_end_all_sessions() -> None:
    """A line from far in the future costs at most the two sessions used longest ago."""
    table = SessionTable(KEY)
    before = [table.visit(b"%016d" % number, START).session_id for number in range(10)]
    table.visit(b"%016d" % 99, START + 10**9)
    after = [table.visit(b"%016d" % number, START + 60).session_id for number in range(2, 10)]
    assert after == before[2:]


@pytest.mark.parametrize("key", [b"", b"x" * 15, b"x" * 65])
def test_a_session_key_has_a_length(key: bytes) -> None:
    """A short key could be guessed, a long one is not used whole."""
    with pytest.raises(ConfigurationError, match="session key"):
        SessionTable(key)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/product/29164/58427/name", (Action.PRODUCT_VIEW, "58427")),
        (b"/m/product/3573/12-name", (Action.PRODUCT_VIEW, "3573")),
        (b"/m/product/3573", (Action.PRODUCT_VIEW, "3573")),
        (b"/product/29164/58427", (Action.PRODUCT_VIEW, "58427")),
        (b"/product/name", (Action.PAGE_VIEW, "")),
        (b"/basket/add/58427", (Action.BASKET_ADD, "58427")),
        (b"/basket/view", (Action.BASKET_VIEW, "")),
        (b"/basket/checkout", (Action.CHECKOUT, "")),
        (b"/order/create/deliveryMethodForm", (Action.CHECKOUT, "")),
        (b"/order/create", (Action.ORDER, "")),
        (b"/order/track/1", (Action.PAGE_VIEW, "")),
    ],
)
def test_the_second_profile_knows_its_paths(path: bytes, expected: tuple[Action, str]) -> None:
    """The model is the product where the page names one, as that is what the basket takes."""
    assert PathClassifier(ZANBIL).action_of(path) == expected


def test_the_profile_with_the_most_products_is_chosen() -> None:
    """A log without products, or with as many for both, gets the default."""
    mobile, both = line("/m/product/1/2/x"), line("/product/1/2/x")
    letters = line("/product/S24_2022/x")
    heads = ([], [b"x"], [both], [both, mobile], [letters, letters, mobile])
    assert [choose_site(head).name for head in heads] == ["default", "default", "default", "zanbil", "default"]


def test_a_profile_is_read_from_configuration() -> None:
    """Fields that are left out keep their defaults; lists as TOML gives them are taken."""
    site = Site.from_mapping(
        {
            "name": "mine",
            "asset_paths": ["/cdn"],
            "product_view": "/item-(?P<product>[0-9]+)$",
            "path_segments": 0,
        }
    )
    assert (site.name, site.asset_paths, site.basket_add) == ("mine", ("/cdn",), DEFAULT.basket_add)
    parser = VisitLineParser(site, KEY, is_crawler)
    view, page = events(parser, [line("/item-7"), line("/static/x")])
    assert (view["product_code"], page["action"], "path" in page) == ("7", "page_view", False)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"produkt": "x"}, "`produkt` is not usable: unknown"),
        ({"name": ""}, "`name`"),
        ({"name": 7}, "`name`"),
        ({"product_view": "/p/[0-9]+"}, "no group named `product`"),
        ({"product_view": "(?P<product>"}, "`product_view` is not usable: not a regular expression"),
        ({"order": "x" * 501}, "1 to 500 characters"),
        ({"order": 7}, "`order`"),
        ({"asset_paths": ["static"]}, "does not start with /"),
        ({"asset_paths": "/static"}, "not a list"),
        ({"asset_suffixes": [7]}, "`asset_suffixes`"),
        ({"internal_paths": ["/x"] * 201}, "at most 200"),
        ({"path_segments": 6}, "0 to 5"),
        ({"path_segments": True}, "0 to 5"),
    ],
)
def test_a_profile_that_can_not_work_is_refused(mapping: dict[str, Any], words: str) -> None:
    """The message names the field and its limit."""
    with pytest.raises(ConfigurationError, match=words):
        Site.from_mapping(mapping)


TABLE = b'"16777216","16777471","AU"\r\n3221225984,3221226239,US\n'


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (b"192.0.2.0", "USA"),
        (b"192.0.2.255", "USA"),
        (b"192.0.3.0", None),
        (b"1.0.0.7", "AU"),
        (b"0.0.0.0", None),
        (b"255.255.255.255", None),
        (b"192.0.2.256", None),
        (b"192.0.2", None),
        (b"192.0.2.1.1", None),
        (b"192.0.2.-1", None),
        (b"192.0.2.\xb2", None),
        (b"2001:db8::1", None),
        (b"host.example", None),
        (b"", None),
    ],
)
def test_a_country_is_that_of_the_range(address: bytes, expected: str | None) -> None:
    """Both ends of a range belong to it; what is no IPv4 address has no country."""
    assert CountryTable.from_bytes(TABLE).country_of(address) == expected


def test_a_country_table_may_be_compressed_and_unsorted() -> None:
    """A table as it is published is read as it is."""
    table = CountryTable.from_bytes(gzip.compress(b"3221225984,3221226239,DE\n0,16777215,FR\n", mtime=0))
    assert (len(table), table.country_of(b"192.0.2.9"), table.country_of(b"0.0.0.1")) == (2, "DE", "FR")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no ranges"),
        (b"1,2\n", "line 1 is not"),
        (b"1,2,US\n\n5,4,US\n", "line 3 is not"),
        (b"1,4294967296,US\n", "line 1 is not"),
        (b"1,2,us\n", "line 1 is not"),
        (b"1,2,USA\n", "line 1 is not"),
        (b"-1,2,US\n", "line 1 is not"),
        (b"1," + b"9" * 5_000 + b",US\n", "line 1 is not"),
        (b"1,5,US\n5,9,DE\n", "overlap"),
        (b"\x1f\x8bxxxxxxxx", "can't be decompressed"),
        (b"\n" * 2_000_001, "more than 2,000,000 lines"),
    ],
)
def test_a_country_table_that_is_none_is_refused(data: bytes, words: str) -> None:
    """The message says where, and what the form is."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        CountryTable.from_bytes(data)
    assert "ip_from,ip_to,code" in caught.value.hint


def test_a_compressed_table_can_not_explode() -> None:
    """Zeros that would fill the memory are refused by their ratio, a cut file by its end."""
    bomb = gzip.compress(b"0" * 10_000_000, mtime=0)
    with pytest.raises(ConfigurationError, match="decompresses to more"):
        CountryTable.from_bytes(bomb)
    with pytest.raises(ConfigurationError, match="cut"):
        CountryTable.from_bytes(gzip.compress(TABLE, mtime=0)[:-9])
