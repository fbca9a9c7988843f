"""Lines of access logs as the compiled part takes them apart: as Python does, or not at all."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from producer.core.access_log import AccessLogReader
from shared.compiled.columns import Columns
from tests.support.ways import without_compiled

pytestmark = pytest.mark.compiled

LINE = (
    b'192.0.2.1 - - [26/Jan/2019:19:45:25 +0330] "GET /product/7?a=b HTTP/1.1" 200 5 "https://shop.example/" "Mozilla"'
)
PARTS = (b"192.0.2.1", b"192.0.2.1 - -", b" [", b"26/Jan/2019", b":19:45:25", b" +0330", b"] ", b'"', b"GET", b" ")
MORE = (b"/product/7", b"?a=b", b"#c", b" HTTP/1.1", b" 200 ", b"5", b"-", b" ", b"Mozilla", b'\\"', b"\\\\", b"\xff")
ODD = (
    b"",
    b"GET",
    b"GET ",
    b"GET / HTTP/1.1 HTTP/1.0",
    b"GET  HTTP/1.1",
    b"GET /a b#c?d HTTP/1.1",
    b"GET /a HTTP/1.1?x",
    b"GET /? HTTP/",
    b"GET / HTTP",
    b"GET http://host/path?q HTTP/1.1",
    b"GET * HTTP/1.1",
    b"\x16\x03",
)
TIMES = (
    b"00/Jan/2019:19:45:25 +0330",
    b"26/Jan/2019:24:00:00 +0330",
    b"26/Jan/2019:23:60:00 +0330",
    b"26/Jan/2019:23:59:60 +0330",
    b"26/Jan/2019:23:59:61 +0330",
    b"01/Jan/1970:00:00:00 +0001",
    b"31/Dec/9999:23:59:59 -2359",
    b"26/jan/2019:19:45:25 +0330",
    b"26/Jan/2019-19:45:25 +0330",
    b"26/Jan/2019:19:45:2x +0330",
    b"26/Jan/2019:19:45:25 +9999",
)
ANY = st.text(st.sampled_from('"\\ -019[]\t'), max_size=8).map(str.encode)


@st.composite
def near_lines(draw: st.DrawFn) -> bytes:
    """Return a line with one or two pieces of it replaced, left out or put in."""
    line = LINE
    for _ in range(draw(st.integers(0, 2))):
        start = draw(st.integers(0, len(line)))
        stop = draw(st.integers(start, min(len(line), start + 12)))
        line = line[:start] + draw(ANY | st.sampled_from((*PARTS, *MORE, *ODD))) + line[stop:]
    return line + draw(st.sampled_from((b"", b"\r", b' "x"', b' "', b"x", b' "\\""', b"\t1")))


CLF = st.builds(
    lambda address, time, request, numbers, between, agent: (
        address + b" - - [" + time + b'] "' + request + b'"' + numbers + b'"-"' + between + b'"' + agent + b'"'
    ),
    st.sampled_from((b"192.0.2.1", b"", b"a" * 255, b"a" * 256)),
    st.sampled_from((b"26/Jan/2019:19:45:25 +0330", *TIMES)),
    st.sampled_from((b"GET /a?b HTTP/1.1", *ODD)),
    st.sampled_from(
        (b" 200 5 ", b" 099 5 ", b" 200 - ", b" 200 -- ", b" 200  ", b" 200 5x ", b" 999 12345 ", b" 200 5")
    ),
    st.sampled_from((b" ", b"", b"  ")),
    st.binary(max_size=5),
)


@given(near_lines() | CLF | st.lists(st.sampled_from((*PARTS, *MORE))).map(b"".join))
@example(LINE)
@settings(deadline=None, max_examples=500)
def test_lines_are_taken_apart_as_python_does(line: bytes) -> None:
    """The same parts of the same lines, and none of any other."""
    reader = AccessLogReader()
    found = reader.read_target(line)
    with pytest.MonkeyPatch.context() as patch:
        without_compiled(patch)
        assert found == reader.read_target(line)


def test_an_ordinary_line_is_taken_apart_at_once(columns: Columns) -> None:
    """Else what is said above would say nothing; and nothing of it is kept."""
    parts = b"192.0.2.1", b"26/Jan/2019", b" +0330", 71_125, 200, b"Mozilla", b"GET", b"/product/7"
    assert columns.read_log_line(LINE) == parts
    before = sys.getrefcount(LINE)
    for _ in range(20):
        columns.read_log_line(LINE)
        assert columns.read_log_line(LINE[:-1]) is None
    assert sys.getrefcount(LINE) == before
    for length in range(len(LINE)):
        assert columns.read_log_line(LINE[:length]) is None
    with pytest.raises(TypeError):
        columns.read_log_line("text")  # type: ignore[arg-type] # on purpose
