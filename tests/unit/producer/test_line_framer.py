"""Framing: whole lines with their offsets, however the bytes are cut, in bounded memory."""

from __future__ import annotations

import gzip
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.core.barriers import Barriers
from producer.core.line_framer import LineFramer, OverlongLine
from producer.core.pacer import Pacer
from producer.core.rotation import first_to_read, rotated_after
from producer.gzip_reader import GzipSource
from shared.errors import SourceError
from shared.limits import MIB

LIMIT = 10


@given(st.binary(max_size=200).map(lambda data: data.translate(None, b"xyz")), st.lists(st.integers(1, 30)), st.data())
def test_lines_do_not_depend_on_how_the_bytes_are_cut(data: bytes, sizes: list[int], draw: st.DataObject) -> None:
    """Any chunking gives the same lines, offsets and over-long lines as splitting the whole."""
    newlines = draw.draw(st.lists(st.integers(0, len(data)), max_size=20))
    for place in newlines:
        data = data[:place] + b"\n" + data[place:]
    framer = LineFramer(LIMIT, offset=1000)
    lines: list[tuple[int, bytes]] = []
    at = 0
    for size in [*sizes, len(data) + 1]:
        lines += framer.feed(data[at : at + size])
        at += size
        assert framer.next_offset == 1000 + min(at, len(data))
    lines += framer.finish()
    expected_lines, expected_overlong, offset = [], [], 1000
    pieces = data.split(b"\n")
    for index, piece in enumerate(pieces):
        is_last = index == len(pieces) - 1
        if len(piece) > LIMIT:
            expected_overlong.append(OverlongLine(offset, len(piece), piece, piece.count(b'"')))
        elif piece or not is_last:
            expected_lines.append((offset, piece))
        offset += len(piece) + 1
    assert lines == expected_lines
    assert framer.take_overlong() == expected_overlong
    assert framer.line_offset == 1000 + len(data)


def test_a_huge_line_takes_no_memory() -> None:
    """Of a line of 300 MB only its head and length are kept."""
    framer = LineFramer(MIB)
    for _ in range(1200):
        assert framer.feed(b"x" * 250_000) == []
        assert sys.getsizeof(framer._tail) <= MIB + 300_000
    assert framer.feed(b"\nnext\n") == [(300_000_001, b"next")]
    (overlong,) = framer.take_overlong()
    assert (overlong.offset, overlong.length, len(overlong.head)) == (0, 300_000_000, 4096)


class Packed:
    """A byte source over bytes, cut into small reads."""

    def __init__(self, data: bytes, size: int = 1000) -> None:
        self._data = data
        self._size = size

    async def read(self) -> bytes:
        """Return the next bytes."""
        data, self._data = self._data[: self._size], self._data[self._size :]
        return data

    async def close(self) -> None:
        """Nothing to give back."""

    def stop(self) -> None:
        """Nothing waits."""


async def unpack(data: bytes) -> bytes:
    """Read a gzip source to its end."""
    source = GzipSource(Packed(data), "log.gz", 4096)
    parts = []
    while part := await source.read():
        assert len(part) <= 4096
        parts.append(part)
    return b"".join(parts)


async def test_gzip_members_are_read_one_after_the_other() -> None:
    """Concatenated members and padding give what gunzip gives, in bounded chunks."""
    lines = b"".join(b"line %d\n" % index for index in range(5000))
    assert await unpack(gzip.compress(lines) + gzip.compress(b"more\n") + b"\0" * 100) == lines + b"more\n"


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: data[:50] + b"junk" + data[54:]])
async def test_damaged_gzip_is_an_error(damage: object) -> None:
    """A cut or broken gzip file says so, with the place."""
    packed = gzip.compress(bytes(range(256)) * 50)
    with pytest.raises(SourceError, match=r"log\.gz"):
        await unpack(damage(packed))  # type: ignore[operator]  # a lambda from the table above


async def test_a_gzip_bomb_is_refused() -> None:
    """What unpacks to more than 200 times its size is not read on."""
    with pytest.raises(SourceError, match="200 times"):
        await unpack(gzip.compress(bytes(40 * MIB)))


def test_a_barrier_is_reached_only_with_everything_before_it() -> None:
    """A later segment that is done does not count while an earlier one is not."""
    barriers: Barriers[str] = Barriers()
    first = barriers.current
    first.pending += 1
    barriers.cut("A")
    barriers.cut("B")
    assert barriers.reached() is None
    first.pending -= 1
    assert barriers.reached() == "B"
    assert barriers.reached() is None


def test_a_pacer_holds_the_rate_and_does_not_catch_up() -> None:
    """100 events at 50 per second take two seconds; a pause is not made good by a burst."""
    pacer, now = Pacer(50), 0.0
    for _ in range(100):
        now += pacer.delay(now)
    assert now == pytest.approx(2.0)
    now += 60
    assert sum(bool(pacer.delay(now)) for _ in range(10)) >= 9
    assert Pacer(None).delay(0) == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("log.3", ["log.2", "log.1"]),
        ("log.1", []),
        ("log-20260102", ["log-20260103"]),
        ("log", []),
        ("log.2.gz", []),
    ],
)
def test_rotated_files_are_put_in_order(name: str, expected: list[str]) -> None:
    """Smaller numbers and later dates are newer; packed and foreign files are left out."""
    names = ["log", "log.1", "log.10", "log.2", "log.2.gz", "log.3", "log-20260101", "log-20260102", "log-20260103"]
    assert rotated_after("log", name, names) == expected


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, None),
        ({"log": None, "log.1": 4, "log.10": 2, "log.2": 3}, "log.10"),
        ({"log": None, "log-20261102": None, "log-20261101": None}, "log-20261101"),
        ({"log": 7}, "log"),
        ({"log_aside": 1, "log": 2}, "log_aside"),
        ({"log_aside": 2, "log.1": 1}, "log.1"),
        ({"log_b": 1, "log_a": 2, "log.1": None}, "log_b"),
        ({"log_errors": None}, None),
    ],
)
def test_the_oldest_file_that_a_bookmark_names_is_read_first(
    known: dict[str, int | None], expected: str | None
) -> None:
    """The names of rotation tell the order; generations tell that of files moved aside by hand."""
    assert first_to_read("log", known) == expected
