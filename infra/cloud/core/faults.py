"""What can go wrong with a call, and to which calls it happens: the values that a file of faults is made of."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from shared.hash_key import HashKeyRange

RULES_MAX: Final = 200
STEPS_MAX: Final = 1_000
SECONDS_MAX: Final = 600.0  # of a delay or of a late landing
LATE_COUNT_MAX: Final = 1_000  # requests that may wait to land late at one moment
LATE_BYTES_MAX: Final = 256 * 1024 * 1024  # their bodies together
EXPIRED_ITERATORS_MAX: Final = 10_000

_DRAW: Final = struct.Struct(">QIQI")
_DRAW_BITS: Final = 53

# HTTP status of an error type where the file gives none; whatever is not here is a 400, as most of AWS's are.
_STATUS: Final = {
    "AccessDenied": 403,
    "ConditionalRequestConflict": 409,
    "OperationAborted": 409,
    "PreconditionFailed": 412,
    "InternalError": 500,
    "InternalFailure": 500,
    "InternalFailureException": 500,
    "InternalServerError": 500,
    "ServiceUnavailable": 503,
    "ServiceUnavailableException": 503,
    "SlowDown": 503,
}
_BAD_REQUEST: Final = 400


def draw(seed: int, rule: int, count: int, purpose: int = 0) -> float:
    """Chance from 0 to below 1 that depends on its arguments alone.

    Counter-based (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011): what one rule draws does not
    depend on how often another one did.
    """
    digest = hashlib.blake2b(_DRAW.pack(seed, rule, count, purpose), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> (64 - _DRAW_BITS)) / (1 << _DRAW_BITS)


def status_of(code: str) -> int:
    """The HTTP status that AWS gives to an error type; 400 for an unknown one."""
    return _STATUS.get(code, _BAD_REQUEST)


# To which calls.


class RecordFacts(NamedTuple):
    """One record of a put; `hash_key` and `shard_id` are None and empty where no rule asks for them."""

    partition_key: str
    hash_key: int | None = None
    shard_id: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a call is about; empty where it is about no such thing."""

    service: str
    operation: str
    stream: str = ""
    shard_id: str = ""
    table: str = ""
    bucket: str = ""
    key: str = ""
    iterator: str = ""
    conditional: bool = False
    records: Sequence[RecordFacts] = ()


@dataclass(frozen=True, slots=True)
class Where:
    """The calls and records that a rule is about; None and () mean any. Names may hold `*` and `?`."""

    service: str | None = None
    operations: tuple[str, ...] = ()
    stream: str | None = None
    shard_id: str | None = None
    partition_key: str | None = None
    hash_keys: HashKeyRange | None = None
    table: str | None = None
    bucket: str | None = None
    key_prefix: str | None = None
    conditional: bool | None = None

    @property
    def asks_for_places(self) -> bool:
        """Whether the shard of each record has to be known."""
        return self.shard_id is not None or self.hash_keys is not None

    def takes_call(self, facts: Facts) -> bool:
        """Whether the rule is about this call: of a put with many records, about one of them at least."""
        return (
            _fits(self.service, facts.service)
            and (not self.operations or any(fnmatchcase(facts.operation, each) for each in self.operations))
            and _fits(self.stream, facts.stream)
            and _fits(self.table, facts.table)
            and _fits(self.bucket, facts.bucket)
            and (self.key_prefix is None or facts.key.startswith(self.key_prefix))
            and (self.conditional is None or self.conditional == facts.conditional)
            and self._takes_place(facts)
        )

    def _takes_place(self, facts: Facts) -> bool:
        if self.shard_id is None and self.partition_key is None and self.hash_keys is None:
            return True
        if facts.records:
            return any(self.takes_record(each) for each in facts.records)
        return self.partition_key is None and self.hash_keys is None and _fits(self.shard_id, facts.shard_id)

    def takes_record(self, record: RecordFacts) -> bool:
        """Whether the rule is about this record of a call that it is about."""
        return (
            _fits(self.shard_id, record.shard_id)
            and _fits(self.partition_key, record.partition_key)
            and (self.hash_keys is None or (record.hash_key is not None and record.hash_key in self.hash_keys))
        )


