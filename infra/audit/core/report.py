"""What an audit found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

PENDING: Final = "pending"  # the verdict where nothing failed, and something is not stored yet


@dataclass(frozen=True, slots=True)
class OutOfOrder:
    """An event that came after a later one of its session; `place` is `s3` or the name of a stream."""

    place: str
    session_id: str
    event_id: str
    after_event_id: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Counts of events (distinct ids unless said otherwise) and the verdict.

    That is `ok`, or `pending` where nothing failed and some events are not stored yet, or what failed, separated by
    `; `. `pending` counts what is behind the checkpoints of the lease table and not yet where it belongs.
    `duplicated_*` count the copies beyond the first. `duplicated_in_streams` and `duplicated_in_source` do not fail an
    audit: streams are at least once by design, and both carry the event id by which the next reader drops them.
    `manifests_*` count objects: listed in an index, listed and not there, there and in no index, with another count of
    events (or listed twice, or an hour that was complete with other indexes).
    """

    events: int
    acknowledged: int
    dead_lettered: int
    in_s3: int
    in_destinations: int
    pending: int
    lost: int
    lost_in_s3: int
    lost_in_streams: int
    lost_before_stream: int
    duplicated_in_source: int
    duplicated_in_s3: int
    duplicated_in_streams: int
    duplicated_in_dead_letters: int
    stored_and_dead_lettered: int
    out_of_order: int
    out_of_order_in_s3: int
    out_of_order_in_streams: int
    unknown: int
    ledger_imbalance: int
    retention_gaps: int
    manifests_listed: int
    manifests_missing: int
    manifests_unlisted: int
    manifests_differing: int
    lost_examples: tuple[str, ...]
    duplicated_examples: tuple[str, ...]
    unknown_examples: tuple[str, ...]
    out_of_order_examples: tuple[OutOfOrder, ...]
    manifest_examples: tuple[str, ...]
    verdict: str

    @property
    def is_ok(self) -> bool:
        """Whether nothing failed."""
        return self.verdict in {"ok", PENDING}

    def as_mapping(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        return asdict(self)
