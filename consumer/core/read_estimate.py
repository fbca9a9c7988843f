"""What the answer to a read takes in memory: at most, before it is there, and as it turns out to be."""

from __future__ import annotations

from collections.abc import Sequence
from sys import getsizeof
from typing import Final

from shared.limits import (
    GET_RECORDS_BYTES_MAX,
    RECORD_BYTES_MAX_DEFAULT,
    SHARD_WRITE_BYTES_PER_SECOND,
    SHARD_WRITE_RECORDS_PER_SECOND,
)
from shared.records import StreamRecord, StreamRecords, data_bytes

# Per record, measured: the rest of its text (names, number, arrival, a key like a UUID); the objects of its columns
# beside the data, without the key; a key like a UUID.
_TEXT_BYTES: Final = 212
_COLUMN_BYTES: Final = 200
_KEY_BYTES: Final = 85
_TEXT_COPIES: Final = 2  # the text comes in parts, which are joined
_SLACK_SECONDS: Final = 1.0  # what comes while the call is on its way, or ahead of a limit that is kept by the second


class ReadEstimate:
    """Knows how much a shard can hold that was not read yet.

    A shard that was behind may fill an answer: 10 MiB of data (API reference of GetRecords, 2026). The data lie in
    Base64 in the text (4/3), and the text is there twice before it is parsed, so that such an answer takes 30 MiB for a
    moment. At its tip, a shard holds what it takes in since it was asked last. Of one that nothing is known of, a
    single record is asked for, or else a thousand idle shards would have to be asked in turn.

    A record is taken for 1 MiB at most: a stream that allows more can go beyond the estimate with one of those.
    """

    def __init__(self) -> None:
        self.is_known = False  # whether an answer has come
        self._tip_at: float | None = None  # when everything was read

    @property
    def is_small(self) -> bool:
        """Whether the next answer can't be a large one."""
        return not self.is_known or self._tip_at is not None

    def limit(self, records_max: int) -> int:
        """Return for how many records to ask."""
        return records_max if self.is_known else 1

    def answer_bytes(self, now: float, limit: int) -> int:
        """Return what an answer takes at most, to be reserved at `now` (seconds of a monotonic clock)."""
        return _answer_bytes(limit, None if self._tip_at is None else now - self._tip_at + _SLACK_SECONDS)

    def covers(self, reserved: int, now: float, limit: int) -> bool:
        """Whether a reservation that was waited for until `now` is still enough."""
        return reserved >= _answer_bytes(limit, None if self._tip_at is None else now - self._tip_at)

    def take_page(self, asked_at: float, behind_milliseconds: int) -> None:
        """Take note of an answer to a call that was made at `asked_at`."""
        self.is_known = True
        self._tip_at = None if behind_milliseconds else asked_at


def _answer_bytes(records: int, seconds: float | None) -> int:
    data = min(GET_RECORDS_BYTES_MAX, records * RECORD_BYTES_MAX_DEFAULT)
    if seconds is not None:
        data = min(data, int(seconds * SHARD_WRITE_BYTES_PER_SECOND))
        records = min(records, int(seconds * SHARD_WRITE_RECORDS_PER_SECOND))
    text = 4 * data // 3 + _TEXT_BYTES * records
    return max(_TEXT_COPIES * text, text + data + (_COLUMN_BYTES + _KEY_BYTES) * records)


def page_bytes(records: Sequence[StreamRecord]) -> int:
    """Return what the records of an answer take once its text is gone."""
    columns = records if isinstance(records, StreamRecords) else StreamRecords.of(records)
    return data_bytes(columns) + _COLUMN_BYTES * len(columns) + sum(map(getsizeof, columns.keys))