def _fits(pattern: str | None, name: str) -> bool:
    return pattern is None or fnmatchcase(name, pattern)


@dataclass(frozen=True, slots=True)
class When:
    """Which of the matching calls are struck; the window is in seconds since the faults were loaded.

    `nth` and `every` count the calls (for single records: the records) that match inside the window, from 1.
    """

    nth: int | None = None
    every: int | None = None
    after_seconds: float = 0.0
    until_seconds: float = math.inf
    probability: float = 1.0
    hits_max: int | None = None


# What happens to them.


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds: uniform from `seconds_min` to `seconds_max`, or exponential with a mean and cut at `seconds_max`."""

    seconds_min: float = 0.0
    seconds_max: float = SECONDS_MAX
    seconds_mean: float | None = None

    def pick(self, chance: float) -> float:
        """The seconds for a chance from 0 to below 1."""
        if self.seconds_mean is not None:
            return min(self.seconds_max, -self.seconds_mean * math.log1p(-chance))
        return self.seconds_min + (self.seconds_max - self.seconds_min) * chance


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error answer; `code` need not be one that AWS knows."""

    code: str
    status: int
    message: str = "A fault was asked for."


@dataclass(frozen=True, slots=True)
class Delay:
    """The request (or, with `after_landing`, its answer) waits."""

    duration: Duration
    after_landing: bool = False


@dataclass(frozen=True, slots=True)
class Fail:
    """The whole call is refused; with `landed` although it was carried out."""

    refusal: Refusal
    landed: bool = False


@dataclass(frozen=True, slots=True)
class FailRecords:
    """Single records of a PutRecords call are refused, the others land; a PutRecord is refused whole."""

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class LoseRequest:
    """The connection is cut, the call was not carried out."""


@dataclass(frozen=True, slots=True)
class LoseReply:
    """The call is carried out, then the connection is cut."""


@dataclass(frozen=True, slots=True)
class LandLate:
    """The connection is cut (or, with a refusal, an error is answered) at once; the call is carried out later."""

    duration: Duration
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class ExpireIterator:
    """The shard iterator of this GetRecords call is expired from now on."""


@dataclass(frozen=True, slots=True)
class EmptyPage:
    """GetRecords answers no records, without getting ahead, as if they were not found yet."""


@dataclass(frozen=True, slots=True)
class ShortPage:
    """GetRecords answers at most this many records."""

    records_max: int


@dataclass(frozen=True, slots=True)
class SlowBody:
    """The body of the answer trickles."""

    bytes_per_second: int


@dataclass(frozen=True, slots=True)
class CutMidway:
    """The answer is cut in the middle of its body; that of SubscribeToShard after `events` events."""

    events: int = 1


Effect = (
    Delay
    | Fail
    | FailRecords
    | LoseRequest
    | LoseReply
    | LandLate
    | ExpireIterator
    | EmptyPage
    | ShortPage
    | SlowBody
    | CutMidway
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of what goes wrong; `kind` is the effect's name in a file."""

    name: str
    kind: str
    where: Where
    when: When
    effect: Effect


@dataclass(frozen=True, slots=True)
class Reshard:
    """Splits and merges on a schedule, in seconds since the faults were loaded, on one matching stream at a time.

    `kind` is split, merge, count or random. Without `shard_id` the seed chooses; `shard_count` is what `count` scales
    to; `random` keeps within `shards_min` and `shards_max`.
    """

    name: str
    stream: str = "*"
    kind: str = "random"
    at_seconds: tuple[float, ...] = ()
    every_seconds: float | None = None
    times_max: int | None = None
    shard_id: str | None = None
    shard_count: int | None = None
    shards_min: int = 1
    shards_max: int = 16


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Everything that goes wrong: rules by chance or count, steps one after the other, reshards by the clock."""

    seed: int = 0
    rules: tuple[Rule, ...] = ()
    steps: tuple[Rule, ...] = ()
    reshards: tuple[Reshard, ...] = field(default=())
