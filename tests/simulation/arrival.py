"""What is in the source stream of a world so far, read directly, each record once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from shared.aggregation import deaggregate
from shared.records import Position, StreamRecord
from tests.simulation.web_log import number_of
from tests.support.fake_kinesis import FakeStream


@dataclass(slots=True)
class Arrival:
    """Where the first copy of an event lies, and when copies came: seconds since the epoch."""

    shard_id: str
    position: Position
    first: float
    last: float
    is_single: bool = True


class SourceIndex:
    """The events that arrived, by number, and the last position in each shard, with the time of its arrival."""

    def __init__(self, stream: FakeStream, on_repetition: Callable[[int], None]) -> None:
        self.numbers: dict[int, Arrival] = {}
        self.last: dict[str, tuple[Position, float]] = {}
        self._stream = stream
        self._on_repetition = on_repetition
        self._seen: Counter[str] = Counter()

    def update(self) -> None:
        """Take in what is new."""
        for shard_id, shard in self._stream.shards.items():
            for record in shard.records[self._seen[shard_id] :]:
                self._take(shard_id, shard.shard.hash_key_range, record)
            self._seen[shard_id] = len(shard.records)

    def _take(self, shard_id: str, hash_key_range: Any, record: StreamRecord) -> None:
        users = deaggregate(record, hash_key_range).records
        at = record.arrival_timestamp
        for each in users:
            number = number_of(orjson.loads(each.data)) if each.data.startswith(b"{") else None
            if number is None:
                continue
            known = self.numbers.get(number)
            if known is None:
                self.numbers[number] = Arrival(shard_id, each.position, at, at)
            else:
                known.last = max(known.last, at)
                known.is_single = False
                if at < known.first:  # shards are looked through one after the other
                    known.shard_id, known.position, known.first = shard_id, each.position, at
                self._on_repetition(number)
        if users:
            self.last[shard_id] = users[-1].position, at
