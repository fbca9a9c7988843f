"""What `headrace status --app` says of a group: its workers, its shards, how far behind they are and what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from consumer.assembly import initial_checkpoint
from consumer.core.object_key import GAP_FOLDER, REDRIVEN_FOLDER, constant_prefix, position_text
from consumer.core.shard_graph import is_paused, may_start
from infra.control.group import ATTEMPTS_MAX, Group
from infra.control.peek import peek, unread_start
from infra.control.span import span_text
from infra.query.rows import table_lines
from shared.lease import CheckpointKind, Lease, TableRows

_SECONDS_PER_HOUR: Final = 3600
_PEEKS_AT_ONCE: Final = 8
_STILL_SECONDS_MIN: Final = 10.0
_OBJECTS_COUNTED_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class WorkerLine:
    """A worker that the rows name; its heartbeat's age is known once it was seen to move, None before."""

    worker_id: str
    shards: int
    heartbeat_age_seconds: float | None
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class ShardLine:
    """A row; what was not asked for or can't be known is None."""

    shard_id: str
    state: str
    owner: str | None
    epoch: int
    generation: int
    checkpoint: str
    has_pending_flush: bool
    iterator_age_seconds: float | None = None
    retention_headroom_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """A group at one instant."""

    application: str
    source_stream: str
    retention_hours: int
    workers: tuple[WorkerLine, ...]
    shards: tuple[ShardLine, ...]
    dead_letter_objects: int | None
    retention_gaps: tuple[str, ...]  # names of the objects that tell of one
    damaged_rows: tuple[str, ...] = ()  # shards whose row can't be read

    def as_mapping(self) -> Mapping[str, Any]:
        """Return all fields, ready for JSON."""
        return asdict(self)


class HeartbeatWatch:
    """Tells by looking twice how long a heartbeat has stood still: no time is stored, as clocks may disagree."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float, bool]] = {}  # worker -> sum of its heartbeats, since when, has it moved

    def look(self, table: TableRows, now: float) -> tuple[WorkerLine, ...]:
        """Take the table of this moment (a monotonic time) and return the workers in it."""
        beats = {each.worker_id: each.heartbeat for each in table.presences}
        leaving = {each.worker_id for each in table.presences if each.is_leaving}
        shards = dict.fromkeys(beats, 0)
        for row in table.leases:
            if row.owner is not None:
                beats[row.owner] = beats.get(row.owner, 0) + row.heartbeat
                shards[row.owner] = shards.get(row.owner, 0) + 1
        for worker, beat in beats.items():
            seen = self._seen.get(worker)
            if seen is None or seen[0] != beat:
                self._seen[worker] = (beat, now, seen is not None)
        self._seen = {worker: seen for worker, seen in self._seen.items() if worker in beats}
        return tuple(
            WorkerLine(worker, shards[worker], _age(now - since, has_moved=has_moved), worker in leaving)
            for worker, (_, since, has_moved) in sorted(self._seen.items())
        )


def _age(seconds: float, *, has_moved: bool) -> float | None:
    # A heartbeat that was never seen to move says something only after it stood still for longer than a renewal takes.
    return round(seconds, 1) if has_moved or seconds >= _STILL_SECONDS_MIN else None


def state_of(row: Lease, rows: Mapping[str, Lease]) -> str:
    """Return what a row's shard is doing, in one word."""
    if row.checkpoint.is_shard_end:
        return "finished"
    if is_paused(row, rows):
        return "paused"
    if row.seek_to is not None:
        return "seeking"
    if row.owner is not None:
        return "halted" if row.halted_epoch == row.epoch else "reading"
    return "unowned" if may_start(row, rows) else "after its parents"


def _line(row: Lease, rows: Mapping[str, Lease]) -> ShardLine:
    checkpoint = row.checkpoint
    is_number = checkpoint.kind is CheckpointKind.NUMBER
    return ShardLine(
        shard_id=row.shard_id,
        state=state_of(row, rows),
        owner=row.owner,
        epoch=row.epoch,
        generation=row.generation,
        checkpoint=position_text(checkpoint.position) if is_number else checkpoint.text,
        has_pending_flush=row.pending is not None,
    )


