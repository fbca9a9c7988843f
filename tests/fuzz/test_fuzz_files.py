"""Fuzzers of what is read from files and the environment: logs, gzip, bookmarks, tables, profiles, faults, settings."""

from __future__ import annotations

import asyncio
import gzip
import os
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import infra.cloud
from infra.cloud.core.fault_file import parse_faults, plan_of
from producer.bookmark import Bookmark, FileMark
from producer.core.country import CountryTable
from producer.core.line import FilteredLine, ParsedEvent, RejectedLine
from producer.core.line_format import LineFormat, open_parser
from producer.core.line_framer import LineFramer
from producer.core.rotation import rotated_after
from producer.core.site import DEFAULT, PathClassifier, Site
from producer.core.visit_line import VisitLineParser
from producer.gzip_reader import GzipSource
from producer.run import load_site
from shared.errors import ConfigurationError, SourceError
from shared.event import decode_event
from shared.limits import EVENT_BYTES_MAX, MIB
from shared.settings import ConsumerSettings, ProducerSettings, load_settings
from tests.fuzz.mutation import check_short, damaged, fuzzed, mutated

LINES: Final = (
    b'192.0.2.1 - - [02/Mar/2026:06:00:00 +0100] "GET /product/A1?q=1 HTTP/1.1" 200 512 "-" "Mozilla/5.0"',
    b'2001:db8::1 - bob [29/Feb/2024:23:59:60 -1200] "POST /basket/add/B2 HTTP/2.0" 302 - "https://a/" "x\\"y"',
    b'- - - [01/Jan/0001:00:00:00 +0000] "-" 408 0 "-" "-"',
    b'192.0.2.1 - - [30/Feb/2026:06:00:00 +0100] "GET / HTTP/1.1" 200 5 "-" "x"',
    b'192.0.2.1 - - [01/Jan/0000:06:00:00 +9959] "GET / HTTP/1.1" 200 5 "-" "x"',
    b"session_id,city,n",
    b's1,"Bo""nn",3',
    b'{"session_id":"s1","browse_history":[]}',
    b"",
)
SITE: Final = b"""name = "own"
asset_paths = ["/static"]
asset_suffixes = ["css"]
product_view = '/p/(?P<product>[0-9]+)'
basket_view = "/basket$"
path_segments = 3
"""
SITE_VALUES: Final = {
    "name": "own", "asset_paths": ["/static"], "asset_suffixes": ["css"], "internal_paths": ["/admin"],
    "product_view": "/p/(?P<product>[0-9]+)", "basket_add": "/b/(?P<product>x)", "order": "/o", "path_segments": 3,
}  # fmt: skip
COUNTRIES: Final = (b"16777216,16777471,AU\n16777472,16778239,CN\n", b'"1","2","US"\r\n', b"ip_from,ip_to,code\n")
BOOKMARK: Final = {
    "version": 1, "source": "web-1", "generation": 1, "offset": 512, "state": "bnVsbA==",
    "files": [[1, 64769, 4711, "7b7d"], [2, 64769, 4712, ""]],
}  # fmt: skip
STATES: Final = (
    b"json\n", b'csv\n["session_id"]', b"combined\n" + VisitLineParser(DEFAULT, b"k" * 16, bool).snapshot(),
    b'combined\n{"version":2,"sessions":[["00112233445566778899aabbccddeeff",1,1,2,{"P":1}]],"fetchers":["00"]}',
)  # fmt: skip
FAULT_FILES: Final = tuple(
    each.read_bytes() for each in sorted((Path(infra.cloud.__file__).parent / "faults").glob("*.toml"))
)
FAULT_VALUES: Final = {
    "seed": 1,
    "rule": [
        {"effect": "fail_records", "probability": 0.5, "stream": "s", "hash_keys": ["0", "9"], "nth": 2},
        {"effect": "delay", "seconds_min": 0.1, "seconds_max": 2, "service": "s3", "operation": ["PutObject"]},
        {"effect": "land_late", "seconds": 1, "until_seconds": 9, "after_seconds": 1},
    ],
    "step": [{"effect": "lose_reply", "nth": 3, "times": 2}],
    "reshard": [{"kind": "split", "at_seconds": [1, 2], "shard": "shardId-000000000000"}],
}
CHUNK_BYTES: Final = 4096


