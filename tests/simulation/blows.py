"""The blows that fall on a world while its chaos lasts: kills, freezes, reshardings, rotations, power losses."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from tests.simulation.crash_sites import ENDINGS, PHASES, PROVOKED_BY, SITES, CallBlow
from tests.simulation.draw import SOURCE
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.actor import Actor
    from tests.simulation.world import World

_BURST_BYTES_MAX: Final = 40_000
_BURST_NUMBERS: Final = 1_000_000  # above the numbers of all other events
_WORKER_FREEZE_SECONDS_MAX: Final = 40
_RARE_COUNTDOWN: Final = 2
_RARE_WEIGHT: Final = 3
_PRODUCER_FREEZE_SECONDS_MAX: Final = 20


class Blows:
    """Deals out what the plan of a world says; a blow that has no effect is not counted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance
        self._bursts = 0

    def schedule(self) -> None:
        """Draw when and where each blow falls."""
        chance, world = self._chance, self._world
        actions: dict[str, Callable[[], bool]] = {
            "reshard": self._reshard,
            "kill_worker": lambda: chance.choice(world.workers).kill("at random"),
            "kill_producer": lambda: chance.choice(world.producers).kill("at random"),
            "stop_worker": lambda: self._stop(world.workers),
            "stop_producer": lambda: self._stop(world.producers),
            "freeze_worker": lambda: self._freeze(world.workers, _WORKER_FREEZE_SECONDS_MAX),
            "freeze_producer": lambda: self._freeze(world.producers, _PRODUCER_FREEZE_SECONDS_MAX),
            "clock_jump": self._jump,
            "power_loss": self._lose_power,
            "log_rotated": self._rotate,
            "log_removed": self._remove_logs,
            "log_cut": self._cut_log,
        }
        for kind, action in actions.items():
            for _ in range(world.plan.blows[kind]):
                # A quarter of the blows falls early: the first moments of a process are unlike all later ones.
                when = chance.uniform(0.5, 8) if chance.random() < 0.25 else chance.uniform(2, world.chaos_seconds)
                world.at(when, self._blow, kind, action)
        world.network.strike = self._strike
        for _ in range(world.plan.blows["at_call"]):
            blow, when = self._call_blow(), chance.uniform(0, 0.8 * world.chaos_seconds)
            world.at(when, world.network.call_blows.append, blow)
            if blow.call in PROVOKED_BY:
                kind = PROVOKED_BY[blow.call]
                world.at(when + chance.uniform(0, 5), self._blow, kind, actions[kind])

    def _blow(self, kind: str, action: Callable[[], bool]) -> None:
        if action():
            self._world.story.count(kind)

    def _call_blow(self) -> CallBlow:
        chance = self._chance
        role = chance.choice(["worker", "worker", "producer"])
        weights = [_RARE_WEIGHT if countdown <= _RARE_COUNTDOWN else 1 for countdown in SITES[role].values()]
        call = chance.choices(list(SITES[role]), weights)[0]
        ending = chance.choice(list(ENDINGS[role]))
        countdown = chance.randint(1, SITES[role][call])
        seconds_max = _WORKER_FREEZE_SECONDS_MAX if role == "worker" else _PRODUCER_FREEZE_SECONDS_MAX
        return CallBlow(role, call, chance.choice(PHASES), ending, countdown, chance.uniform(1, seconds_max))

    def _strike(self, process: Process, blow: CallBlow) -> None:
        """Let a blow fall at a call."""
        world = self._world
        name = process.name.partition(".")[0]
        world.index.update()
        numbers = world.logs[int(name.removeprefix("producer"))].numbers if blow.role == "producer" else set()
        shards = {row.shard_id for row in world.leases.rows.values() if row.owner in {name, process.name}}
        world.crash_sites.struck(process, blow, shards=shards, events=frozenset(world.index.numbers.keys() & numbers))
        world.story.tell(process.name, f"{blow.ending} at {blow.site}")
        if blow.ending == "freeze":
            world.loop.freeze(process, blow.seconds)
            world.at(world.loop.time() + blow.seconds, world.crash_sites.woke, process, blow)
            return
        world.loop.kill(process)
        if blow.ending == "power":
            world.logs[int(name.removeprefix("producer"))].disk.lose_power()

    def _stop(self, actors: list[Actor]) -> bool:
        actor = self._chance.choice(actors)
        if self._chance.random() < 0.9:
            when = self._world.loop.time() + self._chance.uniform(0, 2)
            self._world.at(when, self._blow, "second_signal", lambda: actor.is_stopping and actor.stop())
        return actor.stop()

    def _freeze(self, actors: list[Actor], seconds_max: float) -> bool:
        return self._chance.choice(actors).freeze(self._chance.uniform(1, seconds_max))

    def _jump(self) -> bool:
        actor = self._chance.choice(self._world.actors)
        seconds = self._chance.uniform(-90, 90)
        self._world.story.tell(actor.name, f"clock jumps by {seconds:.1f} s")
        actor.machine.wall_offset += seconds
        return True

    def _lose_power(self) -> bool:
        number = self._chance.randrange(len(self._world.logs))
        self._world.producers[number].end("power loss")
        self._world.logs[number].disk.lose_power()
        return True

    def _rotate(self) -> bool:
        world = self._world
        world.index.update()
        log = self._chance.choice(world.logs)
        if not log.rotate(world.index.numbers):
            return False
        world.story.tell("web", f"rotates {log.path}")
        world.at(world.loop.time() + self._chance.uniform(0, 0.4), log.reopen)
        return True

    def _cut_log(self) -> bool:
        world = self._world
        world.index.update()
        log = self._chance.choice(world.logs)
        size = log.size
        if not log.may_lose_lines or not log.cut(world.index.numbers):
            return False
        world.story.tell("web", f"cuts {log.path} of {size:,} bytes")
        if size < _BURST_BYTES_MAX and self._chance.random() < 0.9:
            # Grown past where a reader stands before it looks again: only the first bytes show that it was cut.
            world.story.count("burst")
            while log.size <= size:
                self._bursts += 1
                log.write(_BURST_NUMBERS + self._bursts)
            log.finish_line()
        return True

    def _remove_logs(self) -> bool:
        world = self._world
        world.index.update()
        log = self._chance.choice(world.logs)
        is_early = self._chance.random() < 0.5 and log.may_lose_lines
        removed = (log.remove_oldest if is_early else log.remove_read)(world.index.numbers)
        if removed:
            world.story.count("log_removed_early" if is_early else "log_removed_read")
            world.story.tell("web", f"removes {removed} rotated files, {'read or not' if is_early else 'all read'}")
        return removed > 0

    def _reshard(self) -> bool:
        chance, world = self._chance, self._world
        stream = chance.choice([SOURCE, SOURCE, SOURCE, *world.usage.dest_streams.values()])
        shards = [each.shard for each in world.kinesis.streams[stream].open_shards()]
        pairs = list(pairwise(shards))
        if pairs and chance.random() < 0.5:
            low, high = chance.choice(pairs)
            first, second = chance.choice([(low, high), (high, low)])
            child = world.kinesis.merge_shards(stream, first.shard_id, second.shard_id)
            world.story.count("merge")
            world.story.tell("cloud", f"merges {first.shard_id} and {second.shard_id} of {stream} into {child}")
        else:
            parent = chance.choice(shards).shard_id
            children = world.kinesis.split_shard(stream, parent)
            world.story.count("split")
            world.story.tell("cloud", f"splits {parent} of {stream} into {' and '.join(children)}")
        return True