async def look_at_group(group: Group, watch: HeartbeatWatch, *, is_quick: bool) -> GroupStatus:
    """Read rows, and unless `is_quick` one record per unfinished shard and the names of the dead-letter objects."""
    call = group.retrier.call
    table = await call("list", group.leases.list_rows, attempts_max=ATTEMPTS_MAX)
    rows = {row.shard_id: row for row in table.leases}
    stream = group.source_stream
    summary = await call("describe", lambda: group.kinesis.describe_stream(stream), attempts_max=ATTEMPTS_MAX)
    workers = watch.look(table, group.clock.monotonic())
    shards = [_line(row, rows) for row in rows.values()]
    letters: int | None = None
    gaps: tuple[str, ...] = ()
    if not is_quick:
        shards = await _measure(group, rows, shards, summary.retention_hours * _SECONDS_PER_HOUR)
        letters, gaps = await _count_objects(group)
        # A worker renews within seconds: whoever stood still while the shards were looked at may be dead.
        again = await call("list", group.leases.list_rows, attempts_max=ATTEMPTS_MAX)
        workers = watch.look(again, group.clock.monotonic())
    return GroupStatus(
        application=group.app,
        source_stream=stream,
        retention_hours=summary.retention_hours,
        workers=workers,
        shards=tuple(shards),
        dead_letter_objects=letters,
        retention_gaps=gaps,
        damaged_rows=table.damaged,
    )


async def _measure(
    group: Group, rows: Mapping[str, Lease], lines: Sequence[ShardLine], retention_seconds: int
) -> list[ShardLine]:
    gate = asyncio.Semaphore(_PEEKS_AT_ONCE)
    _, timestamp = initial_checkpoint(str(group.application.get("start_from") or "TRIM_HORIZON"))

    async def measure(line: ShardLine) -> ShardLine:
        row = rows[line.shard_id]
        if row.checkpoint.is_shard_end:
            return line
        async with gate:
            start = unread_start(row, timestamp)
            found = await peek(group.kinesis, group.retrier, group.source_stream, line.shard_id, start)
        if found is None:
            return replace(line, state="past retention")
        age = found.age_seconds(group.clock.wall())
        headroom = max(0.0, retention_seconds - age)
        return replace(line, iterator_age_seconds=round(age, 1), retention_headroom_seconds=round(headroom))

    async with asyncio.TaskGroup() as tasks:
        measured = [tasks.create_task(measure(line)) for line in lines]
    return [task.result() for task in measured]


async def _count_objects(group: Group) -> tuple[int | None, tuple[str, ...]]:
    """Return how many dead-letter objects there are (counted up to a bound), and the gaps among them."""
    objects = group.objects
    if objects is None:
        return None, ()
    prefix = constant_prefix(str(group.application.get("error_prefix") or "errors/"))

    async def walk(below: str) -> list[str]:
        found: list[str] = []
        async for each in objects.list_objects(below):
            found.append(each.key)
            if len(found) >= _OBJECTS_COUNTED_MAX:
                break
        return found

    keys = await group.retrier.call("list_objects", lambda: walk(prefix), attempts_max=ATTEMPTS_MAX)
    gaps = await group.retrier.call("list_objects", lambda: walk(prefix + GAP_FOLDER), attempts_max=ATTEMPTS_MAX)
    aside = (prefix + GAP_FOLDER, prefix + REDRIVEN_FOLDER)
    return len([key for key in keys if not key.startswith(aside)]), tuple(gaps)


def status_lines(status: GroupStatus) -> list[str]:
    """Return the status as lines for people."""
    lines = [
        f"application    {status.application}",
        f"source stream  {status.source_stream}, retention {status.retention_hours:,} h",
        "",
    ]
    workers = iter([(each.worker_id, each.shards, _ago(each)) for each in status.workers])
    lines += [*table_lines(("worker", "shards", "heartbeat"), workers), ""]
    shards = iter(
        [
            (
                each.shard_id,
                each.state,
                each.owner or "-",
                each.epoch,
                each.generation,
                each.checkpoint + (" + pending flush" if each.has_pending_flush else ""),
                span_text(each.iterator_age_seconds),
                span_text(each.retention_headroom_seconds),
            )
            for each in status.shards
        ]
    )
    lines += table_lines(
        ("shard", "state", "owner", "epoch", "generation", "checkpoint", "behind", "until trimmed"), shards
    )
    if status.dead_letter_objects is not None:
        more = " or more" if status.dead_letter_objects >= _OBJECTS_COUNTED_MAX else ""
        lines += ["", f"dead-letter objects  {status.dead_letter_objects:,}{more}"]
    lines += [f"retention gap        {key}" for key in status.retention_gaps]
    lines += [f"damaged row          {shard_id}" for shard_id in status.damaged_rows]
    return lines


def _ago(worker: WorkerLine) -> str:
    seconds = worker.heartbeat_age_seconds
    text = "not judged yet" if seconds is None else f"{span_text(seconds)} ago"
    return f"{text}, leaving" if worker.is_leaving else text
