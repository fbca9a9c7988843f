"""The compiled part of headrace: built of these sources, equal to Python's own, and not missed where it is not."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.aggregation import MAGIC, encode_aggregate
from shared.compiled import COLUMNS, _load
from shared.compiled.columns import Columns
from shared.hash_key import HashKeyRange, hash_key_of
from shared.limits import HASH_KEY_MAX

pytestmark = pytest.mark.compiled
ROOT = Path(__file__).parents[3]
ASCII = st.text(st.characters(max_codepoint=127), max_size=80)


def build_script() -> ModuleType:
    """Return hatch_build.py as a module."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_was_built_of_the_sources_as_they_are(columns: Columns) -> None:
    """Nobody tests yesterday's code: `make setup` builds it anew where a source has changed."""
    assert build_script().sources_digest() == columns.SOURCES


def test_it_is_there_where_a_compiler_is() -> None:
    """A build that fails must not pass for one that was not wanted."""
    if build_script().find_compiler() is None:
        pytest.skip("there is no C compiler")
    assert COLUMNS is not None or os.environ.get("HEADRACE_COMPILED") == "off"


def test_a_module_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch, columns: Columns) -> None:
    """A checkout that was moved on has the functions of yesterday until it is set up anew: who uses it is told."""
    monkeypatch.setattr(columns, "SOURCES", "of yesterday")
    with pytest.warns(RuntimeWarning, match="`make setup` makes it anew"):
        assert _load() is None


def test_off_goes_without_it() -> None:
    """The environment decides, before anything is imported."""
    code = "from shared.compiled import COLUMNS; print(COLUMNS is None)"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HEADRACE_COMPILED": "off"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert told == "True\n"


def test_without_a_compiler_the_build_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine with nothing but Python installs headrace all the same; who requires the compiled part is told."""
    script = build_script()
    (tmp_path / "shared" / "compiled").mkdir(parents=True)
    old = tmp_path / "shared" / "compiled" / script.module_name()
    old.write_bytes(b"of other sources")
    monkeypatch.setattr(script, "_ROOT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("HEADRACE_COMPILED", raising=False)
    assert script.build() is None
    assert not old.exists()
    assert "headrace goes without its compiled part: no C compiler" in capsys.readouterr().err
    monkeypatch.setenv("HEADRACE_COMPILED", "require")
    with pytest.raises(FileNotFoundError, match="no C compiler"):
        script.build()


def test_a_compiler_that_fails_is_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's headers may be missing, for example."""
    script = build_script()
    folder = tmp_path / "shared" / "compiled"
    shutil.copytree(ROOT / "shared" / "compiled", folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    before = sorted(folder.iterdir())
    monkeypatch.setattr(script, "_ROOT", tmp_path)
    monkeypatch.setenv("CC", f"{sys.executable} -c 'raise SystemExit(3)'")
    monkeypatch.delenv("HEADRACE_COMPILED", raising=False)
    assert script.build() is None
    told = capsys.readouterr().err
    assert "headrace goes without its compiled part" in told
    assert "exit status 3" in told
    assert sorted(folder.iterdir()) == before


@given(st.lists(st.binary(max_size=200), max_size=50))
@example([b"x" * size for size in range(200)])
@settings(deadline=None)
def test_digests_are_those_of_hashlib(columns: Columns, texts: list[bytes]) -> None:
    """Of any number of texts of any sizes, which begin and end beside each other."""
    digests = [hashlib.md5(text, usedforsecurity=False).digest() for text in texts]
    for changed, is_right in ((digests, True), ([bytes((each[0] ^ 1,)) + each[1:] for each in digests], False)):
        datas = [MAGIC + text + digest for text, digest in zip(texts, changed, strict=True)]
        assert columns.are_aggregates(datas) == [is_right and bool(text) for text in texts]


@given(st.lists(st.text(max_size=30), max_size=150), st.integers(0, HASH_KEY_MAX), st.integers(0, HASH_KEY_MAX))
@settings(deadline=None)
def test_a_range_holds_the_keys_whose_hashes_it_holds(columns: Columns, keys: list[str], one: int, other: int) -> None:
    """Both ends belong to it."""
    for bounds in ((min(one, other), max(one, other)), _span(keys)):
        found = columns.lie_in_range(keys, *(each.to_bytes(16, "big") for each in bounds))
        expected = all(hash_key_of(key) in HashKeyRange(*bounds) for key in keys)
        assert found is expected or (found is None and not "".join(keys).isascii())


def _span(keys: list[str]) -> tuple[int, int]:
    hash_keys = [hash_key_of(key) for key in keys] or [0]
    return min(hash_keys), max(hash_keys)


MEMBERS = st.lists(
    st.tuples(st.binary(max_size=300), ASCII | st.sampled_from(("a", "b", "c"))), min_size=2, max_size=40
)


@given(st.lists(MEMBERS, max_size=6))
@example([[(b"x" * size, f"key {size % 300}") for size in range(0, 40_000, 130)]])
@settings(deadline=None)
def test_aggregates_are_those_of_the_encoder_in_python(columns: Columns, groups: list[list[tuple[bytes, str]]]) -> None:
    """Byte for byte, with indexes and lengths of one, two and three bytes."""
    given = [([data for data, _ in group], [key for _, key in group]) for group in groups]
    assert columns.encode_aggregates(given) == [encode_aggregate(*each).data for each in given]


@pytest.mark.parametrize("keys", [["a", "é"], ["\ud800", "a"]], ids=["not ASCII", "a lone surrogate"])
def test_other_keys_are_left_to_python(columns: Columns, keys: list[str]) -> None:
    """They are rare."""
    assert columns.encode_aggregates([([b"1", b"2"], ["a", "b"]), ([b"1", b"2"], keys)]) is None


@pytest.mark.parametrize(
    "groups", [[([], [])], [([b"1"], [])], [([b"1"],)], [[[b"1"], ["a"]]], ([],), [(None, None)], None]
)
def test_what_is_no_list_of_groups_is_refused(columns: Columns, groups: object) -> None:
    """Nothing is read beyond an end."""
    with pytest.raises(TypeError):
        columns.encode_aggregates(groups)  # type: ignore[arg-type] # on purpose
    with pytest.raises(TypeError):
        columns.lie_in_range(["a"], b"", bytes(16))


def test_an_entry_that_is_no_text_is_left_to_python(columns: Columns) -> None:
    """Python's way tells the caller what is wrong with it."""
    assert columns.encode_aggregates([([b"1", bytearray(b"2")], ["a", "b"])]) is None  # type: ignore[list-item]
    assert columns.encode_aggregates([([b"1", b"2"], ["a", None])]) is None  # type: ignore[list-item]
