"""What is pinned with a pending flush besides its keys, so that a later release rebuilds the same objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from consumer.core.enrichment import ENRICHMENT_VERSION
from consumer.core.object_format import Codec, FormatKind, ObjectFormat
from consumer.core.schema import Schema

# Of this text: 1 had JSON only, and neither format, fields nor schema.
_LAYOUT: Final = 2


@dataclass(frozen=True, slots=True)
class FlushFormat:
    """The text form goes into `PendingFlush.format_version`.

    `destinations` are those of the router at that time, and `fields` those it partitioned by: another table would sort
    events into other objects. `slots` name what each key holds, in the order of the keys: a prefix that was changed
    since can't be evaluated backwards. `condemned_after` is not 0 for a flush of one record that ended the process at
    that many attempts: who rebuilds the flush must not look at it either.
    """

    format: ObjectFormat
    destinations: tuple[str, ...]
    slots: tuple[str, ...]
    fields: tuple[str, ...] = ()
    condemned_after: int = 0
    version: int = ENRICHMENT_VERSION

    @property
    def text(self) -> str:
        """Return the JSON text."""
        described: dict[str, Any] = {
            "layout": _LAYOUT,
            "version": self.version,
            "format": self.format.kind.value,
            "compression": self.format.codec.value,
            "destinations": self.destinations,
            "fields": self.fields,
            "slots": self.slots,
        }
        if self.format.schema is not None:
            described["schema"] = self.format.schema.text
        if self.condemned_after:
            described["condemned_after"] = self.condemned_after
        return orjson.dumps(described).decode()

    @classmethod
    def parse(cls, text: str) -> FlushFormat:
        """Read the text form of this release or an older one; ValueError if it is not one."""
        try:
            loaded = orjson.loads(text)
            if int(loaded.get("layout", 1)) > _LAYOUT:
                msg = f"its layout {loaded['layout']!r:.20} is of a later release"
                raise ValueError(msg)
            schema = loaded.get("schema")
            return cls(
                format=ObjectFormat(
                    FormatKind(loaded.get("format", FormatKind.JSON.value)),
                    Codec(loaded["compression"]),
                    None if schema is None else Schema.parse(schema),
                ),
                destinations=tuple(str(each) for each in loaded["destinations"]),
                slots=tuple(str(each) for each in loaded["slots"]),
                fields=tuple(str(each) for each in loaded.get("fields", ())),
                condemned_after=int(loaded.get("condemned_after", 0)),
                version=int(loaded["version"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            msg = f"the format of a pending flush is not readable: {type(error).__name__}"
            raise ValueError(msg) from error
