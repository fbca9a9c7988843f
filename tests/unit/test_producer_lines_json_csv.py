"""Lines of JSON and CSV, and the choice of a format by the first line."""

from __future__ import annotations

import orjson
import pytest

from producer.core.csv_line import REST_LINES_MAX, ROW_BYTES_MAX, ROW_LINES_MAX, CsvLineParser
from producer.core.json_line import JsonLineParser
from producer.core.line import (
    FILTERED_BLANK,
    FILTERED_HEADER,
    FilteredLine,
    ParsedEvent,
    RejectedLine,
)
from producer.core.line_format import AutoLineParser, LineFormat, detect_format, open_parser
from producer.core.site import DEFAULT
from producer.core.visit_line import VisitLineParser
from shared.errors import ConfigurationError
from shared.limits import EVENT_BYTES_MAX
from tests.support.ways import way  # noqa: F401 - each test is run both ways

COMBINED_LINE = b'192.0.2.1 - - [02/Mar/2026:06:01:20 +0100] "GET / HTTP/1.1" 200 512 "-" "Mozilla/5.0"'


def open_visits() -> VisitLineParser:
    """Return a parser of access logs that knows no crawlers."""
    return VisitLineParser(DEFAULT, b"k" * 16, lambda _: False)


def open_auto() -> AutoLineParser:
    """Return a parser that finds the format out."""
    parser = open_parser(LineFormat.AUTO, open_visits)
    assert isinstance(parser, AutoLineParser)
    return parser


def error_code(parser: JsonLineParser | CsvLineParser | AutoLineParser, line: bytes) -> str:
    """Return the error code of a line that must be rejected."""
    result = parser.parse(line)
    assert isinstance(result, RejectedLine)
    return result.error_code


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"session_id":"a1"}', ParsedEvent(b'{"session_id":"a1"}', "a1")),
        (b' {"x" : 1.0, "session_id":"\\u00e4"} \r', ParsedEvent(b'{"x" : 1.0, "session_id":"\\u00e4"}', "\u00e4")),
        (b'\xef\xbb\xbf{"session_id":"a1"}', ParsedEvent(b'{"session_id":"a1"}', "a1")),
        (
            b'{"session_id":"a","event_id":"x.-.1"}',
            ParsedEvent(b'{"session_id":"a","event_id":"x.-.1"}', "a", has_event_id=True),
        ),
        (b"", FILTERED_BLANK),
        (b" \t\r", FILTERED_BLANK),
    ],
)
def test_a_json_line_is_kept_byte_for_byte(line: bytes, expected: ParsedEvent | FilteredLine) -> None:
    """The data of an event are the bytes of its line, without the whitespace around them."""
    assert JsonLineParser().parse(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "malformed-event"),
        (b"[1]", "malformed-event"),
        (b"\x00\xff", "malformed-event"),
        (b"{}", "missing-session-id"),
        (b'{"session_id":""}', "missing-session-id"),
        (b'{"session_id":null}', "missing-session-id"),
        (b'{"session_id":7}', "bad-partition-key"),
        (b'{"session_id":"%b"}' % (b"x" * 257), "bad-partition-key"),
    ],
)
def test_a_json_line_without_a_partition_key_is_rejected(line: bytes, expected: str) -> None:
    """Each reason has its own code."""
    assert error_code(JsonLineParser(), line) == expected


def test_a_csv_row_becomes_an_object_of_strings() -> None:
    """Cells keep their text, quotes and commas included; the header is a filtered line."""
    parser = CsvLineParser()
    assert parser.parse(b"\xef\xbb\xbfsession_id, city,n\r") == FILTERED_HEADER
    event = parser.parse(b'a1,"New ""York"", NY",007\r')
    assert event == ParsedEvent(b'{"session_id":"a1","city":"New \\"York\\", NY","n":"007"}', "a1")
    assert parser.parse(b" ") == FILTERED_BLANK


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"a1", "malformed-line"),
        (b"a1,b,c", "malformed-line"),
        (b'a1,"b"c', "malformed-line"),
        (b"a1,\xff", "malformed-line"),
        (b"a1,b\rc", "malformed-line"),
        (b",b", "missing-session-id"),
        (b"a1," + b"x" * EVENT_BYTES_MAX, "malformed-line"),
    ],
)
def test_a_csv_row_that_does_not_fit_its_header_is_rejected(line: bytes, expected: str) -> None:
    """Wrong columns, broken quotes, other encodings and missing keys are named."""
    parser = CsvLineParser()
    parser.parse(b"session_id,city")
    assert error_code(parser, line) == expected


