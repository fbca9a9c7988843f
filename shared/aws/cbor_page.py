"""The answer to GetRecords in CBOR: its records in columns, some hundred of them at a time.

The records of an answer look alike. So the first one of a run is read field by field, and those behind it by what
stands between the data of one and the data of the next one: each time the same bytes, but for the key, the sequence
number and the time. All of these bytes are compared with those around the first one; where they differ, the run ends.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import takewhile
from operator import itemgetter
from typing import Any, Final, NamedTuple

from botocore.parsers import ResponseParserError

from shared.aws.cbor import ARRAY, MAP, MalformedCborError, is_end, read_count, read_value
from shared.aws.record_page import plain_numbers, record_page
from shared.compiled import COLUMNS
from shared.records import RecordPage, StreamRecords

_RUN_RECORDS: Final = 256  # so many stay in the processor's cache
_DEPTH: Final = 3  # of a record's values
_MILLISECONDS: Final = 1_000
_TIME_HEAD: Final = b"\xc1\x1b"  # tag 1, and a number of eight bytes
_SHORT_TEXT: Final = 0x60  # the first byte of a text, plus its length up to 23
_TEXT: Final = 0x78  # the first byte of a text whose length is in the next one
_SHORT_DATA: Final = 0x40  # and of data: as of texts
_DATA: Final = 0x58
_LONG_DATA: Final = 0x59  # the length is in the next two
_HEAD_BYTES: Final = 3
_KINDS: Final = (bytes, str, str, int)  # of a record's values, in this order:
_values = itemgetter("Data", "PartitionKey", "SequenceNumber", "ApproximateArrivalTimestamp")

_Spans = dict[str, tuple[int, int]]  # where the values of a record begin and end, by their names
_Values = tuple[bytes, str, str, float]  # data, key, sequence number, arrival


class _Form(NamedTuple):
    """What stands between the data of two records, and the head of the second ones, for keys of one size."""

    opening: bytes  # all before the key, as it has to be
    unpack: Callable[[bytes, int], tuple[Any, ...]]
    size: int


class _Forms(dict[bytes, _Form]):
    """The forms of a layout, by the first two bytes of the key; KeyError if no key begins like that."""

    def __init__(self, marker: bytes, between: str) -> None:
        self._marker = marker
        self._between = between

    def __missing__(self, head: bytes) -> _Form:
        if head[0] == _TEXT:
            opening, size = self._marker + head, head[1]
        elif _SHORT_TEXT <= head[0] < _TEXT:
            opening, size = self._marker + head[:1], head[0] - _SHORT_TEXT
        else:
            raise KeyError(head)
        form = struct.Struct(f">{len(opening)}s{size}s{self._between}BH")
        found = self[head] = _Form(opening, form.unpack_from, form.size)
        return found


class _Layout(NamedTuple):
    """What the records of an answer have in common."""

    marker: int  # bytes between data and key
    forms: _Forms
    texts: tuple[bytes, bytes, bytes]  # around the two values that stand between a key and the next data
    is_number_first: bool  # of these two
    tail: int  # bytes between where a record ends and the next data
    has_own: tuple[bool, bool]  # whether the values are those of the key's record: sequence number, arrival


def parse_record_page_cbor(body: bytes) -> RecordPage:
    """Parse the answer to GetRecords in CBOR; ResponseParserError for what is none."""
    try:
        return _parse(body)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error) as error:
        # The cause is cut off on purpose: it carries the answer, which must not reach a log line.
        raise ResponseParserError(
            f"The answer to GetRecords, {len(body):,} bytes, is not readable: {type(error).__name__}"
        ) from None


def _parse(body: bytes) -> RecordPage:
    answer: dict[str, Any] = {}
    records: StreamRecords | None = None
    left, at = read_count(body, 0, MAP)
    while left is None or left:
        if left is None and is_end(body, at):
            at += 1
            break
        name, at = read_value(body, at, 1)
        if name == "Records":
            records, at = _read_records(body, at)
        else:
            answer[name], at = read_value(body, at, 1)
        left = None if left is None else left - 1
    if at != len(body) or records is None:
        msg = "no records, or bytes behind the answer"
        raise MalformedCborError(msg)
    return record_page(answer, records)


def _read_records(body: bytes, at: int) -> tuple[StreamRecords, int]:
    """Read all records, and return where they end."""
    records = StreamRecords([], [], [], [])
    forms: dict[tuple[bytes, str], _Forms] = {}
    left, at = read_count(body, at, ARRAY)
    if COLUMNS is not None:
        found = COLUMNS.read_records_cbor(body, at, -1 if left is None else left)
        if found is not None:
            return StreamRecords(*found[:4]), found[4]
    while left is None or left:
        if left is None and is_end(body, at):
            at += 1
            break
        start = at
        spans, first, at = _read_record(body, start)
        data, key, number, arrival = first
        run = StreamRecords([data], [key], [number], [arrival])
        layout = None if left == 1 else _layout(body, start, at, spans, forms)
        if layout is not None:
            run, at = _read_run(body, spans["Data"][1], layout, first, left) or (run, at)
        records.datas += run.datas
        records.keys += run.keys
        records.numbers += plain_numbers(run.numbers)
        records.arrivals += run.arrivals
        left = None if left is None else left - len(run)
    return records, at


def _read_record(body: bytes, at: int) -> tuple[_Spans, _Values, int]:
    """Read one record: where its values are, these (data, key, sequence number, arrival), and where it ends."""
    spans: _Spans = {}
    record: dict[str, Any] = {"ApproximateArrivalTimestamp": 0}
    left, at = read_count(body, at, MAP)
    while left is None or left:
        if left is None and is_end(body, at):
            at += 1
            break
        name, start = read_value(body, at, _DEPTH)
        record[name], at = read_value(body, start, _DEPTH)
        spans[name] = (start, at)
        left = None if left is None else left - 1
    data, key, number, arrival = _values(record)
    if tuple(map(type, (data, key, number, arrival))) != _KINDS:
        msg = "a value of another type than records have"
        raise MalformedCborError(msg)
    return spans, (data, key, number, arrival / _MILLISECONDS), at


def _layout(body: bytes, start: int, end: int, spans: _Spans, known: dict[tuple[bytes, str], _Forms]) -> _Layout | None:
    """Return how records are laid out by one of them; None if not so that the next ones can be read like it.

    `known` keeps the forms.
    """
    (data_start, data_end), (key_start, key_end) = spans["Data"], spans["PartitionKey"]
    number, time = spans["SequenceNumber"][0], spans.get("ApproximateArrivalTimestamp", (0, 0))[0]
    if data_end > key_start or body[time : time + 2] != _TIME_HEAD or body[number] != _TEXT:
        return None
    if data_end <= number < key_start or data_end <= time < key_start:
        return None
    boundary = end - key_end
    between = body[key_end:end] + body[start:data_start]
    number_size = body[number + 1]
    # Behind their heads, as places in what is between.
    number_at, time_at = (2 + (at - key_end if at >= key_end else boundary + at - start) for at in (number, time))
    is_number_first = number_at < time_at
    (one, one_size), (two, two_size) = sorted(((number_at, number_size), (time_at, 8)))
    texts = between[:one], between[one + one_size : two], between[two + two_size :]
    values = (f"{number_size}s", "Q") if is_number_first else ("Q", f"{number_size}s")
    form = f"{len(texts[0])}s{values[0]}{len(texts[1])}s{values[1]}{len(texts[2])}s"
    marker = body[data_end:key_start]
    return _Layout(
        len(marker),
        known.setdefault((marker, form), _Forms(marker, form)),
        texts,
        is_number_first,
        len(between) - boundary,
        (number >= key_end, time >= key_end),
    )


def _read_run(
    body: bytes, data_end: int, layout: _Layout, first: _Values, left: int | None
) -> tuple[StreamRecords, int] | None:
    """Return records that are like the `first` one, whose data end at `data_end`, with it; None if there is none.

    And where the next record begins, whose head was seen. At most `left` records are there.
    """
    rows, datas, end = _rows(body, data_end, layout, _RUN_RECORDS if left is None else min(left - 1, _RUN_RECORDS))
    columns = list(zip(*rows, strict=True))
    if tuple({*column} for column in columns[2:7:2]) != tuple({each} for each in layout.texts):
        alike = sum(1 for _ in takewhile(lambda row: row[2:7:2] == layout.texts, rows))
        rows, datas, end = _rows(body, data_end, layout, alike)
        columns = list(zip(*rows, strict=True))
    if not rows:
        return None
    _, keys, _, one, _, two, *_ = columns
    data, _, number, arrival = first
    numbers = _texts(one if layout.is_number_first else two)
    arrivals = [each / _MILLISECONDS for each in (two if layout.is_number_first else one)]
    records = StreamRecords(
        [data, *datas[:-1]],
        _texts(keys),
        numbers if layout.has_own[0] else [number, *numbers[:-1]],
        arrivals if layout.has_own[1] else [arrival, *arrivals[:-1]],
    )
    return records, end - layout.tail


def _rows(body: bytes, at: int, layout: _Layout, most: int) -> tuple[list[Any], list[bytes], int]:
    """Return what stands between data and data from `at` on, the latter, and where the head of the last ones begins.

    Only the openings are compared yet. The last data may be cut off: of that record nothing but its head is known.
    """
    rows: list[Any] = []
    datas: list[bytes] = []
    end = at
    forms, key_at = layout.forms, layout.marker
    try:
        opening, unpack, form_size = forms[body[at + key_at : at + key_at + 2]]
        for _ in range(most):
            row = unpack(body, at)
            if row[0] != opening:
                opening, unpack, form_size = forms[body[at + key_at : at + key_at + 2]]
                row = unpack(body, at)
                if row[0] != opening:
                    break
            at += form_size
            start, head, size = at, row[7], row[8]
            if head != _LONG_DATA:
                if head == _DATA:
                    size >>= 8
                    at -= 1
                elif _SHORT_DATA <= head < _DATA:
                    size = head - _SHORT_DATA
                    at -= 2
                else:
                    break
            stop = at + size
            datas.append(body[at:stop])
            rows.append(row)
            end, at = start, stop
    except (IndexError, KeyError, struct.error):
        pass  # the run ends here: there is no other record like these
    return rows, datas, end - _HEAD_BYTES


def _texts(encoded: Sequence[bytes]) -> list[str]:
    """Decode texts, in a third of the time that it takes one by one; UnicodeDecodeError if one is not UTF-8."""
    texts = b"\n".join(encoded).decode().split("\n")
    return texts if len(texts) == len(encoded) else list(map(bytes.decode, encoded))
