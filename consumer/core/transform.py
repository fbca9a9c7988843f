"""A chunk of records to enriched, routed events, without what was seen before, and to dead letters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from consumer.core.chunk import Chunk
from consumer.core.dead_letter import DeadLetter
from consumer.core.decoding import decode
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.enrichment import Enricher
from consumer.core.lines import Lines
from consumer.core.object_key import PROCESSING_FAILED
from consumer.core.route import Router
from shared.errors import MalformedEventError
from shared.event import EVENT_ID_FIELD, event_id_of
from shared.limits import PARTITION_KEY_CHARACTERS_MAX

_INTERNAL_ERROR: Final = "internal-error"
_NO_KEY: Final = "-"
_KEY_SIZES: Final = frozenset(range(1, PARTITION_KEY_CHARACTERS_MAX + 1))
ValueT = TypeVar("ValueT")


class Transformed(NamedTuple):
    """What became of a chunk: events ready to be delivered, in columns and in reading order, and the rest of it."""

    lines: Lines
    events: Sequence[dict[str, Any]]  # what they were made of
    destinations: list[str]
    slots: list[str]  # which object of a flush each belongs to
    indexes: Sequence[int]  # of the records in the chunk
    dead_letters: list[DeadLetter]
    duplicates: int


class Transform:
    """Everything that happens to records between the source stream and their destinations; deterministic."""

    __slots__ = ("_enricher", "_marks", "_router")

    def __init__(self, enricher: Enricher, router: Router, marks: DuplicateMarks) -> None:
        self._enricher = enricher
        self._router = router
        self._marks = marks

    def apply(self, chunk: Chunk, timestamp: bytes) -> Transformed:
        """Return what becomes of the records of a chunk. `timestamp` is the processing timestamp."""
        events, malformed, survey = decode(chunk.readable)
        failures: dict[int, Exception] = {**malformed}
        event_ids = [event.get(EVENT_ID_FIELD) for event in events] if survey is None else survey.event_ids
        repeated = self._marks.repeated(event_ids) if event_ids else set()
        kept = _without(range(len(chunk)), failures.keys() | chunk.refused.keys() | repeated)
        columns = (
            _pick(chunk.datas, kept),
            _pick(events, kept),
            _pick(chunk.sequence_numbers, kept),
            _pick(chunk.sub_sequence_numbers, kept),
        )
        lines, failed = self._enricher.enrich_all(columns, timestamp, survey if isinstance(kept, range) else None)
        if failed:
            failures.update((kept[at], error) for at, error in failed.items())
            kept = _without(kept, failures)
        left = _pick(events, kept)
        destinations = self._router.destinations_of(left)
        return Transformed(
            lines=lines,
            events=left,
            destinations=destinations,
            slots=self._router.slots_of(destinations, left),
            indexes=kept,
            dead_letters=[
                _dead_letter(chunk, index, failures.get(index), events[index])
                for index in sorted(failures.keys() | chunk.refused.keys())
            ],
            duplicates=len(repeated),
        )


def _without(indexes: Sequence[int], left_out: Collection[int]) -> Sequence[int]:
    return [index for index in indexes if index not in left_out] if left_out else indexes


def _pick(column: Sequence[ValueT], indexes: Sequence[int]) -> Sequence[ValueT]:
    return column if isinstance(indexes, range) else [column[index] for index in indexes]


def partition_keys_of(events: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    """Return events' keys in their destination stream: the `session_id`, as in the lab, else the record's own key.

    The key of a member of a foreign aggregate may be one that no stream takes: empty, or too long.
    """
    own: list[Any] = [event.get("session_id") for event in events]
    if {*map(type, own)} <= {str} and _KEY_SIZES.issuperset(map(len, own)):  # nearly always
        return own
    return [
        session_id
        if type(session_id) is str and len(session_id) in _KEY_SIZES
        else key[:PARTITION_KEY_CHARACTERS_MAX] or _NO_KEY
        for session_id, key in zip(own, keys, strict=True)
    ]


def _dead_letter(chunk: Chunk, index: int, error: Exception | None, event: dict[str, Any]) -> DeadLetter:
    if index in chunk.refused:
        code, message = chunk.refused[index]
    elif isinstance(error, MalformedEventError):
        code, message = error.error_code, str(error)
    else:
        code, message = _INTERNAL_ERROR, f"enrichment failed: {type(error).__name__}"
    return chunk.dead_letter(
        index, error_type=PROCESSING_FAILED, error_code=code, error_message=message, event_id=event_id_of(event)
    )
