"""Dynamic partitioning: fields of an event become parts of its object's key, sanitised and bounded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import orjson

from shared.errors import ConfigurationError

# What Hive, Spark and Athena read as "no value".
NO_VALUE: Final = "__HIVE_DEFAULT_PARTITION__"
FIELDS_MAX: Final = 5  # five values of the greatest length leave room for the rest of a key of 1,024 bytes
VALUE_CHARACTERS_MAX: Final = 64
# Between two values of a slot; no value and no destination contains it.
SLOT_SEPARATOR: Final = "/"

_DIGEST_CHARACTERS: Final = 16
_PATH: Final = re.compile(r"[^.\s!{}]{1,128}(?:\.[^.\s!{}]{1,128}){0,9}")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_ONLY_DOTS: Final = re.compile(r"\.+")


def check_path(path: str, setting: str) -> str:
    """Return a dotted path; ConfigurationError, naming `setting`, if it is none."""
    if not _PATH.fullmatch(path):
        raise ConfigurationError(
            f"{setting}: `!{{event:{path[:60]}}}` does not name a field",
            hint="Write up to 10 names with dots, the outermost first, e.g. !{event:address.city}",
        )
    return path


def sanitise(value: object) -> str:
    """Return the text that stands for a field's value in a key, 1 to 64 characters of A-Z a-z 0-9 _ . - ~ and %XX.

    Everything else is percent-encoded as UTF-8, so that different values stay different and none leads out of its
    folder. A longer text is cut and ends in a digest of the whole. Absent, null, empty, lists and objects are
    `__HIVE_DEFAULT_PARTITION__`.
    """
    if type(value) is str:
        if _PLAIN.fullmatch(value):
            return value
        text = value
    elif isinstance(value, bool | int | float):
        text = orjson.dumps(value).decode()
    else:
        return NO_VALUE
    if not text:
        return NO_VALUE
    # Lone surrogates never come out of a JSON parser that is strict; a replacement is still better than a crash.
    encoded = quote(text, safe="", errors="replace")
    if _ONLY_DOTS.fullmatch(encoded):
        encoded = encoded.replace(".", "%2E")
    if len(encoded) <= VALUE_CHARACTERS_MAX:
        return encoded
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=_DIGEST_CHARACTERS // 2).hexdigest()
    kept = encoded[: VALUE_CHARACTERS_MAX - _DIGEST_CHARACTERS - 1]
    # Not in the middle of an escape.
    kept = kept[: kept.rfind("%")] if "%" in kept[-2:] else kept
    return f"{kept}-{digest}"


def field_of(event: Mapping[str, Any], path: tuple[str, ...]) -> object:
    """Return what a path leads to; None where it leads nowhere."""
    found: object = event
    for name in path:
        if not isinstance(found, dict):
            return None
        found = found.get(name)
    return found


class Partitioner:
    """Gives each event its slot: the destination, then a value per field."""

    __slots__ = ("_paths",)

    def __init__(self, fields: tuple[str, ...]) -> None:
        self._paths = tuple(tuple(field.split(".")) for field in fields)

    def slot(self, destination: str, event: Mapping[str, Any]) -> str:
        """Return the slot of an event."""
        return SLOT_SEPARATOR.join([destination, *(sanitise(field_of(event, path)) for path in self._paths)])
