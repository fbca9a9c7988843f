"""A paginated API on loopback, read into a fake stream: every style, every misfortune, and a restart in the middle."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from producer.core.line_format import LineFormat
from producer.core.page_loop import PageLoop
from producer.core.page_walk import ApiPlan, PagePlace
from producer.http_source import HttpSource
from producer.run import RunSummary, SourceOptions, run_source
from shared.clock import SystemClock
from shared.errors import ConfigurationError, HeadraceError, SourceError
from shared.lanes import LANES
from shared.lifecycle import StopSignal
from shared.settings import ProducerSettings
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis

SECRET = "s3cr3t-value"
SETTINGS = ProducerSettings(aggregate=False, batch_linger_seconds=0, bookmark_interval_seconds=0.05)


class Silence:
    """Telemetry that keeps what was said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Keep it."""
        self.said.append((event, fields))

    warning = error = info

    def count(self, metric: str, amount: float = 1, **labels: str) -> None:
        """Count nothing."""

    def gauge(self, metric: str, value: float, **labels: str) -> None:
        """Set nothing."""


@dataclass
class Api:
    """An API with `items`; `before` may answer a request in its stead."""

    items: list[dict[str, Any]]
    base: str = ""
    tokens: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    before: Callable[[web.Request], web.StreamResponse | None] = lambda _: None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    hold: asyncio.Event | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Give one page in the style that was asked for."""
        self.requests.append(request.path_qs)
        self.arrived.set()
        if self.hold is not None:
            await self.hold.wait()
        if (instead := self.before(request)) is not None:
            return instead
        if self.tokens and request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return web.Response(status=401)
        size, query = int(request.query.get("limit", "3")), request.query
        if "page" in query:
            start = (int(query["page"]) - 1) * size
        else:
            start = int(query.get("offset", query.get("cursor", "0")))
        answer: dict[str, Any] = {"data": {"visits": self.items[start : start + size]}, "links": {}}
        if start + size < len(self.items):
            answer["links"]["next"] = f"/v1/visits?limit={size}&cursor={start + size}"
        return web.json_response(answer)

    async def token(self, request: web.Request) -> web.Response:
        """Grant a token to the right client."""
        form = await request.post()
        if (form["grant_type"], form["client_id"], form["client_secret"]) != ("client_credentials", "me", SECRET):
            return web.Response(status=400)
        self.tokens = {f"{SECRET}-{len(self.requests)}"}
        return web.json_response({"access_token": next(iter(self.tokens)), "expires_in": 60})


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """Serve 10 events of three sessions."""
    served = Api([{"session_id": f"s{number % 3}", "n": number} for number in range(10)])
    application = web.Application()
    application.router.add_get("/v1/visits", served.answer)
    application.router.add_post("/token", served.token)
    async with TestServer(application) as server:
        served.base = str(server.make_url("")).rstrip("/")
        yield served


@dataclass
class World:
    """A stream and a disk that outlive a run."""

    kinesis: FakeKinesis = field(default_factory=FakeKinesis)
    files: FakeFiles = field(default_factory=FakeFiles)
    telemetry: Silence = field(default_factory=Silence)

    def __post_init__(self) -> None:
        self.kinesis.create_stream("s")

    async def run(
        self, api: Api, stop: StopSignal | None = None, /, lines: int | None = None, **given: Any
    ) -> RunSummary:
        """Read the API to its end, until stopped, or for so many lines."""
        plan = ApiPlan.from_mapping(
            {"url": f"{api.base}/v1/visits", "items": "data.visits", "page_items_max": 3, **given}
        )
        options = SourceOptions("-", LineFormat.JSON, source_id="api", api=plan, lines_max=lines)
        return await run_source(
            options, stream="s", kinesis=self.kinesis, files=self.files, clock=SystemClock(), random=random.Random(1),
            telemetry=self.telemetry, settings=SETTINGS, stop=stop,
        )  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the stream in their order."""
        return [json.loads(record.data) for _, record in self.kinesis.records("s")]

    def numbers(self) -> list[int]:
        """Return the numbers of the events, sorted."""
        return sorted(each["n"] for each in self.events())


STYLES = [{"style": "page"}, {"style": "offset"}, {"style": "next_link", "next": "links.next"}]


@pytest.mark.parametrize("style", STYLES)
async def test_every_item_becomes_one_event_in_its_order(api: Api, style: dict[str, str]) -> None:
    """All pages are read to the last; an item's number is the offset in its event id."""
    world = World()
    summary = await world.run(api, **style)
    assert (summary.lines, summary.events, summary.acknowledged, summary.undelivered) == (10, 10, 10, 0)
    assert world.numbers() == list(range(10))
    for event in world.events():
        assert re.fullmatch(rf"api\.[0-9a-f]{{2}}\.{event['n']}", event["event_id"])


