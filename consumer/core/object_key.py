"""Names of S3 objects: Firehose's prefix expressions, then the shard and the range of positions an object covers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from shared.errors import ConfigurationError
from shared.limits import S3_KEY_BYTES_MAX
from shared.records import Position

# Firehose's first two error types, and ours for what a destination stream refuses.
PROCESSING_FAILED: Final = "processing-failed"
STREAM_DELIVERY_FAILED: Final = "stream-delivery-failed"
ERROR_TYPES: Final = (PROCESSING_FAILED, STREAM_DELIVERY_FAILED)
# Folders below the error prefix that hold no dead letters: what was trimmed unread, and what was redriven.
GAP_FOLDER: Final = "retention-gap/"
REDRIVEN_FOLDER: Final = "redriven/"
# A slot is what one object of a flush holds: a destination's events, or (with this mark) dead letters of one type.
ERROR_MARK: Final = "!"

_EXPRESSION: Final = re.compile(r"!\{([^{}]*)\}")
_SHARD_ID_MAX: Final = 128
_POSITION_MAX: Final = 128  # digits of a sequence number; the service's model allows 128
_TAIL_BYTES_MAX: Final = _SHARD_ID_MAX + 2 * (_POSITION_MAX + 8) + len("--.g9999999999.json.gz")
# Java's DateTimeFormatter letters that are supported, longest first, each with strftime's directive.
_JAVA_LETTERS: Final = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}
_JAVA_TOKEN: Final = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']")

_Part = Callable[[datetime, str], str]


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


def _timestamp_part(pattern: str, setting: str) -> _Part:
    directives: list[str] = []
    at = 0
    while at < len(pattern):
        match = _JAVA_TOKEN.match(pattern, at)
        if match is None:
            raise ConfigurationError(f"{setting}: a quote in timestamp pattern `{pattern[:60]}` is not closed")
        text = match.group()
        if match.group(1) is not None:
            literal = match.group(1).replace("''", "'") if len(text) > len("''") else "'"
            directives.append(literal.replace("%", "%%"))
        elif match.group(2) is not None:
            if text not in _JAVA_LETTERS:
                raise ConfigurationError(
                    f"{setting}: `{text[:20]}` in timestamp pattern `{pattern[:60]}` is not supported",
                    hint=f"Use {', '.join(_JAVA_LETTERS)} and text in 'single quotes'",
                )
            directives.append(_JAVA_LETTERS[text])
        else:
            directives.append(text.replace("%", "%%"))
        at = match.end()
    directive = "".join(directives)
    return lambda instant, _slot: instant.strftime(directive)


def _expression_part(expression: str, setting: str, slot_expression: str) -> _Part:
    if expression == slot_expression:
        return lambda _instant, slot: slot
    if expression.startswith("timestamp:"):
        return _timestamp_part(expression.removeprefix("timestamp:"), setting)
    shown = expression[:60]
    if expression == "firehose:random-string":
        raise ConfigurationError(
            f"{setting}: `!{{{shown}}}` would name an object differently at each attempt, so that a retry doubles it",
            hint="Leave it out: the shard and the positions already make each key unique",
        )
    raise ConfigurationError(
        f"{setting}: `!{{{shown}}}` is not an expression that can stand here",
        hint=f"Use !{{timestamp:...}} and !{{{slot_expression}}}",
    )


class _Prefix:
    """A parsed prefix: literals and expressions in their order."""

    def __init__(self, text: str, setting: str, slot_expression: str) -> None:
        self._parts: list[_Part] = []
        self.has_slot = False
        at = 0
        for match in _EXPRESSION.finditer(text):
            self._add_literal(text[at : match.start()], setting)
            self._parts.append(_expression_part(match.group(1), setting, slot_expression))
            self.has_slot = self.has_slot or match.group(1) == slot_expression
            at = match.end()
        self._add_literal(text[at:], setting)

    def _add_literal(self, literal: str, setting: str) -> None:
        if "!{" in literal:
            raise ConfigurationError(f"{setting}: an expression is not closed with `}}`")
        if any(not character.isprintable() for character in literal):
            raise ConfigurationError(f"{setting}: a character that can't be printed is not usable in a key")
        if literal:
            self._parts.append(lambda _instant, _slot: literal)

    def evaluate(self, timestamp: float, slot: str) -> str:
        instant = datetime.fromtimestamp(timestamp, UTC)
        return "".join(part(instant, slot) for part in self._parts)


@dataclass(frozen=True, slots=True)
class ObjectRange:
    """What an object covers: a shard and the first and last position of the flush it belongs to."""

    shard_id: str
    first: Position
    last: Position
    generation: int = 0  # of the row: what is read again after a seek must not pass for what was written before


class ObjectNames:
    """Gives each slot of a flush its key; deterministic, so that an attempt that is repeated finds the same key.

    Raises ConfigurationError if two slots could get one key: the second object would pass for the first.
    """

    def __init__(self, *, archive_prefix: str, error_prefix: str, destinations: Iterable[str], extension: str) -> None:
        self._archive = _Prefix(archive_prefix, "archive_prefix", "destination")
        self._errors = _Prefix(error_prefix, "error_prefix", "firehose:error-output-type")
        self._extension = extension
        names = tuple(destinations)
        if len(names) > 1 and not self._archive.has_slot:
            raise ConfigurationError(
                "archive_prefix does not tell destinations apart", hint="Add !{destination} to archive_prefix"
            )
        if not self._errors.has_slot:
            raise ConfigurationError(
                "error_prefix does not tell error types apart", hint="Add !{firehose:error-output-type} to error_prefix"
            )
        slots = [*names, *(error_slot(each) for each in ERROR_TYPES)]
        prefixes = [self._prefix(slot, 0.0) for slot in slots]
        if len(set(prefixes)) < len(prefixes):
            raise ConfigurationError(
                "archive_prefix and error_prefix give two kinds of objects one name", hint="Let them start differently"
            )
        longest = max(len(prefix.encode()) for prefix in prefixes)
        if longest + _TAIL_BYTES_MAX > S3_KEY_BYTES_MAX:
            raise ConfigurationError(
                f"An evaluated prefix has {longest:,} bytes; with shard and positions a key may have "
                f"{S3_KEY_BYTES_MAX:,}, which leaves {S3_KEY_BYTES_MAX - _TAIL_BYTES_MAX:,}"
            )

    def key(self, slot: str, covered: ObjectRange, oldest_arrival: float) -> str:
        """Return the key of one slot; `oldest_arrival` is in seconds since the epoch."""
        first, last = position_text(covered.first), position_text(covered.last)
        again = f".g{covered.generation}" if covered.generation else ""
        return f"{self._prefix(slot, oldest_arrival)}{covered.shard_id}-{first}-{last}{again}{self._extension}"

    def _prefix(self, slot: str, timestamp: float) -> str:
        if slot.startswith(ERROR_MARK):
            return self._errors.evaluate(timestamp, slot.removeprefix(ERROR_MARK))
        return self._archive.evaluate(timestamp, slot)
