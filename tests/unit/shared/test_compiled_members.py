"""Members of aggregates: the compiled part reads of any bytes what Python reads of them, or leaves them to it."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.aggregation import MAGIC, Members, are_aggregates, encode_aggregate, split
from shared.compiled import COLUMNS
from shared.compiled.columns import Columns
from shared.hash_key import FULL_RANGE, HashKeyRange
from shared.limits import HASH_KEY_MAX
from shared.records import StreamRecord
from tests.fuzz.mutation import fuzzed, mutated
from tests.support.ways import without_compiled

if COLUMNS is None:
    pytest.skip("headrace was installed without its compiled part", allow_module_level=True)

MESSAGES: Final = (
    *(
        encode_aggregate(*columns).data[len(MAGIC) : -16]
        for columns in (
            ([b"one", b"two"], ["a", "b"]),
            ([b"x" * size for size in (0, 1, 127, 128, 300)], ["key", "other", "key", "ü", "k" * 200]),
            ([b"%d" % at for at in range(300)], [f"key {at}" for at in range(300)]),
            ([b"1", b"2"], ["a", "a"], [None, 7]),
        )
    ),
    *(b"\x0a\x01a", b"\x1a\x04\x08\x00\x1a\x00", b"\x1a\x05\x08\x80\x00\x1a\x00\x0a\x01a"),
    b"\x1a\x04\x1a\x00\x08\x00\x0a\x00",
)


def aggregate(message: bytes) -> bytes:
    """Return what a message is in."""
    return MAGIC + message + hashlib.md5(message, usedforsecurity=False).digest()


def both_ways(data: bytes, hash_key_range: HashKeyRange | None) -> tuple[Members, Members]:
    """Return what both ways make of a stream record."""
    record = StreamRecord(data, "outer", 7, 1.0)
    compiled = split(record, hash_key_range)
    with pytest.MonkeyPatch.context() as patch:
        without_compiled(patch)
        return compiled, split(record, hash_key_range)


@fuzzed
@given(mutated(MESSAGES), st.sampled_from((None, FULL_RANGE, HashKeyRange(0, HASH_KEY_MAX // 2))))
@example(b"", None)
@example(b"\x0a\x02\xff\xfe", None)
@example(b"\x0a\x01a\x1a\x04\x08\x00\x1a\x00", None)
@example(b"\x0a\x01a\x1a\x08\x08\x80\x80\x80\x80\x00\x1a\x00", None)
@example(b"\x0a\x01a\x1a\x05\x08\xff\xff\xff\xff\x7f\x1a\x00", None)
def test_members_are_those_that_python_finds(message: bytes, hash_key_range: HashKeyRange | None) -> None:
    """Whatever a message with the right digest has in it."""
    compiled, python = both_ways(aggregate(message), hash_key_range)
    assert compiled == python


@pytest.mark.parametrize("at", [0, 1])
def test_what_a_producer_writes_is_read(columns: Columns, at: int) -> None:
    """With keys of one byte and of many, with lengths of one byte and of two."""
    data = aggregate(MESSAGES[at])
    found = columns.read_aggregate(data, 5)
    assert found is not None
    assert len(found[0]) == len(found[1]) == (2, 5)[at]
    assert columns.read_aggregate(data, (1, 4)[at]) is None


@fuzzed
@given(st.lists(mutated([aggregate(message) for message in MESSAGES]) | mutated(MESSAGES).map(aggregate), max_size=40))
@example([aggregate(b"x" * size) for size in range(200)])
@example([MAGIC + bytes(16), MAGIC, b"", aggregate(b"")])
def test_aggregates_are_those_that_python_tells(datas: list[bytes]) -> None:
    """By magic and digest."""
    compiled = list(are_aggregates(datas))
    with pytest.MonkeyPatch.context() as patch:
        without_compiled(patch)
        assert compiled == list(are_aggregates(datas))


@given(
    st.lists(
        st.binary(max_size=6) | st.just(MAGIC) | st.builds(MAGIC.__add__, st.binary(max_size=2)), min_size=1, max_size=6
    )
)
@example([MAGIC[:3]])
@example([MAGIC[:3] + b"\xc1"])
@example([MAGIC[:3] + b"\xc3"])
@example([b"\xf4"])
def test_data_are_plain_that_are_less_than_the_magic(columns: Columns, datas: list[bytes]) -> None:
    """As bytes are compared."""
    assert columns.size_of_plain(datas) == (None if max(datas) >= MAGIC else len(b"".join(datas)))


@pytest.mark.parametrize("arguments", [(), (b"x" * 19, 1), (b"x" * 30,), ("x" * 30, 1), (b"x" * 30, 1.0)])
def test_other_arguments_are_refused(columns: Columns, arguments: Any) -> None:
    """Nothing is read beyond an end."""
    with pytest.raises(TypeError):
        columns.read_aggregate(*arguments)
    for function in (columns.are_aggregates, columns.size_of_plain):
        with pytest.raises(TypeError):
            function([b"", "text"])  # type: ignore[list-item] # on purpose
        with pytest.raises(TypeError):
            function((b"",))  # type: ignore[arg-type] # on purpose
