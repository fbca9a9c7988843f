"""So many bad records in a row that the circuit breaker halts their shard, an operator who resumes it, and a fix."""

from __future__ import annotations

import base64
import random
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from infra.control.group import Group
from infra.control.pause import set_pause
from shared.errors import HeadraceError
from shared.records import PutEntry
from tests.simulation.actor import Machine
from tests.simulation.draw import SOURCE
from tests.simulation.killers import dead_letters
from tests.simulation.loop import Process

if TYPE_CHECKING:
    from tests.simulation.world import World

_SHARE: Final = 0.7  # of the worlds in which each record has to become an event or a dead letter in the bucket
_BAD_RECORDS: Final = (55, 90)  # the breaker opens at 50
_LOOK_SECONDS: Final = 2.0
_HESITATION_SECONDS_MAX: Final = 10.0
_KILLED_SHARE: Final = 0.25  # of the commands
_AGAIN_SECONDS: Final = 30.0  # until a command is repeated that has changed nothing
_OBEYED_SECONDS_MAX: Final = 100.0  # of calm; an owner may be frozen for most of it
_RESUMES: Final = 3  # then somebody deploys a fix: what is not stored between two halts would halt the shard for ever


class Halts:
    """Draws from a chance of its own, so that worlds without such records stay as they were."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(f"halts {world.seed}")
        self.is_there = self._chance.random() < _SHARE and _is_plain(world)
        self._machine = Machine(world.loop, world.network.epoch, 0.0)
        self._datas: list[bytes] = []
        self._asked: set[tuple[str, int]] = set()  # shard and epoch of halts that are being resumed
        self._resumes = 0
        self._unheard: list[str] = []

    def schedule(self) -> None:
        """Plan when the records are put."""
        if self.is_there:
            self._world.at(self._chance.uniform(5, self._world.chaos_seconds), self._put)
            self._world.at(_LOOK_SECONDS, self._look)

    def _put(self) -> None:
        key = f"halt-{self._chance.randint(0, 5)}"
        for number in range(self._chance.randint(*_BAD_RECORDS)):
            data = b"bad record %d" % number
            self._datas.append(data)
            self._world.put_stranger(PutEntry(data, key))

    def _look(self) -> None:
        """Be told of a halt, as by `headrace status`, and do something about it a little later."""
        world, chance = self._world, self._chance
        for row in world.leases.rows.values():
            if row.is_halted and (row.shard_id, row.epoch) not in self._asked:
                self._asked.add((row.shard_id, row.epoch))
                world.story.count("halted")
                when = world.loop.time() + chance.uniform(0, _HESITATION_SECONDS_MAX)
                world.at(when, self._resume, row.shard_id, row.epoch)
        world.at(world.loop.time() + _LOOK_SECONDS, self._look)

    def _resume(self, shard_id: str, epoch: int) -> None:
        world, chance, now = self._world, self._chance, self._world.loop.time()
        process = Process("operator.resume")
        world.loop.spawn(process, lambda: self._run(shard_id, process))
        if chance.random() < _KILLED_SHARE:
            world.at(now + chance.uniform(0, 2), world.loop.kill, process)
        self._resumes += 1
        if self._resumes == _RESUMES:
            self._deploy()
        world.at(now + _AGAIN_SECONDS, self._ask_again, shard_id, epoch)
        if now >= world.chaos_seconds:
            world.at(now + _OBEYED_SECONDS_MAX, self._check, shard_id, epoch)

    async def _run(self, shard_id: str, process: Process) -> None:
        world = self._world
        application: dict[str, Any] = {"source_stream": SOURCE, "start_from": "TRIM_HORIZON"}
        chance = random.Random(self._chance.getrandbits(64))
        group = Group("app", application, world.kinesis, world.leases, world.objects, self._machine, chance)
        try:
            await set_pause(group, [shard_id], is_paused=False)
            world.story.count("resumed_after_halt")
        except HeadraceError as error:
            world.story.tell(process.name, f"gives up: {error}")
        world.loop.kill(process)

    def _deploy(self) -> None:
        """Let every worker that starts from now on take bad records for what they are."""
        world = self._world
        world.story.tell("operator", "deploys a fix")
        world.consumer_settings = world.consumer_settings.model_copy(update={"breaker_failed_percent": 100})
        for worker in world.workers:
            worker.stop()

    def _ask_again(self, shard_id: str, epoch: int) -> None:
        self._asked.discard((shard_id, epoch))

    def _check(self, shard_id: str, epoch: int) -> None:
        row = self._world.leases.rows.get(shard_id)
        if row is not None and row.epoch == epoch and not row.is_halted and not row.checkpoint.is_shard_end:
            self._unheard.append(f"{shard_id} was resumed and is not read on")

    def violations(self) -> list[str]:
        """Say which resume nobody obeyed, and which record was not kept once."""
        found = Counter(
            base64.b64decode(each["rawData"]) for each in (dead_letters(self._world) if self._datas else ())
        )
        wrong = [data for data in self._datas if found[data] != 1]
        lines = [f"{len(wrong)} bad records are not in one dead letter each: {wrong[:3]}"] if wrong else []
        return [*dict.fromkeys(self._unheard), *lines]


def _is_plain(world: World) -> bool:
    return (
        world.usage.has_bucket
        and world.usage.start_from == "TRIM_HORIZON"
        and not (world.operator.is_there or world.killers.is_there or world.outage.is_there or world.damage.is_there)
    )
