"""Enriched events in columns, joined to the lines of one object at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from operator import itemgetter


class Lines:
    """The lines of a chunk: each is a value of every column, with a text between it and the next one.

    No line is made before somebody asks for it: to keep 256 of them costs more than to join them where they belong.
    The last text ends a line; there is no newline elsewhere.
    """

    __slots__ = ("_between", "_columns")

    def __init__(self, columns: Sequence[Sequence[bytes]], between: Sequence[bytes]) -> None:
        self._columns = columns
        self._between = between

    def __len__(self) -> int:
        return len(self._columns[0])

    def each(self) -> list[bytes]:
        """Return every line, without its newline."""
        return b"".join(self._pieces(self._columns)).split(b"\n")[:-1]

    def by_slot(self, slots: Sequence[str]) -> Iterator[tuple[str, Sequence[int], bytes]]:
        """Yield each slot, which lines it has, by index and in their order, and these as one text.

        There is a slot for each line.
        """
        counts = Counter(slots)
        order: Sequence[int] = range(len(slots))
        columns = self._columns
        if len(counts) > 1:
            order = sorted(order, key=slots.__getitem__)
            columns = [itemgetter(*order)(column) for column in columns]
        pieces, width = self._pieces(columns), 2 * len(columns)
        start = 0
        for slot in sorted(counts):
            stop = start + counts[slot]
            yield slot, order[start:stop], b"".join(pieces[width * start : width * stop])
            start = stop

    def _pieces(self, columns: Sequence[Sequence[bytes]]) -> list[bytes]:
        pieces = [piece for text in self._between for piece in (b"", text)] * len(columns[0])
        for at, column in enumerate(columns):
            pieces[2 * at :: 2 * len(columns)] = column
        return pieces