def test_a_csv_row_whose_event_is_too_large_is_rejected() -> None:
    """A row within the bounds may make an event that is not, by what JSON has to escape."""
    parser = CsvLineParser()
    parser.parse(b",".join([b"session_id", *[b"c%d" % n for n in range(20)]]))
    row = b",".join([b"a1", *[b"\x01" * (EVENT_BYTES_MAX // 100)] * 20])
    assert len(row) < EVENT_BYTES_MAX
    assert error_code(parser, row) == "malformed-event"


def test_a_csv_row_may_take_several_lines() -> None:
    """Newlines between quotes belong to the cell, whatever its lines look like, also over a restart inside of it."""
    parser = CsvLineParser()
    parser.parse(b"session_id,note")
    results = []
    for line in (b'a1,"first\r', b"b2,not a row\r", b"", b'last ""line""",x', b'a3,"one', b'two"', b"a4,b"):
        results.append(parser.parse(line))
        restored = CsvLineParser()
        restored.restore(parser.snapshot())
        parser = restored
    goes_on = FilteredLine("row goes on")
    assert results[:3] == [goes_on] * 3
    assert isinstance(results[3], RejectedLine)
    assert results[3].data == b'a1,"first\r\nb2,not a row\r\n\nlast ""line""",x'
    assert results[4:] == [
        goes_on,
        ParsedEvent(b'{"session_id":"a3","note":"one\\ntwo"}', "a3"),
        ParsedEvent(b'{"session_id":"a4","note":"b"}', "a4"),
    ]
    assert parser.finish() is None


@pytest.mark.parametrize("line", [b"x", b"x" * 10_000])
def test_a_csv_quote_too_many_takes_a_bounded_number_of_lines_along(line: bytes) -> None:
    """A quote that nobody closes is given up after some lines or bytes, which are kept, then the rest of its row."""
    parser = CsvLineParser()
    parser.parse(b"session_id,note")
    taken = [b'a1,"open']
    result = parser.parse(taken[0])
    while isinstance(result, FilteredLine):
        assert len(taken) < ROW_LINES_MAX
        taken.append(line)
        result = parser.parse(line)
    assert isinstance(result, RejectedLine)
    assert result.data == b"\n".join(taken)
    assert len(result.data) <= ROW_BYTES_MAX + len(line)
    rest = 0
    while isinstance(result := parser.parse(b"a4,b"), RejectedLine):
        rest += 1
        assert result.data == b""
        assert rest <= REST_LINES_MAX
        parser = restarted(parser)
    assert rest == REST_LINES_MAX
    assert result == ParsedEvent(b'{"session_id":"a4","note":"b"}', "a4")


def restarted(parser: CsvLineParser) -> CsvLineParser:
    """Return what a restart makes of a parser's snapshot."""
    restored = CsvLineParser()
    restored.restore(parser.snapshot())
    return restored


@pytest.mark.parametrize("closing", [b'end"', b'end ""of it"""\r', b'",x', b'"a4","x"'])
@pytest.mark.parametrize("opening", [[b'a1,"open', *[b"x"] * (ROW_LINES_MAX - 1)], [b'a1,"\xff'], [b'a1,"o', b"\xff"]])
def test_no_line_of_a_rejected_csv_row_is_a_row(opening: list[bytes], closing: bytes) -> None:
    """What stands in a field up to its closing quote is no event, however long the field is, and whatever its bytes."""
    parser = CsvLineParser()
    parser.parse(b"session_id,note")
    results = []
    for line in [*opening, b"a2,made up", b"", b'a3,""made up""', b"a\xff,b", closing]:
        results.append(parser.parse(line))
        parser = restarted(parser)
    assert not any(isinstance(each, ParsedEvent) for each in results)
    assert all(isinstance(each, RejectedLine) for each in results[len(opening) - 1 :])
    assert isinstance(parser.parse(b"a4,b"), ParsedEvent)


@pytest.mark.parametrize(
    ("before", "quotes", "rejected", "is_row"),
    [
        ([], 0, False, True),
        ([], 3, False, False),
        ([b'a1,"open'], 0, True, False),
        ([b'a1,"open'], 3, True, True),
        ([b'a1,"\xff'], 2, False, False),
        ([b'a1,"\xff'], 1, False, True),
    ],
)
def test_a_csv_row_with_a_line_too_long_to_be_read_is_rejected(
    before: list[bytes], quotes: int, rejected: bool, is_row: bool
) -> None:
    """An event that lacks that line would be wrong, and what follows it in the same field is no row."""
    parser = CsvLineParser()
    parser.parse(b"session_id,note")
    for line in before:
        parser.parse(line)
    unfinished = parser.skip(quotes)
    assert (unfinished is not None) == rejected
    if unfinished is not None:
        assert unfinished.data == b'a1,"open\n'
    parser = restarted(parser)
    assert isinstance(parser.parse(b"a2,b"), ParsedEvent) == is_row
    parser.parse(b'end"')
    assert isinstance(parser.parse(b"a4,b"), ParsedEvent)


@pytest.mark.parametrize(
    "header",
    [
        b"city,country",
        b"session_id,session_id",
        b"session_id,",
        b",".join([b"session_id", *[b"c%d" % n for n in range(200)]]),
    ],
)
def test_a_csv_header_without_a_session_is_rejected(header: bytes) -> None:
    """Without a usable header nothing is guessed."""
    assert error_code(CsvLineParser(), header) == "malformed-line"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"session_id":"a1"}', LineFormat.JSON),
        (b"{broken", LineFormat.JSON),
        (COMBINED_LINE, LineFormat.COMBINED),
        (b"session_id,city", LineFormat.CSV),
        (b"hello, world", None),
        (b"\x7fELF\x02\x01\x01\x00", None),
        (b"[1]", None),
    ],
)
def test_the_first_line_shows_the_format(line: bytes, expected: LineFormat | None) -> None:
    """Each format is told by a line of it, anything else is none of them."""
    assert detect_format(line) == expected


def test_the_format_is_decided_once() -> None:
    """Lines of no format are rejected by name until one decides; later lines can't change it."""
    parser = open_auto()
    assert parser.parse(b"\xef\xbb\xbf ") == FILTERED_BLANK
    assert error_code(parser, b"no format") == "unknown-format"
    assert isinstance(parser.parse(COMBINED_LINE), ParsedEvent)
    assert error_code(parser, b'{"session_id":"a1"}') == "malformed-line"
    assert parser.decided == LineFormat.COMBINED


@pytest.mark.parametrize("first", [b"", b"session_id,city", b'{"session_id":"a1"}', COMBINED_LINE])
def test_a_decision_survives_a_restart(first: bytes) -> None:
    """A restored parser goes on in the format that was decided, header included."""
    parser, restored = open_auto(), open_auto()
    parser.parse(first)
    restored.restore(parser.snapshot())
    for line in (b"a1,Bonn", b'{"session_id":"a2"}', COMBINED_LINE):
        assert restored.parse(line) == parser.parse(line)


@pytest.mark.parametrize("line_format", list(LineFormat))
@pytest.mark.parametrize(
    "state",
    [
        *(b"x", b"xml\n", b"csv\nx", b"json\nx", b"combined\n", b"{}", b"[]", b'["city"]', b"7", b'{"version":2}'),
        b'{"version":1,"sessions":[[1,2,3,4,5]],"fetchers":[]}',
        b'{"version":1,"sessions":[["00",2,3,4,{}]],"fetchers":[]}',
        b'{"version":1,"sessions":[["%b",2,3,4,{"a":-1}]],"fetchers":[]}' % (b"00" * 16),
        b'{"version":1,"sessions":[["%b",2,3,4,[]]],"fetchers":[]}' % (b"00" * 16),
        b'{"version":1,"sessions":[],"fetchers":[1]}',
        b'{"version":1,"sessions":7,"fetchers":[]}',
    ],
)
def test_a_damaged_state_is_refused(line_format: LineFormat, state: bytes) -> None:
    """A state that is no snapshot is an error with a remedy, not a parser in a strange mood."""
    with pytest.raises(ConfigurationError, match="saved state") as caught:
        open_parser(line_format, open_visits).restore(state)
    assert "bookmark" in caught.value.hint


def test_the_keys_of_a_csv_event_keep_the_order_of_the_columns() -> None:
    """The same row gives the same bytes."""
    parser = CsvLineParser()
    parser.parse(b"z,session_id,a")
    result = parser.parse(b"1,s,2")
    assert isinstance(result, ParsedEvent)
    assert list(orjson.loads(result.data)) == ["z", "session_id", "a"]


def test_a_cell_is_as_long_as_an_event() -> None:
    """The module for CSV refuses cells of more than 128 KiB unless it is told otherwise."""
    parser = CsvLineParser()
    parser.parse(b"session_id,text")
    for opening in (b"", b'"'):
        result = parser.parse(b"s," + opening + b"x" * 900_000 + opening)
        assert isinstance(result, ParsedEvent)
        assert len(orjson.loads(result.data)["text"]) == 900_000
