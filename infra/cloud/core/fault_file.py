"""From the text of a file of faults (TOML, or the same as JSON) to a plan that is valid as a whole."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final

from infra.cloud.core.fault_table import FaultTable
from infra.cloud.core.faults import (
    RULES_MAX,
    SECONDS_MAX,
    STEPS_MAX,
    CutMidway,
    Delay,
    Duration,
    Effect,
    EmptyPage,
    ExpireIterator,
    Fail,
    FailRecords,
    FaultPlan,
    LandLate,
    LoseReply,
    LoseRequest,
    Refusal,
    Reshard,
    Rule,
    ShortPage,
    SlowBody,
    When,
    Where,
    status_of,
)
from shared.errors import ConfigurationError
from shared.hash_key import HashKeyRange
from shared.limits import GET_RECORDS_COUNT_MAX, HASH_KEY_MAX, SHARDS_PER_STREAM_MAX

FILE_BYTES_MAX: Final = 256 * 1024
RESHARDS_MAX: Final = 50
RESHARD_KINDS: Final = frozenset({"split", "merge", "count", "random"})

_THROTTLED: Final = "ProvisionedThroughputExceededException"
_COUNT_MAX: Final = 10**12
_CLOCK_MAX: Final = 10**9  # seconds since the faults were loaded
_SEED_MAX: Final = 2**63 - 1
_EVERY_SECONDS_MIN: Final = 0.1
_BYTES_PER_SECOND_MIN: Final = 1_024
_EXPONENTIAL_SECONDS_MAX: Final = 60.0
_HASH_KEY_ENDS: Final = 2


def parse_faults(text: bytes) -> FaultPlan:
    """Read TOML, or JSON if it begins with a brace; raises ConfigurationError that names what is wrong and where."""
    if len(text) > FILE_BYTES_MAX:
        raise ConfigurationError(f"the faults have {len(text)} bytes, at most {FILE_BYTES_MAX} are taken")
    try:
        decoded = text.decode()
        values = json.loads(decoded) if decoded.lstrip().startswith("{") else tomllib.loads(decoded)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the faults are neither TOML nor JSON: {str(error)[:200]}") from error
    return plan_of(values)


def plan_of(values: object) -> FaultPlan:
    """Check decoded values and make the plan of them."""
    table = FaultTable(values, "the file")
    seed = table.integer("seed", 0, _SEED_MAX) or 0
    rules = table.tables("rule", RULES_MAX)
    steps = table.tables("step", STEPS_MAX)
    reshards = table.tables("reshard", RESHARDS_MAX)
    table.close()
    return FaultPlan(
        seed,
        tuple(_rule(each, f"rule {number}") for number, each in enumerate(rules, start=1)),
        tuple(_step(each, f"step {number}") for number, each in enumerate(steps, start=1)),
        tuple(reshard_of(each, f"reshard {number}") for number, each in enumerate(reshards, start=1)),
    )


# Rules and steps.


def _rule(values: object, place: str) -> Rule:
    table = FaultTable(values, place)
    after = table.number("after_seconds", 0, _CLOCK_MAX)
    until = table.number("until_seconds", 0, _CLOCK_MAX)
    probability = table.number("probability", 0, 1)
    when = When(
        nth=table.integer("nth", 1, _COUNT_MAX),
        every=table.integer("every", 1, _COUNT_MAX),
        after_seconds=after or 0.0,
        until_seconds=float("inf") if until is None else until,
        probability=1.0 if probability is None else probability,
        hits_max=table.integer("hits_max", 1, _COUNT_MAX),
    )
    if when.nth is not None and when.every is not None:
        raise table.wrong("every", "and `nth` can't both be given")
    if when.until_seconds <= when.after_seconds:
        raise table.wrong("until_seconds", f"is {when.until_seconds:g}, not after `after_seconds`")
    return _finished(table, when, place)


def _step(values: object, place: str) -> Rule:
    """A step waits for the step before, then for its nth call, and strikes that and the next `times` - 1 ones."""
    table = FaultTable(values, place)
    when = When(nth=table.integer("nth", 1, _COUNT_MAX) or 1, hits_max=table.integer("times", 1, _COUNT_MAX) or 1)
    return _finished(table, when, place)


def _finished(table: FaultTable, when: When, place: str) -> Rule:
    kind = table.choice("effect", _EFFECTS.keys())
    if kind is None:
        raise table.wrong("effect", "is missing", hint=f"one of: {', '.join(sorted(_EFFECTS))}")
    name = table.text("name") or place
    where = _where(table, kind)
    effect = _EFFECTS[kind](table)
    table.close()
    return Rule(name, kind, where, when, effect)


def _where(table: FaultTable, kind: str) -> Where:
    service = table.text("service")
    operations = table.texts("operation")
    only = _ONLY_FOR.get(kind)
    if only is not None:
        operations = operations or only
        if service not in {None, "kinesis"} or not set(operations) <= set(only):
            raise table.wrong("effect", f"`{kind}` is for Kinesis {' and '.join(only)} only")
        service = "kinesis"
    return Where(
        service=service,
        operations=operations,
        stream=table.text("stream"),
        shard_id=table.text("shard"),
        partition_key=table.text("partition_key"),
        hash_keys=_hash_keys(table),
        table=table.text("table"),
        bucket=table.text("bucket"),
        key_prefix=table.text("key_prefix"),
        conditional=table.flag("conditional"),
    )


def _hash_keys(table: FaultTable) -> HashKeyRange | None:
    ends = table.texts("hash_keys")
    if not ends:
        return None
    if len(ends) != _HASH_KEY_ENDS or not all(each.isascii() and each.isdecimal() for each in ends):
        raise table.wrong("hash_keys", 'is not a pair of decimal numbers in quotes, as in ["0", "1000"]')
    start, end = (int(each) for each in ends)
    if not start <= end <= HASH_KEY_MAX:
        raise table.wrong("hash_keys", "is not a range inside 0 to 2^128 - 1")
    return HashKeyRange(start, end)


# Effects.


def _duration(table: FaultTable) -> Duration:
    fixed = table.number("seconds", 0, SECONDS_MAX)
    low = table.number("seconds_min", 0, SECONDS_MAX)
    high = table.number("seconds_max", 0, SECONDS_MAX)
    mean = table.number("seconds_mean", 0, SECONDS_MAX)
    match (fixed, low, high, mean):
        case (float(), None, None, None):
            return Duration(fixed, fixed)
        case (None, _, float(), None) if (low or 0.0) <= high:
            return Duration(low or 0.0, high)
        case (None, None, _, float()):
            return Duration(0.0, _EXPONENTIAL_SECONDS_MAX if high is None else high, mean)
    raise table.wrong(
        "seconds",
        "must be given alone, or `seconds_min` and `seconds_max`, or `seconds_mean` with or without `seconds_max`",
    )


def _refusal(table: FaultTable, code_default: str | None) -> Refusal:
    code = table.text("code") or code_default
    if code is None:
        raise table.wrong("code", "is missing", hint='an error type, such as code = "InternalFailure"')
    if not code.isascii() or not code.isprintable():
        raise table.wrong("code", "has characters that no error type has")
    status = table.integer("status", 400, 599)
    message = table.text("message")
    refusal = Refusal(code, status_of(code) if status is None else status)
    return refusal if message is None else Refusal(refusal.code, refusal.status, message)


def _delay(table: FaultTable) -> Effect:
    return Delay(_duration(table), after_landing=table.choice("where", {"before", "after"}) == "after")


def _error(table: FaultTable) -> Effect:
    return Fail(_refusal(table, None), landed=table.flag("landed") or False)


def _land_late(table: FaultTable) -> Effect:
    duration = _duration(table)
    answers = table.has("code")
    return LandLate(duration, _refusal(table, None) if answers else None)


def _short_page(table: FaultTable) -> Effect:
    return ShortPage(table.integer("records_max", 1, GET_RECORDS_COUNT_MAX) or 1)


def _slow_body(table: FaultTable) -> Effect:
    rate = table.integer("bytes_per_second", _BYTES_PER_SECOND_MIN, _COUNT_MAX)
    return SlowBody(_BYTES_PER_SECOND_MIN if rate is None else rate)


def _cut_midway(table: FaultTable) -> Effect:
    events = table.integer("events", 0, _COUNT_MAX)
    return CutMidway(1 if events is None else events)


_EFFECTS: Final[Mapping[str, Callable[[FaultTable], Effect]]] = {
    "delay": _delay,
    "error": _error,
    "fail_records": lambda table: FailRecords(_refusal(table, _THROTTLED)),
    "lose_request": lambda _table: LoseRequest(),
    "lose_reply": lambda _table: LoseReply(),
    "land_late": _land_late,
    "expire_iterator": lambda _table: ExpireIterator(),
    "empty_page": lambda _table: EmptyPage(),
    "short_page": _short_page,
    "slow_body": _slow_body,
    "cut_midway": _cut_midway,
}
_ONLY_FOR: Final[Mapping[str, tuple[str, ...]]] = {
    "fail_records": ("PutRecords", "PutRecord"),
    "expire_iterator": ("GetRecords",),
    "empty_page": ("GetRecords",),
    "short_page": ("GetRecords",),
}


# Reshards.


def reshard_of(values: Any, place: str, *, needs_time: bool = True) -> Reshard:
    """One schedule of splits and merges; without `needs_time` it is one that happens now."""
    table = FaultTable(values, place)
    kind = table.choice("kind", RESHARD_KINDS) or "random"
    reshard = Reshard(
        name=table.text("name") or place,
        stream=table.text("stream") or "*",
        kind=kind,
        at_seconds=tuple(sorted(table.numbers("at_seconds", 0, _CLOCK_MAX))) if needs_time else (),
        every_seconds=table.number("every_seconds", _EVERY_SECONDS_MIN, _CLOCK_MAX) if needs_time else None,
        times_max=table.integer("times_max", 1, _COUNT_MAX) if needs_time else None,
        shard_id=table.text("shard"),
        shard_count=table.integer("shard_count", 1, SHARDS_PER_STREAM_MAX),
        shards_min=table.integer("shards_min", 1, SHARDS_PER_STREAM_MAX) or 1,
        shards_max=table.integer("shards_max", 1, SHARDS_PER_STREAM_MAX) or 16,
    )
    table.close()
    if needs_time and bool(reshard.at_seconds) == (reshard.every_seconds is not None):
        raise table.wrong("at_seconds", "or `every_seconds` is needed, one of them")
    if (kind == "count") != (reshard.shard_count is not None):
        raise table.wrong("shard_count", 'belongs to kind = "count", which needs it')
    if reshard.shard_id is not None and kind not in {"split", "merge"}:
        raise table.wrong("shard", 'belongs to kind = "split" or "merge"')
    if reshard.shards_max < reshard.shards_min:
        raise table.wrong("shards_max", f"is {reshard.shards_max}, less than `shards_min`")
    return reshard
