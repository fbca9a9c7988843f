"""Puts dead letters back into the source stream: at a bounded rate, object by object, each object once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from consumer.core.object_key import REDRIVEN_FOLDER
from infra.control.dead_letters import DeadLetterFolder, StoredLetter
from infra.control.group import Group
from producer.core.pacer import Pacer
from shared.aggregation import DropReason
from shared.errors import InvalidRequestError, MalformedEventError
from shared.event import EVENT_ID_FIELD, EventId, decode_event, event_id_of, with_event_id
from shared.hash_key import hash_key_of
from shared.lanes import lane_of
from shared.limits import PARTITION_KEY_CHARACTERS_MAX
from shared.records import PutEntry

_SOURCE_DIGITS: Final = 24
_ATTEMPTS_PER_RECORD_MAX: Final = 12


@dataclass(slots=True)
class Redriven:
    """What a redrive did."""

    objects: int = 0
    records: int = 0
    refused: int = 0  # the stream will never take them: too large, or a bad partition key
    sent_again: int = 0  # aggregates that landed beside their shard: their producer has sent all members again
    objects_done_before: int = 0

    def as_mapping(self) -> dict[str, Any]:
        """Return all counts, ready for JSON."""
        return asdict(self)


def redrive_id(key: str, turn: int, line: int, partition_key: str) -> EventId:
    """Return the id under which a letter comes back.

    Its old one would be dropped: the mark of its lane has passed it. The new one depends on the object and the line
    alone, so that whoever puts an object back a second time, after a crash half-way, is recognised by it.
    """
    digits = hashlib.sha256(key.encode()).hexdigest()[:_SOURCE_DIGITS]
    source = f"redrive-{digits}" if turn == 1 else f"redrive-{digits}-{turn}"
    return EventId(source, lane_of(hash_key_of(partition_key)), line)


def record_of(letter: StoredLetter, event_id: EventId) -> bytes:
    """Return what goes back into the stream: the raw bytes, with the id of the redrive where they are an event.

    Bytes that are no event, and events with an id that is none of ours, stay untouched.
    """
    try:
        event = decode_event(letter.data)
    except MalformedEventError:
        return letter.data
    known = event_id_of(event)
    if known is None and EVENT_ID_FIELD not in event:
        return with_event_id(letter.data, str(event_id))
    if known is None or EventId.parse(known) is None:
        return letter.data
    return orjson.dumps(event | {EVENT_ID_FIELD: str(event_id)})


class Redrive:
    """One run over the dead letters of an application."""

    def __init__(self, group: Group, *, rate: float, again: bool) -> None:
        """`rate`: records per second; `again`: also objects that were put back before."""
        self._group = group
        self._folder = DeadLetterFolder(group)
        self._pacer = Pacer(rate)
        self._again = again
        self.done = Redriven()

    async def run(self, keys: Sequence[str], *, error_type: str, is_dry: bool) -> Redriven:
        """Put back the objects of these keys, or without keys all of a type; `is_dry` only counts."""
        if keys:
            for key in keys:
                await self._redrive(key, is_dry=is_dry)
        else:
            for key in await self._folder.keys(error_type):
                await self._redrive(key, is_dry=is_dry)
        return self.done

    async def _redrive(self, key: str, *, is_dry: bool) -> None:
        turn = await self._next_turn(key)
        if turn > 1 and not self._again:
            self.done.objects_done_before += 1
            return
        letters = await self._folder.letters(key)
        refused = sent_again = 0
        for line, letter in enumerate(letters):
            if letter.fields.get("errorCode") == DropReason.OUT_OF_RANGE.value:
                sent_again += 1
            elif not 1 <= len(letter.partition_key) <= PARTITION_KEY_CHARACTERS_MAX:
                refused += 1
            elif not is_dry:
                refused += not await self._put(key, turn, line, letter)
        self.done.objects += 1
        records = len(letters) - refused - sent_again
        self.done.records += records
        self.done.refused += refused
        self.done.sent_again += sent_again
        if not is_dry:
            await self._mark(key, turn, records, refused)

    async def _put(self, key: str, turn: int, line: int, letter: StoredLetter) -> bool:
        delay = self._pacer.delay(self._group.clock.monotonic())
        if delay > 0:
            await asyncio.sleep(delay)
        data = record_of(letter, redrive_id(key, turn, line, letter.partition_key))
        entry = PutEntry(data, letter.partition_key)
        kinesis, stream = self._group.kinesis, self._group.source_stream
        try:
            await self._group.retrier.call(
                "put_record", lambda: kinesis.put_record(stream, entry), attempts_max=_ATTEMPTS_PER_RECORD_MAX
            )
        except InvalidRequestError:
            return False
        return True

    def _marker(self, key: str, turn: int) -> str:
        # Of a fixed length: the key itself may be as long as a key can be.
        digest = hashlib.sha256(key.encode()).hexdigest()
        return f"{self._folder.prefix}{REDRIVEN_FOLDER}{digest}.{turn}.json"

    async def _next_turn(self, key: str) -> int:
        """Return the number of this redrive of an object: 1 if there was none before."""
        below = self._marker(key, 0).removesuffix("0.json")
        turns = [each.removeprefix(below).removesuffix(".json") for each in await self._folder.list_below(below)]
        return max((int(turn) for turn in turns if turn.isdecimal()), default=0) + 1

    async def _mark(self, key: str, turn: int, records: int, refused: int) -> None:
        described = {
            "key": key,
            "records": records,
            "refused": refused,
            "redrivenTimestamp": int(self._group.clock.wall() * 1000),
        }
        marker = self._marker(key, turn)
        await self._group.retrier.call(
            "put_object",
            lambda: self._folder.objects.put_object(
                marker, orjson.dumps(described), content_type="application/json", only_if_absent=True
            ),
            attempts_max=_ATTEMPTS_PER_RECORD_MAX,
        )
