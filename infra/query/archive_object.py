"""What the key of an archived object says about it: that the archive wrote it, its destination, its hour."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from urllib.parse import unquote

from consumer.core.object_key import OBJECT_NAME
from shared.errors import SourceError

# A flush may be open for up to this long (Firehose's and our longest buffering interval), and its objects are named
# after its oldest record: the records of one object can be this much younger than its name says.
BUFFERED_SECONDS_MAX: Final = 900

_EXTENSION: Final = re.compile(r"\.(?:json|csv|parquet)(?:\.(?:gz|zst))?$")
_PARTITION: Final = re.compile(r"(?:^|/)([A-Za-z_][A-Za-z0-9_]{0,62})=([^/]*)(?=/)")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ArchiveObject:
    """An object of the archive, or a dead-letter object; `begins` and `ends` are None where the key tells no hour."""

    key: str
    size: int  # bytes
    destination: str | None
    begins: datetime | None  # UTC, of the hour in the key
    ends: datetime | None

    @classmethod
    def parse(cls, key: str, size: int, zone: tzinfo = UTC) -> ArchiveObject | None:
        """Read a key whose times are of `zone`; None if neither its name nor its extension is one of the archive's.

        SourceError for a key that would lead out of a folder: it is not one that the archive wrote.
        """
        if any(part in {"", ".", ".."} for part in key.split("/")) or "\0" in key or "\\" in key:
            raise SourceError(
                f"object `{key[:200]!a}` can't be kept as a file", hint="Is something else written below this prefix?"
            )
        if not _EXTENSION.search(key) and not OBJECT_NAME.search(key):
            return None
        partitions = dict(_PARTITION.findall(key))
        destination = partitions.get("destination")
        begins, ends = _hour_of(partitions.get("dt", ""), partitions.get("hour", ""), zone)
        return cls(key, size, None if destination is None else unquote(destination), begins, ends)

    def may_hold(self, since: datetime | None, until: datetime | None) -> bool:
        """Whether records that arrived in [since, until) can be in it."""
        if self.begins is None or self.ends is None:
            return True
        last = self.ends + timedelta(seconds=BUFFERED_SECONDS_MAX)
        return (since is None or last > since) and (until is None or self.begins < until)


def _hour_of(day: str, hour: str, zone: tzinfo) -> tuple[datetime | None, datetime | None]:
    """Return when an hour begins and ends; the one that a clock set back repeats is two hours long."""
    if not _DAY.fullmatch(day):
        return None, None
    try:
        local = datetime.strptime(f"{day} {int(hour):02d}", "%Y-%m-%d %H").replace(tzinfo=zone)
        begins, again = local.astimezone(UTC), local.replace(fold=1).astimezone(UTC)
        return min(begins, again), max(begins, again) + _HOUR
    except (ValueError, OverflowError):
        return None, None


def bytes_of(objects: Iterable[ArchiveObject]) -> int:
    """Return how many bytes the objects have together."""
    return sum(each.size for each in objects)
