"""The one auditor: fed with what was acknowledged and what arrived, it says what is lost, twice or out of order."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from infra.audit.core.id_table import IdTable, digest_of
from infra.audit.core.manifest_check import ManifestFindings
from infra.audit.core.report import PENDING, AuditReport, OutOfOrder

_ACKNOWLEDGED: Final = 1
_STORED: Final = 2
_DELIVERED: Final = 4
_DEAD: Final = 8
_UNDELIVERABLE: Final = 16  # a destination stream will never take it; it may be in S3 all the same
# The same in a later generation: after a seek, an event is once more in S3 or in the dead letters by rights.
_LATER: Final = {_STORED: 32, _DEAD: 64, _UNDELIVERABLE: 128}
_IN_S3: Final = _STORED | _LATER[_STORED]
_IN_DEAD_LETTERS: Final = _DEAD | _LATER[_DEAD] | _UNDELIVERABLE | _LATER[_UNDELIVERABLE]
_FLAG_SETS: Final = 256

_Condition = Callable[[int], int | bool]  # whether a set of flags is of interest


class _OrderCheck:
    """The highest rank seen per session at one place; ranks are the order of acknowledgment."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.count = 0
        self._highest: dict[int, int] = {}

    def follows(self, session: str, group: str, rank: int) -> int | None:
        """Take the next event of a session; return the rank that it should have preceded, if any."""
        key = digest_of(f"{session}\0{group}")
        highest = self._highest.get(key, -1)
        if rank > highest:
            self._highest[key] = rank
            return None
        self.count += 1
        return highest


