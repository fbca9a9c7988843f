"""What the key of an archived object says about it: format, destination or error type, and hour."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final
from urllib.parse import unquote

from shared.errors import SourceError

# A flush may be open for up to this long (Firehose's and our longest buffering interval), and its objects are named
# after its oldest record: the records of one object can be this much younger than its name says.
BUFFERED_SECONDS_MAX: Final = 900

_EXTENSION: Final = re.compile(r"\.(json|csv|parquet)(?:\.(?:gz|zst))?$")
_PARTITION: Final = re.compile(r"(?:^|/)([A-Za-z_][A-Za-z0-9_]{0,62})=([^/]*)(?=/)")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


class ArchiveFormat(Enum):
    """How the records of an object are written; the value is the first extension of its key."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class ArchiveObject:
    """An object of the archive, or a dead-letter object; `hour` is None where the key does not tell it."""

    key: str
    size: int  # bytes
    format: ArchiveFormat
    destination: str | None
    hour: datetime | None

    @classmethod
    def parse(cls, key: str, size: int) -> ArchiveObject | None:
        """Read a key; None if its extension is none that the archive writes.

        SourceError for a key that would lead out of a folder: it is not one that the archive wrote.
        """
        if any(part in {"", ".", ".."} for part in key.split("/")) or "\0" in key or "\\" in key:
            raise SourceError(
                f"object `{key[:200]!a}` can't be kept as a file", hint="Is something else written below this prefix?"
            )
        extension = _EXTENSION.search(key)
        if extension is None:
            return None
        partitions = dict(_PARTITION.findall(key))
        destination = partitions.get("destination")
        return cls(
            key=key,
            size=size,
            format=ArchiveFormat(extension.group(1)),
            destination=None if destination is None else unquote(destination),
            hour=_hour_of(partitions.get("dt", ""), partitions.get("hour", "")),
        )

    def may_hold(self, since: datetime | None, until: datetime | None) -> bool:
        """Whether records that arrived in [since, until) can be in it."""
        if self.hour is None:
            return True
        end = self.hour + timedelta(hours=1, seconds=BUFFERED_SECONDS_MAX)
        return (since is None or end > since) and (until is None or self.hour < until)


def _hour_of(day: str, hour: str) -> datetime | None:
    if not _DAY.fullmatch(day):
        return None
    try:
        return datetime.strptime(f"{day} {int(hour):02d}", "%Y-%m-%d %H").replace(tzinfo=UTC)
    except ValueError:
        return None


def bytes_of(objects: Iterable[ArchiveObject]) -> int:
    """Return how many bytes the objects have together."""
    return sum(each.size for each in objects)
