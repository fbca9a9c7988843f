"""How the library is used, for mypy to check: never run."""

from __future__ import annotations

from typing import assert_type

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
