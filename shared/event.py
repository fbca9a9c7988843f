"""What an event is on the wire: strict, bounded decoding, and the id that tells a duplicate from a second event."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, repeat
from typing import Any, Final

import orjson

from shared.errors import EventIdError, MalformedEventError
from shared.lanes import LANES, PARTS_MAX, LaneDivision
from shared.limits import EVENT_BYTES_MAX, EVENT_DEPTH_MAX, EVENT_KEYS_MAX

EVENT_ID_FIELD: Final = "event_id"
EVENT_ID_CHARACTERS_MAX: Final = 40 + 1 + 4 + 1 + 19  # source, lane and part, offset and two dots
OFFSET_MAX: Final = 2**63 - 1
# No shorter event has more keys than are allowed: as short a key and value as can be is `"":0`.
SHORT_BYTES: Final = 4 * EVENT_KEYS_MAX
JSON_WHITESPACE: Final = b" \t\n\r"

_INTEGER_MIN: Final = -(2**63)
_INTEGER_MAX: Final = 2**64 - 1
_INTEGER_DIGITS: Final = 19  # an integer of fewer digits always fits 64 bits
_INTEGER_CHARACTERS_MAX: Final = 20
_GROUP_EVENTS: Final = 8
DIGIT_RUN: Final = b"0" * _INTEGER_DIGITS
DIGITS_AS_ZEROS: Final = bytes(ord("0") if code in b"0123456789" else ord(" ") for code in range(256))
_QUOTE: Final = ord('"')
_BRACE: Final = ord("}")
# Possessive, as nothing has to be tried again: otherwise a text of 10 MiB takes 1.2 GB. A string that is not closed
# ends with the text: otherwise each quote in it would be tried as a beginning, for hours.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_INTEGER: Final = re.compile(rb"(?<![0-9.eE+-])-?[0-9]{19,}(?![0-9.eE])")
_NOT_BRACKETS: Final = bytes(code for code in range(256) if code not in b"[]{}")
_OPENING: Final = frozenset(b"[{")
_EMPTY_OBJECT: Final = re.compile(rb"\{[ \t\n\r]*\}")
_EVENT_ID: Final = re.compile(r"([a-z0-9-]{1,40})\.(?:([0-9a-f]{2})([0-9a-f]{2})?|-)\.(0|[1-9][0-9]{0,18})")
_SOURCE_ID: Final = re.compile(r"[a-z0-9-]{1,40}")
_ID_OPENING: Final = b',"event_id":"'
_TAILS: Final = [b'%d"}' % number for number in range(1_000)], [b'%03d"}' % number for number in range(1_000)]
_join: Final = b"".join


def decode_event(data: bytes) -> dict[str, Any]:
    """Decode one event: a JSON object (RFC 8259) within the bounds of shared.limits.

    Strict where a lenient reader loses data: NaN, numbers beyond a double, integers beyond 64 bits, lone surrogates
    and a byte order mark are refused. Of duplicate keys the last one counts. Raises MalformedEventError, whose
    message says where and why, and never holds a part of the data.
    """
    if len(data) > EVENT_BYTES_MAX:
        raise _malformed(f"the event has {len(data):,} bytes, more than {EVENT_BYTES_MAX:,}")
    if opening_count(data) > EVENT_DEPTH_MAX:
        _check_depth(data)
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        # The cause is cut off on purpose: it carries the whole document, which must not reach a log line.
        raise _malformed(f"not JSON: {error.msg} at character {error.pos}") from None
    if type(event) is not dict:
        raise _malformed(
            "the event is JSON, but not an object", hint='An event is written as {"session_id": "...", ...}'
        )
    if DIGIT_RUN in data.translate(DIGITS_AS_ZEROS):
        _check_integers(data)
    if len(data) > SHORT_BYTES and data.count(b":") > EVENT_KEYS_MAX:
        _check_keys(event)
    return event


def decode_events(datas: Sequence[bytes]) -> tuple[list[dict[str, Any]], dict[int, MalformedEventError]]:
    """Decode many events as decode_event does; for one that is refused, an empty event and its error, by index.

    The checks look at all of them at once. Only where one of them finds something, each event is decoded by itself.
    """
    if not are_modest(datas):
        return _decode_each(datas)
    try:
        events = list(map(orjson.loads, datas))
    except orjson.JSONDecodeError:
        return _decode_each(datas)
    if {*map(type, events)} <= {dict} and have_small_integers(datas):
        return events, {}
    return _decode_each(datas)


def have_small_integers(datas: Sequence[bytes]) -> bool:
    """Whether no integer of some JSON objects is beyond 64 bits; looks at those only that have as many digits in a row.

    A session id of hex digits may have them.
    """
    digits = b"".join(datas).translate(DIGITS_AS_ZEROS)
    place = digits.rfind(DIGIT_RUN)  # from the end, as that search skips what can't be a part of it
    starts = list(accumulate(map(len, datas), initial=0)) if place >= 0 else []
    while place >= 0:
        index = bisect_right(starts, place) - 1
        try:
            _check_integers(datas[index])
        except MalformedEventError:
            return False
        place = digits.rfind(DIGIT_RUN, 0, starts[index])
    return True


def are_modest(datas: Sequence[bytes]) -> bool:
    """Whether nothing in some texts can have too many keys or be nested too deep, if they are JSON.

    Looks at a few of them at once, whose sum is mostly below what one may have, and only then at each.
    """
    for start in range(0, len(datas), _GROUP_EVENTS):
        group = datas[start : start + _GROUP_EVENTS]
        text = b"".join(group)
        if not is_modest(text) and not all(map(is_modest, group)):
            return False
    return True


def is_modest(data: bytes) -> bool:
    """Whether nothing in a text can have too many keys or be nested too deep, if it is JSON."""
    return len(data) <= SHORT_BYTES and opening_count(data) <= EVENT_DEPTH_MAX


def _decode_each(datas: Sequence[bytes]) -> tuple[list[dict[str, Any]], dict[int, MalformedEventError]]:
    events: list[dict[str, Any]] = []
    refused: dict[int, MalformedEventError] = {}
    for index, data in enumerate(datas):
        try:
            events.append(decode_event(data))
        except MalformedEventError as error:
            events.append({})
            refused[index] = error
    return events, refused


def opening_count(data: bytes) -> int:
    """Return how many opening brackets there are, in strings, too; a third of the time of `count`."""
    return 2 * len(data) - len(data.replace(b"[", b"")) - len(data.replace(b"{", b""))


def _malformed(message: str, hint: str = "") -> MalformedEventError:
    return MalformedEventError(message, hint=hint)


def _check_depth(data: bytes) -> None:
    """Bound the nesting before the decoder, which recurses, sees it."""
    depth = 0
    for byte in _STRING.sub(b"", data).translate(None, _NOT_BRACKETS):
        depth += 1 if byte in _OPENING else -1
        if depth > EVENT_DEPTH_MAX:
            raise _malformed(f"the event is nested deeper than {EVENT_DEPTH_MAX} levels")


def _check_integers(data: bytes) -> None:
    """Refuse what the decoder would turn into a float without a word: an integer beyond 64 bits."""
    for match in _INTEGER.finditer(_STRING.sub(b'""', data)):
        text = match.group()
        if len(text) > _INTEGER_CHARACTERS_MAX or not _INTEGER_MIN <= int(text) <= _INTEGER_MAX:
            raise _malformed("the event has an integer that does not fit 64 bits", hint="Send it as a string")


def _check_keys(event: dict[str, Any]) -> None:
    """Bound the keys of every object; the depth was bounded before, so the walk ends."""
    pending: list[Any] = [event]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if len(value) > EVENT_KEYS_MAX:
                raise _malformed(f"an object of the event has {len(value):,} keys, more than {EVENT_KEYS_MAX:,}")
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)


def with_event_id(data: bytes, event_id: str) -> bytes:
    """Return the event's bytes with `event_id` added as the last key; everything before it stays as it was.

    `data` is a JSON object that decode_event accepts, with or without whitespace around it; `event_id` has the text
    form of an EventId. An id that the data already holds would be overruled, as the last of two equal keys counts:
    callers ask event_id_of first.
    """
    if data[:2] == b'{"' and data[-1:] == b"}":  # nearly every event: nothing around it, and it is not empty
        return b'%b,"event_id":"%b"}' % (data[:-1], event_id.encode("ascii"))
    stripped = data.rstrip(JSON_WHITESPACE)
    assert stripped.endswith(b"}"), "with_event_id takes a JSON object"
    comma = b"" if _EMPTY_OBJECT.fullmatch(stripped.lstrip(JSON_WHITESPACE)) else b","
    return b'%b%b"event_id":"%b"}' % (stripped[:-1], comma, event_id.encode("ascii"))


def event_id_heads(source_id: str, division: LaneDivision, *, has_lanes: bool) -> tuple[bytes, ...]:
    """Return, for each part of the lanes, the text form of an EventId up to its offset; without lanes, one for all.

    Each follows the opening of its field, as it is written into an event; `id_of_head` takes that off.
    """
    assert _SOURCE_ID.fullmatch(source_id), "a source id is 1 to 40 of a-z, 0-9 and -"
    opening = _ID_OPENING + source_id.encode("ascii")
    if not has_lanes:
        return (b"%b.-." % opening,) * len(division)
    return tuple(b"%b.%b." % (opening, name.encode("ascii")) for name in division.names())


def id_of_head(head: bytes, offset: int) -> str:
    """Return the text form of the EventId that consists of a head and an offset."""
    return f"{head.removeprefix(_ID_OPENING).decode('ascii')}{offset}"


def with_numbered_ids(datas: Sequence[bytes], heads: Iterable[bytes], numbers: Sequence[int]) -> list[bytes]:
    """Return events that lack their last brace (and are not empty) with their ids: a head and a number for each.

    A range of numbers costs a third less than others, as what follows the thousands is ready.
    """
    if not isinstance(numbers, range):
        digits = orjson.dumps(numbers)[1:-1]  # half the time of formatting each
        tails = (digits.replace(b",", b'"},') + b'"}').split(b",")
        return list(map(_join, zip(datas, heads, tails, strict=True)))
    parts: list[Iterable[bytes]] = []
    tails = []
    for thousand in range(numbers.start // 1_000, (numbers.stop - 1) // 1_000 + 1):
        part = _TAILS[bool(thousand)][max(0, numbers.start - 1_000 * thousand) : numbers.stop - 1_000 * thousand]
        parts.append(repeat(b"%d" % thousand if thousand else b"", len(part)))
        tails += part
    return list(map(_join, zip(datas, heads, chain.from_iterable(parts), tails, strict=True)))


def with_numbered_id(data: bytes, head: bytes, offset: int) -> bytes:
    """Do what with_event_id does with the id that consists of a head and an offset, in half the time."""
    if data[1] == _QUOTE and data[-1] == _BRACE:  # as there; no event is shorter than `{}`
        return data[:-1] + head + b'%d"}' % offset
    return with_event_id(data, id_of_head(head, offset))


def event_id_of(event: dict[str, Any]) -> str | None:
    """Return the id an event carries, ours or a foreign one; None if it has none that is a non-empty string."""
    value = event.get(EVENT_ID_FIELD)
    return value if isinstance(value, str) and value else None


def check_order(event_id: str, division: LaneDivision | None) -> None:
    """Raise EventIdError for the id of an event whose order would be lost where lanes are divided so, or not kept.

    Readers drop what comes after a higher number of its lane; two parts of a lane here may be one of those in the id.
    """
    known = EventId.parse(event_id)
    if known is None or known.lane is None:
        return
    msg = "the event brings an id whose order readers rely on"
    if division is None:
        raise EventIdError(f"{msg}; none is kept here", hint="Set HEADRACE_PRODUCER_ORDERING=lane")
    if division.cuts_lane(known.lane):
        raise EventIdError(
            f"{msg}; its lane {known.lane:02x} is cut in parts here, as it lies in several shards",
            hint="Set HEADRACE_PRODUCER_LANES_FINE=false, for a followed file before it has a bookmark",
        )


@dataclass(frozen=True, slots=True)
class EventId:
    """Where an event came from: source, lane (None if order is not kept) and byte offset in the source.

    Stable over restarts and rising per (source, lane, part), so a reader recognises a duplicate by a high-water mark.
    `part` is None where the source has its lane in one piece.
    """

    source_id: str
    lane: int | None
    offset: int
    part: int | None = None

    def __post_init__(self) -> None:
        """Hold the bounds that make the text form parse back to the same value."""
        assert _SOURCE_ID.fullmatch(self.source_id), "a source id is 1 to 40 of a-z, 0-9 and -"
        assert self.lane is None or 0 <= self.lane < LANES, "a lane is 0 to 255"
        assert self.part is None or (self.lane is not None and 0 <= self.part < PARTS_MAX), "a part is 0 to 255"
        assert 0 <= self.offset <= OFFSET_MAX, "an offset is 0 to 2^63 - 1"

    def __str__(self) -> str:
        """Return the text form, `SOURCE.LANE.OFFSET`: the lane as two hex digits, two more for a part; `-` for none."""
        lane = "-" if self.lane is None else f"{self.lane:02x}"
        part = "" if self.part is None else f"{self.part:02x}"
        return f"{self.source_id}.{lane}{part}.{self.offset}"

    @staticmethod
    def parse(text: str) -> EventId | None:
        """Return the id that `text` is the text form of; None for any other text, e.g. a foreign producer's id."""
        if len(text) > EVENT_ID_CHARACTERS_MAX:
            return None
        match = _EVENT_ID.fullmatch(text)
        if match is None:
            return None
        source_id, lane, part, offset = match.groups()
        if int(offset) > OFFSET_MAX:
            return None
        if lane is None:
            return EventId(source_id, None, int(offset))
        return EventId(source_id, int(lane, 16), int(offset), None if part is None else int(part, 16))
