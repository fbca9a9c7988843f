"""What a world has to keep: which events must arrive where, and which findings of an audit count against it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.lease import CheckpointKind, Lease
from shared.records import Position
from tests.simulation.draw import SOURCE
from tests.simulation.web_log import missing_lines

if TYPE_CHECKING:
    from infra.audit.core.report import AuditReport
    from tests.simulation.arrival import Arrival
    from tests.simulation.world import World

_QUIET_SECONDS: Final = 12.0  # longer than a producer waits between two calls
_COUNTS: Final = (
    "lost_before_stream",
    "lost_in_s3",
    "lost_in_streams",
    "stored_and_dead_lettered",
    "unknown",
    "ledger_imbalance",
)
_EXCUSED_BY_SEEKS: Final = frozenset({"duplicated_in_s3", "out_of_order_in_s3", "out_of_order_in_streams"})


class Promises:
    """The promises as they are for what the world has drawn."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._usage = world.usage
        self._anchors: dict[str, Position] = {}  # where a shard that began at LATEST was fixed
        self.starts_fixed = 0  # so often was one
        self._arrived, self._arrived_at = -1, 0.0  # records in the source stream, and when they became so many
        self._whole: set[str] = set()  # shards that are read from their beginning

    def lease_written(self, before: Lease, after: Lease) -> None:
        """Take a write to a lease row: the first position stored is where a shard at LATEST begins."""
        if before.checkpoint.kind is CheckpointKind.TRIM_HORIZON:
            self._whole.add(after.shard_id)
        if before.checkpoint.kind is CheckpointKind.LATEST and after.checkpoint.kind is CheckpointKind.NUMBER:
            self._anchors[after.shard_id] = after.checkpoint.position
            self.starts_fixed += 1

    def missing(self) -> str:
        """Say what has not arrived or been read yet; empty if nothing is left to wait for."""
        world = self._world
        world.index.update()
        promised = {number for log in world.logs for number in log.numbers - log.lost}
        arrived = sum(len(shard.records) for shard in world.kinesis.streams[SOURCE].shards.values())
        if arrived != self._arrived:
            # What need not come may come all the same: an audit under way would see only a part of it.
            self._arrived, self._arrived_at = arrived, world.loop.time()
        if world.loop.time() - self._arrived_at < _QUIET_SECONDS:
            return "records still come into the source stream"
        if absent := sorted(promised - world.index.numbers.keys()):
            return f"{len(absent)} events are not in the source stream: {absent[:5]}"
        for shard_id, shard in world.kinesis.streams[SOURCE].shards.items():
            if unread := self._unread(shard_id, is_open=shard.shard.is_open):
                return unread
        waiting = sum(len(missing_lines(log.disk, log.bad_lines)) for log in world.logs)
        return f"{waiting} bad lines are not in the dead letters" if waiting else ""

    def _unread(self, shard_id: str, *, is_open: bool) -> str:
        row = self._world.leases.rows.get(shard_id)
        if row is None:
            # Closed before anybody looked: nothing in it came after the start.
            is_past = not is_open and self._usage.start_from == "LATEST"
            return "" if is_past else f"{shard_id} has no lease row"
        if row.pending is not None:
            return f"{shard_id} has a pending flush"
        if not is_open:
            return "" if row.checkpoint.is_shard_end else f"{shard_id} is closed and not finished"
        position, arrived_at = self._world.index.last.get(shard_id, (None, 0.0))
        is_old = position is None or arrived_at < self._usage.start_timestamp
        if position is None or is_old or self._world.outage.is_trimmed(shard_id, position):
            return ""
        if row.checkpoint.kind is CheckpointKind.LATEST:
            return f"who begins {shard_id} may have been frozen" if self._is_frozen() else ""
        is_read = row.checkpoint.position >= position
        return "" if is_read else f"{shard_id} is read up to {row.checkpoint} of {position}"

    def _is_frozen(self) -> bool:
        """Whether a worker is frozen, or was a moment ago: it may have begun at LATEST and has told nobody where."""
        since = self._world.loop.time() - _QUIET_SECONDS
        return any(each.process is not None and each.process.frozen_until > since for each in self._world.workers)

    def delivered(self, found: set[int]) -> set[int]:
        """Return the numbers that have to be in S3 and in the streams: what is in the source after the start.

        `found` are those that are there. Where a shard began at LATEST, nothing may be missing after its first one.
        """
        arrivals = self._world.index.numbers
        for number in found & arrivals.keys() if self._usage.start_from == "LATEST" else ():
            arrival = arrivals[number]
            anchor = self._anchors.get(arrival.shard_id)
            if arrival.is_single and (anchor is None or arrival.position < anchor):
                self._anchors[arrival.shard_id] = Position(arrival.position.sequence_number, -1)
        promised = {number for number, arrival in arrivals.items() if self._is_after_start(arrival)}
        return promised - self._world.outage.excused

    def before_start(self) -> set[int]:
        """Return the numbers that must not have been delivered: every copy came before the start."""
        moment = self._usage.start_timestamp
        return {number for number, arrival in self._world.index.numbers.items() if arrival.last < moment}

    def _is_after_start(self, arrival: Arrival) -> bool:
        if self._usage.start_from != "LATEST":
            return arrival.first >= self._usage.start_timestamp
        if arrival.shard_id in self._whole:
            return True  # the child of a shard that was followed
        anchor = self._anchors.get(arrival.shard_id)
        return anchor is not None and arrival.position > anchor

    def broken(self, report: AuditReport, *, by_line: bool) -> list[str]:
        """Return the findings of an audit that count against this world."""
        names = list(_COUNTS)
        if self._usage.start_from != "TRIM_HORIZON" and not by_line:
            # The auditor reads the whole source; the world's own audit knows where this application began.
            names = [each for each in names if not each.startswith("lost_in")]
        is_whole = by_line or self._usage.start_from == "TRIM_HORIZON"
        if self._world.outage.has_trimmed and not by_line:
            # It sees of the source what is left: not what was stored before, nor that a first copy was trimmed unread.
            names = [each for each in names if each != "unknown" and not each.startswith("lost_in")]
            is_whole = False
        if by_line:
            names = [each for each in names if each != "lost_before_stream"]
        # A repetition whose first copy came before the start is a first one to this application.
        if is_whole and self._usage.source_keeps_order:
            names.append("out_of_order_in_s3")
        if is_whole and self._usage.streams_keep_order:
            names.append("out_of_order_in_streams")
        excuses_repetition = self._world.damage.excuses_repetition
        if excuses_repetition:
            names = [each for each in names if not each.startswith("out_of_order")]
        counts = {name: getattr(report, name) for name in names}
        found = [f"{count:,} {name}" for name, count in counts.items() if count > self._excused(name)]
        # An event that does not fit the archive's columns is a dead letter instead: its copies count like those.
        copies = report.duplicated_in_s3 + report.duplicated_in_dead_letters - self._excused("duplicated_in_s3")
        # The auditor sees of the source what is left of it.
        if excuses_repetition or (self._world.outage.has_trimmed and not by_line):
            return found
        if copies > 0 and (self._usage.source_keeps_order or (not by_line and copies > report.duplicated_in_source)):
            found.append(f"{copies:,} duplicated in S3 or in the dead letters")
        return found

    def _excused(self, name: str) -> int:
        """Return how many findings seeks explain.

        Marks begin anew there, so that a repetition whose first copy lies before the place that was sought is a first
        one to who reads on: it is stored, and behind what followed the first copy.
        """
        if name not in _EXCUSED_BY_SEEKS:
            return 0
        repeated = sum(not each.is_single for each in self._world.index.numbers.values())
        return repeated * self._world.story.counts["operator_sought"]