@pytest.mark.parametrize("style", STYLES)
async def test_a_second_run_reads_what_is_new_only(api: Api, style: dict[str, str]) -> None:
    """A run begins behind the last acknowledged item, also where the last page was not full."""
    world = World()
    await world.run(api, **style)
    assert (await world.run(api, **style)).lines == 0
    api.items += [{"session_id": "s9", "n": number} for number in range(10, 17)]
    assert (await world.run(api, **style)).lines == 7
    assert world.numbers() == list(range(17))
    assert sorted(int(each["event_id"].rpartition(".")[2]) for each in world.events()) == list(range(17))


@pytest.mark.parametrize("style", STYLES)
async def test_what_was_not_bookmarked_comes_again_under_the_same_ids(api: Api, style: dict[str, str]) -> None:
    """A run that ends inside a page goes on at the page; repetitions are the same to the byte."""
    world = World()
    await world.run(api, lines=7, **style)
    await world.run(api, **style)
    by_id: dict[str, dict[str, Any]] = {}
    for event in world.events():
        assert by_id.setdefault(event["event_id"], event) == event
    assert sorted(each["n"] for each in by_id.values()) == list(range(10))


async def test_a_stream_that_grew_before_the_first_bookmark_gets_the_same_ids(api: Api) -> None:
    """Nothing tells of a named API without a bookmark how many lanes it had: it has 256, on any number of shards."""
    world = World()
    await world.run(api, lines=2)
    before = world.events()
    world.kinesis.create_stream("s", LANES + 1)
    await world.run(api)
    assert len(before) == 2
    assert all(event in world.events() for event in before)


