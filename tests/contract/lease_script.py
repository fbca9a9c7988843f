"""Random scripts for the lease table, with conditions that hold about as often as they don't."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Any, Final

from shared.hash_key import HashKeyRange
from shared.lease import (
    AT_LATEST,
    AT_TRIM_HORIZON,
    SHARD_END,
    UNSET,
    Checkpoint,
    Lease,
    LeaseChange,
    LeaseExpectation,
    PendingFlush,
    Presence,
)
from shared.limits import HASH_KEY_MAX
from shared.ports import ConditionFailedError, LeaseStore
from shared.records import Position
from tests.contract.answer import answer_of

STEPS: Final = 22
_SHARDS: Final = tuple(f"shardId-{index:012}" for index in range(5))
_OWNERS: Final = (None, "worker-1", "worker-2", "arbeiter-ü")


@dataclass(frozen=True, slots=True)
class Create:
    """Write a row if there is none."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Update:
    """Change a row under a condition."""

    shard_id: str
    expectation: LeaseExpectation
    change: LeaseChange

    def __str__(self) -> str:
        return f"Update {self.shard_id} if {_given(self.expectation)}: {_given(self.change)}"


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a row under a condition."""

    shard_id: str
    expectation: LeaseExpectation

    def __str__(self) -> str:
        return f"Delete {self.shard_id} if {_given(self.expectation)}"


@dataclass(frozen=True, slots=True)
class ReadLease:
    """Read one row."""

    shard_id: str


@dataclass(frozen=True, slots=True)
class ListLeases:
    """Read all rows."""


@dataclass(frozen=True, slots=True)
class WritePresence:
    """Says that a worker is there."""

    presence: Presence


@dataclass(frozen=True, slots=True)
class DeletePresence:
    """Takes a presence away."""

    worker_id: str
    heartbeat: int | None


@dataclass(frozen=True, slots=True)
class WriteApplication:
    """Store the application's row."""

    description: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class HoldSchema:
    """Store columns unless there are some."""

    schema: str


@dataclass(frozen=True, slots=True)
class DeleteApplication:
    """Take away the application's row and the columns."""


@dataclass(frozen=True, slots=True)
class ReadApplication:
    """Read the application's row."""


_NAMING = frozenset({"owner", "successor"})  # fields of a condition that name a worker

LeaseStep = (
    Create
    | Update
    | Delete
    | ReadLease
    | ListLeases
    | WriteApplication
    | HoldSchema
    | ReadApplication
    | DeleteApplication
    | WritePresence
    | DeletePresence
)


_OF_THE_APPLICATION: Final = (ReadApplication(), ReadApplication(), DeleteApplication())


def _given(values: LeaseExpectation | LeaseChange) -> dict[str, Any]:
    return {each.name: getattr(values, each.name) for each in fields(values) if getattr(values, each.name) is not UNSET}


