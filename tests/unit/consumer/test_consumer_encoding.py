"""Objects in every format: what is written reads back, and what does not fit the columns is named."""

from __future__ import annotations

import importlib
import random
from typing import Any

import orjson
import pytest

from consumer.core.object_format import Codec, FormatKind, ObjectFormat
from consumer.core.schema import Schema
from consumer.encoding import check_format, encode
from infra.audit.object_events import events_of
from shared.errors import ConfigurationError, SourceError

EVENTS = [
    {"event_id": f"e{n}", "n": n, "price": n / 2, "ok": n % 2 == 0, "text": 'a "quoted", Zürich\n', "items": [{"q": n}]}
    for n in range(50)
]


def lines_of(events: list[dict[str, Any]]) -> bytearray:
    """Return events as lines."""
    return bytearray(b"".join(orjson.dumps(event) + b"\n" for event in events))


def inferred_from(events: list[dict[str, Any]]) -> Schema:
    """Return the columns of events."""
    schema = Schema.infer(orjson.dumps(event) for event in events)
    assert schema is not None
    return schema


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP, Codec.ZSTD])
async def test_json_reads_back(codec: Codec) -> None:
    """Newline-delimited JSON holds the lines as they are, under each compression."""
    # More than one block, of which none ends at a line.
    chance = random.Random(1)
    events = [{"n": n, "padding": chance.randbytes(1_500).hex()} for n in range(1_000)]
    found = await encode(lines_of(events), ObjectFormat(FormatKind.JSON, codec))
    assert list(events_of("k", found.body)) == events
    assert (found.count, found.rejected) == (1_000, ())


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.GZIP, Codec.ZSTD])
async def test_csv_reads_back(codec: Codec) -> None:
    """CSV has a header, quotes what needs it, and shows lists as JSON."""
    schema = inferred_from(EVENTS)
    found = await encode(lines_of(EVENTS), ObjectFormat(FormatKind.CSV, codec, schema))
    rows = list(events_of("k", found.body))
    assert rows[3] == {
        "event_id": "e3", "n": "3", "price": "1.5", "ok": "false", "text": EVENTS[3]["text"], "items": [{"q": 3}]
    }  # fmt: skip
    assert len(rows) == found.count == 50


@pytest.mark.parametrize("codec", list(Codec))
async def test_parquet_reads_back(codec: Codec) -> None:
    """Parquet keeps types and nesting, under each compression."""
    schema = inferred_from(EVENTS)
    found = await encode(lines_of(EVENTS), ObjectFormat(FormatKind.PARQUET, codec, schema))
    assert list(events_of("k", found.body)) == EVENTS
    assert found.count == 50


@pytest.mark.parametrize("kind", [FormatKind.CSV, FormatKind.PARQUET])
async def test_declared_columns_leave_the_rest_out(kind: FormatKind) -> None:
    """Who declares columns wants these and no others; absent ones are empty."""
    schema = Schema.declare('{"event_id": "string", "absent": "string"}')
    found = await encode(lines_of(EVENTS[:2]), ObjectFormat(kind, Codec.NONE, schema))
    empty = "" if kind is FormatKind.CSV else None
    assert list(events_of("k", found.body)) == [{"event_id": f"e{n}", "absent": empty} for n in range(2)]
    assert found.rejected == ()


@pytest.mark.parametrize("kind", [FormatKind.CSV, FormatKind.PARQUET])
async def test_an_event_with_more_than_the_held_columns_is_rejected(kind: FormatKind) -> None:
    """Inferred columns drop nothing in silence: an event with another field is left out whole, and named."""
    schema = inferred_from(EVENTS)
    odd = {"event_id": "odd", "surprise": 1}
    for place in (0, 7, 50):
        events = [*EVENTS[:place], odd, *EVENTS[place:]]
        found = await encode(lines_of(events), ObjectFormat(kind, Codec.NONE, schema))
        assert [each.line for each in found.rejected] == [orjson.dumps(odd)]
        assert [event["event_id"] for event in events_of("k", found.body)] == [event["event_id"] for event in EVENTS]
        assert found.count == 50


@pytest.mark.parametrize(
    "bad", [{"n": "text"}, {"n": 1.5}, {"ok": 1}, {"items": {}}, {"items": [{"q": "x"}]}, {"n": 2**63}, {"text": 5}]
)
async def test_parquet_rejects_values_of_another_type(bad: dict[str, Any]) -> None:
    """A value is never bent to fit a column."""
    schema = inferred_from(EVENTS)
    found = await encode(lines_of([EVENTS[0], bad, EVENTS[1]]), ObjectFormat(FormatKind.PARQUET, Codec.ZSTD, schema))
    assert [each.line for each in found.rejected] == [orjson.dumps(bad)]
    assert list(events_of("k", found.body)) == EVENTS[:2]


async def test_an_object_does_not_show_its_events() -> None:
    """The messages of asyncio show what tasks return: neither an event nor megabytes of them belong there."""
    schema = Schema.declare('{"n": "int64"}')
    found = await encode(lines_of([{"n": 71}, {"n": "secret"}]), ObjectFormat(FormatKind.PARQUET, Codec.NONE, schema))
    assert (repr(found), len(found.rejected)) == ("Encoded(count=1)", 1)


async def test_nothing_that_fits_makes_no_object() -> None:
    """An object without events is not counted as one."""
    schema = Schema.declare('{"n": "int64"}')
    found = await encode(lines_of([{"n": "x"}]), ObjectFormat(FormatKind.PARQUET, Codec.GZIP, schema))
    assert (found.count, len(found.rejected)) == (0, 1)


