"""Hours of a world's archive: half of the worlds write manifests, and an hour ends in the midst of their life."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import orjson

from shared.settings import ConsumerSettings
from tests.simulation.draw import chaos_seconds

if TYPE_CHECKING:
    from tests.simulation.world import World

_PREFIX: Final = "manifests/"
_COMPLETE: Final = "_COMPLETE.json"
_SHARE: Final = 0.5
_HOUR: Final = 3600
_PATIENCE_SECONDS: Final = 900.0  # clocks that jumped have to come round
_HOUR_OF_KEY: Final = re.compile(r"dt=([0-9-]+)/hour=([0-9]+)/")
_NAME: Final = re.compile(r"(shardId-[0-9]+)-[^/]*?(?:\.g([0-9]+))?(?:\.s[0-9]+)?\.r[0-9]+\.e[0-9]+\.json$")


class Hours:
    """Draws from a chance of its own, so that worlds without manifests stay as they were."""

    def __init__(self, world: World) -> None:
        self._world = world
        chance = random.Random(f"hours {world.seed}")
        self.is_there = chance.random() < _SHARE and world.usage.has_bucket
        self._wait_seconds = chance.choice([0.0, 1.0, 30.0])

    @staticmethod
    def epoch(seed: int, default: float) -> float:
        """Return the wall clock at virtual time 0: some hour ends during the chaos, if manifests are written."""
        chance = random.Random(f"hours {seed}")
        if chance.random() >= _SHARE:
            return default
        chance.choice([0.0, 1.0, 30.0])
        return default // _HOUR * _HOUR + _HOUR - chance.uniform(5, chaos_seconds(seed))

    def draw(self, settings: ConsumerSettings) -> ConsumerSettings:
        """Return the settings with manifests."""
        if not self.is_there:
            return settings
        return settings.model_copy(update={"manifest_prefix": _PREFIX, "manifest_wait_seconds": self._wait_seconds})

    async def settle(self) -> None:
        """Wait until every hour that has ended, and has an index, is complete."""
        loop = self._world.loop
        deadline = loop.time() + _PATIENCE_SECONDS
        while self.is_there and (waiting := self._ended() - self._complete()):
            if loop.time() > deadline:
                self._world.violations.append(f"{min(waiting)} is not complete")
                return
            await asyncio.sleep(1.0)

    def is_complete(self, instant: float) -> bool:
        """Whether the hour of a time, seconds since the epoch, is complete."""
        return f"{_folder(instant)}{_COMPLETE}" in self._world.objects.objects

    def _ended(self) -> set[str]:
        now = _folder(self._world.network.wall())
        return {folder for key in self._keys() if (folder := key.rpartition("/")[0] + "/") < now}

    def _complete(self) -> set[str]:
        return {key.removesuffix(_COMPLETE) for key in self._keys() if key.endswith(_COMPLETE)}

    def violations(self) -> list[str]:
        """Say where indexes do not list exactly the objects there are, or an hour was complete too soon."""
        # Of a flush that nobody can replay (trimmed, or its row lost), objects and index need not both be there.
        is_torn = self._world.outage.has_trimmed or self._world.damage.excuses_repetition
        if not self.is_there or is_torn:
            return []
        stored = {
            key
            for key in self._world.objects.objects
            if key.startswith(("archive/", "errors/"))
            and not key.startswith(("errors/retention-gap/", "errors/redriven/"))
        }
        indexes = {key: self._read(key) for key in self._keys() if not key.endswith(_COMPLETE)}
        listed = Counter(each["key"] for index in indexes.values() for each in _entries(index))
        found = [f"{key} is listed {count} times" for key, count in listed.items() if count > 1]
        found += [f"{key} is in no index" for key in sorted(stored - listed.keys())[:3]]
        found += [f"{key} is listed and not there" for key in sorted(listed.keys() - stored)[:3]]
        for key, index in indexes.items():
            hour = "T".join(_HOUR_OF_KEY.findall(key)[0])
            named = [_HOUR_OF_KEY.findall(each["key"]) for each in _entries(index)]
            if index["hour"] != hour or any("T".join(each[0]) != hour for each in named if each):
                found.append(f"{key} lists objects of another hour")
        for key in self._keys():
            if key.endswith(_COMPLETE):
                self._world.story.count("hour_complete")
                # A row that came back older than it was has an hour written again that was complete.
                is_excused = self._world.damage.excuses_repetition
                found += [] if is_excused else self._excess(key, self._read(key), indexes)
        return found

    def _excess(self, key: str, complete: dict[str, Any], indexes: dict[str, dict[str, Any]]) -> list[str]:
        """Compare what an hour said when it was complete with what is in it now; a later seek may write into it."""
        said = {(each["shard"], each["generation"]): each for each in complete["shards"]}
        count: Counter[tuple[str, int]] = Counter()
        records: Counter[tuple[str, int]] = Counter()
        for each, index in indexes.items():
            if each.startswith(key.removesuffix(_COMPLETE)):
                named = _NAME.search(each)
                assert named is not None
                place = named[1], int(named[2] or 0)
                count[place] += 1
                records[place] += index["records"]
        return [
            f"{key} tells of {said.get(place)}, and {place} has {count[place]} indexes, {records[place]} records"
            for place in sorted(said.keys() | {each for each in count if not each[1]})
            if place not in said or (said[place]["indexes"], said[place]["records"]) != (count[place], records[place])
        ]

    def _keys(self) -> list[str]:
        return [key for key in self._world.objects.objects if key.startswith(_PREFIX)]

    def _read(self, key: str) -> dict[str, Any]:
        loaded: dict[str, Any] = orjson.loads(self._world.objects.objects[key].body)
        return loaded


def _folder(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime(f"{_PREFIX}dt=%Y-%m-%d/hour=%H/")


def _entries(index: dict[str, Any]) -> list[dict[str, Any]]:
    return [*index["objects"], *index["dead_letters"]]