class Packed:
    """A source of given bytes in pieces of a given size."""

    def __init__(self, data: bytes, size: int) -> None:
        self._pieces = [data[at : at + size] for at in range(0, len(data), size)]

    async def read(self) -> bytes:
        """Return the next piece."""
        return self._pieces.pop(0) if self._pieces else b""

    async def close(self) -> None:
        """Nothing is open."""

    def stop(self) -> None:
        """Nothing waits."""


class OneFile:
    """The `read_all` of Files over one file in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read_all(self, path: str, bytes_max: int) -> bytes:
        """Return the whole file."""
        assert len(self._data) <= bytes_max
        return self._data


def visits() -> VisitLineParser:
    """Return a small parser of access logs."""
    return VisitLineParser(DEFAULT, b"k" * 16, lambda agent: "bot" in agent, sessions_max=3)


@fuzzed
@given(st.sampled_from(list(LineFormat)), st.lists(mutated(LINES), max_size=6))
def test_any_line_is_an_event_filtered_or_rejected(line_format: LineFormat, lines: list[bytes]) -> None:
    """Each line has one result; an event is one that readers decode, an error message is short."""
    parser = open_parser(line_format, visits)
    for line in lines:
        result = parser.parse(line)
        if isinstance(result, ParsedEvent):
            assert decode_event(result.data)["session_id"] == result.partition_key
            assert len(result.data) <= EVENT_BYTES_MAX
        elif isinstance(result, RejectedLine):
            assert len(result.message) <= 300
        else:
            assert isinstance(result, FilteredLine)


@fuzzed
@given(st.sampled_from(list(LineFormat)), mutated(STATES))
def test_any_state_is_taken_up_or_refused(line_format: LineFormat, state: bytes) -> None:
    """A parser's state comes from a file: damaged, it is a ConfigurationError; taken up, lines can be parsed."""
    parser = open_parser(line_format, visits)
    for each in (state, state.partition(b"\n")[2]):
        try:
            parser.restore(each)
        except ConfigurationError:
            continue
        for line in LINES:
            parser.parse(line)
        parser.snapshot()


