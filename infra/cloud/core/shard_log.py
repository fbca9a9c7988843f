"""The records of one shard in memory: append at the end, read anywhere, trim at the front, each in constant time."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import Final, NamedTuple

_COMPACT_MIN: Final = 1_024


class StoredRecord(NamedTuple):
    """One record as a reader sees it; `arrival` in seconds since 1970 with millisecond precision."""

    sequence_number: str
    arrival: float
    data: bytes
    partition_key: str


class ShardLog:
    """Records with consecutive counters.

    Three parallel arrays rather than one object per record: 24 bytes of bookkeeping a record, and nothing that the
    cycle collector has to visit, so that the millionth append costs what the first did.
    """

    __slots__ = ("_arrivals", "_bytes", "_data", "_dead", "_keys", "_start")

    def __init__(self, next_counter: int = 1) -> None:
        self._start = next_counter  # the counter of _data[0]
        self._dead = 0  # trimmed records that still lie at the front
        self._data: list[bytes] = []
        self._keys: list[str] = []
        self._arrivals = array("d")
        self._bytes = 0

    @property
    def first(self) -> int:
        """Counter of the oldest record that is kept, or `next` if there is none."""
        return self._start + self._dead

    @property
    def next(self) -> int:
        """Counter that the next record will get."""
        return self._start + len(self._data)

    @property
    def bytes_kept(self) -> int:
        """Bytes of data and keys that are kept."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._data) - self._dead

    def skip_to(self, next_counter: int) -> None:
        """Let an empty log go on at a counter, after a reload whose older records are gone."""
        if not self._data and next_counter > self._start:
            self._start = next_counter

    def append(self, data: bytes, partition_key: str, now: float) -> int:
        """Add a record and return its counter; arrival times never fall, even if the clock does."""
        arrivals = self._arrivals
        if arrivals and now < arrivals[-1]:
            now = arrivals[-1]
        arrivals.append(now)
        self._data.append(data)
        self._keys.append(partition_key)
        self._bytes += len(data) + len(partition_key)
        return self._start + len(self._data) - 1

    def arrival(self, counter: int) -> float:
        """When the record with this counter arrived (seconds since 1970)."""
        return self._arrivals[counter - self._start]

    def counter_from_time(self, timestamp: float) -> int:
        """Counter of the first kept record that arrived at or after `timestamp`, or `next`."""
        return self._start + bisect_left(self._arrivals, timestamp, lo=self._dead)

    def slice(self, counter: int, count_max: int, bytes_max: int) -> tuple[int, int]:
        """Return (end counter, bytes) of what one answer may hold from `counter` on; at least one record if any."""
        index = counter - self._start
        last = min(len(self._data), index + count_max)
        size = 0
        data, keys = self._data, self._keys
        for position in range(index, last):
            grown = size + len(data[position]) + len(keys[position])
            if grown > bytes_max and position > index:
                return self._start + position, size
            size = grown
        return self._start + max(index, last), size

    def record(self, counter: int) -> tuple[bytes, str, float]:
        """Data, partition key and arrival of one kept record."""
        index = counter - self._start
        return self._data[index], self._keys[index], self._arrivals[index]

    def trim(self, horizon: float) -> int:
        """Forget what arrived before `horizon` and return the bytes freed."""
        arrivals = self._arrivals
        if self._dead == len(arrivals) or arrivals[self._dead] >= horizon:
            return 0
        end = bisect_left(arrivals, horizon, lo=self._dead)
        freed = 0
        for index in range(self._dead, end):
            freed += len(self._data[index]) + len(self._keys[index])
            # The bytes go at once; the slots go when there are enough of them to pay for moving the rest.
            self._data[index] = b""
            self._keys[index] = ""
        self._dead = end
        self._bytes -= freed
        if self._dead >= _COMPACT_MIN and self._dead * 2 >= len(arrivals):
            self._start += self._dead
            del self._data[: self._dead]
            del self._keys[: self._dead]
            del self._arrivals[: self._dead]
            self._dead = 0
        return freed
