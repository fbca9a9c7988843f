"""Keeps the local Kinesis in a folder: stream states and records in segment files, read back at the next start.

What is acknowledged has been handed to the operating system, so the end of the process, even by kill -9, loses
nothing. It is flushed to the device once a second and when a file is closed: a power cut can lose the last second.
Each segment starts with the state of every stream, so old segments go as a whole once retention has passed by all
their records.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from infra.cloud.core.journal import Landed, StreamState
from infra.cloud.core.shard_log import ShardLog
from infra.cloud.segment_file import Entry, SegmentFile, SegmentFolder
from shared.errors import ConfigurationError

SEGMENT_BYTES: Final = 64 * 1024 * 1024

_STATE: Final = 1
_DELETED: Final = 2
_RECORDS: Final = 3
_UID: Final = struct.Struct(">Q")
_BATCH: Final = struct.Struct(">Qd")  # stream uid, arrival
_RECORD: Final = struct.Struct(">IHI")  # shard index, key bytes, data bytes
_SECONDS_PER_HOUR: Final = 3_600


@dataclass(slots=True)
class Reloaded:
    """A stream as it was found: its last state and its records by shard index."""

    state: StreamState
    logs: dict[int, ShardLog] = field(default_factory=dict)


class KinesisJournal:
    """The journal of all streams in one folder; see `infra.cloud.core.journal.Journal`."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._segments = SegmentFolder(folder, "kinesis")
        self._segment_bytes = segment_bytes
        self._file: SegmentFile | None = None
        self._number = 0
        self._dirty = False
        self._states: Callable[[], Iterable[StreamState]] = lambda: ()
        # The newest arrival of each stream in each segment: what decides when a segment may go.
        self._newest: dict[int, dict[int, float]] = {}

    # Reading back.

    def reload(self) -> list[Reloaded]:
        """Read everything that the folder holds; a torn tail is cut off."""
        found: dict[int, Reloaded] = {}
        try:
            for number, entry in self._segments.read():
                self._newest.setdefault(number, {})
                self._take(number, entry, found)
        except (KeyError, ValueError, struct.error, IndexError) as error:
            raise ConfigurationError(
                f"the data folder {self._segments.folder} holds an entry that can't be read: {error!r}",
                hint="it was written by another version; start with another --data-dir",
            ) from error
        numbers = self._segments.numbers()
        self._number = numbers[-1] if numbers else 0
        return list(found.values())

    def _take(self, number: int, entry: Entry, found: dict[int, Reloaded]) -> None:
        if entry.kind == _STATE:
            state = orjson.loads(entry.payload)
            stream = found.setdefault(state["uid"], Reloaded(state))
            stream.state = state
            for shard in state["shards"]:
                stream.logs.setdefault(shard["index"], ShardLog()).skip_to(shard["next"])
        elif entry.kind == _DELETED:
            found.pop(_UID.unpack(entry.payload)[0], None)
        elif entry.kind == _RECORDS:
            uid, arrival = _BATCH.unpack_from(entry.payload)
            self._newest[number][uid] = arrival
            if uid in found:
                _take_records(entry.payload, arrival, found[uid].logs)

    def start(self, states: Callable[[], Iterable[StreamState]]) -> None:
        """Go on in a new segment; `states` gives every stream's state, now and at each new segment."""
        self._states = states
        self._roll()

    # Writing.

    def stream_changed(self, state: StreamState) -> None:
        """Keep a stream's state."""
        self._append(_STATE, orjson.dumps(state))

    def stream_deleted(self, uid: int) -> None:
        """Keep that a stream is gone."""
        self._append(_DELETED, _UID.pack(uid))

    def records_appended(self, uid: int, arrival: float, landed: Sequence[Landed]) -> None:
        """Keep records, in one entry, so that a call is kept whole or not at all."""
        parts = [_BATCH.pack(uid, arrival)]
        for shard_index, data, partition_key in landed:
            key = partition_key.encode()
            parts += (_RECORD.pack(shard_index, len(key), len(data)), key, data)
        self._append(_RECORDS, b"".join(parts))
        self._newest[self._number][uid] = arrival

    def _append(self, kind: int, payload: bytes) -> None:
        if self._file is None:
            raise OSError(0, "the journal is closed")
        if self._file.bytes_written >= self._segment_bytes:
            self._roll()
        self._file.append(kind, payload)
        self._dirty = True

    def _roll(self) -> None:
        number = self._number + 1
        following = SegmentFile.open(self._segments.path(number), valid_bytes=0)
        for state in self._states():
            following.append(_STATE, orjson.dumps(state))
        if self._file is not None:
            self._file.close()
        self._file = following
        self._number = number
        self._newest[number] = {}
        self._dirty = True

    # Housekeeping.

    def sync(self) -> None:
        """Flush to the device what was written since the last time; made to be called from another thread."""
        if self._file is None or not self._dirty:
            return
        self._dirty = False
        fd = self._file.duplicate()
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def drop_expired(self, now: float) -> None:
        """Delete the oldest segments whose records are all of deleted streams or past their retention."""
        horizons = {each["uid"]: now - each["retention_hours"] * _SECONDS_PER_HOUR for each in self._states()}
        for number in sorted(self._newest):
            if number == self._number or any(
                newest >= horizons.get(uid, newest + 1.0) for uid, newest in self._newest[number].items()
            ):
                return
            # What is deleted must not be needed by a later segment's start that is not on the device yet.
            self.sync()
            self._segments.path(number).unlink(missing_ok=True)
            del self._newest[number]

    def close(self) -> None:
        """Flush to the device and close; what comes after is refused with OSError."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _take_records(payload: memoryview, arrival: float, logs: dict[int, ShardLog]) -> None:
    offset = _BATCH.size
    while offset < len(payload):
        shard_index, key_length, data_length = _RECORD.unpack_from(payload, offset)
        offset += _RECORD.size
        key = str(payload[offset : offset + key_length], "utf-8")
        offset += key_length
        log = logs.setdefault(shard_index, ShardLog())
        log.append(bytes(payload[offset : offset + data_length]), key, arrival)
        offset += data_length
