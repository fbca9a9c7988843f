"""Reads the dead letters of an application: which there are, by type, hour and reason, and what one of them holds."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from consumer.core.object_key import ERROR_TYPES, GAP_FOLDER, REDRIVEN_FOLDER, constant_prefix
from consumer.reader import escape
from infra.audit.object_events import lines_of
from infra.control.group import ATTEMPTS_MAX, Group
from infra.query.rows import table_lines
from shared.errors import ConfigurationError, InvalidRequestError, SourceError
from shared.limits import S3_KEY_BYTES_MAX
from shared.ports import ObjectStore

_MILLISECONDS_MAX: Final = 253_402_300_800_000  # the year 10000, which datetime can't name
_OTHER_TYPE: Final = "other"
_NO_SUCH_KEY_CODE: Final = "NoSuchKey"
_SHOWN_CHARACTERS_MAX: Final = 4_000  # of one letter's data on a terminal; --output json has all of it


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """One line of a dead-letter object, with all that it says; `fields` are the line's own names."""

    data: bytes
    partition_key: str
    fields: Mapping[str, Any]

    @classmethod
    def parse(cls, line: bytes, key: str) -> StoredLetter:
        """Read a line; SourceError if it is not one that a consumer wrote."""
        try:
            fields = orjson.loads(line)
            data = base64.b64decode(fields["rawData"], validate=True)
            partition_key = fields.get("partitionKey", "")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
            raise SourceError(
                f"A line of `{key[:200]}` is no dead letter: {type(error).__name__}",
                hint="Move what is no dead letter out of the folder of dead letters",
            ) from error
        return cls(data, partition_key if isinstance(partition_key, str) else "", fields)

    @property
    def hour(self) -> str:
        """The hour in which it became a dead letter, UTC."""
        ended = self.fields.get("attemptEndingTimestamp")
        if not isinstance(ended, int) or not 0 <= ended < _MILLISECONDS_MAX:
            return "unknown"
        return datetime.fromtimestamp(ended / 1000, UTC).strftime("%Y-%m-%d %H:00")

    def as_mapping(self) -> dict[str, Any]:
        """Return the line's fields with its bytes as JSON under `data` where they are JSON, else as they were."""
        found = {name: value for name, value in self.fields.items() if name != "rawData"}
        try:
            found["data"] = orjson.loads(self.data)
        except orjson.JSONDecodeError:
            found["data_base64"] = self.fields["rawData"]
        return found

    def lines(self) -> list[str]:
        """Return the letter for a terminal: nothing that it would obey, and not without end."""
        shown = [f"{_safe(name):<24}{_safe(str(self.fields[name]))}" for name in self.fields if name != "rawData"]
        text = _safe(self.data.decode("utf-8", "backslashreplace"))
        if len(text) > _SHOWN_CHARACTERS_MAX:
            text = f"{text[:_SHOWN_CHARACTERS_MAX]} ... ({len(self.data):,} bytes)"
        return [*shown, f"{'data':<24}{text}"]


def _safe(text: str) -> str:
    return text if text.isprintable() else "".join(map(escape, text))


class DeadLetterFolder:
    """The dead-letter objects of an application, and its marks of those that were put back."""

    def __init__(self, group: Group) -> None:
        if group.objects is None:
            raise ConfigurationError(
                f"Application `{group.app}` has no bucket: its dead letters were only logged with their place",
                hint="Run `headrace consume` with --bucket",
            )
        self.objects: ObjectStore = group.objects
        self.prefix = constant_prefix(str(group.application.get("error_prefix") or "errors/"))
        self._app = group.app
        self._retrier = group.retrier

    async def keys(self, error_type: str | None = None) -> list[str]:
        """Return the keys of all dead-letter objects, or of those of one type; see `check_type`."""
        check_type(error_type)
        aside = (self.prefix + GAP_FOLDER, self.prefix + REDRIVEN_FOLDER)
        found = await self.list_below(self.prefix)
        return [key for key in found if not key.startswith(aside) and error_type in (None, type_of(key))]

    async def list_below(self, prefix: str) -> list[str]:
        """Return all keys below a prefix, in their order."""

        async def walk() -> list[str]:
            return [each.key async for each in self.objects.list_objects(prefix)]

        return await self._retrier.call("list_objects", walk, attempts_max=ATTEMPTS_MAX)

    async def letters(self, key: str) -> list[StoredLetter]:
        """Read one object; ConfigurationError if the bucket has none of this key."""
        try:
            body = await self._retrier.call(
                "get_object", lambda: self.objects.get_object(key), attempts_max=ATTEMPTS_MAX
            )
        except InvalidRequestError as error:
            if error.code != _NO_SUCH_KEY_CODE and 1 <= len(key.encode()) <= S3_KEY_BYTES_MAX:
                raise
            raise ConfigurationError(
                f"The bucket of `{self._app}` has no object `{key[:200]}`",
                hint="`headrace deadletters list --keys` lists them",
            ) from error
        return [StoredLetter.parse(line, key) for line in lines_of(key, body)]


def check_type(error_type: str | None) -> None:
    """Raise ConfigurationError for a type that no dead letter has."""
    if error_type not in (None, _OTHER_TYPE, *ERROR_TYPES):
        raise ConfigurationError(
            f"No dead letter is of the type `{error_type[:40]}`",
            hint=f"Give one of {', '.join(f'`{each}`' for each in (*ERROR_TYPES, _OTHER_TYPE))}",
        )


def type_of(key: str) -> str:
    """Return the error type that a key names."""
    return next((each for each in ERROR_TYPES if each in key), _OTHER_TYPE)


@dataclass(frozen=True, slots=True)
class LetterCount:
    """How many letters of one kind there are."""

    error_type: str
    hour: str
    error_code: str
    letters: int


async def count_letters(folder: DeadLetterFolder, error_type: str | None) -> tuple[tuple[LetterCount, ...], int]:
    """Read all objects (of a type) and count their letters by type, hour and reason; return also how many objects."""
    counts: Counter[tuple[str, str, str]] = Counter()
    keys = await folder.keys(error_type)
    for key in keys:
        for letter in await folder.letters(key):
            counts[type_of(key), letter.hour, str(letter.fields.get("errorCode", ""))[:80]] += 1
    return tuple(LetterCount(*kind, count) for kind, count in sorted(counts.items())), len(keys)


def letter_lines(counts: Sequence[LetterCount]) -> list[str]:
    """Return the counts as lines for people."""
    rows = iter([(each.error_type, each.hour, each.error_code, each.letters) for each in counts])
    return list(table_lines(("type", "hour (UTC)", "reason", "letters"), rows))
