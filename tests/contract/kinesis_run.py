"""Runs a Kinesis script at a site and writes down what it answers, free of ids, numbers and clocks of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from shared.ports import Kinesis
from shared.records import ChildShard, RecordPage, Shard, Start, StartKind, StreamRecord
from tests.contract.answer import answer_of
from tests.contract.kinesis_steps import (
    NOWHERE,
    Describe,
    From,
    Keep,
    ListShards,
    Merge,
    Put,
    Read,
    ReadKept,
    Split,
    Step,
    Turn,
)
from tests.contract.sites import Site

_FAR: Final = 1 << 200  # above any number of 56 digits


class KinesisRun:
    """One stream at one site; with `times` the answers hold arrival times too, in seconds since the beginning."""

    def __init__(self, site: Site, port: Kinesis, stream: str, *, times: bool) -> None:
        self._site = site
        self._port = port
        self._stream = stream
        self._times = times
        self._began = site.wall()
        self._shards: list[str] = []
        self._known: dict[str, Shard] = {}
        self._numbers: dict[str, list[int]] = {}
        self._slots: dict[int, str | None] = {}

    async def run(self, shard_count: int, steps: Sequence[Step]) -> list[Any]:
        """Make the stream, take every step and return an answer for each."""
        await self._site.create_stream(self._stream, shard_count)
        try:
            await self._learn_shards()
            return [await answer_of(lambda step=step: self._take(step)) for step in steps]  # type: ignore[misc]
        finally:
            await self._site.delete_stream(self._stream)

    async def _take(self, step: Step) -> Any:
        answer: Any = None
        match step:
            case Put():
                answer = await self._put(step)
            case Read():
                answer = await self._read(step)
            case Keep():
                self._slots.pop(step.slot, None)
                self._slots[step.slot] = await self._iterator(step.shard, step.start, 0)
            case ReadKept():
                answer = await self._read_kept(step)
            case Split() | Merge():
                answer = await self._reshard(step)
            case ListShards():
                answer = self._lineage(await self._port.list_shards(self._name(step.stream)))
            case Describe():
                answer = await self._describe(step)
            case Turn():
                self._site.turn(step.seconds)
        return answer

    async def _describe(self, step: Describe) -> Any:
        found = await self._port.describe_stream(self._name(step.stream))
        is_named = found.stream_name == self._stream and found.stream_arn.endswith(f":stream/{self._stream}")
        sizes = found.open_shard_count, found.retention_hours, found.record_bytes_max
        return is_named, found.status, *sizes, found.distribution

    # Names.

    def _name(self, stream: int) -> str:
        return "no-such-stream" if stream == NOWHERE else self._stream

    def _shard_id(self, shard: int) -> str:
        return "shardId-000000009999" if shard == NOWHERE else self._shards[shard]

    def _index(self, shard_id: str | None) -> int | None:
        return None if shard_id is None else self._shards.index(shard_id)

    async def _learn_shards(self) -> tuple[Shard, ...]:
        listed = await self._port.list_shards(self._stream)
        self._known |= {each.shard_id: each for each in listed}  # what retention forgot is still asked for
        self._shards += sorted({each.shard_id for each in listed} - set(self._shards))
        return listed

    # Writing.

    async def _put(self, step: Put) -> Any:
        if step.is_single:
            results = [await self._port.put_record(self._name(step.stream), step.entries[0])]
        else:
            results = list(await self._port.put_records(self._name(step.stream), step.entries))
        answers = []
        for each in results:
            if each.error_code:
                answers.append(each.error_code)
                continue
            numbers = self._numbers.setdefault(each.shard_id, [])
            floor = max([self._floor(each.shard_id), *numbers[-1:]])
            numbers.append(each.sequence_number)
            answers.append((self._index(each.shard_id), len(numbers) - 1, each.sequence_number > floor))
        return answers

    def _floor(self, shard_id: str) -> int:
        """Return a number that every number of the shard has to exceed: the last ones of its parents."""
        parents = self._known[shard_id].parents
        return max((self._numbers[each][-1] for each in parents if self._numbers.get(each)), default=-1)

    # Shards.

    async def _reshard(self, step: Split | Merge) -> Any:
        if isinstance(step, Split):
            await self._site.split_shard(self._name(step.stream), self._shard_id(step.shard), step.at)
        else:
            await self._site.merge_shards(
                self._name(step.stream), self._shard_id(step.shard), self._shard_id(step.adjacent)
            )
        return self._lineage(await self._learn_shards())

    def _lineage(self, shards: tuple[Shard, ...]) -> Any:
        return [
            (
                self._index(each.shard_id),
                (each.hash_key_range.start, each.hash_key_range.end),
                self._index(each.parent_shard_id),
                self._index(each.adjacent_parent_shard_id),
                each.is_open,
                self._are_numbers_in_range(each),
            )
            for each in sorted(shards, key=lambda each: each.shard_id)
        ]

    def _are_numbers_in_range(self, shard: Shard) -> bool:
        numbers = self._numbers.get(shard.shard_id, [])
        ending = shard.ending_sequence_number
        return all(shard.starting_sequence_number <= each and (ending is None or each <= ending) for each in numbers)

    # Reading.

    async def _iterator(self, shard: int, start: From, stream: int) -> str:
        shard_id = self._shard_id(shard)
        return await self._port.get_shard_iterator(self._name(stream), shard_id, self._start(shard_id, start))

    def _start(self, shard_id: str, start: From) -> Start:
        if start.kind is StartKind.AT_TIMESTAMP:
            return Start(start.kind, timestamp=max(0.0, self._began + start.seconds))
        numbers = self._numbers.get(shard_id, [])
        match start.mark:
            case "record":
                # A site that refused a put has no such record; the steps before have shown it already.
                number = numbers[start.rank] if start.rank < len(numbers) else 0
            case "start":
                number = self._known[shard_id].starting_sequence_number
            case "end":
                number = self._known[shard_id].ending_sequence_number or 0
            case "below":
                number = 1
            case _:
                number = _FAR
        return Start(start.kind, sequence_number=number)

    async def _read(self, step: Read) -> Any:
        iterator: str | None = await self._iterator(step.shard, step.start, step.stream)
        shard_id = self._shard_id(step.shard)
        answers: list[Any] = []
        while iterator is not None and len(answers) < step.pages:
            page = await self._port.get_records(self._stream, iterator, step.limit)
            answers.append(self._page(page))
            iterator = page.next_iterator
            if not page.records and not page.behind_milliseconds:
                break
        assert shard_id in self._shards
        return answers

    async def _read_kept(self, step: ReadKept) -> Any:
        iterator = "no-such-iterator" if step.slot == NOWHERE else self._slots.get(step.slot)
        if iterator is None:
            return "nothing kept"
        page = await self._port.get_records(self._stream, iterator, step.limit)
        if step.advance:
            self._slots[step.slot] = page.next_iterator
        return self._page(page)

    def _page(self, page: RecordPage) -> Any:
        return (
            tuple(self._record(each) for each in page.records),
            "goes on" if page.next_iterator else "ends",
            # Without a clock in hand the age of what waits may be nothing.
            page.behind_milliseconds > 0 if self._times else None,
            tuple(
                (self._index(each.shard_id), tuple(self._index(parent) for parent in each.parents), _ends(each))
                for each in page.child_shards
            ),
        )

    def _record(self, record: StreamRecord) -> Any:
        places = [
            (self._index(shard_id), numbers.index(record.sequence_number))
            for shard_id, numbers in self._numbers.items()
            if record.sequence_number in numbers
        ]
        arrival = record.arrival_timestamp - self._began if self._times else None
        # moto gives the same numbers in every shard; the rank is the same in each of them.
        return (places[0][1] if places else None, record.data, record.partition_key, arrival)


def _ends(child: ChildShard) -> tuple[int, int]:
    return child.hash_key_range.start, child.hash_key_range.end
