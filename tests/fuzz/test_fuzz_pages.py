"""Fuzzers of what an HTTP source reads: its description, the answers of an API, links, and saved places."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from producer.core.page_walk import ApiPlan, PagePlace, PageStyle, PageWalk, same_origin
from shared.errors import ConfigurationError, SourceError
from tests.fuzz.mutation import check_short, damaged, fuzzed, mutated

URL: Final = "https://api.example.com/v1/visits?kind=web"
HERE: Final = re.compile(r"https://api\.example\.com(:(0*443)?)?([/?]|$)", re.IGNORECASE)
PLAN: Final = {
    "url": URL, "style": "next_link", "items": "data.visits", "next": "links.next", "page_items_max": 50,
    "parameters": {"since": "2026"}, "call_timeout_seconds": 5,
    "token": {"environment": "T", "url": "https://id.example.com/t", "client_id_environment": "I",
              "client_secret_environment": "S", "scope": "read"},
}  # fmt: skip
ANSWERS: Final = (
    b'{"data":{"visits":[{"session_id":"a","n":1},{"session_id":"b"}]},"links":{"next":"/v1/visits?cursor=2"}}',
    b'{"data":{"visits":[]},"links":{"next":null}}',
    b'{"data":{"visits":["\\ud800",1e400,NaN,-0.0]},"links":{"next":"https://api.example.com:443/x"}}',
    b'{"links":{"next":"//evil.example.com/"},"data":{"visits":[1]}}',
)
LINKS: Final = (
    b"/v1?x=1", b"?page=2", b"https://api.example.com/v2", b"//api.example.com:444/", b"http://api.example.com/",
    b"https://user:pw@api.example.com/", b"https://api.example.com@evil.example/", b"https://[::1", b"\\\\evil/x",
    b"https:///evil", b"javascript:1", b"https://api.example.com:99999/", b"#frag",
)  # fmt: skip


@fuzzed
@given(damaged(PLAN))
def test_any_description_is_a_plan_or_refused(values: Any) -> None:
    """Each field may be anything that TOML holds."""
    if isinstance(values, dict):
        try:
            plan = ApiPlan.from_mapping(values)
        except ConfigurationError as error:
            check_short(error)
        else:
            assert PageWalk(plan).address(PagePlace()).startswith(("http://", "https://"))


@fuzzed
@given(st.sampled_from(PageStyle), mutated(ANSWERS), st.integers(0, 3))
def test_any_answer_is_a_page_or_a_source_error(style: PageStyle, body: bytes, skip: int) -> None:
    """No more items than bytes, one line each, and never an address elsewhere."""
    walk = PageWalk(ApiPlan(URL, style, "data.visits", "links.next"))
    try:
        page = walk.read(PagePlace(4, 100, skip), body)
    except SourceError as error:
        check_short(error)
        return
    assert len(page.items) <= len(body)
    assert not any(b"\n" in item for item in page.items)
    assert page.done.index == 100 + len(page.items)
    assert PagePlace.decode(page.done.encode(), ApiPlan(URL)) == page.done
    if page.next is not None:
        assert HERE.match(walk.address(page.next)), page.next
        assert page.next.index == page.done.index


@fuzzed
@given(mutated(LINKS))
def test_any_link_stays_at_the_host_or_is_refused(data: bytes) -> None:
    """Scheme, host and port of a link are those of the page it was found on."""
    target = same_origin(URL, data.decode("utf-8", "replace"))
    assert target is None or HERE.match(target), target


@fuzzed
@given(mutated([b'[3, 250, 50, ""]', b'[1, 2, 3, "https://api.example.com/v1?c=1"]', json.dumps([0] * 4).encode()]))
def test_any_place_is_read_or_refused(data: bytes) -> None:
    """A place that is read is written again as the same."""
    try:
        place = PagePlace.decode(data, ApiPlan(URL))
    except ConfigurationError as error:
        check_short(error)
        return
    assert PagePlace.decode(place.encode(), ApiPlan(URL)) == place
