"""Duplicates by runs of ids: what is dropped, and what is remembered, is what it is one by one."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.core.duplicate_marks import DuplicateMarks
from shared.compiled import COLUMNS
from shared.compiled.columns import Columns
from tests.fuzz.mutation import fuzzed
from tests.support.ways import without_compiled

if COLUMNS is None:
    pytest.skip("headrace was installed without its compiled part", allow_module_level=True)

KEYS: Final = (
    "web.00",
    "web.01",
    "app.00",
    "app.0ff",
    "web.-",
    "foreign",
    "",
    "é.00",
    "." * 9,
    "x" * 41 + ".00",
    "A.00",
)
OFFSETS: Final = st.integers(1, 9) | st.sampled_from((0, 10**17, 10**18 - 1, 10**18, 2**63 - 1, 2**63))
IDS: Final = st.builds("{}.{}".format, st.sampled_from(KEYS[:4]), OFFSETS)
ODD: Final = st.builds("{}.{}".format, st.sampled_from(KEYS), OFFSETS) | st.sampled_from(
    (
        "",
        ".",
        "1",
        "web.00.",
        "web.00.01",
        "web.00.-1",
        "web.00.+1",
        "web.00.\u0661",
        "web.00.1 ",
        "\ud800.00.1",
        None,
        7,
    )
)


@fuzzed
@given(
    st.lists(st.lists(IDS, max_size=8) | st.lists(IDS | ODD, max_size=6), max_size=5),
    st.sampled_from((30, 70, 10_000)),
)
@example([["web.00.1", "web.00.2", "web.00.2", "web.00.3"], ["web.00.2", "web.00.3", "web.00.4", "app.00.1"]], 30)
def test_events_are_dropped_as_by_python(chunks: list[list[Any]], bytes_max: int) -> None:
    """The same events, the same marks in the same order, the same sources forgotten."""
    compiled, plain, single = (DuplicateMarks({"web.01": 5}, bytes_max=bytes_max) for _ in range(3))
    for chunk in chunks:
        found = compiled.repeated(chunk)
        with pytest.MonkeyPatch.context() as patch:
            without_compiled(patch)
            assert found == (plain.repeated(chunk) if chunk else set())
        assert found == {at for at, each in enumerate(chunk) if type(each) is str and single.is_duplicate(each)}
        assert list(compiled.snapshot().items()) == list(plain.snapshot().items()) == list(single.snapshot().items())
        assert compiled.forgotten == plain.forgotten == single.forgotten


def test_runs_are_of_one_lane_and_rise(columns: Columns) -> None:
    """Where an offset falls, or repeats, the next one begins."""
    ids = ["a.00.1", "a.00.5", "a.00.5", "a.00.6", "b.00.7", f"b.00.{10**18 - 1}"]
    assert columns.id_runs(ids) == [
        ("a.00", 0, 2, 1, 5),
        ("a.00", 2, 4, 5, 6),
        ("b.00", 4, 6, 7, 10**18 - 1),
    ]


@pytest.mark.parametrize(
    "odd", ["", ".", "1", "a", "a.", "a.0", "a.01", f"a.{10**18}", "é.1", "a.²", "\ud800.1", None, b"a.1"]
)
def test_other_ids_are_left_to_python(columns: Columns, odd: Any) -> None:
    """They are rare."""
    assert columns.id_runs(["a.00.1", odd]) is None


def test_what_is_no_list_is_refused(columns: Columns) -> None:
    """An empty one has no runs."""
    with pytest.raises(TypeError):
        columns.id_runs(("a.1",))  # type: ignore[arg-type] # on purpose
    assert columns.id_runs([]) == []