class Auditor:
    """Compares what was acknowledged with what arrived. Feed it in this order, then ask for the report.

    1. `acknowledge` for every record of the source stream, shards in lineage order, records in shard order;
    2. `confirm`, `store`, `deliver`, `dead_letter`, `balance` in any mixture, where the events of one place
       (the bucket, one destination stream) come in lineage order.

    An event is named by its id; where it has none, by `stream:shard:sequence:sub` of its record in the source.
    `source_is_whole` says that nothing of the source stream is past retention yet: then an event that arrived but
    is not in the source is a failure. About 45 bytes (49 behind a checkpoint) per event and 120 per session and place.
    """

    def __init__(
        self, *, has_bucket: bool, has_destinations: bool, source_is_whole: bool = True, examples_max: int = 10
    ) -> None:
        self._has_bucket = has_bucket
        self._has_destinations = has_destinations
        self._source_is_whole = source_is_whole
        self._examples_max = examples_max
        self._ids = IdTable()
        self._flags = bytearray()
        self._awaited = array("I")  # ranks of events behind the checkpoints
        self._in_s3 = _OrderCheck("s3")
        self._again: set[tuple[int, int, int]] = set()  # rank, flag and generation of what is in a later one
        self._gaps = 0
        self._manifests = ManifestFindings()
        self._in_streams: dict[str, _OrderCheck] = {}
        self._duplicates = {"source": 0, "s3": 0, "streams": 0, "dead_letters": 0}
        self._duplicated_examples: list[str] = []
        self._order_examples: list[OutOfOrder] = []
        self._unconfirmed: list[str] = []
        self._unconfirmed_count = 0
        self._ledger_imbalance = 0

    def acknowledge(self, event_id: str, *, is_awaited: bool = False) -> None:
        """Take a record of the source stream; a second one with the same id is a known duplicate.

        `is_awaited`: it is behind its shard's checkpoint. What is missing of such events is pending, not lost.
        """
        rank, is_first = self._mark(event_id, _ACKNOWLEDGED, "source")
        if is_awaited and is_first:
            self._awaited.append(rank)

    def confirm(self, event_id: str) -> None:
        """Take a producer's receipt: what it says was acknowledged has to be in the source stream."""
        rank = self._ids.find(event_id)
        if rank is None or not self._flags[rank] & _ACKNOWLEDGED:
            self._unconfirmed_count += 1
            if len(self._unconfirmed) < self._examples_max:
                self._unconfirmed.append(event_id)

    def store(self, event_id: str, session: str, group: str = "", generation: int = 0) -> None:
        """Take a line of an S3 object; order is judged inside a group (what goes to one series of objects).

        Each generation (each reading after a seek) is judged by itself: once in each, and in order there.
        """
        rank, is_first = self._mark(event_id, _STORED, "s3", generation)
        if is_first:
            self._check_order(self._in_s3, event_id, session, f"{group}\0{generation}", rank)

    def deliver(self, stream: str, event_id: str, session: str) -> None:
        """Take a record of a destination stream; order is judged among the first copies."""
        rank, is_first = self._mark(event_id, _DELIVERED, "streams")
        if is_first:
            check = self._in_streams.setdefault(stream, _OrderCheck(stream))
            self._check_order(check, event_id, session, "", rank)

    def dead_letter(self, event_id: str, *, of_stream: bool = False, generation: int = 0) -> None:
        """Take a dead letter: of an event that can't be processed, or of one that a destination stream refuses."""
        self._mark(event_id, _UNDELIVERABLE if of_stream else _DEAD, "dead_letters", generation)

    def report_gap(self) -> None:
        """Take the record of data that the stream trimmed before it was read; no promise covers it."""
        self._gaps += 1

    def compare(self, findings: ManifestFindings) -> None:
        """Take what a comparison of manifests with objects found."""
        self._manifests = findings

    def balance(self, *, accepted: int, acknowledged: int, dead_lettered: int, pending: int) -> None:
        """Take a producer's ledger: accepted = acknowledged + dead-lettered + pending (queued or on disk)."""
        self._ledger_imbalance += abs(accepted - acknowledged - dead_lettered - pending)

    def report(self) -> AuditReport:
        """Judge what was fed so far."""
        sets = Counter(self._flags)
        overdue, pending = self._overdue()
        overdue_sets = Counter(overdue)

        def count(condition: _Condition, among: Mapping[int, int] = sets) -> int:
            return sum(events for flags, events in among.items() if condition(flags))

        acknowledged = count(lambda flags: flags & _ACKNOWLEDGED)
        stored = count(lambda flags: flags & _IN_S3)
        delivered = count(lambda flags: flags & _DELIVERED)
        dead = count(lambda flags: flags & _IN_DEAD_LETTERS)
        known_dead = count(lambda flags: flags & _IN_DEAD_LETTERS and flags & _ACKNOWLEDGED)
        lost = count(self._is_lost, overdue_sets) + self._unconfirmed_count
        streams_out_of_order = sum(each.count for each in self._in_streams.values())
        counts = {
            "events": acknowledged + dead - known_dead,
            "acknowledged": acknowledged,
            "dead_lettered": dead,
            "in_s3": stored,
            "in_destinations": delivered,
            "pending": pending,
            "lost": lost,
            "lost_in_s3": count(self._is_lost_in_s3, overdue_sets),
            "lost_in_streams": count(self._is_lost_in_streams, overdue_sets),
            "lost_before_stream": self._unconfirmed_count,
            "duplicated_in_source": self._duplicates["source"],
            "duplicated_in_s3": self._duplicates["s3"],
            "duplicated_in_streams": self._duplicates["streams"],
            "duplicated_in_dead_letters": self._duplicates["dead_letters"],
            "stored_and_dead_lettered": count(lambda flags: flags & _STORED and flags & _DEAD),
            "out_of_order": self._in_s3.count + streams_out_of_order,
            "out_of_order_in_s3": self._in_s3.count,
            "out_of_order_in_streams": streams_out_of_order,
            "unknown": count(_is_unknown),
            "ledger_imbalance": self._ledger_imbalance,
            "retention_gaps": self._gaps,
            "manifests_listed": self._manifests.listed,
            "manifests_missing": len(self._manifests.missing),
            "manifests_unlisted": len(self._manifests.unlisted),
            "manifests_differing": len(self._manifests.differing),
        }
        return AuditReport(
            **counts,
            lost_examples=(*self._unconfirmed, *self._examples(self._is_lost, overdue))[: self._examples_max],
            duplicated_examples=tuple(self._duplicated_examples),
            unknown_examples=self._examples(_is_unknown, self._flags),
            out_of_order_examples=tuple(self._order_examples),
            manifest_examples=(*self._manifests.missing, *self._manifests.unlisted, *self._manifests.differing)[
                : self._examples_max
            ],
            verdict=_verdict(counts if self._source_is_whole else counts | {"unknown": 0}),
        )

    def _mark(self, event_id: str, flag: int, place: str, generation: int = 0) -> tuple[int, bool]:
        rank, is_new = self._ids.add(event_id)
        stored = _LATER[flag] if generation else flag
        if is_new:
            self._flags.append(0)
        is_first = not self._flags[rank] & stored
        self._flags[rank] |= stored
        if generation:
            again = (rank, flag, generation)
            is_first = again not in self._again
            self._again.add(again)
        if not is_first:
            self._duplicates[place] += 1
            if place in {"s3", "dead_letters"} and len(self._duplicated_examples) < self._examples_max:
                self._duplicated_examples.append(event_id)
        return rank, is_first

    def _check_order(self, check: _OrderCheck, event_id: str, session: str, group: str, rank: int) -> None:
        if not self._flags[rank] & _ACKNOWLEDGED:
            return
        if not session:
            return  # it went by a partition key that the event does not tell: no order is promised between two of them
        later = check.follows(session, group, rank)
        if later is not None and len(self._order_examples) < self._examples_max:
            self._order_examples.append(OutOfOrder(check.place, session, event_id, self._ids.text(later)))

    def _is_lost_in_s3(self, flags: int) -> bool:
        return self._has_bucket and flags & (_ACKNOWLEDGED | _IN_S3 | _IN_DEAD_LETTERS) == _ACKNOWLEDGED

    def _is_lost_in_streams(self, flags: int) -> bool:
        return self._has_destinations and flags & (_ACKNOWLEDGED | _DELIVERED | _IN_DEAD_LETTERS) == _ACKNOWLEDGED

    def _is_lost(self, flags: int) -> bool:
        return self._is_lost_in_s3(flags) or self._is_lost_in_streams(flags)

    def _overdue(self) -> tuple[bytearray, int]:
        """Return the flags of all events, none for those that are pending, and how many these are."""
        overdue = bytearray(self._flags)
        pending = 0
        for rank in self._awaited:
            if self._is_lost(overdue[rank]):
                overdue[rank] = 0
                pending += 1
        return overdue, pending

    def _examples(self, condition: _Condition, among: bytearray) -> tuple[str, ...]:
        if not among:
            return ()
        # One byte per event: 1 where the condition holds.
        selected = among.translate(
            bytes(bool(condition(flags)) for flags in range(_FLAG_SETS)) + bytes(256 - _FLAG_SETS)
        )
        found: list[str] = []
        rank = selected.find(1)
        while rank >= 0 and len(found) < self._examples_max:
            found.append(self._ids.text(rank))
            rank = selected.find(1, rank + 1)
        return tuple(found)


def _is_unknown(flags: int) -> bool:
    return not flags & _ACKNOWLEDGED and bool(flags & (_IN_S3 | _DELIVERED))


_FAILURES: Final = {
    "lost_before_stream": "acknowledged to the producer and not in the source stream",
    "lost_in_s3": "lost on the way to S3",
    "lost_in_streams": "lost on the way to the destination streams",
    "duplicated_in_s3": "more than once in S3",
    "duplicated_in_dead_letters": "more than once in the dead letters",
    "stored_and_dead_lettered": "both in S3 and in the dead letters",
    "out_of_order_in_s3": "out of order in S3",
    "out_of_order_in_streams": "out of order in the destination streams",
    "unknown": "arrived but never were in the source stream",
    "ledger_imbalance": "missing from a producer's ledger",
    "manifests_missing": "listed in manifests but not in S3",
    "manifests_unlisted": "objects in S3 but in no manifest",
    "manifests_differing": "with other counts in S3 than in manifests",
}


def _verdict(counts: dict[str, int]) -> str:
    failed = [f"{counts[name]:,} {what}" for name, what in _FAILURES.items() if counts[name]]
    return "; ".join(failed) or (PENDING if counts["pending"] else "ok")
