"""The body of PutRecords as the compiled part writes it: as Python does, or not at all."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pybase64 import b64encode

from shared.aws.kinesis_wire import put_records_body
from shared.compiled.columns import Columns
from shared.limits import HASH_KEY_MAX
from shared.records import PutEntry
from tests.support.ways import without_compiled

pytestmark = pytest.mark.compiled

KEYS = st.text(st.characters(max_codepoint=127), max_size=5) | st.text(max_size=3) | st.just("\ud800")
ENTRIES = st.lists(st.builds(PutEntry, st.binary(max_size=60), KEYS, st.none() | st.integers(0, HASH_KEY_MAX)))


@given(ENTRIES)
@settings(deadline=None)
def test_a_body_is_that_of_python(entries: list[PutEntry]) -> None:
    """Whatever characters keys have."""
    body = put_records_body("stream", entries)
    with pytest.MonkeyPatch.context() as patch:
        without_compiled(patch)
        assert body == put_records_body("stream", entries)


@pytest.mark.parametrize("key", ["a", "", "~ !#[]'"])
def test_ordinary_keys_are_written(columns: Columns, key: str) -> None:
    """Else what is said above would say nothing."""
    body = columns.put_body(b"[", [PutEntry(b"1", key), PutEntry(b"", "b", 7)], b64encode)
    expected = (
        f'[{{"Data": "MQ==", "PartitionKey": "{key}"}}, {{"Data": "", "PartitionKey": "b", "ExplicitHashKey": "7"}}]}}'
    )
    assert body == expected.encode()
    assert columns.put_body(b"[", [], b64encode) == b"[]}"


@pytest.mark.parametrize(
    "entry",
    [
        *((b"1", key, None) for key in ('"', "\\", "\n", "\x7f", "é", "😀", 1, None)),
        (bytearray(b"1"), "a", None),
        (b"1", "a", "7"),
        (b"1", "a", True),
        (b"1", "a"),
        [b"1", "a", None],
        None,
    ],
)
def test_others_are_left_to_python(columns: Columns, entry: Any) -> None:
    """Texts that JSON escapes, and whatever is no entry."""
    assert columns.put_body(b"[", [(b"1", "a", None), entry], b64encode) is None


def test_what_the_encoder_does_does_no_harm(columns: Columns) -> None:
    """It may raise, return anything, or change the list under way."""
    entries: list[Any] = [(b"1", "a", None), (b"2", "b", None)]

    def fail(_: bytes) -> bytes:
        raise LookupError

    def clear(data: bytes) -> bytes:
        entries.clear()
        return data

    with pytest.raises(LookupError):
        columns.put_body(b"[", entries, fail)
    assert columns.put_body(b"[", entries, lambda _: "text") is None  # type: ignore[arg-type,return-value] # on purpose
    assert columns.put_body(b"[", entries, clear) is None
    for args in ((b"[", ()), ("[", [], b64encode), (b"[", (), b64encode)):
        with pytest.raises(TypeError):
            columns.put_body(*args)  # type: ignore[arg-type,call-arg] # on purpose


def test_references_are_balanced(columns: Columns) -> None:
    """Nothing that was passed in is kept or given away."""
    data, key, hash_key = bytes(bytearray(b"data")), str(b"session", "ascii"), 2**100
    entries = [(data, key, hash_key)]
    before = list(map(sys.getrefcount, (data, key, hash_key, entries[0])))
    for _ in range(20):
        columns.put_body(b"[", entries, b64encode)
        columns.put_body(b"[", [*entries, (data, "é", None)], b64encode)
    assert list(map(sys.getrefcount, (data, key, hash_key, entries[0]))) == before
