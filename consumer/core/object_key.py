"""Names of S3 objects: Firehose's prefix expressions, then the shard and the range of positions an object covers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final

from consumer.core.partition import FIELDS_MAX, SLOT_SEPARATOR, VALUE_CHARACTERS_MAX, check_path
from consumer.core.timestamp_pattern import Formatter, parse_timestamp_pattern
from shared.errors import ConfigurationError
from shared.limits import S3_KEY_BYTES_MAX
from shared.records import Position

# Firehose's error types, and ours for what a destination stream refuses.
PROCESSING_FAILED: Final = "processing-failed"
FORMAT_CONVERSION_FAILED: Final = "format-conversion-failed"
STREAM_DELIVERY_FAILED: Final = "stream-delivery-failed"
ERROR_TYPES: Final = (PROCESSING_FAILED, FORMAT_CONVERSION_FAILED, STREAM_DELIVERY_FAILED)
# Folders below the error prefix that hold no dead letters: what was trimmed unread, and what was redriven.
GAP_FOLDER: Final = "retention-gap/"
REDRIVEN_FOLDER: Final = "redriven/"
# A slot is what one object of a flush holds: a destination's events (of one partition), or (with this mark) dead
# letters of one type.
ERROR_MARK: Final = "!"
# The end of every key: SHARD-FIRST-LAST, the generation behind it if there was a seek, and an extension. A position is
# a sequence number, perhaps with the sub-sequence number.
OBJECT_NAME: Final = re.compile(
    r"(shardId-[0-9]+)-([0-9]+)(?:\.([0-9]+))?-[0-9]+(?:\.[0-9]+)?(?:\.g([0-9]{1,10}))?\.[^/]*$"
)

_EXPRESSION: Final = re.compile(r"!\{([^{}]*)\}")
_DESTINATION: Final = "destination"
_ERROR_TYPE: Final = "firehose:error-output-type"
_SHARD_ID_MAX: Final = 128
_POSITION_MAX: Final = 128  # digits of a sequence number; the service's model allows 128
_TAIL_BYTES_MAX: Final = _SHARD_ID_MAX + 2 * (_POSITION_MAX + 8) + len("--.g9999999999")
# One of these between two expressions tells where a value ends: none of them is in a sanitised value or a destination.
_SEPARATORS: Final = frozenset("/=,:;")


def error_slot(error_type: str) -> str:
    """Return the slot of dead letters of one type."""
    return ERROR_MARK + error_type


def constant_prefix(prefix: str) -> str:
    """Return the beginning of a prefix up to its first expression: all its objects lie below it."""
    return prefix.partition("!{")[0]


def position_text(position: Position) -> str:
    """Return `SEQUENCE` or, inside an aggregate, `SEQUENCE.SUB`."""
    if position.sub_sequence_number:
        return f"{position.sequence_number}.{position.sub_sequence_number}"
    return str(position.sequence_number)


@dataclass(frozen=True, slots=True)
class _Value:
    """A part of a prefix that a slot fills in; `index` is its place in the slot."""

    index: int


class _Prefix:
    """A parsed prefix: literals, timestamps and values of the slot, in their order."""

    def __init__(self, text: str, setting: str, slot_expression: str) -> None:
        self._parts: list[str | Formatter | _Value] = []
        self._setting = setting
        self._slot_expression = slot_expression
        self.fields: list[str] = []
        self.has_slot = False
        at = 0
        for match in _EXPRESSION.finditer(text):
            self._add_literal(text[at : match.start()])
            self._parts.append(self._expression(match.group(1)))
            at = match.end()
        self._add_literal(text[at:])
        if self.fields:
            self._check_separators()

    def _add_literal(self, literal: str) -> None:
        if "!{" in literal:
            raise ConfigurationError(
                f"{self._setting}: an expression is not closed", hint="Put `}` behind it, as in !{destination}"
            )
        if any(not character.isprintable() for character in literal):
            raise ConfigurationError(
                f"{self._setting}: a character that can't be printed is not usable in a key", hint="Leave it out"
            )
        if literal:
            self._parts.append(literal)

    def _expression(self, expression: str) -> Formatter | _Value:
        kind, _, argument = expression.partition(":")
        if expression == self._slot_expression:
            self.has_slot = True
            return _Value(0)
        if kind == "timestamp":
            return parse_timestamp_pattern(argument, self._setting)
        if kind == "event" and self._slot_expression == _DESTINATION:
            return self._field(argument)
        raise self._refusal(expression)

    def _field(self, argument: str) -> _Value:
        path = check_path(argument, self._setting)
        if path not in self.fields:
            self.fields.append(path)
        if len(self.fields) > FIELDS_MAX:
            raise ConfigurationError(
                f"{self._setting}: events are partitioned by at most {FIELDS_MAX} fields",
                hint="Leave fields out of the prefix: SQL can select by them all the same",
            )
        return _Value(1 + self.fields.index(path))

    def _refusal(self, expression: str) -> ConfigurationError:
        shown, kind = expression[:60], expression.partition(":")[0]
        if expression == "firehose:random-string":
            return ConfigurationError(
                f"{self._setting}: `!{{{shown}}}` would name an object differently at each attempt: a retry doubles it",
                hint="Leave it out: the shard and the positions already make each key unique",
            )
        if kind in {"partitionKeyFromQuery", "partitionKeyFromLambda"}:
            return ConfigurationError(
                f"{self._setting}: `!{{{shown}}}` needs a query or a function, which there is none of here",
                hint="Name the field of the event by its path: !{event:field} or !{event:outer.inner}",
            )
        others = " and !{event:FIELD}" if self._slot_expression == _DESTINATION else ""
        return ConfigurationError(
            f"{self._setting}: `!{{{shown}}}` is not an expression that can stand here",
            hint=f"Use !{{timestamp:...}}, !{{{self._slot_expression}}}{others}",
        )

    def _check_separators(self) -> None:
        """Without a separator, the values `1`, `23` and `12`, `3` would make one key for two objects."""
        before: Formatter | _Value | None = None  # the expression before, as long as no separator followed it
        for part in self._parts:
            if isinstance(part, str):
                before = None if _SEPARATORS & set(part) else before
                continue
            if before is not None and (isinstance(part, _Value) or isinstance(before, _Value)):
                raise ConfigurationError(
                    f"{self._setting}: nothing tells where one expression ends and the next begins",
                    hint="Put a slash between them",
                )
            before = part

    @property
    def beginning(self) -> str:
        """What all keys start with."""
        return self._parts[0] if self._parts and isinstance(self._parts[0], str) else ""

    def evaluate(self, instant: datetime, values: list[str]) -> str:
        """Return the prefix of one slot."""
        return "".join(
            part if isinstance(part, str) else values[part.index] if isinstance(part, _Value) else part(instant)
            for part in self._parts
        )


@dataclass(frozen=True, slots=True)
class ObjectRange:
    """What an object covers: a shard and the first and last position of the flush it belongs to."""

    shard_id: str
    first: Position
    last: Position
    generation: int = 0  # of the row: what is read again after a seek must not pass for what was written before


class ObjectNames:
    """Gives each slot of a flush its key; deterministic, so that an attempt that is repeated finds the same key.

    `fields` are the paths of `!{event:...}` in their order. Raises ConfigurationError if two slots could get one key:
    the second object would pass for the first.
    """

    def __init__(
        self,
        *,
        archive_prefix: str,
        error_prefix: str,
        destinations: Iterable[str],
        extension: str,
        error_extension: str = "",
        zone: tzinfo = UTC,
    ) -> None:
        self._archive = _Prefix(archive_prefix, "archive_prefix", _DESTINATION)
        self._errors = _Prefix(error_prefix, "error_prefix", _ERROR_TYPE)
        self._extension = extension
        self._error_extension = error_extension or extension
        self._zone = zone
        self.fields = tuple(self._archive.fields)
        names = tuple(destinations)
        if len(names) > 1 and not self._archive.has_slot:
            raise ConfigurationError(
                "archive_prefix does not tell destinations apart", hint="Add !{destination} to archive_prefix"
            )
        if not self._errors.has_slot:
            raise ConfigurationError(
                "error_prefix does not tell error types apart", hint="Add !{firehose:error-output-type} to error_prefix"
            )
        longest_values = ["x" * VALUE_CHARACTERS_MAX] * len(self.fields)
        slots = [SLOT_SEPARATOR.join([name, *longest_values]) for name in names]
        prefixes = [self._prefix(slot, 0.0) for slot in [*slots, *(error_slot(each) for each in ERROR_TYPES)]]
        for prefix in prefixes:
            if any(part in {"", ".", ".."} for part in prefix.split("/")[:-1]):
                raise ConfigurationError(
                    f"archive_prefix or error_prefix: `{prefix}` has nothing, or only dots, between two slashes or"
                    " before the first one",
                    hint="Leave out a slash: tools that copy objects to files can't keep such a key",
                )
        # With fields of events in the prefix, whoever writes the events chooses parts of the key.
        starts = (self._archive.beginning, self._errors.beginning)
        is_mixed = bool(self.fields) and (starts[0].startswith(starts[1]) or starts[1].startswith(starts[0]))
        if is_mixed or len(set(prefixes)) < len(prefixes):
            raise ConfigurationError(
                "archive_prefix and error_prefix give two kinds of objects one name", hint="Let them start differently"
            )
        tail = _TAIL_BYTES_MAX + max(len(extension), len(self._error_extension))
        longest = max(len(prefix.encode()) for prefix in prefixes)
        if longest + tail > S3_KEY_BYTES_MAX:
            raise ConfigurationError(
                f"An evaluated prefix can have {longest:,} bytes; with shard and positions a key may have "
                f"{S3_KEY_BYTES_MAX:,}, which leaves {S3_KEY_BYTES_MAX - tail:,}",
                hint="Shorten archive_prefix or error_prefix, or partition by fewer fields",
            )

    @property
    def beginnings(self) -> tuple[str, str]:
        """What all keys of archived events start with, and all those of dead letters."""
        return self._archive.beginning, self._errors.beginning

    def keys(self, arrivals: Mapping[str, float], covered: ObjectRange) -> tuple[str, ...]:
        """Return the keys of slots; `arrivals` has the oldest of each, in seconds since the epoch."""
        found = tuple(self.key(slot, covered, oldest) for slot, oldest in arrivals.items())
        assert len(set(found)) == len(found), "each slot has a key of its own"
        return found

    def key(self, slot: str, covered: ObjectRange, oldest_arrival: float) -> str:
        """Return the key of one slot; `oldest_arrival` is in seconds since the epoch."""
        first, last = position_text(covered.first), position_text(covered.last)
        again = f".g{covered.generation}" if covered.generation else ""
        extension = self._error_extension if slot.startswith(ERROR_MARK) else self._extension
        return f"{self._prefix(slot, oldest_arrival)}{covered.shard_id}-{first}-{last}{again}{extension}"

    def _prefix(self, slot: str, timestamp: float) -> str:
        instant = datetime.fromtimestamp(timestamp, self._zone)
        if slot.startswith(ERROR_MARK):
            return self._errors.evaluate(instant, [slot.removeprefix(ERROR_MARK)])
        return self._archive.evaluate(instant, slot.split(SLOT_SEPARATOR))
