"""Records that end the process that looks at them, as a crash in native code does: put into a world, and judged."""

from __future__ import annotations

import base64
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import orjson

from consumer.core import transform
from consumer.core.chunk import PROCESS_KILLED
from consumer.core.object_key import PROCESSING_FAILED
from infra.audit.object_events import events_of
from shared.records import PutEntry
from tests.simulation.loop import PROCESS

if TYPE_CHECKING:
    from tests.simulation.world import World

_SHARE: Final = 0.1  # of the worlds in which each record has to become an event or a dead letter in the bucket
_MARK: Final = b'"kills":'


class Killers:
    """Draws from a chance of its own, so that worlds without killers stay as they were."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(f"killers {world.seed}")
        self.is_there = self._chance.random() < _SHARE and _is_plain(world)
        self._chaos_seconds = world.chaos_seconds
        self._datas: list[bytes] = []

    def schedule(self) -> None:
        """Plan when they are put."""
        for number in range(self._chance.choice([1, 1, 2]) if self.is_there else 0):
            key = f"killer-{self._chance.randint(0, 5)}"
            data = orjson.dumps({"session_id": key, "country": self._chance.choice(["USA", "Peru"]), "kills": number})
            self._world.at(self._chance.uniform(1, self._chaos_seconds), self._put, data, key)

    def _put(self, data: bytes, key: str) -> None:
        self._datas.append(data)
        self._world.put_stranger(PutEntry(data, key))
        self._world.story.count("killer")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """End every process that decodes one of them."""
        decode = transform.decode

        def decode_or_die(datas: Sequence[bytes]) -> Any:
            process = PROCESS.get()
            if process is not None and any(_MARK in data for data in datas):
                self._world.story.tell(process.name, "is killed: by a record")
                self._world.story.count("killed_by_record")
                self._world.loop.kill(process)  # nothing that it does in the rest of this step gets out
            return decode(datas)

        transform.decode = decode_or_die  # type: ignore[assignment] - for the time of one world
        try:
            yield
        finally:
            transform.decode = decode

    def violations(self) -> list[str]:
        """Say which killer was not condemned once, and what else was."""
        found = Counter(_condemned(self._world)) if self._world.usage.has_bucket else Counter[bytes]()
        wrong = [f"a killer is in {found[data]} dead letters" for data in self._datas if found[data] != 1]
        innocent = sum(count for data, count in found.items() if data not in self._datas)
        return [*wrong, *([f"{innocent} records were condemned that kill nobody"] if innocent else [])]


def _is_plain(world: World) -> bool:
    return world.usage.has_bucket and world.usage.start_from == "TRIM_HORIZON" and not world.operator.is_there


def _condemned(world: World) -> Iterator[bytes]:
    for letter in dead_letters(world):
        if letter["errorCode"] == PROCESS_KILLED:
            yield base64.b64decode(letter["rawData"])


def dead_letters(world: World) -> Iterator[dict[str, Any]]:
    """Yield the dead letters of records that could not be processed."""
    for key, stored in world.objects.objects.items():
        if key.startswith(f"errors/{PROCESSING_FAILED}/"):
            yield from events_of(key, stored.body)