@dataclass(slots=True)
class LeaseScript:
    """A script; the rows are known only to make conditions that can hold."""

    random: Random
    steps: list[LeaseStep] = field(init=False, default_factory=list)
    _rows: dict[str, Lease] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        actions = (self._create, self._update, self._delete, self._read, self._application, self._presence)
        for _ in range(STEPS):
            self.random.choices(actions, (22, 50, 8, 10, 10, 8))[0]()
        self.steps += [ListLeases(), ReadApplication()]

    def _create(self) -> None:
        lease = self._lease(self.random.choice(_SHARDS))
        self._rows.setdefault(lease.shard_id, lease)
        self.steps.append(Create(lease))

    def _update(self) -> None:
        shard_id = self.random.choice(sorted(self._rows) if self._rows and self.random.random() < 0.9 else _SHARDS)
        expectation, change = self._expectation(shard_id), self._change()
        row = self._rows.get(shard_id)
        if row is not None and expectation.holds(row):
            self._rows[shard_id] = change.apply(row)
        self.steps.append(Update(shard_id, expectation, change))

    def _delete(self) -> None:
        shard_id = self.random.choice(_SHARDS)
        expectation = self._expectation(shard_id)
        if shard_id in self._rows and expectation.holds(self._rows[shard_id]):
            del self._rows[shard_id]
        self.steps.append(Delete(shard_id, expectation))

    def _read(self) -> None:
        self.steps.append(self.random.choice((ListLeases(), ReadLease(self.random.choice(_SHARDS)))))

    def _application(self) -> None:
        streams = self.random.sample(("raw", "sessions", "ünïcode"), 2)
        description = {"streams": streams, "bucket": "b", "prefix": "", "since": self.random.random(), "gone": None}
        if self.random.random() < 0.7:
            description["source_stream"] = self.random.choice(("in", "ünïcode"))
        schema = HoldSchema(f'{{"columns": {self.random.random()}}}')
        self.steps.append(self.random.choice((*_OF_THE_APPLICATION, WriteApplication(description), schema)))

    def _presence(self) -> None:
        worker_id, heartbeat = self.random.choice(("worker-1", "worker/ü")), self.random.randrange(2)
        writing = WritePresence(Presence(worker_id, heartbeat, is_leaving=self.random.random() < 0.5))
        deleting = DeletePresence(worker_id, self.random.choice((None, heartbeat)))
        self.steps.append(self.random.choice((writing, deleting)))

    def _expectation(self, shard_id: str) -> LeaseExpectation:
        """Draw a subset of the fields; one of them is wrong now and then."""
        row = self._rows.get(shard_id) or self._lease(shard_id)
        names = [each.name for each in fields(LeaseExpectation)]
        chosen = {name: getattr(row, name) for name in names if self.random.random() < 0.5}
        if chosen and self.random.random() < 0.35:
            wrong = self.random.choice(sorted(chosen))
            chosen[wrong] = self.random.choice(_OWNERS) if wrong in _NAMING else chosen[wrong] + 1
        return LeaseExpectation(**chosen)

    def _change(self) -> LeaseChange:
        new = self._lease("")
        names = [each.name for each in fields(LeaseChange)]
        return LeaseChange(**{name: getattr(new, name) for name in names if self.random.random() < 0.3})

    def _lease(self, shard_id: str) -> Lease:
        draw = self.random
        start = draw.randrange(HASH_KEY_MAX)
        return Lease(
            shard_id=shard_id,
            owner=draw.choice(_OWNERS),
            epoch=draw.randrange(3),
            heartbeat=draw.randrange(3),
            version=draw.randrange(3),
            write_id=draw.choice(("", "w-1", "w-2")),
            checkpoint=draw.choice((AT_TRIM_HORIZON, AT_LATEST, SHARD_END, Checkpoint.at(self._position()))),
            parents=draw.choice(((), ("p",), ("p", "q"), ("q", "p"))),
            children=draw.choice(((), ("c",), ("d", "c"), ("c", "d"))),
            hash_key_range=draw.choice((None, HashKeyRange(start, HASH_KEY_MAX), HashKeyRange(0, start))),
            pending=draw.choice((None, self._pending())),
            marks={
                f"source-{draw.randrange(9)}.{lane}": draw.getrandbits(48) for lane in range(draw.choice((0, 1, 5)))
            },
            attempts=draw.randrange(3),
            finished_at=draw.choice((None, 0.0, 1_790_000_000.25, draw.uniform(1e9, 2e9))),
            is_paused=draw.choice((False, True)),
            generation=draw.randrange(3),
            start_timestamp=draw.choice((None, 1_790_000_000.25)),
            seek_to=draw.choice((None, AT_TRIM_HORIZON)),
            read_through=draw.choice((None, 1_790_000_000.5)),
            closed_until=draw.choice((None, 1_790_000_000.25)),
            successor=draw.choice(_OWNERS),
            load=draw.randrange(3),
            attempted_by=draw.choice(((), ("a",), ("a", "b"))),
        )

    def _position(self) -> Position:
        return Position(self.random.getrandbits(185), self.random.choice((0, 0, 7, 9_999)))

    def _pending(self) -> PendingFlush:
        keys = tuple(f"raw/ü/{self.random.getrandbits(32):08x}.gz" for _ in range(self.random.choice((0, 1, 3))))
        return PendingFlush(keys, self._position(), self._position(), self.random.getrandbits(20), "1")


async def run_leases(port: LeaseStore, steps: list[LeaseStep]) -> list[Any]:
    """Take every step at a lease store; an answer for each."""
    return [await answer_of(lambda step=step: _take(port, step)) for step in steps]  # type: ignore[misc]


async def _take(port: LeaseStore, step: LeaseStep) -> Any:
    answer: Any = None
    try:
        match step:
            case Create():
                await port.create_lease(step.lease)
            case Update():
                answer = shown(await port.update_lease(step.shard_id, step.expectation, step.change))
            case Delete():
                await port.delete_lease(step.shard_id, step.expectation)
            case ReadLease():
                answer = shown(await port.read_lease(step.shard_id))
            case ListLeases():
                rows = await port.list_rows()
                assert await port.list_leases() == rows.leases
                answer = [shown(each) for each in rows.leases], sorted(rows.presences, key=repr), rows.damaged
            case _:
                answer = await _take_other(port, step)
    except ConditionFailedError as refusal:
        answer = "condition failed", shown(refusal.current)
    return answer


async def _take_other(port: LeaseStore, step: LeaseStep) -> Any:
    match step:
        case WritePresence():
            await port.write_presence(step.presence)
        case DeletePresence():
            await port.delete_presence(step.worker_id, step.heartbeat)
        case WriteApplication():
            return await port.write_application(step.description)
        case DeleteApplication():
            await port.delete_application()
        case HoldSchema():
            return await port.hold_schema(step.schema)
        case ReadApplication():
            return await port.read_application()
    return None


def shown(lease: Lease | None) -> Lease | None:
    """Return the row with its marks as a plain mapping."""
    return None if lease is None else replace(lease, marks=dict(lease.marks))


def every_expectation(row: Lease) -> list[LeaseExpectation]:
    """Return each subset of the fields, as it holds, and with each of its fields wrong in turn."""
    found: list[LeaseExpectation] = []
    names = [each.name for each in fields(LeaseExpectation)]
    for bits in range(2 ** len(names)):
        chosen = [name for index, name in enumerate(names) if bits >> index & 1]
        holding = LeaseExpectation(**{name: getattr(row, name) for name in chosen})
        found.append(holding)
        for name in chosen:
            wrongs = ("somebody", None) if name in _NAMING else (getattr(row, name) + 1,)
            found += [replace(holding, **{name: wrong}) for wrong in wrongs if wrong != getattr(row, name)]
    return found