async def test_throttles_errors_and_cut_connections_are_waited_out(api: Api) -> None:
    """429 with Retry-After, 503 without, and a connection that breaks: the same page again, nothing doubled."""
    world = World()
    troubles = ["429", "503", "cut", "date"]

    def trouble(request: web.Request) -> web.StreamResponse | None:
        if not troubles:
            return None
        match troubles.pop():
            case "429":
                return web.Response(status=429, headers={"Retry-After": "0"})
            case "date":
                return web.Response(status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
            case "503":
                return web.Response(status=503, headers={"Retry-After": "soon"})
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    api.before = trouble
    await world.run(api, retry_after_seconds_max=0)
    assert world.numbers() == list(range(10))
    assert len(api.requests) == 4 + 5
    # aiohttp itself repeats a GET whose kept connection turned out to be closed.
    assert [event for event, _ in world.telemetry.said].count("http_source_retried") >= 3


async def test_a_page_that_is_given_up_is_not_said_to_be_tried_again(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last attempt has no `http_source_retried`: no wait follows it."""

    async def wait(_: HttpSource, seconds: float) -> bool:
        return False

    monkeypatch.setattr(HttpSource, "_pause", wait)
    api.before = lambda _: web.Response(status=503)
    world = World()
    with pytest.raises(SourceError, match="not read in 3 attempts"):
        await world.run(api, attempts_max=3)
    assert [event for event, _ in world.telemetry.said] == ["http_source_retried"] * 2


@pytest.mark.parametrize(
    ("header", "least", "most"), [("7", 7, 7), ("in", 27, 30), ("99999999999999", 60, 60), ("soon", 0, 5), ("-3", 0, 5)]
)
async def test_retry_after_is_waited_for_within_its_bound(
    api: Api, monkeypatch: pytest.MonkeyPatch, header: str, least: float, most: float
) -> None:
    """Seconds or a date of the API's choice, at most `retry_after_seconds_max`; what is neither is backed off."""
    waits: list[float] = []

    async def wait(_: HttpSource, seconds: float) -> bool:
        waits.append(seconds)
        return False

    monkeypatch.setattr(HttpSource, "_pause", wait)
    text = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True) if header == "in" else header
    refusals = iter([web.Response(status=429, headers={"Retry-After": text})])
    api.before = lambda _: next(refusals, None)
    world = World()
    await world.run(api, retry_after_seconds_max=60)
    assert world.numbers() == list(range(10))
    assert len(waits) == 1
    assert least <= waits[0] <= most


@pytest.mark.parametrize("style", STYLES)
async def test_places_not_yet_bookmarked_are_bounded(
    api: Api, monkeypatch: pytest.MonkeyPatch, style: dict[str, str]
) -> None:
    """However many pages are read before a bookmark moves, few places are held, and the last one is among them."""
    held: list[int] = []
    hold = HttpSource._hold

    def hold_and_count(source: HttpSource, place: PagePlace) -> None:
        hold(source, place)
        held.append(len(source._done))

    monkeypatch.setattr(HttpSource, "_hold", hold_and_count)
    monkeypatch.setattr("producer.http_source._PLACES_MAX", 4)
    monkeypatch.setattr(f"{__name__}.SETTINGS", SETTINGS.model_copy(update={"bookmark_interval_seconds": 3600.0}))
    api.items = [{"session_id": "s", "n": number} for number in range(40)]
    world = World()
    await world.run(api, page_items_max=1, **style)
    assert world.numbers() == list(range(40))
    assert len(held) == 40
    assert max(held) <= 4
    assert (await world.run(api, page_items_max=1, **style)).lines == 0


async def test_an_api_that_stays_down_ends_the_run_with_what_was_read_delivered(api: Api) -> None:
    """After the last attempt the error names page and reason; the next run goes on from there."""
    world = World()

    def down(request: web.Request) -> web.StreamResponse | None:
        return web.Response(status=500, headers={"Retry-After": "0"}) if request.query["page"] == "3" else None

    api.before = down
    with pytest.raises(SourceError, match=r"page 3 .* in 2 attempts: status 500"):
        await world.run(api, attempts_max=2)
    assert world.numbers() == list(range(6))
    api.before = lambda _: None
    await world.run(api)
    assert world.numbers() == list(range(10))


async def test_a_refused_token_is_renewed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """401 leads to the token endpoint and the same page again; no secret is ever said."""
    world = World()
    monkeypatch.setenv("API_TOKEN", "stale")
    monkeypatch.setenv("API_ID", "me")
    monkeypatch.setenv("API_SECRET", SECRET)
    api.tokens = {"another"}
    token = {
        "environment": "API_TOKEN", "url": f"{api.base}/token",
        "client_id_environment": "API_ID", "client_secret_environment": "API_SECRET",
    }  # fmt: skip
    await world.run(api, token=token)
    assert world.numbers() == list(range(10))
    assert SECRET not in repr(world.telemetry.said)
    monkeypatch.setenv("API_SECRET", "wrong")
    api.tokens = {"another"}
    with pytest.raises(SourceError, match="status 400") as caught:
        await World().run(api, token=token)
    assert "wrong" not in f"{caught.value} {caught.value.hint}"


async def test_a_token_that_ends_between_two_pages_is_renewed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the API stops taking the token, one more is asked for, and no page is skipped or read twice."""
    monkeypatch.setenv("API_ID", "me")
    monkeypatch.setenv("API_SECRET", SECRET)

    def revoke(request: web.Request) -> None:
        if len(api.requests) in {1, 4}:
            api.tokens = {"revoked"}

    api.before = revoke
    token = {
        "url": f"{api.base}/token", "client_id_environment": "API_ID", "client_secret_environment": "API_SECRET",
    }  # fmt: skip
    world = World()
    await world.run(api, token=token)
    assert [each["n"] for each in sorted(world.events(), key=lambda each: each["n"])] == list(range(10))
    assert len(api.requests) == 5 + 2


async def test_a_refused_token_without_a_way_to_another_is_an_error(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token from a variable that is refused ends the run, and so does a variable that is not set."""
    api.tokens = {"another"}
    monkeypatch.setenv("API_TOKEN", SECRET)
    with pytest.raises(SourceError, match="refused the token") as caught:
        await World().run(api, token={"environment": "API_TOKEN"})
    assert SECRET not in f"{caught.value} {caught.value.hint}"
    monkeypatch.delenv("API_TOKEN")
    with pytest.raises(ConfigurationError, match="API_TOKEN is not set"):
        await World().run(api, token={"environment": "API_TOKEN"})


HOSTILE: list[tuple[Callable[[], web.StreamResponse], str]] = [
    (lambda: web.Response(body=b'{"data":{"visits":[' + b'"x",' * 4000), "more than 4,096 bytes"),
    (lambda: web.Response(body=gzip.compress(b"[]"), headers={"Content-Encoding": "gzip"}), "packed its answer"),
    (lambda: web.Response(body=b"[" * 4000), "not JSON, or too deep"),
    (lambda: web.Response(body=b"\xff\xfe\x00"), "not JSON, or too deep"),
    (lambda: web.Response(body=b'{"data":{"visits":{}}}'), "no list at `data.visits`"),
    (lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/x"}), "redirects to another host"),
    (lambda: web.Response(status=302, headers={"Location": "file:///etc/passwd"}), "redirects to another host"),
    (lambda: web.Response(status=302, headers={"Location": "/v1/visits?again"}), "more than 5 times"),
    (lambda: web.json_response({"data": {"visits": []}, "links": {"next": "http://a.example/"}}), "another host"),
    (lambda: web.json_response({"data": {"visits": []}, "links": {"next": 7}}), "another host"),
    (lambda: web.Response(status=404), "status 404"),
]


@pytest.mark.parametrize(("answer", "words"), HOSTILE)
async def test_a_hostile_api_is_a_source_error(api: Api, answer: Callable[[], web.StreamResponse], words: str) -> None:
    """Whatever an API answers, the run ends with words and without more memory than allowed."""
    api.before = lambda _: answer()
    with pytest.raises(SourceError, match=re.escape(words)):
        await World().run(api, style="next_link", next="links.next", response_bytes_max=4096)
    assert len(api.requests) <= 6


@pytest.mark.parametrize("style", [STYLES[0], STYLES[1]])
async def test_an_api_that_ignores_the_page_is_told_of(api: Api, style: dict[str, str]) -> None:
    """Its page comes once in a run; where pages are numbered, no more with the next start."""
    api.before = lambda _: web.json_response({"data": {"visits": api.items[:3]}})
    world = World()
    for run in range(2):
        with pytest.raises(SourceError, match=r"the very items of the page before") as caught:
            await world.run(api, **style)
        assert "page_parameter" in caught.value.hint
        if run == 0 or style["style"] == "page":
            assert world.numbers() == [0, 1, 2]
    assert len(api.requests) == 4


async def test_links_in_a_circle_are_told_of(api: Api) -> None:
    """What is on the way into the circle, and in it, comes once: 0 leads to 1, that to 2, and that to 1."""
    after = {"": "1", "1": "2", "2": "1"}

    def circle(request: web.Request) -> web.StreamResponse:
        here = request.query.get("cursor", "")
        number = int(here or 0)
        link = f"/v1/visits?cursor={after[here]}"
        return web.json_response({"data": {"visits": api.items[number : number + 1]}, "links": {"next": link}})

    api.before = circle
    world = World()
    with pytest.raises(SourceError, match=r"page 4 of .* lead in a circle"):
        await world.run(api, style="next_link", next="links.next")
    assert world.numbers() == [0, 1, 2]
    assert len(api.requests) == 3


def test_so_many_addresses_are_remembered() -> None:
    """A walk without end takes bounded memory, and goes on."""
    loop = PageLoop("api")
    for number in range(20_001):
        loop.go_to(f"https://api.example/?page={number}", number)
    loop.go_to("https://api.example/?page=0", 0)
    with pytest.raises(SourceError, match="circle"):
        loop.go_to("https://api.example/?page=20000", 0)


async def test_items_that_are_no_events_go_to_the_dead_letters(api: Api) -> None:
    """An item without session, a number, a huge integer and an over-long item are rejected, the others delivered."""
    api.items[2:6] = [{"n": 2}, 7, {"session_id": "s", "n": 2**70}, {"session_id": "s", "pad": "x" * (1 << 20)}]  # type: ignore[list-item]  # on purpose
    world = World()
    summary = await world.run(api)
    assert (summary.lines, summary.rejected, summary.acknowledged) == (10, 4, 6)
    letters = (await world.files.read_all(".headrace/dead-letters.ndjson", 1 << 24) or b"").splitlines()
    assert sorted(json.loads(each)["offset"] for each in letters) == [2, 3, 4, 5]
    assert all(json.loads(each)["file"] == f"{api.base}/v1/visits" for each in letters)


async def test_stopping_does_not_wait_for_an_api_that_does_not_answer(api: Api) -> None:
    """A stop gives up the call under way at once; what it would have read is read by the next run."""
    world, stop = World(), StopSignal()
    api.hold = asyncio.Event()
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        run = tasks.create_task(world.run(api, stop, call_timeout_seconds=600))
        await api.arrived.wait()
        stop.notify()
        summary = await run
        api.hold.set()
    assert (summary.lines, summary.is_stopped) == (0, True)
    api.hold = None
    await world.run(api)
    assert world.numbers() == list(range(10))


async def test_a_bookmark_of_something_else_is_refused(api: Api) -> None:
    """A damaged place is a ConfigurationError, not a run from the beginning."""
    world = World()
    await world.run(api)
    path = next(each for each in await _paths(world.files) if "bookmarks" in each)
    stored = json.loads(await world.files.read_all(path, 1 << 20) or b"")
    await world.files.write_atomically(path, json.dumps({**stored, "offset": 3}).encode())
    with pytest.raises(HeadraceError, match="the bookmark is at item 3"):
        await world.run(api)


async def _paths(files: FakeFiles) -> list[str]:
    return [f".headrace/bookmarks/{name}" for name in await files.list_folder(".headrace/bookmarks")]
