"""How a world's archive is written: format, compression, columns and partitions, drawn beside all other draws."""

from __future__ import annotations

import random
import re
from typing import Any, Final

import orjson

from shared.aws.objects import WriteOptions
from shared.settings import ArchiveFormat, Compression, ConsumerSettings

_PLAIN = "archive/destination=!{destination}/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/"
_PREFIXES = (
    _PLAIN,
    _PLAIN,
    "archive/!{destination}/s=!{event:session_id}/!{timestamp:mm}/",
    "archive/!{destination}/n=!{event:n}/p=!{event:padding}/no=!{event:browse_history.x}/",
)
_DECLARED = {
    **dict.fromkeys(("event_id", "session_id", "product_code"), "string"),
    "n": "int64",
    "browse_history": [{"quantity": "int64"}],
}
_FORMATS = (*[ArchiveFormat.JSON] * 7, *ArchiveFormat)  # to write and read columns is most of what a world costs
_COLUMNS = (
    "",
    orjson.dumps(_DECLARED).decode(),
)


_FIELD: Final = re.compile(r"!\{event:([^{}]+)\}")


def partition_fields(prefix: str) -> tuple[str, ...]:
    """Return the paths of the event's fields that a prefix names."""
    return tuple(dict.fromkeys(_FIELD.findall(prefix)))


def draw_archive(seed: int, settings: ConsumerSettings) -> ConsumerSettings:
    """Return the settings with an archive of the seed's own; a generator apart keeps what older seeds mean."""
    chance = random.Random(f"archive {seed}")
    drawn: dict[str, Any] = {
        "archive_prefix": chance.choice(_PREFIXES),
        "object_bytes_target": chance.choice((0, 0, 300)),
        "archive_format": chance.choice(_FORMATS),
    }
    if chance.random() < 0.3:
        drawn["compression"] = Compression.ZSTD
    if drawn["archive_format"] is not ArchiveFormat.JSON:
        drawn["archive_schema"] = chance.choice(_COLUMNS)
        # A third of the events has a quantity as text, as some shops send them: no column takes both.
        drawn["breaker_failed_percent"] = 100.0
    return settings.model_copy(update=drawn)


_UPLOADS_SHARE: Final = 0.25


def draw_uploads(seed: int) -> WriteOptions | None:
    """Return from which size on objects go up in parts, and in which; None where each goes up in one call."""
    # By this number none of the seeds that once failed (test_worlds.py) has become another world.
    chance = random.Random(f"uploads/1707 {seed}")
    if chance.random() >= _UPLOADS_SHARE:
        return None
    return WriteOptions(
        multipart_bytes_min=chance.choice((1, 300, 1_000)), part_bytes=chance.choice((300, 1_000, 100_000))
    )