def test_a_schema_is_inferred_and_survives_its_text() -> None:
    """Numbers widen, empty values wait for a later one, what stays unknown is text, and known columns are known."""
    lines = [
        b'{"a":1,"b":null,"c":[],"recommendations":[],"d":{"x":null},"e":18446744073709551615,"f":1,"g":{}}',
        b'{"a":1.5,"b":true,"c":[{"y":1}],"recommendations":[],"d":{"z":"t"},"e":1,"f":"s","h":[]}',
    ]
    schema = Schema.infer(lines)
    assert schema is not None
    assert schema.columns == {
        "a": "double", "b": "boolean", "c": [{"y": "int64"}],
        "recommendations": [{"product_code": "string", "score": "double"}],
        "d": {"x": "string", "z": "string"}, "e": "double", "f": "int64", "g": "string", "h": ["string"],
    }  # fmt: skip
    assert Schema.parse(schema.text) == schema


@pytest.mark.parametrize(
    "text",
    [
        "", "7", "{}", "[]", '{"a": "int"}', '{"a": []}', '{"a": ["string", "string"]}', '{"a": {}}', '{"a": 1}', "[]x",
        '{"a": ' + "[" * 30 + '"string"' + "]" * 30 + "}",
        '{"' + "a" * 40_000 + '": "string"}',
    ],
)  # fmt: skip
def test_a_schema_that_can_not_be_read_is_refused(text: str) -> None:
    """The setting's mistakes are found at the start, with a hint."""
    with pytest.raises(ConfigurationError) as found:
        Schema.declare(text)
    assert found.value.hint


def test_events_without_end_do_not_take_the_columns_of_others() -> None:
    """Where the columns of all would be too many, those that look alike come before those that look like none."""
    names = [{f"name-{n}-{m}": 1 for m in range(400)} for n in range(50)]
    rare = {"event_id": "rare", "extra": 1}
    schema = inferred_from([*names[:25], *EVENTS, *names[25:], rare])
    assert len(schema.columns) == 400 * 2 + len(EVENTS[0]) + 1
    assert {*EVENTS[0], "extra"} <= {*schema.columns}
    assert schema.is_small


def test_an_event_too_large_for_columns_leaves_none() -> None:
    """A single one is not worth what it would cost with every flush; without others there is nothing to go by."""
    hostile = {"event_id": "x", "s": {f"name-{n}": 1 for n in range(5_000)}}
    assert inferred_from([hostile, EVENTS[0]]) == inferred_from([EVENTS[0]])
    assert Schema.infer([orjson.dumps(hostile)]) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"surprise": "secret"}, "the columns have no `surprise`"),
        ({"items": [{"q": 1}, {"q": None, "r": {"secret": 1}}]}, "the columns have no `items.r`"),
        ({"n": "secret"}, "the columns have another type for `n`"),
        ({"n": 1, "items": [{"q": "secret"}]}, "the columns have another type for `items.q`"),
        ({"n" * 500: 1}, f"the columns have no `{'n' * 60}`"),
        (b'{"n":1,"n":2}', "the event does not fit the columns; a name that comes twice does not"),
    ],
)
async def test_why_an_event_does_not_fit_is_told_without_its_values(line: dict[str, Any] | bytes, reason: str) -> None:
    """A dead letter's message is read by those who must not see events."""
    data = line if isinstance(line, bytes) else orjson.dumps(line)
    described = ObjectFormat(FormatKind.PARQUET, Codec.NONE, inferred_from(EVENTS))
    found = await encode(lines_of(EVENTS[:2]) + data + b"\n" + lines_of(EVENTS[2:4]), described)
    assert [(each.line, each.reason) for each in found.rejected] == [(data, reason)]
    assert found.count == 4


@pytest.mark.parametrize(
    ("described", "extra"),
    [
        (ObjectFormat(FormatKind.PARQUET), "parquet"),
        (ObjectFormat(FormatKind.JSON, Codec.ZSTD), "zstd"),
        (ObjectFormat(FormatKind.CSV, Codec.ZSTD), "zstd"),
    ],
)
def test_a_missing_extra_is_named_at_the_start(
    described: ObjectFormat, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package, a worker ends at once and says what to install."""
    found = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name.partition(".")[0] in {"pyarrow", "zstandard", "compression"}:
            raise ImportError(name)
        return found(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ConfigurationError) as error:
        check_format(described)
    assert error.value.hint == f"pip install 'headrace[{extra}]'"


def test_snappy_goes_with_parquet_only() -> None:
    """There is no agreed framing of Snappy around JSON."""
    with pytest.raises(ConfigurationError, match="snappy"):
        check_format(ObjectFormat(FormatKind.JSON, Codec.SNAPPY))
    check_format(ObjectFormat(FormatKind.PARQUET, Codec.SNAPPY))


@pytest.mark.parametrize("codec", [Codec.GZIP, Codec.ZSTD])
async def test_damaged_objects_are_refused_by_the_audit(codec: Codec) -> None:
    """An object that is cut off or garbled ends as an error that names it."""
    body = (await encode(lines_of(EVENTS), ObjectFormat(FormatKind.JSON, codec))).body
    for damaged in (body[:-20], body[:6] + b"\xff" * 40):
        with pytest.raises(SourceError, match="object `key`"):
            list(events_of("key", damaged))


async def test_a_damaged_parquet_object_is_refused_by_the_audit() -> None:
    """What only begins like Parquet is an error that names the object."""
    with pytest.raises(SourceError, match="object `key`"):
        list(events_of("key", b"PAR1 and nothing else"))


def test_an_event_with_many_names_is_looked_at_in_proportion_to_its_size() -> None:
    """Each of a list's objects may have other names: what came of those before is not copied for the next, nor told."""
    names = b",".join(b'{"k%x":0},0' % number for number in range(200_000))
    # After hours, if each object costs what those before it have.
    assert Schema.infer([b'{"a":[%b]}' % names]) is None
