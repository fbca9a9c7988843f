"""What is in the source stream of a world so far, read directly, each record once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from shared.aggregation import deaggregate
from shared.records import StreamRecord
from tests.support.fake_kinesis import FakeStream


class SourceIndex:
    """The numbers of the events that arrived, and the last position in each shard."""

    def __init__(self, stream: FakeStream, on_repetition: Callable[[int], None]) -> None:
        self.numbers: set[int] = set()
        self.last: dict[str, tuple[int, int]] = {}
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
        for each in users:
            number = orjson.loads(each.data).get("n") if each.data.startswith(b"{") else None
            if number in self.numbers:
                self._on_repetition(number)
            elif number is not None:
                self.numbers.add(number)
        if users:
            self.last[shard_id] = users[-1].position
