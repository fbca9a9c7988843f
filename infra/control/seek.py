"""Moves a running group to a place in time: fences every owner, then sends the rows there, descendants first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from consumer.assembly import initial_checkpoint
from consumer.core.object_key import position_text
from consumer.lease_table import HeldLease, WriteIds
from infra.audit.core.lineage import lineage_order
from infra.control.group import ATTEMPTS_MAX, Group
from infra.control.peek import peek, unread_start
from infra.control.seek_plan import SeekTarget, change_for, chosen_shards, descendants, followed_later, row_for
from infra.control.span import span_text
from infra.query.rows import table_lines
from shared.errors import ConfigurationError, LeaseLostError
from shared.lease import CheckpointKind, Lease, LeaseChange, LeaseExpectation
from shared.ports import ConditionFailedError
from shared.records import Shard

_SEIZE_ATTEMPTS_MAX: Final = 20
_ROWS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Move:
    """One shard's move; `row` is None for a shard that gets its row now."""

    shard: Shard
    row: Lease | None
    again_seconds: float | None  # read again; below zero: left out; None: nothing to compare

    def as_mapping(self, target: SeekTarget) -> Mapping[str, Any]:
        """Return the move, ready for JSON."""
        return {
            "shard_id": self.shard.shard_id,
            "from": _place(self.row),
            "to": target_text(target),
            "has_pending_flush": self.row is not None and self.row.pending is not None,
            "read_again_seconds": None if self.again_seconds is None else round(self.again_seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class SeekPlan:
    """All moves, each shard after its parents, and the shards that hold nothing of the target's time."""

    target: SeekTarget
    moves: tuple[Move, ...]
    untouched: tuple[str, ...]
    later: tuple[Shard, ...] = ()  # they get their row from a worker, once their parents are read

    def as_mapping(self) -> Mapping[str, Any]:
        """Return the plan, ready for JSON."""
        return {
            "to": target_text(self.target),
            "shards": [move.as_mapping(self.target) for move in self.moves],
            "untouched": list(self.untouched),
        }


def parse_target(text: str, now: float) -> SeekTarget:
    """Read --to; ConfigurationError if it is neither TRIM_HORIZON nor LATEST nor a time that has passed."""
    if text == "TRIM_HORIZON":
        return SeekTarget()
    if text == "LATEST":
        return SeekTarget(now)
    _, timestamp = initial_checkpoint(text, option="--to")
    if timestamp > now:
        raise ConfigurationError(
            f"`{text[:40]}` is {timestamp - now:,.0f} s in the future", hint="Give a time that has passed, or LATEST"
        )
    return SeekTarget(timestamp)


def target_text(target: SeekTarget) -> str:
    """Return a target as TRIM_HORIZON or an ISO 8601 time."""
    if target.timestamp is None:
        return "TRIM_HORIZON"
    return datetime.fromtimestamp(target.timestamp, UTC).isoformat(timespec="milliseconds")


async def plan_seek(group: Group, target: SeekTarget, names: Sequence[str]) -> SeekPlan:
    """Look at stream and rows and say what a seek would do; reads two records per shard and changes nothing."""
    call, stream = group.retrier.call, group.source_stream
    listed = await call("list_shards", lambda: group.kinesis.list_shards(stream), attempts_max=ATTEMPTS_MAX)
    rows = {row.shard_id: row for row in await call("list", group.leases.list_leases, attempts_max=ATTEMPTS_MAX)}
    gate = asyncio.Semaphore(_ROWS_AT_ONCE)

    async def look(shard: Shard) -> Move | None:
        async with gate:
            return await _look(group, shard, rows.get(shard.shard_id), target)

    chosen = chosen_shards(listed, names)
    async with asyncio.TaskGroup() as tasks:
        found = [tasks.create_task(look(shard)) for shard in chosen]
    moves = [move for task in found if (move := task.result()) is not None]
    later = followed_later(listed, rows, [move.shard.shard_id for move in moves])
    moves = [move for move in moves if move.shard.shard_id not in later]
    moved = {move.shard.shard_id for move in moves}
    untouched = (each.shard_id for each in chosen if each.shard_id not in moved and each.shard_id not in later)
    return SeekPlan(target, tuple(moves), tuple(untouched), tuple(shard for shard in chosen if shard.shard_id in later))


async def _look(group: Group, shard: Shard, row: Lease | None, target: SeekTarget) -> Move | None:
    """Return a shard's move; None if it is finished, or unknown, and has nothing of the target's time."""
    there = await peek(group.kinesis, group.retrier, group.source_stream, shard.shard_id, target.start)
    is_over = row is None or row.checkpoint.is_shard_end
    if is_over and (there is None or there.is_end):
        return None
    now = group.clock.wall()
    to = now - there.age_seconds(now) if there is not None else now
    if row is None:
        return Move(shard, None, now - to)
    if row.checkpoint.is_shard_end:
        return Move(shard, row, None if row.finished_at is None else row.finished_at - to)
    _, timestamp = initial_checkpoint(str(group.application.get("start_from") or "TRIM_HORIZON"))
    here = await peek(group.kinesis, group.retrier, group.source_stream, shard.shard_id, unread_start(row, timestamp))
    return Move(shard, row, None if here is None else now - here.age_seconds(now) - to)


async def apply_seek(group: Group, plan: SeekPlan) -> None:
    """Carry out a plan; LeaseLostError if rows were taken back again and again, after which it can be repeated.

    First every row is taken from its owner, so that nobody reads on while others are moved; a command that dies then
    has moved nothing, and its leases expire. So are those of descendants that have come since the plan. Then the rows
    are moved and set free, descendants first: a child must not start at its old place behind a parent read anew.
    """
    ids = WriteIds(group.random)
    owner = f"@seek-{group.random.getrandbits(48):012x}"
    moves = list(plan.moves)
    seized: dict[str, HeldLease] = {}
    fresh = [move.shard.shard_id for move in moves if move.row is not None]
    for _ in range(_SEIZE_ATTEMPTS_MAX):
        held = await _in_parallel(partial(_seize, group, ids, name, owner) for name in fresh)
        seized |= {each.shard_id: each for each in held}
        made = await _made_meanwhile(group, plan, {move.shard.shard_id for move in moves})
        if not made:
            break
        moves += made
        fresh = [move.shard.shard_id for move in made]
    else:
        raise LeaseLostError(f"New shards came {_SEIZE_ATTEMPTS_MAX} times", hint="Seek again")
    known = {name: each.row for name, each in seized.items()}
    for move in reversed(moves):
        await _move(group, ids, owner, move, plan.target, seized, known)


async def _made_meanwhile(group: Group, plan: SeekPlan, moved: Collection[str]) -> list[Move]:
    """Return the moves of descendants whose row a worker has made since the plan, each after its parents.

    Once they and all others are fenced, no more rows come.
    """
    call, stream = group.retrier.call, group.source_stream
    made = {row.shard_id: row for row in await call("list", group.leases.list_leases, attempts_max=ATTEMPTS_MAX)}
    listed = await call("list_shards", lambda: group.kinesis.list_shards(stream), attempts_max=ATTEMPTS_MAX)
    known = {shard.shard_id: shard for shard in (*plan.later, *listed)}
    later = {shard.shard_id for shard in plan.later}
    chosen = descendants(known, later.union(moved, plan.untouched)).difference(moved, plan.untouched)
    order = lineage_order({name: shard.parents for name, shard in known.items()})
    return [Move(known[name], made[name], None) for name in order if name in chosen and name in made]


async def _move(
    group: Group,
    ids: WriteIds,
    owner: str,
    move: Move,
    target: SeekTarget,
    seized: Mapping[str, HeldLease],
    known: Mapping[str, Lease],
) -> None:
    name = move.shard.shard_id
    held = seized.get(name)
    if held is None:
        if await _create(group, row_for(move.shard, target, known)):
            return
        held = await _seize(group, ids, name, owner)
    for _ in range(_SEIZE_ATTEMPTS_MAX):
        try:
            await held.write(change_for(held.row, target))
        except LeaseLostError:
            held = await _seize(group, ids, name, owner)
        else:
            return
    raise LeaseLostError(f"The row of `{name}` was taken back {_SEIZE_ATTEMPTS_MAX} times", hint="Seek again")


async def _create(group: Group, row: Lease) -> bool:
    try:
        await group.retrier.call("create", lambda: group.leases.create_lease(row), attempts_max=ATTEMPTS_MAX)
    except ConditionFailedError:
        return False  # a worker was quicker, or a lost reply of our own: it is moved like any other
    return True


async def _seize(group: Group, ids: WriteIds, shard_id: str, owner: str) -> HeldLease:
    """Take a row from whoever has it: from the next moment on its old owner can write nothing."""
    write_id = ids.draw()
    for _ in range(_SEIZE_ATTEMPTS_MAX):
        seen = await group.retrier.call("read", lambda: group.leases.read_lease(shard_id), attempts_max=ATTEMPTS_MAX)
        if seen is None:
            raise LeaseLostError(f"The lease row of `{shard_id}` is gone", hint="Seek again")
        if seen.write_id == write_id:
            return HeldLease(group.leases, group.retrier, ids, seen)
        change = LeaseChange(owner=owner, epoch=seen.epoch + 1, heartbeat=seen.heartbeat + 1, write_id=write_id)
        expected = LeaseExpectation(epoch=seen.epoch)
        try:
            row = await group.retrier.call(
                "seize",
                lambda: group.leases.update_lease(shard_id, expected, change),  # noqa: B023 - awaited in the turn
                attempts_max=ATTEMPTS_MAX,
            )
        except ConditionFailedError:
            continue  # it changed hands meanwhile, or the reply to our own write was lost
        return HeldLease(group.leases, group.retrier, ids, row)
    raise LeaseLostError(f"The row of `{shard_id}` changed hands {_SEIZE_ATTEMPTS_MAX} times", hint="Seek again")


async def _in_parallel(calls: Iterable[Callable[[], Awaitable[HeldLease]]]) -> list[HeldLease]:
    gate = asyncio.Semaphore(_ROWS_AT_ONCE)

    async def one(call: Callable[[], Awaitable[HeldLease]]) -> HeldLease:
        async with gate:
            return await call()

    async with asyncio.TaskGroup() as tasks:
        found = [tasks.create_task(one(call)) for call in calls]
    return [task.result() for task in found]


def plan_lines(plan: SeekPlan) -> list[str]:
    """Return a plan as lines for people."""
    rows = iter([(move.shard.shard_id, _place(move.row), _again(move)) for move in plan.moves])
    lines = [f"seek to {target_text(plan.target)}", "", *table_lines(("shard", "from", "effect"), rows)]
    if plan.untouched:
        lines += ["", f"{len(plan.untouched):,} finished shards hold nothing of that time and stay as they are"]
    if any(move.again_seconds is None or move.again_seconds > 0 for move in plan.moves):
        lines += [
            "",
            "What is read again is delivered again: destination streams get it twice (the same event_id), S3 gets",
            "new objects (`.g1`, `.g2`, ... in their names) beside the old ones.",
        ]
    return lines


def _place(row: Lease | None) -> str:
    if row is None:
        return "not followed"
    checkpoint = row.checkpoint
    text = position_text(checkpoint.position) if checkpoint.kind is CheckpointKind.NUMBER else checkpoint.text
    return f"{text} + pending flush" if row.pending is not None else text


def _again(move: Move) -> str:
    seconds = move.again_seconds
    if seconds is None:
        return "read again"
    if seconds > 0:
        return f"{span_text(seconds)} read again"
    return f"{span_text(-seconds)} left out" if seconds < 0 else "nothing changes"
