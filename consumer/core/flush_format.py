"""What is pinned with a pending flush besides its keys, so that a later release rebuilds the same objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

from consumer.core.enrichment import ENRICHMENT_VERSION

_GZIP: Final = "gzip"
_NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class FlushFormat:
    """The text form goes into `PendingFlush.format_version`.

    `destinations` are those of the router at that time: another table would sort events into other objects. `slots`
    name what each key holds, in the order of the keys: a prefix that was changed since can't be evaluated backwards.
    """

    is_compressed: bool
    destinations: tuple[str, ...]
    slots: tuple[str, ...]
    version: int = ENRICHMENT_VERSION

    @property
    def text(self) -> str:
        """Return the JSON text."""
        return orjson.dumps(
            {
                "version": self.version,
                "compression": _GZIP if self.is_compressed else _NONE,
                "destinations": self.destinations,
                "slots": self.slots,
            }
        ).decode()

    @classmethod
    def parse(cls, text: str) -> FlushFormat:
        """Read the text form; ValueError if it is not one."""
        try:
            loaded = orjson.loads(text)
            compression = loaded["compression"]
            if compression not in {_GZIP, _NONE}:
                msg = f"compression {compression!r:.40} is not known"
                raise ValueError(msg)
            return cls(
                is_compressed=compression == _GZIP,
                destinations=tuple(str(each) for each in loaded["destinations"]),
                slots=tuple(str(each) for each in loaded["slots"]),
                version=int(loaded["version"]),
            )
        except (KeyError, TypeError) as error:
            msg = f"the format of a pending flush is not readable: {type(error).__name__}"
            raise ValueError(msg) from error
