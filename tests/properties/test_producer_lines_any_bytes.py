"""Whatever the bytes: no exception, one result a line, no personal data, and the same again after a restart."""

from __future__ import annotations

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.core.json_line import JsonLineParser
from producer.core.line import BYTE_ORDER_MARK, FilteredLine, ParsedEvent, RejectedLine
from producer.core.line_format import LineFormat, open_parser
from producer.core.site import DEFAULT
from producer.core.visit_line import VisitLineParser
from shared.errors import MalformedEventError
from shared.event import EventId, decode_event, event_id_of, with_event_id

unhurried = settings(deadline=None)  # a busy machine is no failure

FORMATS = st.sampled_from(list(LineFormat))
ADDRESSES = ("192.0.2.171", "198.51.100.233", "2001:db8::beef")
AGENTS = ("Mozilla/5.0 Firefox", "Opera Zebra", "Crawlerbot", "-")
PATHS = (
    *("/", "/product/A1", "/product/B2/x", "/basket/add/A1", "/basket/add/C3", "/basket", "/checkout"),
    *("/static/x.css", "/admin/x", "/robots.txt", "/search/jane?q=doe", "/order/confirm"),
)
LINES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b" ", b"session_id,city", b"s1,Bonn", b'{"session_id":"s"}', b'{"session_id":1}', b'{"a":"\\"}']
    ),
    st.builds(
        '{} - - [02/Mar/2026:{:02}:{:02}:00 +0100] "{} {} HTTP/1.1" {} 5 "-" "{}"'.format,
        st.sampled_from(ADDRESSES),
        st.integers(0, 23),
        st.integers(0, 59),
        st.sampled_from(["GET", "POST", "HEAD"]),
        st.sampled_from(PATHS),
        st.sampled_from([200, 200, 200, 302, 404]),
        st.sampled_from(AGENTS),
    ).map(str.encode),
    st.builds(
        lambda head, request, agent, tail: (
            b'%b [02/Mar/2026:06:00:00 +0100] "%b" 200 5 "-" "%b"%b' % (head, request, agent, tail)
        ),
        *(st.binary(max_size=30) for _ in range(4)),
    ),
)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
SESSIONS = st.fixed_dictionaries({"session_id": st.sampled_from(["s1", "s2", "\u00e9"]), "more": JSON_VALUES})
JSON_LINES = st.builds(
    lambda session, more: orjson.dumps({"session_id": session, "more": more}),
    st.sampled_from(["s1", "", 5, None, "x" * 257]),
    st.sampled_from([1, "\ufeff", [[]], 10**18]),
)
JSON_OBJECTS = st.dictionaries(st.text(), JSON_VALUES, max_size=6)


def open_visits() -> VisitLineParser:
    """Return a parser with a table so small that sessions are evicted."""
    return VisitLineParser(DEFAULT, b"k" * 16, lambda agent: "bot" in agent, sessions_max=3)


@unhurried
@given(FORMATS, st.lists(LINES, max_size=12))
def test_any_line_gives_one_result(line_format: LineFormat, lines: list[bytes]) -> None:
    """Lines = events + filtered + rejected, and every event is a JSON object under its session id."""
    parser = open_parser(line_format, open_visits)
    counts = {ParsedEvent: 0, FilteredLine: 0, RejectedLine: 0}
    for line in lines:
        result = parser.parse(line)
        counts[type(result)] += 1
        if isinstance(result, ParsedEvent):
            event = decode_event(result.data)
            assert event["session_id"] == result.partition_key
            assert 1 <= len(result.partition_key) <= 256
            assert result.has_event_id == ("event_id" in event)
    assert sum(counts.values()) == len(lines)


