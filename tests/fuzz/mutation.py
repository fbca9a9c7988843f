"""Hostile input: hand-made seeds, and what becomes of them when bytes or values are damaged."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# More for a long run: FUZZ_EXAMPLES=100000 pytest tests/fuzz.
EXAMPLES: Final = int(os.environ.get("FUZZ_EXAMPLES", "250"))
# A busy machine is no failure.
fuzzed = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

_TOKENS: Final = (
    *(
        b"\0",
        b"\xff",
        b"\xfe\xff",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\n",
        b"\r",
        b"\r\n",
        b'"',
        b"'",
        b"\\",
        b"\\u0000",
    ),
    *(b",", b":", b"=", b".", b"-", b"[", b"]", b"{", b"}", b"[[", b"]]", b"null", b"true", b"NaN", b"Infinity"),
    *(b"1e999", b"-1", b"0", b"99999999999999999999", b"9" * 400, b"\x80" * 10 + b"\x01", b"\x0b", b"\x0c", b"\x1a"),
    *(b"[" * 5000, b'{"a":' * 300, b"a.b." * 300, "١٢".encode(), "²".encode(), b"(?P<product>", b"*" * 3),
)
_HUGE: Final = 10**400


def mutated(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Draw one of the seeds with up to six pieces cut out, repeated, overwritten, inserted or taken from another."""
    return st.builds(_mutate, st.sampled_from(seeds), st.lists(_edits(seeds), max_size=6)) | st.binary(max_size=64)


_Edit = tuple[str, float, float, bytes]


def _edits(seeds: Sequence[bytes]) -> st.SearchStrategy[_Edit]:
    place = st.floats(0, 1)
    piece = st.sampled_from(_TOKENS) | st.sampled_from(seeds) | st.binary(max_size=8)
    return st.tuples(st.sampled_from(["cut", "repeat", "overwrite", "insert", "end"]), place, place, piece)


def _mutate(seed: bytes, edits: list[_Edit]) -> bytes:
    data = seed
    for kind, first, second, piece in edits:
        start, end = sorted((int(first * len(data)), int(second * len(data))))
        if kind == "cut":
            data = data[:start] + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[start:end] + data[end:]
        elif kind == "overwrite":
            data = data[:start] + piece + data[start + len(piece) :]
        elif kind == "insert":
            data = data[:start] + piece + data[start:]
        else:
            data = data[:start]
    return data[: 1 << 20]


def damaged(seed: Any) -> st.SearchStrategy[Any]:
    """Draw a copy of a value made of dicts and lists with up to three of its parts replaced or taken away."""
    places = st.tuples(st.integers(0, 63), hostile_values(), st.booleans())
    return st.builds(_damage, st.just(seed), st.lists(places, max_size=3))


def check_short(error: Exception, characters_max: int = 500) -> None:
    """A message is for people: what was read must not flow into it."""
    assert len(str(error)) <= characters_max


def hostile_values() -> st.SearchStrategy[Any]:
    """Draw values of every type that JSON, TOML and DynamoDB know, and a few numbers at their ends."""
    ends = st.sampled_from(
        [None, "", "-1", "1e999", "nan", "9" * 5000, "²", "\ud800", -1, 0, _HUGE, float("inf"), float("nan"), b"", True]
    )
    leaves = ends | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner), max_leaves=6
    )


def _damage(seed: Any, edits: list[tuple[int, Any, bool]]) -> Any:
    root = [copy.deepcopy(seed)]
    for index, value, is_removed in edits:
        places = _places(root)
        container, key = places[index % len(places)]
        if is_removed and container is not root:
            del container[key]
        else:
            container[key] = copy.deepcopy(value)
    return root[0]


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pending: list[Any] = [root]
    while pending:
        container = pending.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                pending.append(container[key])
    return found
