"""GetRecords on the wire: the body of a request, and the answer in one pass over its text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from typing import Any, Final

import orjson
import pybase64
from botocore.parsers import ResponseParserError

from shared.compiled import COLUMNS
from shared.hash_key import FULL_RANGE, HashKeyRange
from shared.limits import KIB
from shared.records import ChildShard, RecordPage, StreamRecord, StreamRecords

# An answer of megabytes is parsed in pieces of this size, which stay in the processor's cache: 3 times as fast.
_PIECE_BYTES: Final = 64 * KIB
_RECORDS: Final = b'"Records":['
_RECORDS_NAME: Final = b'"Records"'
_BETWEEN: Final = b"},{"
_DATA_NAME: Final = b'"Data"'
_DATA_FIELD: Final = b'"Data":"'
_LARGE_HEAD_BYTES: Final = KIB  # within so many, the data of a record begin
_LARGE_BYTES: Final = 16 * KIB  # of data in base64
_data, _key, _number, _arrival = map(
    itemgetter, ("Data", "PartitionKey", "SequenceNumber", "ApproximateArrivalTimestamp")
)
# `altchars` and `validate` of b64decode, which takes three quarters of the time where it need not leave anything out.
_NO_OTHER_LETTERS: Final = repeat(None)
_ONLY_LETTERS: Final = repeat(True)  # noqa: FBT003 - the argument of each call
_DIGITS_MAX: Final = 64  # of a sequence number: those of the service have 56


def get_records_body(iterator: str, limit: int) -> bytes:
    """Return the body of a GetRecords request, byte for byte that of botocore's serializer."""
    return b'{"ShardIterator": %b, "Limit": %d}' % (encode_basestring_ascii(iterator).encode("ascii"), limit)


def parse_record_page(body: bytes) -> RecordPage:
    """Parse the answer to GetRecords; ResponseParserError for what is none."""
    try:
        return record_page(*_parse(body))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        # The cause is cut off on purpose: it carries the whole answer, which must not reach a log line.
        raise ResponseParserError(
            f"The answer to GetRecords, {len(body):,} bytes, is not readable: {type(error).__name__}"
        ) from None


def record_page(answer: Any, records: Sequence[StreamRecord]) -> RecordPage:
    """Return a GetRecords answer around records that are parsed."""
    return RecordPage(
        records=records,
        next_iterator=answer.get("NextShardIterator"),
        behind_milliseconds=answer.get("MillisBehindLatest") or 0,
        child_shards=tuple(
            ChildShard(each["ShardId"], tuple(each["ParentShards"]), hash_key_range(each["HashKeyRange"]))
            for each in answer.get("ChildShards") or ()
        ),
    )


def hash_key_range(wire: Any) -> HashKeyRange:
    """Return a HashKeyRange as the API writes it; none is the full one."""
    if not wire:
        return FULL_RANGE
    return HashKeyRange(int(wire["StartingHashKey"]), int(wire["EndingHashKey"]))


def plain_numbers(numbers: list[str]) -> list[str]:
    """Return sequence numbers as `str` writes them; ValueError for what is no number."""
    text = "".join(numbers).encode()
    if len({*map(len, numbers)}) == 1:  # nearly always: so there is one first digit in so many
        size = len(numbers[0])
        is_plain = 0 < size <= _DIGITS_MAX and text.isdigit() and b"0" not in text[::size]
    else:
        is_plain = False
    return numbers if is_plain else [str(int(each)) for each in numbers]


def _parse(body: bytes) -> tuple[Any, StreamRecords]:
    """Return an answer, and all of its records."""
    return _parse_plain(body) or _parse_pieces(body)


