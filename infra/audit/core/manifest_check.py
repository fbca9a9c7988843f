"""Compares manifests with the objects there are: what an index lists, and what a complete hour says of its indexes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from consumer.core.manifest import complete_body
from consumer.core.object_key import OBJECT_NAME
from infra.audit.core.lineage import ancestors

_NEVER: Final = (10**80, 0)  # a position behind all others
_Place = tuple[str, int]  # shard and generation


@dataclass(frozen=True, slots=True)
class ManifestFindings:
    """Counts of objects, and of complete hours among `differing`; all zero where no manifests are written."""

    listed: int = 0
    missing: tuple[str, ...] = ()  # keys in an index and not in the bucket
    unlisted: tuple[str, ...] = ()  # keys in the bucket and in no index
    differing: tuple[str, ...] = ()  # keys with another count than listed, listed twice, or of hours with other indexes


class ManifestCheck:
    """Feed it with indexes and complete hours, then with objects, then with indexes that came meanwhile.

    Manifests may be switched on at any time: an object that its shard wrote before the first one with an index is in
    none by rights. Not so where they were on before: an earlier generation of the shard has an index (a seek came
    between), or an ancestor, which was read to its end first.
    """

    def __init__(self, prefixes: tuple[str, ...], parents: Mapping[str, Collection[str]]) -> None:
        """`prefixes`: where objects are read; what an index lists elsewhere is not judged. `parents`: of each shard."""
        self._prefixes = prefixes
        self._parents = parents
        self._counts: dict[str, int | None] = {}  # as listed; None: trimmed before it could be written, perhaps
        self._listed: Counter[str] = Counter()
        self._found: dict[str, int] = {}
        self._since: dict[_Place, tuple[int, int]] = {}
        self._differing: list[str] = []

    def take_index(self, key: str, index: Mapping[str, Any], *, is_late: bool = False) -> None:
        """Take an index; one that `is_late` was written after the objects were looked for.

        KeyError or TypeError if it is none.
        """
        place, first = _place_of(key)
        self._since[place] = min(first, self._since.get(place, first))
        for each in (*index["objects"], *index["dead_letters"]):
            if not isinstance(each["key"], str) or not isinstance(each["records"], int | None):
                raise TypeError(each)
            self._listed[each["key"]] += 1
            if not is_late:
                self._counts[each["key"]] = each["records"]

    def take_complete(self, key: str, indexes: Iterable[str], complete: Mapping[str, Any]) -> None:
        """Take what a complete hour says, beside the keys of its indexes. KeyError if it says nothing.

        Those of a seek that came later are not counted in it.
        """
        said = {(each["shard"], each["generation"]): each for each in complete["shards"]}
        listed = orjson.loads(complete_body(complete["hour"], complete["time_zone"], indexes, ()))["shards"]
        there = {(each["shard"], each["generation"]): each for each in listed}
        is_more = any(place not in said and not place[1] for place in there)
        if is_more or any(there.get(place) != each for place, each in said.items()):
            self._differing.append(key)

    def take_object(self, key: str, count: int) -> None:
        """Take an object of so many events or dead letters."""
        self._found[key] = count

    def findings(self) -> ManifestFindings:
        """Judge what was fed so far."""
        judged = {key: count for key, count in self._counts.items() if key.startswith(self._prefixes)}
        missing = [key for key, count in judged.items() if count is not None and key not in self._found]
        earliest = self._earliest_generations()
        twice = {key for key, times in self._listed.items() if times > 1}
        differing = {
            key for key, count in self._found.items() if judged.get(key) is not None and judged[key] != count
        } | twice
        return ManifestFindings(
            listed=len(self._listed),
            missing=tuple(sorted(missing)),
            unlisted=tuple(sorted(key for key in self._found if self._is_unlisted(key, earliest))),
            differing=(*sorted(differing), *self._differing),
        )

    def _earliest_generations(self) -> dict[str, int]:
        """Return the earliest generation that has an index, by shard."""
        found: dict[str, int] = {}
        for shard_id, generation in self._since:
            found[shard_id] = min(generation, found.get(shard_id, generation))
        return found

    def _is_unlisted(self, key: str, earliest: Mapping[str, int]) -> bool:
        if key in self._listed:
            return False
        place, first = _place_of(key)
        shard_id, generation = place
        return (
            self._since.get(place, _NEVER) <= first
            or earliest.get(shard_id, generation) < generation
            or any(earliest.get(each, generation + 1) <= generation for each in ancestors(shard_id, self._parents))
        )


def _place_of(key: str) -> tuple[_Place, tuple[int, int]]:
    """Return shard and generation of an object or index, and its first position; KeyError for other keys."""
    named = OBJECT_NAME.search(key)
    if named is None:
        raise KeyError(key)
    return (named[1], int(named[4] or 0)), (int(named[2]), int(named[3] or 0))
