"""One user record to one enriched, routed event, or to nothing if it was seen before, or to a dead letter."""

from __future__ import annotations

from consumer.core.dead_letter import DeadLetter
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.core.enrichment import Enricher
from consumer.core.object_key import PROCESSING_FAILED
from consumer.core.route import Router
from shared.errors import MalformedEventError
from shared.event import decode_event, event_id_of
from shared.limits import PARTITION_KEY_CHARACTERS_MAX
from shared.records import UserRecord

_INTERNAL_ERROR = "internal-error"


# An event ready to be delivered: one line of JSON without a newline, its destination, its partition key. A plain tuple,
# as one is made per event.
Enriched = tuple[bytes, str, str]


class Transform:
    """Everything that happens to a record between the source stream and its destinations; deterministic."""

    __slots__ = ("_enricher", "_marks", "_router")

    def __init__(self, enricher: Enricher, router: Router, marks: DuplicateMarks) -> None:
        self._enricher = enricher
        self._router = router
        self._marks = marks

    def apply(self, record: UserRecord, timestamp: bytes) -> Enriched | DeadLetter | None:
        """Return what becomes of a record; None if it is a duplicate. `timestamp` is the processing timestamp.

        The partition key is the event's `session_id`, as in the lab, else the key that the record came with.
        """
        event_id = None
        try:
            event = decode_event(record.data)
            event_id = event_id_of(event)
            if event_id is not None and self._marks.is_duplicate(event_id):
                return None
            line = self._enricher.enrich(record.data, event, record.position, timestamp)
            session_id = event.get("session_id")
            key = record.partition_key
            if type(session_id) is str and 0 < len(session_id) <= PARTITION_KEY_CHARACTERS_MAX:
                key = session_id
            return line, self._router.destination_of(event), key
        except MalformedEventError as error:
            return self._refuse(record, error.error_code, str(error), event_id)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - a pure function that fails on a record fails on it at every attempt
            return self._refuse(record, _INTERNAL_ERROR, f"enrichment failed: {type(error).__name__}", event_id)

    def _refuse(self, record: UserRecord, code: str, message: str, event_id: str | None) -> DeadLetter:
        return DeadLetter(
            error_type=PROCESSING_FAILED,
            error_code=code,
            error_message=message,
            data=record.data,
            partition_key=record.partition_key,
            position=record.position,
            arrival_timestamp=record.arrival_timestamp,
            event_id=event_id,
        )