def _parse_plain(body: bytes) -> tuple[Any, StreamRecords] | None:
    """Do what `_parse_pieces` does, if the compiled part is there and the answer is as the service writes it."""
    start = body.find(_RECORDS) + len(_RECORDS)
    found = COLUMNS.read_records(body, start) if COLUMNS is not None and start >= len(_RECORDS) else None
    if found is None:
        return None
    datas, keys, numbers, arrivals, stop = found
    rest = body[:start] + body[stop:]
    # There is one array of records, and it is the one that was read.
    if b"\\" in rest or rest.count(_RECORDS_NAME) != 1:
        return None
    try:
        answer = orjson.loads(rest)
        return (answer, StreamRecords(datas, keys, numbers, arrivals)) if answer["Records"] == [] else None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _parse_pieces(body: bytes) -> tuple[Any, StreamRecords]:
    """Return an answer, and all of its records.

    The text is cut between records, wherever `},{` comes. A cut elsewhere (inside a key, for example) leaves text that
    is not JSON; then, and where the text is spaced in another way, it is parsed as a whole.
    """
    start = at = body.find(_RECORDS) + len(_RECORDS)
    records = StreamRecords([], [], [], [])
    try:
        while start >= len(_RECORDS):
            large = _read_large(body, at)
            if large is not None:
                record, data, stop = large
                _append(records, [record], [data])
            elif (stop := _find_cut(body, at + _PIECE_BYTES)) >= 0:
                wire = orjson.loads(b"[%b}]" % body[at:stop])
                _append(records, wire, _decoded(list(map(_data, wire))))
            else:
                break
            at = stop + 2
        answer = orjson.loads(body[:start] + body[at:] if records else body)
    except orjson.JSONDecodeError:
        records = StreamRecords([], [], [], [])
        answer = orjson.loads(body)
    wire = answer["Records"]
    _append(records, wire, _decoded(list(map(_data, wire))))
    return answer, records


def _find_cut(body: bytes, at: int) -> int:
    """Return where the next record ends that another one follows, from `at` on; -1 if there is none.

    There is no brace in base64: so the search for one letter is all that most of the bytes cost.
    """
    while (at := body.find(b"}", at)) >= 0 and not body.startswith(_BETWEEN, at):
        at += 1
    return at


def _read_large(body: bytes, at: int) -> tuple[Any, bytes, int] | None:
    """Return the record at `at` without its data, these, and where it ends, if they are large, as of an aggregate.

    They are decoded where they stand, in a tenth of the time. None if the record is to be read as all others are: it is
    small, the last one, or there might be more in it than meets the eye.
    """
    start = body.find(_DATA_FIELD, at, at + _LARGE_HEAD_BYTES) + len(_DATA_FIELD)
    if start < len(_DATA_FIELD):
        return None
    end = body.find(b'"', start)
    if end - start < _LARGE_BYTES or not body.startswith(_BETWEEN, stop := body.find(b"}", end)):
        return None
    rest = body[at:start] + body[end : stop + 1]
    if b"\\" in rest or rest.count(_DATA_NAME) != 1:
        return None
    try:
        record, data = orjson.loads(rest), pybase64.b64decode(memoryview(body)[start:end], validate=True)
        return (record, data, stop) if _data(record) == "" else None
    except (KeyError, TypeError, ValueError):  # the last one is that of the JSON parser, too
        return None


def _append(records: StreamRecords, wire: list[Any], datas: list[bytes]) -> None:
    """Add records, column by column."""
    records.datas += datas
    records.keys += map(_key, wire)
    records.numbers += plain_numbers(list(map(_number, wire)))
    try:
        arrivals = list(map(_arrival, wire))
    except KeyError:
        arrivals = [each.get("ApproximateArrivalTimestamp", 0.0) for each in wire]
    records.arrivals += arrivals if {*map(type, arrivals)} == {float} else map(float, arrivals)


def _decoded(texts: list[str]) -> list[bytes]:
    """Return what base64 stands for; other characters, which the service does not send, are left out as by botocore."""
    try:
        return list(map(pybase64.b64decode, texts, _NO_OTHER_LETTERS, _ONLY_LETTERS))
    except ValueError:
        return list(map(pybase64.b64decode, texts))
