"""The lease row of a shard: ownership, fence, checkpoint, pending S3 flush and duplicate marks, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Final

from shared.hash_key import HashKeyRange
from shared.records import Position

_START: Final = Position(0, 0)


class CheckpointKind(IntEnum):
    """Sentinels in KCL's order: AT_TIMESTAMP < TRIM_HORIZON < LATEST < numbers < SHARD_END."""

    AT_TIMESTAMP = -3
    TRIM_HORIZON = -2
    LATEST = -1
    NUMBER = 0
    SHARD_END = 1


@dataclass(frozen=True, slots=True, order=True)
class Checkpoint:
    """The end of the contiguous acknowledged prefix of a shard, or a sentinel; compares as KCL compares."""

    kind: CheckpointKind
    position: Position = _START

    @classmethod
    def at(cls, position: Position) -> Checkpoint:
        """Everything up to and including `position` is done."""
        return cls(CheckpointKind.NUMBER, position)

    @classmethod
    def parse(cls, text: str, sub_sequence_number: int = 0) -> Checkpoint:
        """Read KCL's text form: a sentinel's name or a decimal sequence number; ValueError on anything else."""
        if text.isascii() and text.isdecimal():
            return cls.at(Position(int(text), sub_sequence_number))
        if text == CheckpointKind.NUMBER.name or text not in CheckpointKind.__members__:
            msg = f"checkpoint is {text[:40]!r}, neither a sequence number nor a sentinel"
            raise ValueError(msg)
        return cls(CheckpointKind[text])

    @property
    def text(self) -> str:
        """KCL's text form, without the sub-sequence number."""
        if self.kind is CheckpointKind.NUMBER:
            return str(self.position.sequence_number)
        return self.kind.name

    @property
    def is_shard_end(self) -> bool:
        """Whether the shard is finished."""
        return self.kind is CheckpointKind.SHARD_END


SHARD_END: Final = Checkpoint(CheckpointKind.SHARD_END)
AT_TRIM_HORIZON: Final = Checkpoint(CheckpointKind.TRIM_HORIZON)
AT_LATEST: Final = Checkpoint(CheckpointKind.LATEST)

# A mark per (source, lane): the text "SOURCE.LANE" -> the highest offset delivered.
Marks = Mapping[str, int]
NO_MARKS: Final[Marks] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class PendingFlush:
    """An S3 flush that was decided and may or may not have happened: the boundary that a new owner must replay.

    The objects hold exactly the user records after the row's checkpoint up to and including `last`.
    """

    keys: tuple[str, ...]
    first: Position
    last: Position
    count: int
    format_version: str


@dataclass(frozen=True, slots=True)
class Lease:
    """One row of the lease table.

    The fence: `epoch` rises by one at each take, `heartbeat` at each renewal, `version` at each data write;
    `write_id` names the last data write or take, so that its author recognises it after a lost reply.
    """

    shard_id: str
    owner: str | None = None
    epoch: int = 0
    heartbeat: int = 0
    version: int = 0
    write_id: str = ""
    checkpoint: Checkpoint = AT_TRIM_HORIZON
    parents: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    hash_key_range: HashKeyRange | None = None
    pending: PendingFlush | None = None
    marks: Marks = field(default_factory=lambda: NO_MARKS)
    attempts: int = 0
    attempted_by: tuple[str, ...] = ()  # the processes whose attempts are among these, each with one at most
    finished_at: float | None = None  # seconds since the epoch; when the shard end was stored
    is_paused: bool = False  # an operator's wish: the owner keeps the lease and reads nothing
    generation: int = 0  # how often an operator moved the checkpoint: objects of two readings have different keys
    start_timestamp: float | None = None  # of AT_TIMESTAMP, seconds since the epoch; None: the application's
    seek_to: Checkpoint | None = None  # where to go once the pending flush is finished
    halted_epoch: int = 0  # the epoch at which its owner halted it; that of now: it is halted
    read_through: float | None = None  # seconds since the epoch; what had arrived by then was read and stored
    closed_until: float | None = None  # seconds since the epoch; no object gets the name of an earlier time any more
    successor: str | None = None  # the worker that asks the owner for this shard
    load: int = 0  # bytes per second that the owner read lately, as of its last commit

    @property
    def is_halted(self) -> bool:
        """Whether its owner has halted it, and nobody has resumed it."""
        return self.owner is not None and self.halted_epoch == self.epoch


@dataclass(frozen=True, slots=True)
class Presence:
    """A worker that says that it is there though it may hold no lease; it is alive as long as `heartbeat` moves."""

    worker_id: str
    heartbeat: int
    is_leaving: bool = False  # it drains: its shards are to be asked for, and it takes none


@dataclass(frozen=True, slots=True)
class TableRows:
    """What one look at the lease table shows; `damaged` are the ids of shards whose row can't be read."""

    leases: tuple[Lease, ...] = ()
    presences: tuple[Presence, ...] = ()
    damaged: tuple[str, ...] = ()


class Unset(Enum):
    """The marker for a field that an update leaves alone."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class LeaseExpectation:
    """The condition of a write: every field that is not UNSET must equal the stored one."""

    owner: str | Unset | None = UNSET
    epoch: int | Unset = UNSET
    heartbeat: int | Unset = UNSET
    version: int | Unset = UNSET
    successor: str | Unset | None = UNSET

    def holds(self, lease: Lease) -> bool:
        """Whether `lease` satisfies the condition."""
        return all(
            expected is UNSET or expected == actual
            for expected, actual in (
                (self.owner, lease.owner),
                (self.epoch, lease.epoch),
                (self.heartbeat, lease.heartbeat),
                (self.version, lease.version),
                (self.successor, lease.successor),
            )
        )


@dataclass(frozen=True, slots=True)
class LeaseChange:
    """What a write sets; fields left UNSET stay as they are."""

    owner: str | Unset | None = UNSET
    epoch: int | Unset = UNSET
    heartbeat: int | Unset = UNSET
    version: int | Unset = UNSET
    write_id: str | Unset = UNSET
    checkpoint: Checkpoint | Unset = UNSET
    children: tuple[str, ...] | Unset = UNSET
    pending: PendingFlush | Unset | None = UNSET
    marks: Marks | Unset = UNSET
    attempts: int | Unset = UNSET
    attempted_by: tuple[str, ...] | Unset = UNSET
    finished_at: float | Unset | None = UNSET
    is_paused: bool | Unset = UNSET
    generation: int | Unset = UNSET
    start_timestamp: float | Unset | None = UNSET
    seek_to: Checkpoint | Unset | None = UNSET
    halted_epoch: int | Unset = UNSET
    read_through: float | Unset | None = UNSET
    closed_until: float | Unset | None = UNSET
    successor: str | Unset | None = UNSET
    load: int | Unset = UNSET

    def apply(self, lease: Lease) -> Lease:
        """Return `lease` with the change made."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return replace(lease, **{name: value for name, value in values.items() if value is not UNSET})
