"""How the library is used, for mypy to check: never run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, assert_type

from consumer import Consumer, DeadLetter, Outcome, Record, Reject, Retry
from consumer.status import WorkerStatus
from producer import Producer
from producer.core.ledger import Ledger
from shared.errors import HeadraceError, RecordRejectedError
from shared.ports import Delivered
from shared.settings import ProducerSettings


async def put_events() -> None:
    """The shortest program, and all that there is besides."""
    async with Producer("orders") as producer:
        assert_type(await producer.put({"session_id": "a1", "country": "USA"}), None)
        await producer.put(b'{"session_id": "a1"}', partition_key="a1")
        delivered = await producer.put_and_wait({"session_id": "a1"})
        assert_type(delivered, Delivered)
        assert_type(delivered.sequence_number, int)
        assert_type(await producer.flush(5), int)
        assert_type(producer.ledger, Ledger)
        assert_type(producer.ledger.balances, bool)
        assert_type(producer.failure, HeadraceError | None)


async def put_with_settings() -> str:
    """Settings are an object; every error that is ours has a hint."""
    settings = ProducerSettings(spill_bytes_max=1 << 30, state_dir="/var/lib/shop")
    async with Producer("orders", settings=settings) as producer:
        try:
            await producer.put({"session_id": "a1"})
        except RecordRejectedError as error:
            return error.hint
    return ""


async def handle(batch: Sequence[Record]) -> Sequence[Outcome] | None:
    """A function of the user's own may return an outcome per record, or nothing, or raise."""
    first = batch[0]
    assert_type(first.data, bytes)
    assert_type(first.event, Mapping[str, Any] | None)
    assert_type(first.event_id, str | None)
    if first.event is None:
        raise Retry("not now")
    return [Retry("later"), Reject("never"), None]


async def handle_all(batch: Sequence[Record]) -> None:
    """The shortest function."""


async def keep(letter: DeadLetter) -> None:
    """What becomes of a record that can't be processed."""
    assert_type(letter.attempts, int)


async def consume() -> None:
    """The shortest program, and all that there is besides."""
    async with Consumer("orders", app="billing") as consumer:
        assert_type(await consumer.run(handle_all), None)
    async with Consumer("orders", app="billing", on_dead_letter=keep, concurrency_max=4, attempts_max=5) as consumer:
        consumer.stop()
        assert_type(consumer.status(), WorkerStatus | None)
        await consumer.run(handle)
