"""Follows a stream for people and scripts: every shard, children after their parents, without leases."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import orjson

from consumer.budget import Budget
from consumer.core.enrichment import timestamp_text
from consumer.core.shard_graph import rows_to_create
from consumer.failure import first_failure
from consumer.retrier import START_ATTEMPTS_MAX, Retrier
from consumer.shard_reader import ReadPorts, ReadSettings, ShardReader, start_of
from shared.aggregation import deaggregate
from shared.lease import SHARD_END, Checkpoint, Lease
from shared.limits import GET_RECORDS_COUNT_MAX, MIB
from shared.ports import Clock, Kinesis, Random, Telemetry
from shared.records import UserRecord
from shared.retry import Backoff

_BUDGET_BYTES: Final = 64 * MIB
_NEWLINES_TO_SPACES: Final = bytes(0x20 if code in b"\r\n" else code for code in range(256))


class StreamFollower:
    """Reads all shards of a stream at once; calls `take` for each user record and `flush` after each page."""

    def __init__(
        self,
        stream: str,
        *,
        kinesis: Kinesis,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        initial: Checkpoint,
        timestamp: float = 0.0,
        take: Callable[[str, UserRecord], None],
        flush: Callable[[], None],
        limit: int | None = None,
    ) -> None:
        """`initial` and `timestamp`: where reading starts; `limit`: records after which it ends."""
        backoff = Backoff(0.05, 5)
        self._retrier = Retrier(backoff, random, telemetry)
        self._ports = ReadPorts(kinesis, self._retrier, clock, random, telemetry, backoff)
        self._settings = ReadSettings(
            stream=stream,
            records_max=GET_RECORDS_COUNT_MAX,
            pause_seconds=0.2,
            idle_seconds=1,
            start_timestamp=timestamp,
        )
        self._telemetry = telemetry
        self._initial = initial
        self._take = take
        self._flush = flush
        self._limit = limit
        self._taken = 0
        self._budget = Budget(_BUDGET_BYTES)
        self._rows: dict[str, Lease] = {}  # never stored: it is how the shard graph knows what was begun and ended
        self._readers: list[asyncio.Task[None]] = []
        self._sync_due = asyncio.Event()
        self._over = asyncio.Event()

    async def follow(self, stop: asyncio.Event) -> int:
        """Read until `stop` is set or the limit is reached; return how many records were taken.

        Raises the first error that no retry heals, and whatever `take` and `flush` raise.
        """
        if self._limit == 0:
            return 0
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._start_shards(group)), group.create_task(self._watch(stop))]
                await self._over.wait()
                for task in [*tasks, *self._readers]:
                    task.cancel()
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from failures
        return self._taken

    async def _watch(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._over.set()

    async def _start_shards(self, group: asyncio.TaskGroup) -> None:
        kinesis, stream = self._ports.kinesis, self._settings.stream
        attempts_max: int | None = START_ATTEMPTS_MAX
        while True:
            self._sync_due.clear()
            shards = await self._retrier.call(
                "list_shards", lambda: kinesis.list_shards(stream), attempts_max=attempts_max
            )
            attempts_max = None  # once it has worked, an outage is waited out
            for row in rows_to_create(shards, self._rows, self._initial):
                self._rows[row.shard_id] = row
                self._readers.append(group.create_task(self._read(row)))
            await self._sync_due.wait()

    async def _read(self, row: Lease) -> None:
        account = self._budget.open(lambda: None)
        start = start_of(row, self._settings.start_timestamp)
        reader = ShardReader(row.shard_id, start, settings=self._settings, ports=self._ports, account=account)
        while not self._over.is_set():
            page = await reader.read()
            for record in page.records:
                found = deaggregate(record, row.hash_key_range)
                if found.dropped_reason is not None:
                    self._telemetry.warning(
                        "members_dropped",
                        shard_id=row.shard_id,
                        sequence_number=str(record.sequence_number),
                        reason=found.dropped_reason.value,
                        members=found.dropped_count,
                    )
                for each in found.records:
                    self._take_one(row.shard_id, each)
            if page.records:
                self._flush()
            if page.next_iterator is None:
                break
        account.close()
        self._rows[row.shard_id] = replace(row, checkpoint=SHARD_END)
        self._sync_due.set()

    def _take_one(self, shard_id: str, record: UserRecord) -> None:
        if self._over.is_set():
            return
        self._take(shard_id, record)
        self._taken += 1
        if self._taken == self._limit:
            self._over.set()


def render_json(shard_id: str, record: UserRecord) -> str:
    """Return a record as one JSON object: `data` is the event where it is JSON, else `data_base64` its bytes."""
    line: dict[str, object] = {
        "shard_id": shard_id,
        "sequence_number": str(record.position.sequence_number),
        "sub_sequence_number": record.position.sub_sequence_number,
        "partition_key": record.partition_key,
        "arrival_timestamp": timestamp_text(record.arrival_timestamp),
    }
    if _is_json(record.data):
        # The bytes themselves: numbers keep all their digits, and keys their order.
        line["data"] = orjson.Fragment(record.data.translate(_NEWLINES_TO_SPACES))
    else:
        line["data_base64"] = base64.b64encode(record.data).decode("ascii")
    return orjson.dumps(line).decode()


def render_text(shard_id: str, record: UserRecord) -> str:
    """Return a record as one line for people; characters that a terminal would obey are escaped."""
    sequence_number, sub_sequence_number = record.position
    place = f"{sequence_number}.{sub_sequence_number}" if sub_sequence_number else str(sequence_number)
    try:
        text = record.data.decode()
    except UnicodeDecodeError:
        text = "base64 " + base64.b64encode(record.data).decode("ascii")
    shown = text if text.isprintable() else "".join(escape(character) for character in text)
    return f"Consumed record {place} from Shard {shard_id}: {shown}"


def escape(character: str) -> str:
    """Return a character, or the escape of one that a terminal would obey."""
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True
