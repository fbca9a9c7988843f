"""Events on the wire: strict decoding, event ids."""

from __future__ import annotations

import orjson
import pytest

from shared.errors import MalformedEventError
from shared.event import EventId, decode_event, event_id_of, with_event_id
from shared.limits import EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EVENT_KEYS_MAX


def nested(levels: int) -> bytes:
    """Return an object that nests `levels` deep, itself included."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (b"{}", {}),
        (b' {"session_id": "a1"}\r\n', {"session_id": "a1"}),
        (b'{"a":18446744073709551615}', {"a": 2**64 - 1}),
        (b'{"a":-9223372036854775808}', {"a": -(2**63)}),
        (b'{"a":"123456789012345678901234567890"}', {"a": "123456789012345678901234567890"}),
        (b'{"a":"\\"123456789012345678901234567890"}', {"a": '"123456789012345678901234567890'}),
        (b'{"a":0.1234567890123456789012}', {"a": 0.1234567890123456789012}),
        (b'{"a":1e-0000000000000000000001}', {"a": 0.1}),
        (b'{"a":12345678901234567890123.0}', {"a": 1.2345678901234568e22}),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"a":"' + b"[{" * 100 + b'"}', {"a": "[{" * 100}),
        (b'{"a":"\\"' + b"[" * 100 + b'"}', {"a": '"' + "[" * 100}),
        (nested(EVENT_DEPTH_MAX), None),
        (b'{"h":[' + b",".join([b'{"p":1,"q":2,"r":3}'] * 900) + b"]}", None),
    ],
)
def test_a_json_object_within_the_bounds_is_decoded(data: bytes, event: dict[str, object] | None) -> None:
    """What RFC 8259 allows and the bounds hold is decoded without loss."""
    assert decode_event(data) == (orjson.loads(data) if event is None else event)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b"null", "not an object"),
        (b'"secret"', "not an object"),
        (b'{"secret": nope}', "not JSON"),
        (b'{"secret": 1', "not JSON"),
        (b'{"secret": NaN}', "not JSON"),
        (b'{"secret": 1e999}', "not JSON"),
        (b'{"secret": "\\ud800"}', "not JSON"),
        (b'{"secret": "\xed\xa0\x80"}', "not JSON"),
        (b'{"secret": "\xff"}', "not JSON"),
        (b'\xef\xbb\xbf{"secret": 1}', "not JSON"),
        (b'{"secret": 1} {"secret": 2}', "not JSON"),
        (b'{"secret": 18446744073709551616}', "64 bits"),
        (b'{"secret": -9223372036854775809}', "64 bits"),
        (b'{"secret": [1, %d]}' % 2**70, "64 bits"),
        (b'{"secret": ' + b"9" * 5000 + b"}", "JSON|64 bits"),
        (nested(EVENT_DEPTH_MAX + 1), "deeper than 64"),
        (b"[" * 100_000, "deeper than 64"),
        (b'{"' + b"[" * 100, "not JSON"),
        (b"[" * 64 + b'"' + b'\\"[' * 3_000_000, "not JSON"),  # each quote would be looked at as a beginning, for hours
        (b'{"secret": "' + b"x" * EVENT_BYTES_MAX + b'"}', "more than 10,485,760"),
        (orjson.dumps({f"secret{number}": 1 for number in range(EVENT_KEYS_MAX + 1)}), "1,001 keys"),
        (orjson.dumps({"a": [{f"secret{number}": 1 for number in range(EVENT_KEYS_MAX + 1)}]}), "1,001 keys"),
    ],
)
def test_what_would_lose_data_or_bounds_is_malformed(data: bytes, words: str) -> None:
    """The error says why, holds no part of the data, and carries no cause that does."""
    with pytest.raises(MalformedEventError, match=words) as caught:
        decode_event(data)
    assert "secret" not in str(caught.value) + caught.value.hint
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"{}", b'{"event_id":"web.0a.7"}'),
        (b" { \t} \n", b' { \t"event_id":"web.0a.7"}'),
        (b'{"a": 1.0}', b'{"a": 1.0,"event_id":"web.0a.7"}'),
        (b'{"a": {} }\r\n', b'{"a": {} ,"event_id":"web.0a.7"}'),
        (b'{"a":"}"}', b'{"a":"}","event_id":"web.0a.7"}'),
    ],
)
def test_an_event_id_is_added_without_touching_the_rest(data: bytes, expected: bytes) -> None:
    """The bytes before the closing brace stay as they were, and the result is an event with that id."""
    assert with_event_id(data, "web.0a.7") == expected
    assert event_id_of(decode_event(expected)) == "web.0a.7"


def test_an_added_id_overrules_one_that_the_event_claims() -> None:
    """A source that writes another source's id into its events can't raise that source's high-water mark."""
    assert event_id_of(decode_event(with_event_id(b'{"event_id":"other.00.999"}', "web.0a.7"))) == "web.0a.7"


@pytest.mark.parametrize(("event", "expected"), [({}, None), ({"event_id": ""}, None), ({"event_id": 7}, None)])
def test_an_event_without_a_usable_id_has_none(event: dict[str, object], expected: None) -> None:
    """Only a non-empty string is an event id."""
    assert event_id_of(event) == expected


@pytest.mark.parametrize(
    ("event_id", "text"),
    [
        (EventId("web", 10, 0), "web.0a.0"),
        (EventId("a-1", 255, 2**63 - 1), "a-1.ff.9223372036854775807"),
        (EventId("x" * 40, None, 12), "x" * 40 + ".-.12"),
        (EventId("web", 0xAB, 7, 0xC), "web.ab0c.7"),
        (EventId("web", 10, 7, 255), "web.0aff.7"),
    ],
)
def test_an_event_id_has_one_text_form(event_id: EventId, text: str) -> None:
    """Writing and reading an event id are inverse."""
    assert (str(event_id), EventId.parse(text)) == (text, event_id)


@pytest.mark.parametrize(
    "text",
    [
        *("", "web", "web.0a", "web.0a.", "web.0A.1", "web.a.1", "web.0a.01", "web.0a.-1", "web.0a.1 ", "web.0a.1\n"),
        *("web.0000a.1", "web.-00.1", "web.0a-.1"),
        *("Web.0a.1", "we_b.0a.1", ".0a.1", "x" * 41 + ".0a.1", "web.0a.9223372036854775808", "web.0a.1.2"),
        *("web.0a.\u0661", "web.00a.1", "web.-a.1", "550e8400-e29b-41d4-a716-446655440000", "web.0a." + "1" * 100_000),
    ],
)
def test_a_foreign_id_is_not_parsed(text: str) -> None:
    """Any text that is not exactly a text form is somebody else's id."""
    assert EventId.parse(text) is None