@fuzzed
@given(mutated([b"a\nbb\n\nccc", b"\n" * 9, b"x" * 90 + b"\n"]), st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_any_bytes_are_framed_without_loss(data: bytes, sizes: list[int]) -> None:
    """However the bytes are cut: lines and over-long lines together are the lines of the whole."""
    framer = LineFramer(32)
    lines, overlong, at = [], 0, 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        lines += framer.feed(data[at : at + size])
        overlong += len(framer.take_overlong())
        at += size
    lines += framer.finish()
    overlong += len(framer.take_overlong())
    whole = data.split(b"\n")
    whole = whole if whole[-1] else whole[:-1]
    assert [line for _, line in lines] == [line for line in whole if len(line) <= 32]
    assert overlong == sum(len(line) > 32 for line in whole)


@fuzzed
@given(
    mutated([gzip.compress(b"line\n" * 50), gzip.compress(b"a") + gzip.compress(b"b") + b"\0\0"]), st.integers(1, 64)
)
def test_any_gzip_is_unpacked_or_damaged(data: bytes, size: int) -> None:
    """Damage is a SourceError; every piece is bounded, and so is all of it."""

    async def unpack() -> int:
        source = GzipSource(Packed(data, size), "log.gz", CHUNK_BYTES)
        total = 0
        while piece := await source.read():
            assert len(piece) <= CHUNK_BYTES
            total += len(piece)
        return total

    try:
        assert asyncio.run(unpack()) <= max(16 * MIB, 200 * len(data))
    except SourceError as error:
        check_short(error, 300)


@fuzzed
@given(mutated([orjson.dumps(BOOKMARK), Bookmark("a", files=(FileMark(0, 1, 2, b"x"),)).encode()]))
def test_any_bookmark_file_is_read_or_damaged(data: bytes) -> None:
    """What is read is written again as the same; anything else is a ConfigurationError."""
    _read_bookmark(data)


@fuzzed
@given(damaged(BOOKMARK))
def test_any_values_in_a_bookmark_are_read_or_damaged(values: Any) -> None:
    """Each field may be anything that JSON holds."""
    try:
        data = orjson.dumps(values)
    except (TypeError, orjson.JSONEncodeError):
        return
    _read_bookmark(data)


def _read_bookmark(data: bytes) -> None:
    try:
        bookmark = Bookmark.decode(data, "b.json")
    except ConfigurationError:
        return
    assert Bookmark.decode(bookmark.encode(), "b.json") == bookmark
    assert bookmark.next_generation > max((each.generation for each in bookmark.files), default=-1)


@fuzzed
@given(mutated([*COUNTRIES, gzip.compress(COUNTRIES[0])]))
def test_any_country_table_is_read_or_refused(data: bytes) -> None:
    """A table that is read answers for every address; any other is a ConfigurationError."""
    try:
        table = CountryTable.from_bytes(data)
    except ConfigurationError as error:
        check_short(error, 300)
        return
    assert len(table) <= data.count(b"\n") + 1 or data.startswith(b"\x1f\x8b")
    for address in (b"0.0.0.0", b"1.0.0.1", b"255.255.255.255", b"::1", data[:20]):
        table.country_of(address)


@fuzzed
@given(mutated([SITE]))
def test_any_site_file_is_read_or_refused(data: bytes) -> None:
    """A profile that is read classifies paths; any other is a ConfigurationError."""
    try:
        site = asyncio.run(load_site(OneFile(data), "site.toml"))  # type: ignore[arg-type]  # only read_all is called
    except ConfigurationError as error:
        check_short(error, 1_000)
        return
    PathClassifier(site).action_of(b"/p/1")


@fuzzed
@given(damaged(SITE_VALUES))
def test_any_values_of_a_site_are_taken_or_refused(values: Any) -> None:
    """Each field may be anything that TOML holds."""
    if isinstance(values, dict):
        try:
            site = Site.from_mapping(values)
        except ConfigurationError:
            return
        PathClassifier(site).told_path(b"/p/1/x")


@fuzzed
@given(mutated([*FAULT_FILES, orjson.dumps(FAULT_VALUES)]))
def test_any_fault_file_is_a_plan_or_refused(data: bytes) -> None:
    """Faults come from users, too: a ConfigurationError or a plan."""
    try:
        parse_faults(data)
    except ConfigurationError as error:
        check_short(error, 500)


@fuzzed
@given(damaged(FAULT_VALUES))
def test_any_values_of_faults_are_a_plan_or_refused(values: Any) -> None:
    """Each field may be anything."""
    try:
        plan_of(values)
    except ConfigurationError as error:
        check_short(error, 500)


ENVIRONMENT_TEXTS: Final = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40
) | st.sampled_from(
    [
        "",
        " ",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "9" * 5000,
        "²",
        "true",
        "null",
        "{",
        '{"USA": 1}',
        "[" * 900,
        '{"a":' * 900,
    ]
)


@pytest.mark.parametrize("kind", [ProducerSettings, ConsumerSettings])
@fuzzed
@given(st.data())
def test_any_environment_is_settings_or_refused(
    kind: type[ProducerSettings | ConsumerSettings], data: st.DataObject
) -> None:
    """Any text in any variable: settings, or a ConfigurationError that names the variable."""
    field = data.draw(st.sampled_from(sorted(kind.model_fields)))
    name = f"{kind.model_config['env_prefix']}{field}".upper()
    with patch.dict(os.environ, {name: data.draw(ENVIRONMENT_TEXTS)}):
        try:
            load_settings(kind)
        except ConfigurationError as error:
            check_short(error)
            told = f"{error} {error.hint}"
        else:
            return
    assert field in told
    assert name in told


@fuzzed
@given(st.lists(mutated([b".1", b".2", b"-20260301", b".2026-03-01T10", b".gz"]), max_size=6), st.integers(0, 5))
def test_any_names_beside_a_log_are_ordered(suffixes: list[bytes], index: int) -> None:
    """Files beside a log may have any name; what came later is among them and never the file itself."""
    names = [f"log{suffix.decode('utf-8', 'surrogateescape')}" for suffix in suffixes]
    name = names[index % len(names)] if names else "log.1"
    later = rotated_after("log", name, names)
    assert set(later) <= set(names) - {name}
