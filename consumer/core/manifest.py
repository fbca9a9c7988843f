"""Manifests: an index of the objects of each flush and hour, and what says that an hour gets no more of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple

import orjson

from consumer.core.object_key import ERROR_MARK, ObjectRange, position_text
from shared.errors import ConfigurationError
from shared.hash_key import FULL_RANGE, holes
from shared.lease import Lease, TableRows
from shared.records import Position

# A slot that starts with it holds no lines but an index: `#DAY/HOUR/START/COUNT` lists COUNT slots from START on.
INDEX_MARK: Final = "#"
COMPLETE_NAME: Final = "_COMPLETE.json"

_HOUR_FOLDER: Final = re.compile(r"dt=([0-9]{4}-[0-9]{2}-[0-9]{2})/hour=([0-9]{2})/")
_QUARTER_SECONDS: Final = 900  # the offsets of all time zones are multiples of it
_INDEX_NAME: Final = re.compile(
    r"(shardId-[0-9]+)-([0-9]+)(?:\.([0-9]+))?-([0-9]+)(?:\.([0-9]+))?(?:\.g([0-9]{1,10}))?(?:\.s[0-9]+)?"
    r"\.r([0-9]{1,18})\.e([0-9]{1,18})\.json"
)


@dataclass(frozen=True, slots=True)
class Manifests:
    """Hours of a time zone, and the names of their manifests.

    `wait_seconds` is how far apart the clocks of workers and of the service may be, and how far the arrivals of a shard
    from the order of its records, before an object is named after a later hour than that of its oldest record.
    """

    prefix: str
    zone: tzinfo = UTC
    wait_seconds: float = 60.0

    def check(self, *prefixes: str) -> None:
        """Refuse a prefix that mixes manifests with other objects; ConfigurationError."""
        if any(self.prefix.startswith(each) or each.startswith(self.prefix) for each in prefixes):
            raise ConfigurationError(
                f"manifest_prefix is `{self.prefix}`, but archive_prefix or error_prefix begins alike",
                hint="Let the three start differently",
            )

    def hour(self, instant: float) -> str:
        """Return the hour of an instant (seconds since the epoch) as `2026-11-21/05`."""
        return datetime.fromtimestamp(instant, self.zone).strftime("%Y-%m-%d/%H")

    def begin(self, instant: float) -> float:
        """Return when the hour of an instant begins; the one that a clock set back repeats is one long hour."""
        hour, quarter = self.hour(instant), instant // _QUARTER_SECONDS * _QUARTER_SECONDS
        while self.hour(quarter - _QUARTER_SECONDS) == hour:
            quarter -= _QUARTER_SECONDS
        return quarter

    def end(self, instant: float) -> float:
        """Return when the hour of an instant ends, which is when the next one begins."""
        hour, quarter = self.hour(instant), instant // _QUARTER_SECONDS * _QUARTER_SECONDS
        while self.hour(quarter) == hour:
            quarter += _QUARTER_SECONDS
        return quarter

    @property
    def days(self) -> str:
        """The prefix of the folders of all hours, whose keys are in the order of time."""
        return f"{self.prefix}dt="

    def begin_of(self, key: str) -> float | None:
        """Return when the hour begins that a key lies in; None if it lies in none."""
        found = _HOUR_FOLDER.match(key.removeprefix(self.prefix))
        if found is None:
            return None
        try:
            instant = datetime.fromisoformat(f"{found[1]}T{found[2]}:00").replace(tzinfo=self.zone)
            return self.begin(instant.timestamp())
        except (ValueError, OverflowError):
            return None

    def folder(self, hour: str) -> str:
        """Return the prefix of all manifests of an hour."""
        day, _, number = hour.partition("/")
        return f"{self.prefix}dt={day}/hour={number}/"

    def by_hour(self, instants: Mapping[str, float]) -> dict[str, float]:
        """Sort slots by the hour that they are named after."""
        return dict(sorted(instants.items(), key=lambda each: (self.hour(each[1]), each[0])))

    def index_keys(
        self, instants: Mapping[str, float], counts: Mapping[str, int], covered: ObjectRange, start: int
    ) -> dict[str, str]:
        """Return the index of each hour, slot -> key; `instants` are sorted by hour, `start` is the place of the first.

        The key tells how many events (`r`) and dead letters (`e`) the index counts, so that a listing is enough to add
        them up; `s` is there where a flush that was replayed by a later release has more objects than were pinned.
        """
        by_hour: dict[str, list[str]] = {}
        for slot, instant in instants.items():
            by_hour.setdefault(self.hour(instant), []).append(slot)
        keys: dict[str, str] = {}
        again = f".g{covered.generation}" if covered.generation else ""
        name = f"{covered.shard_id}-{position_text(covered.first)}-{position_text(covered.last)}{again}"
        name += f".s{start}" if start else ""
        for hour, slots in by_hour.items():
            letters = sum(counts[slot] for slot in slots if slot.startswith(ERROR_MARK))
            records = sum(counts[slot] for slot in slots) - letters
            keys[f"{INDEX_MARK}{hour}/{start}/{len(slots)}"] = f"{self.folder(hour)}{name}.r{records}.e{letters}.json"
            start += len(slots)
        return keys


def index_body(
    index: str, slots: Sequence[str], keys: Sequence[str], counts: Mapping[str, int], covered: ObjectRange
) -> bytes:
    """Return the JSON of an index. `slots` and `keys` are what is pinned, `index` the slot of the index among them.

    `records` of an object is null if its records were trimmed before a flush that was cut short could be replayed.
    """
    day, number, start, length = index.removeprefix(INDEX_MARK).split("/")
    listed = range(int(start), int(start) + int(length))
    objects = [{"key": keys[at], "records": counts.get(slots[at])} for at in listed if slots[at][0] != ERROR_MARK]
    letters = [{"key": keys[at], "records": counts.get(slots[at])} for at in listed if slots[at][0] == ERROR_MARK]
    described = {
        "hour": f"{day}T{number}",
        "shard": covered.shard_id,
        "generation": covered.generation,
        "first": position_text(covered.first),
        "last": position_text(covered.last),
        "records": sum(each["records"] or 0 for each in objects),  # type: ignore[misc] # the values of both kinds
        "objects": objects,
        "dead_letters": letters,
    }
    return orjson.dumps(described) + b"\n"


# Hours that are complete.


def closed_until(rows: TableRows) -> float | None:
    """Return the instant before which no shard gets another object; None while that can't be told of all shards.

    Every shard has promised it in its row: the owner names no object after an earlier time, and hands the promise on,
    to the next owner and to children. A shard without a row leaves a hole in the ring of hash keys.
    """
    unfinished = [row for row in rows.leases if not row.checkpoint.is_shard_end]
    if rows.damaged or not unfinished or holes([row.hash_key_range or FULL_RANGE for row in unfinished]):
        return None
    instants = [row.closed_until for row in unfinished if row.seek_to is None and row.closed_until is not None]
    return min(instants) if len(instants) == len(unfinished) else None


class _Total(NamedTuple):
    """What the indexes of one shard and generation hold together."""

    indexes: int
    records: int
    dead_letters: int
    first: Position
    last: Position

    def add(self, other: _Total) -> _Total:
        return _Total(
            self.indexes + other.indexes,
            self.records + other.records,
            self.dead_letters + other.dead_letters,
            min(self.first, other.first),
            max(self.last, other.last),
        )


def complete_body(hour: str, zone: str, keys: Iterable[str], rows: Iterable[Lease]) -> bytes:
    """Return the JSON that says that an hour is complete: per shard, how many indexes there are and what they count.

    `keys` are those of the hour's folder. What a shard writes after a later seek (a generation above that of its row)
    is left out, so that everyone who writes this object writes the same.
    """
    generations = {row.shard_id: row.generation for row in rows}
    totals: dict[tuple[str, int], _Total] = {}
    for key in keys:
        parsed = _INDEX_NAME.fullmatch(key.rpartition("/")[2])
        if parsed is None:
            continue
        shard_id, generation = parsed[1], int(parsed[6] or 0)
        if generation > generations.get(shard_id, generation):
            continue
        first, last = Position(int(parsed[2]), int(parsed[3] or 0)), Position(int(parsed[4]), int(parsed[5] or 0))
        found = _Total(1, int(parsed[7]), int(parsed[8]), first, last)
        known = totals.get((shard_id, generation))
        totals[shard_id, generation] = found if known is None else known.add(found)
    described = {
        "hour": hour.replace("/", "T"),
        "time_zone": zone,
        "indexes": sum(each.indexes for each in totals.values()),
        "records": sum(each.records for each in totals.values()),
        "dead_letters": sum(each.dead_letters for each in totals.values()),
        "shards": [
            {
                "shard": shard_id,
                "generation": generation,
                "indexes": total.indexes,
                "records": total.records,
                "dead_letters": total.dead_letters,
                "first": position_text(total.first),
                "last": position_text(total.last),
            }
            for (shard_id, generation), total in sorted(totals.items())
        ],
    }
    return orjson.dumps(described) + b"\n"
