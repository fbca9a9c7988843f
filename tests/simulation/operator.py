"""An operator in a simulated world, with the real commands: pauses, resumes, and sends the group back in time."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from infra.control.group import Group
from infra.control.pause import set_pause
from infra.control.seek import apply_seek, plan_seek
from infra.control.seek_plan import SeekTarget
from producer.core.line_format import LineFormat
from shared.aggregation import deaggregate
from shared.errors import HeadraceError
from shared.lease import CheckpointKind
from tests.simulation.actor import Machine
from tests.simulation.draw import Usage
from tests.simulation.faults import LATE_SECONDS_MAX
from tests.simulation.loop import Process
from tests.simulation.truth import archived_numbers

if TYPE_CHECKING:
    from tests.simulation.world import World

_SHARE: Final = 0.4  # of the worlds whose use of the product is plain enough
_LANDED_SECONDS: Final = LATE_SECONDS_MAX + 10  # the latest landing of a call, with its time-out
_SETTLE_ATTEMPTS_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class _Expectation:
    """What a completed seek promises: these events are in objects that were not there before."""

    numbers: frozenset[int]
    keys_before: frozenset[str]


@dataclass(slots=True)
class _Seek:
    """A seek that has begun; one that was killed counts as under way for ever: what it moved, nobody knows."""

    numbers: frozenset[int]
    has_ended: bool = False


class Operator:
    """Draws from a chance of its own, so that worlds without an operator stay as they were."""

    def __init__(self, world: World, source: str) -> None:
        self._world = world
        self._source = source
        self._chaos_seconds = world.chaos_seconds
        self._chance = random.Random(f"operator {world.seed}")
        self.is_there = self._chance.random() < _SHARE and _is_plain(world.usage)
        self._machine = Machine(world.loop, world.network.epoch, 0.0)
        self._expectations: list[_Expectation] = []
        self._seeks: list[_Seek] = []

    def schedule(self) -> None:
        """Plan the commands of a whole life."""
        if not self.is_there:
            return
        chance = self._chance
        for _ in range(chance.choice([1, 1, 2])):
            self._at(chance.uniform(10, self._chaos_seconds), "seek")
        for _ in range(chance.choice([0, 1, 2])):
            when = chance.uniform(5, self._chaos_seconds)
            self._at(when, "pause")
            self._at(when + chance.uniform(1, 30), "resume")

    def _at(self, when: float, command: str) -> None:
        self._world.at(when, self._start, command)

    def _start(self, command: str) -> None:
        """Run a command as a process of its own, which may die half-way."""
        process = Process(f"operator.{command}")
        self._world.story.count(f"operator_{command}")
        self._world.loop.spawn(process, lambda: self._run(command, process))
        if self._chance.random() < 0.25:
            self._world.at(self._world.loop.time() + self._chance.uniform(0, 2), self._world.loop.kill, process)

    async def _run(self, command: str, process: Process) -> None:
        try:
            if command == "seek":
                await self._seek(self._group())
            else:
                await set_pause(self._group(), self._some_shards(), is_paused=command == "pause")
        except HeadraceError as error:
            self._world.story.tell(process.name, f"gives up: {error}")
        self._world.loop.kill(process)

    def _group(self) -> Group:
        world = self._world
        application: dict[str, Any] = {"source_stream": self._source, "start_from": "TRIM_HORIZON"}
        chance = random.Random(self._chance.getrandbits(64))
        return Group("app", application, world.kinesis, world.leases, world.objects, self._machine, chance)

    def _some_shards(self) -> list[str]:
        rows = sorted(self._world.leases.rows)
        return [self._chance.choice(rows)] if rows and self._chance.random() < 0.5 else []

    async def _seek(self, group: Group) -> None:
        world, chance = self._world, self._chance
        ago = chance.uniform(0, 60) if chance.random() < 0.6 else 0.0
        is_whole = chance.random() < 0.3
        since = min(world.network.wall() - ago, self._oldest_unread())
        target = SeekTarget(None if is_whole or since <= 0 else since)
        plan = await plan_seek(group, target, [])
        # What has arrived by now and is of the target's time has to come once more.
        numbers = self._numbers_since(target)
        keys = frozenset(world.objects.objects)
        # What an earlier seek wanted again may not have been read yet, and this one goes elsewhere.
        self._expectations = [replace(each, numbers=each.numbers & numbers) for each in self._expectations]
        others, place = [each for each in self._seeks if not each.has_ended], len(self._seeks)
        self._seeks.append(_Seek(numbers))
        await apply_seek(group, plan)
        world.story.count("operator_sought")
        self._seeks[place].has_ended = True
        # Of two at a time, each row has the place of the one that wrote it last: only what both want is sure to come.
        numbers = numbers.intersection(*(each.numbers for each in (*others, *self._seeks[place + 1 :])))
        self._expectations.append(_Expectation(numbers, keys))

    def _oldest_unread(self) -> float:
        """Return when the oldest record arrived that is neither stored nor prepared to be.

        A seek beyond it would leave it out, as it is asked to.
        """
        oldest = self._world.network.wall()
        for name, shard in self._world.kinesis.streams[self._source].shards.items():
            row = self._world.leases.rows.get(name)
            if row is not None and row.checkpoint.is_shard_end:
                continue
            done = -1
            if row is not None and row.seek_to is None and row.checkpoint.kind is CheckpointKind.NUMBER:
                done = row.checkpoint.position.sequence_number - 1  # a part of that record may be unread
            if row is not None and row.seek_to is None and row.pending is not None:
                done = row.pending.last.sequence_number - 1
            unread = [each.arrival_timestamp for each in shard.records if each.sequence_number > done][:1]
            oldest = min([oldest, *unread])
        return oldest - 0.001

    def _numbers_since(self, target: SeekTarget) -> frozenset[int]:
        """Return the events from the target on, of all shards."""
        since = target.timestamp or 0.0
        return frozenset(number for arrived, number in self._arrivals() if arrived >= since)

    def _arrivals(self) -> Iterator[tuple[float, int]]:
        """Walk the source stream: arrival and number of each event."""
        for shard in self._world.kinesis.streams[self._source].shards.values():
            for record in shard.records:
                users = deaggregate(record, shard.shard.hash_key_range).records
                for number in _numbers([user.data for user in users]):
                    yield record.arrival_timestamp, number

    async def settle(self) -> None:
        """End every pause, as an operator would in the end: without faults now."""
        if not self.is_there:
            return
        # A pause that was given up may still land, as an operator knows who saw it time out.
        await asyncio.sleep(_LANDED_SECONDS)
        for _ in range(_SETTLE_ATTEMPTS_MAX):
            await set_pause(self._group(), [], is_paused=False)
            if not any(row.is_paused for row in self._world.leases.rows.values()):
                return

    def violations(self) -> list[str]:
        """Say what a seek promised and did not bring."""
        times = Counter(number for _, number in self._arrivals()) if self._expectations else Counter[int]()
        # Of what is in the stream twice, the other copy may lie before the target: then this one is rightly dropped.
        repeated = {number for number, count in times.items() if count > 1}
        found: list[str] = []
        for each in self._expectations:
            new = self._world.objects.objects.keys() - each.keys_before
            again = archived_numbers(self._world.objects, new)
            missing = each.numbers - again - repeated
            if missing:
                found.append(f"{len(missing)} events were not read again by a seek: {sorted(missing)[:5]}")
        return found


def _is_plain(usage: Usage) -> bool:
    """Whether it can be told what a seek has to bring: all that arrived, in S3, each copy of an event known."""
    return (
        usage.has_bucket
        and usage.start_from == "TRIM_HORIZON"
        and usage.source_keeps_order
        and usage.line_format is LineFormat.JSON
    )


def _numbers(lines: list[bytes]) -> set[int]:
    numbers: set[int] = set()
    for line in lines:
        try:
            event = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(event, dict) and isinstance(event.get("n"), int):
            numbers.add(event["n"])
    return numbers