@unhurried
@given(FORMATS, st.lists(LINES, min_size=1, max_size=16), st.data())
def test_a_restart_at_any_line_gives_the_same_bytes(
    line_format: LineFormat, lines: list[bytes], data: st.DataObject
) -> None:
    """A parser restored from the snapshot of a line goes on as the one that never stopped, state included."""
    cut = data.draw(st.integers(0, len(lines)))
    parser, restored = open_parser(line_format, open_visits), open_parser(line_format, open_visits)
    for line in lines[:cut]:
        parser.parse(line)
    restored.restore(parser.snapshot())
    for line in lines[cut:]:
        assert restored.parse(line) == parser.parse(line)
    assert restored.snapshot() == parser.snapshot()


@unhurried
@given(FORMATS, st.lists(LINES | JSON_LINES, max_size=150))
def test_lines_together_are_judged_as_one_by_one(line_format: LineFormat, lines: list[bytes]) -> None:
    """The quick way through many lines gives the results of the slow way, and leaves the same state."""
    together, alone = open_parser(line_format, open_visits), open_parser(line_format, open_visits)
    before = together.snapshot()
    columns = together.parse_events(lines)
    results = [alone.parse(line) for line in lines]
    if columns is None:
        assert together.snapshot() == before, "nothing has happened"
        assert [together.parse(line) for line in lines] == results
    else:
        bodies, keys = columns
        assert [ParsedEvent(body + b"}", key) for body, key in zip(bodies, keys, strict=True)] == results
    assert together.snapshot() == alone.snapshot()


@unhurried
@given(
    st.lists(SESSIONS, min_size=1, max_size=40),
    st.sampled_from([b"", b" ", b"\r"]),
    st.sampled_from([b"", BYTE_ORDER_MARK]),
)
def test_ordinary_lines_go_the_quick_way(events: list[dict[str, object]], tail: bytes, head: bytes) -> None:
    """Lines that are events and nothing else are judged together, with Windows line ends or a byte order mark, too."""
    lines = [head + orjson.dumps(event) + tail for event in events]
    columns = JsonLineParser().parse_events(lines)
    assert columns is not None
    assert [orjson.loads(body + b"}") for body in columns.bodies] == events
    assert columns.partition_keys == [event["session_id"] for event in events]


@unhurried
@given(st.lists(LINES, max_size=16))
def test_no_event_and_no_state_tells_who_it_was(lines: list[bytes]) -> None:
    """Neither address nor user agent nor query leaves, whatever stands around them."""
    parser = open_visits()
    results = [parser.parse(line) for line in lines]
    told = b"\n".join(result.data for result in results if isinstance(result, ParsedEvent)) + parser.snapshot()
    for secret in (*ADDRESSES, "Firefox", "Zebra", "doe", "q="):
        assert secret.encode() not in told


@unhurried
@given(st.binary(max_size=64) | JSON_OBJECTS.map(orjson.dumps))
def test_decoding_any_bytes_gives_an_object_or_a_named_error(data: bytes) -> None:
    """Nothing but MalformedEventError comes out of the decoder."""
    try:
        event = decode_event(data)
    except MalformedEventError:
        return
    assert event == orjson.loads(data)


@unhurried
@given(JSON_OBJECTS, st.sampled_from([b"", b" ", b"\r\n", b"\t \n"]))
def test_any_object_takes_an_event_id(event: dict[str, object], space: bytes) -> None:
    """The id is there afterwards and every other field as it was."""
    spliced = decode_event(with_event_id(space + orjson.dumps(event) + space, "web.00.5"))
    assert event_id_of(spliced) == "web.00.5"
    assert spliced == {**event, "event_id": "web.00.5"}


@unhurried
@given(
    st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True),
    st.none() | st.integers(0, 255),
    st.integers(0, 2**63 - 1),
    st.none() | st.integers(0, 255),
)
def test_every_event_id_is_read_back(source_id: str, lane: int | None, offset: int, part: int | None) -> None:
    """Text form and value are one to one."""
    event_id = EventId(source_id, lane, offset, None if lane is None else part)
    assert EventId.parse(str(event_id)) == event_id


@unhurried
@given(st.text(max_size=70))
def test_any_text_is_an_event_id_or_foreign(text: str) -> None:
    """What is parsed is written as the very same text."""
    event_id = EventId.parse(text)
    assert event_id is None or str(event_id) == text
