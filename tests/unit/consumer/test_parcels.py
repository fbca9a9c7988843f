"""Chunks that are on their way together are acknowledged as one, and lose nothing by it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import orjson

from consumer.budget import Budget
from consumer.core.batch import Batch
from consumer.core.chunk import Chunk, cut
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.enrichment import Enricher
from consumer.core.object_key import STREAM_DELIVERY_FAILED, error_slot
from consumer.core.route import Router
from consumer.core.transform import Transform
from consumer.delivery import Delivery
from consumer.status import Counters
from shared.clock import SystemClock
from shared.hash_key import FULL_RANGE
from shared.limits import MIB
from shared.ports import Delivered, Receipt, Undeliverable
from shared.records import Position, StreamRecord
from shared.telemetry import SilentTelemetry

_ACKNOWLEDGED = Delivered("shardId-000000000000", 7)


class _SlowSink:
    """Keeps what it is given until it is told what becomes of it."""

    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.pending: list[tuple[bytes, Receipt, Any]] = []

    async def put(self, data: bytes, partition_key: str, receipt: Receipt, token: Any) -> None:
        """Keep a record."""
        await self.put_all([data], [partition_key], receipt, token)

    async def put_all(
        self, datas: Sequence[bytes], partition_keys: Sequence[str], receipt: Receipt, token: Any
    ) -> None:
        """Keep records."""
        assert len(datas) == len(partition_keys)
        self.tokens.append(token)
        self.pending += [(data, receipt, token) for data in datas]

    async def flush(self, deadline_seconds: float) -> int:
        """Say what is pending."""
        return len(self.pending) if deadline_seconds >= 0 else 0

    def answer(self, count: int, *, refuses: bool = False) -> None:
        """Answer the oldest ones."""
        answered, self.pending = self.pending[:count], self.pending[count:]
        for data, receipt, token in answered:
            receipt(token, Undeliverable("ValidationException", "no", data) if refuses else _ACKNOWLEDGED)


class _Shard:
    """A shard's delivery, one chunk after the other."""

    def __init__(self) -> None:
        self.sink = _SlowSink()
        self.delivery = Delivery(
            "shardId-000000000000",
            {"International": self.sink},
            keeps_dead_letters=True,
            account=Budget(MIB).open(lambda: None),
            counters=Counters(),
            clock=SystemClock(),
            telemetry=SilentTelemetry(),
            on_progress=self._note_progress,
        )
        self.batch = Batch(0, keeps_lines=True)
        self._transform = Transform(Enricher("src", "shard"), Router(()), DuplicateMarks({}))
        self._number = 0
        self.progress = 0

    def _note_progress(self) -> None:
        self.progress += 1

    async def take(self, count: int = 2, *, data: bytes = b"") -> Chunk:
        """Deliver so many more events, or one that is given."""
        count = 1 if data else count
        numbers = range(self._number + 1, self._number + 1 + count)
        self._number += count
        records = [StreamRecord(data or b'{"n":%d,"session_id":"s"}' % number, "s", number, 1.0) for number in numbers]
        (chunk,) = cut(records, FULL_RANGE)
        await self.delivery.take(chunk, self.batch, self._transform, timestamp=b"now")
        return chunk

    def letters(self) -> list[Any]:
        """Return the numbers of the dead letters' records."""
        lines = b"".join(self.batch.blocks_of(error_slot(STREAM_DELIVERY_FAILED))).splitlines()
        return [int(orjson.loads(line)["sequenceNumber"]) for line in lines]


async def test_the_watermark_waits_for_every_chunk_of_a_parcel() -> None:
    """Receipts of the first chunks move nothing beyond what they are for, and the last one moves it to the end."""
    shard = _Shard()
    for _ in range(3):
        await shard.take()
    assert len({id(token) for token in shard.sink.tokens}) == 1
    shard.sink.answer(5)
    assert shard.delivery.tracker.watermark is None
    shard.sink.answer(1)
    assert shard.delivery.tracker.watermark == Position(6)


async def test_events_are_not_kept_decoded_while_a_sink_has_no_room() -> None:
    """Each shard of a worker may wait for a sink: what a decoded event takes is no part of its budget."""
    shard = _Shard()
    taken: list[int] = []
    put_all = shard.sink.put_all

    async def wait(*given: Any) -> None:
        taken.append(tracemalloc.get_traced_memory()[0])
        await put_all(*given)

    shard.sink.put_all = wait  # type: ignore[method-assign]
    data = b'{"session_id":"s","x":[%b]}' % b",".join([b"{}"] * 100_000)
    tracemalloc.start()
    try:
        await shard.take(data=data)
    finally:
        tracemalloc.stop()
    assert taken
    assert max(taken) < 10 * len(data)


async def test_a_parcel_that_is_acknowledged_takes_no_more() -> None:
    """What comes after its last receipt begins another one, which moves the watermark by itself."""
    shard = _Shard()
    await shard.take()
    shard.sink.answer(2)
    assert shard.delivery.tracker.watermark == Position(2)
    await shard.take()
    assert shard.delivery.tracker.watermark == Position(2)
    shard.sink.answer(2)
    assert shard.delivery.tracker.watermark == Position(4)


async def test_a_batch_waits_for_no_chunk_of_the_next_one() -> None:
    """A parcel ends with its batch: the checkpoint of a closed one depends on nothing that was read after it."""
    shard = _Shard()
    chunk = await shard.take()
    shard.batch = Batch(0, keeps_lines=True)
    await shard.take()
    shard.sink.answer(2)
    assert shard.delivery.tracker.covers(chunk.last)


async def test_receipts_of_a_part_are_progress() -> None:
    """A destination that is slow is no shard that stands still: some hundred events count, before all are through."""
    shard = _Shard()
    for _ in range(3):
        await shard.take(256)
    assert shard.progress == 0
    shard.sink.answer(512)
    assert (shard.progress, shard.delivery.tracker.watermark) == (2, None)


async def test_a_refused_event_finds_its_record_in_any_chunk() -> None:
    """The dead letter has the bytes and the place of the record, whichever chunk of the parcel it came in."""
    shard = _Shard()
    for _ in range(3):
        await shard.take()
    shard.sink.answer(1)
    shard.sink.answer(1, refuses=True)
    shard.sink.answer(2)
    shard.sink.answer(2, refuses=True)
    assert shard.letters() == [2, 5, 6]
    assert shard.delivery.tracker.watermark == Position(6)
