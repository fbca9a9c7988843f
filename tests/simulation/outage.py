"""A time in which nobody consumes, as long as the stream keeps its records: what is trimmed unread has to be told."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import orjson

from consumer.core.object_key import GAP_FOLDER
from shared.aggregation import deaggregate
from shared.lease import CheckpointKind
from shared.records import Position
from tests.simulation.draw import SOURCE
from tests.simulation.faults import BUCKET
from tests.simulation.truth import archived_numbers
from tests.simulation.web_log import number_of

if TYPE_CHECKING:
    from shared.lease import Lease
    from tests.simulation.actor import Actor
    from tests.simulation.world import World
    from tests.support.fake_kinesis import FakeShard

_SHARE: Final = 0.6  # of the worlds in which every record has to become an event or a dead letter in the bucket
_LONG_SHARE: Final = 0.3  # of outages: so long that nothing is left, and that tombstones are deleted
_LATE_SHARE: Final = 0.6  # of outages: they end when nobody writes any more, so that no later record tells of a gap
_SUDDEN_SHARE: Final = 0.2  # of workers: they are killed at its beginning, between two steps of a flush if there is one
_IN_A_FLUSH_SHARE: Final = 0.3  # of outages: the bucket is away from just before, so that flushes are left prepared
_BUCKET_AWAY_SECONDS: Final = (2.0, 10.0)
_LOOK_SECONDS: Final = 0.02
_PATIENCE_SECONDS: Final = 120
_RETENTION_SECONDS: Final = 86_400.0  # the fake's
_BEFORE: Final = Position(0, -1)


@dataclass(slots=True)
class _Trimmed:
    """What one shard has lost unread: the positions of its events by their numbers."""

    shard_id: str
    is_told: bool  # whether its reader can know: one that never read of a shard that is left does not
    numbers: dict[int, Position] = field(default_factory=dict)


class Outage:
    """Draws from a chance of its own, so that worlds in which somebody consumes all the time are as they were."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(f"outage {world.seed}")
        self.is_there = self._chance.random() < _SHARE and _is_plain(world)
        self._trimmed: dict[str, _Trimmed] = {}
        self._ends: dict[str, Position] = {}  # shard -> the last position that was trimmed
        self.has_trimmed = False

    def schedule(self) -> None:
        """Plan when the workers go, and for how long."""
        if not self.is_there:
            return
        chaos_seconds = self._world.chaos_seconds
        begin = self._chance.uniform(chaos_seconds / 6, chaos_seconds * 2 / 3)
        sudden = random.Random(f"sudden outage {self._world.seed}")
        for actor in self._world.workers:
            when = begin + self._chance.uniform(0, 3)
            if sudden.random() < _SUDDEN_SHARE:
                self._world.at(begin, self._fail_in_a_flush, actor, when)
            else:
                self._world.at(when, actor.leave)
        end = begin + self._chance.uniform(4, 25)
        if random.Random(f"late outage {self._world.seed}").random() < _LATE_SHARE:
            end = chaos_seconds - self._chance.uniform(0, 5)
        chance = random.Random(f"flush in an outage {self._world.seed}")
        if chance.random() < _IN_A_FLUSH_SHARE and not self._world.service_outage.is_there:
            self._world.at(begin - chance.uniform(*_BUCKET_AWAY_SECONDS), self._world.network.take_away, BUCKET)
            self._world.at(end, self._world.network.bring_back)
        self._world.at(end, self._pass_time)

    def _fail_in_a_flush(self, actor: Actor, latest: float) -> None:
        """Kill a worker as soon as one of its flushes is prepared and not committed, at the latest at `latest`."""
        names = {actor.name, actor.process.name if actor.process is not None else ""}
        flushing = (row for row in self._world.leases.rows.values() if row.pending is not None)
        now = self._world.loop.time()
        if now >= latest or any(row.owner in names for row in flushing):
            actor.fail()
        else:
            self._world.at(now + _LOOK_SECONDS, self._fail_in_a_flush, actor, latest)

    def _pass_time(self) -> None:
        """Let about a day or more go by."""
        chance = self._chance
        is_long = chance.random() < _LONG_SHARE
        # Else somewhere in what was written lies the horizon.
        seconds = _RETENTION_SECONDS * chance.uniform(1, 3) if is_long else _RETENTION_SECONDS - chance.uniform(0, 60)
        self.pass_time(seconds)

    def pass_time(self, seconds: float) -> None:
        """Let time go by while nothing runs at all: only clocks notice."""
        world, chance = self._world, self._chance
        world.index.update()
        for actor in world.actors:
            actor.end("a long outage")
        world.network.epoch += seconds
        for actor in world.actors:
            actor.machine.wall_offset += seconds
        world.story.count("outage")
        world.story.tell("world", f"{seconds / 3600:.2f} hours pass")
        self._trim(world.network.wall() - _RETENTION_SECONDS)
        for worker in world.workers:
            world.at(world.loop.time() + chance.uniform(0, 10), worker.come)

    def _trim(self, horizon: float) -> None:
        world = self._world
        stream = world.kinesis.streams[SOURCE]
        orphaned: list[FakeShard] = []
        for shard_id, shard in list(stream.shards.items()):
            count = sum(record.arrival_timestamp < horizon for record in shard.records)
            # The tip of a shard moves on, and records arrive in the order of their numbers.
            self.has_trimmed = self.has_trimmed or count > 0
            is_gone = count == len(shard.records) and not shard.shard.is_open
            self._note(shard, count, world.leases.rows.get(shard_id), is_gone=is_gone)
            world.kinesis.trim(SOURCE, shard_id, count)
            if is_gone:
                if shard_id not in world.leases.rows:
                    world.story.count("shard_forgotten_without_a_row")
                    orphaned.append(shard)
                world.kinesis.forget_shard(SOURCE, shard_id)
                world.story.count("shard_forgotten")

        for shard in orphaned:
            # A child that is left tells, if this group has read what was before.
            name, keys = shard.shard.shard_id, shard.shard.hash_key_range
            rows = [row.hash_key_range for row in world.leases.rows.values() if row.shard_id < name]
            is_followed = any(each is not None and each.overlaps(keys) for each in rows)
            has_child = any(name in each.shard.parents for each in stream.shards.values())
            self._trimmed[name].is_told = is_followed and has_child

    def _note(self, shard: FakeShard, count: int, row: Lease | None, *, is_gone: bool) -> None:
        """Take note of the events that are trimmed and lie behind the checkpoint."""
        if row is not None and row.checkpoint.is_shard_end:
            return
        is_begun = row is not None and row.checkpoint.kind is CheckpointKind.NUMBER
        done = row.checkpoint.position if row is not None and is_begun else _BEFORE
        name = shard.shard.shard_id
        found = self._trimmed[name] = _Trimmed(name, is_told=is_begun or (is_gone and row is not None))
        for record in shard.records[:count]:
            for each in deaggregate(record, shard.shard.hash_key_range).records:
                self._ends[name] = each.position
                number = number_of(orjson.loads(each.data)) if each.data.startswith(b"{") else None
                if each.position > done and number is not None:
                    found.numbers[number] = each.position
        if found.numbers:
            self._world.story.count("trimmed_unread")

    def is_trimmed(self, shard_id: str, position: Position) -> bool:
        """Whether a record is past retention."""
        return position <= self._ends.get(shard_id, _BEFORE)

    @property
    def excused(self) -> set[int]:
        """The numbers that need not arrive."""
        return {number for each in self._trimmed.values() for number in each.numbers}

    async def settle(self) -> None:
        """Wait until somebody has taken every shard and told what is missing, for as long as leases may take."""
        for _ in range(_PATIENCE_SECONDS):
            if not self.violations():
                return
            await asyncio.sleep(1.0)

    def violations(self) -> list[str]:
        """Say which of the events that are not in the bucket lie inside no gap that was recorded."""
        stored = archived_numbers(self._world.objects, self._world.objects.objects)
        gaps = [
            orjson.loads(stored.body)
            for key, stored in self._world.objects.objects.items()
            if f"/{GAP_FOLDER}" in f"/{key}"
        ]
        found: list[str] = []
        for each in self._trimmed.values():
            bounds = [_bounds(gap) for gap in gaps if gap["shardId"] == each.shard_id]
            untold = [
                number
                for number, position in each.numbers.items()
                if number not in stored and not any(low < position < high for low, high in bounds)
            ]
            if untold and each.is_told:
                found.append(f"{len(untold)} events were trimmed from {each.shard_id} and lie in no gap: {untold[:5]}")
        return found


def _bounds(gap: dict[str, str | int | None]) -> tuple[Position, Position]:
    low = Position(int(gap["lastReadSequenceNumber"] or 0), int(gap["lastReadSubSequenceNumber"] or 0))
    high = gap["firstAvailableSequenceNumber"]
    return low, Position(10**60 if high is None else int(high), -1)


def _is_plain(world: World) -> bool:
    """Whether nothing else takes events away, or starts workers."""
    others = (world.operator, world.killers, world.fleet, world.damage)
    return (
        world.usage.has_bucket
        and world.usage.start_from == "TRIM_HORIZON"
        and not any(each.is_there for each in others)
    )
