"""The way in: which records of a PutRecord or PutRecords call a stream accepts, and where they land."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from infra.cloud.core.api_error import ApiError, invalid_argument, validation_failed
from infra.cloud.core.journal import Journal, Landed
from infra.cloud.core.sequence import epoch_of, parse_sequence_number
from infra.cloud.core.shard import Shard
from infra.cloud.core.stream import AUTO, Stream
from shared.hash_key import hash_key_of
from shared.limits import (
    HASH_KEY_MAX,
    PARTITION_KEY_CHARACTERS_MAX,
    PUT_RECORDS_BYTES_MAX,
    PUT_RECORDS_COUNT_MAX,
    RECORD_BYTES_MAX_CEILING,
)

THROTTLED: Final = "ProvisionedThroughputExceededException"
_HASH_KEY: Final = re.compile(r"0|[1-9][0-9]{0,38}", re.ASCII)


class PutEntry(NamedTuple):
    """One record to put; without a partition key only under distribution AUTO."""

    data: bytes
    partition_key: str | None
    explicit_hash_key: str | None = None


class PutOutcome(NamedTuple):
    """What became of one record: shard and sequence number, or an error code and its message."""

    shard_id: str | None
    sequence_number: str | None
    error_code: str | None = None
    error_message: str | None = None


class _Placed(NamedTuple):
    shard: Shard
    entry: PutEntry


def parse_hash_key(text: str, member: str) -> int:
    """Read a hash key of the ring; an ill-formed or too large one refuses the call."""
    if not _HASH_KEY.fullmatch(text):
        validation_failed(text, member, r"Member must satisfy regular expression pattern: 0|([1-9]\d{0,38})")
    value = int(text)
    if value > HASH_KEY_MAX:
        name = member[:1].upper() + member[1:]
        invalid_argument(f"Invalid {name}. {name} must be in the range: [0, 2^128-1]. Specified value was {text}")
    return value


def check_ordering_number(stream: Stream, text: str, now: float) -> None:
    """Refuse a SequenceNumberForOrdering that no shard can have given; a real one is always satisfied here."""
    number = parse_sequence_number(text)
    if number is None:
        validation_failed(text, "sequenceNumberForOrdering", r"Member must satisfy pattern: 0|([1-9]\d{0,128})")
    epoch_ms = epoch_of(number)
    if epoch_ms is None or epoch_ms / 1_000 > now + 1:
        invalid_argument(
            f"ExclusiveMinimumSequenceNumber {text} used in PutRecord on stream {stream.name} under account "
            f"{stream.account_id} is invalid."
        )


def put(
    stream: Stream,
    entries: Sequence[PutEntry],
    now: float,
    *,
    limits_enforced: bool,
    journal: Journal | None,
) -> list[PutOutcome]:
    """Append what the limits let in and answer each entry in its place.

    An invalid entry refuses the whole call before anything is appended; a throttled shard refuses single entries.
    The journal is written before the records are visible, so nothing that a reader saw can be lost by a crash.
    """
    hash_keys = _checked(stream, entries)
    placed, refused = _place(stream, entries, hash_keys, now, limits_enforced=limits_enforced)
    if journal is not None and placed:
        landed = [Landed(each.shard.index, each.entry.data, each.entry.partition_key or "") for each in placed]
        try:
            journal.records_appended(stream.uid, now, landed)
        except OSError as error:
            raise ApiError("InternalFailure", f"the records could not be kept: {error.strerror}") from error
    appended = iter(placed)
    outcomes: list[PutOutcome] = []
    for index in range(len(entries)):
        if index in refused:
            outcomes.append(refused[index])
            continue
        shard, entry = next(appended)
        counter = shard.log.append(entry.data, entry.partition_key or "", now)
        outcomes.append(PutOutcome(shard.shard_id, shard.numbers.text(counter)))
    return outcomes


def _checked(stream: Stream, entries: Sequence[PutEntry]) -> list[int | None]:
    """Each entry's hash key (None: the service chooses the shard), or the refusal of the call."""
    if not 1 <= len(entries) <= PUT_RECORDS_COUNT_MAX:
        bound = "less than or equal to 500" if entries else "greater than or equal to 1"
        validation_failed(f"{len(entries)} records", "records", f"Member must have length {bound}")
    hash_keys: list[int | None] = []
    total = 0
    for entry in entries:
        hash_key, size = _checked_entry(stream, entry)
        hash_keys.append(hash_key)
        total += size
    if total > PUT_RECORDS_BYTES_MAX:
        invalid_argument(f"Records size exceeds 10 MB limit: {total} bytes, at most {PUT_RECORDS_BYTES_MAX}")
    return hash_keys


def _checked_entry(stream: Stream, entry: PutEntry) -> tuple[int | None, int]:
    """One entry's hash key and size in bytes."""
    data, key, explicit = entry
    size = len(data)
    if size > RECORD_BYTES_MAX_CEILING:
        validation_failed(
            f"{size} bytes",
            "data",
            f"Member must have length less than or equal to {RECORD_BYTES_MAX_CEILING}",
        )
    if key is None:
        if stream.distribution != AUTO:
            validation_failed("null", "partitionKey", "Member must not be null")
    else:
        if not 1 <= len(key) <= PARTITION_KEY_CHARACTERS_MAX:
            bound = "less than or equal to 256" if key else "greater than or equal to 1"
            validation_failed(key, "partitionKey", f"Member must have length {bound}")
        size += len(key) if key.isascii() else len(key.encode())
    if size > stream.record_bytes_max:
        invalid_argument(
            f"Record of {size} bytes (data and partition key) in stream {stream.name} exceeds the stream's maximum "
            f"record size of {stream.record_bytes_max} bytes"
        )
    forced = None if explicit is None else parse_hash_key(explicit, "explicitHashKey")
    if stream.distribution == AUTO or key is None:
        return None, size
    return (hash_key_of(key) if forced is None else forced), size


def _place(
    stream: Stream,
    entries: Sequence[PutEntry],
    hash_keys: list[int | None],
    now: float,
    *,
    limits_enforced: bool,
) -> tuple[list[_Placed], dict[int, PutOutcome]]:
    """Split the entries into those that a shard takes and those that it throttles, by position."""
    placed: list[_Placed] = []
    refused: dict[int, PutOutcome] = {}
    seen: set[int] = set()
    for index, (entry, hash_key) in enumerate(zip(entries, hash_keys, strict=True)):
        shard = stream.next_shard() if hash_key is None else stream.shard_for(hash_key)
        if limits_enforced:
            if shard.index not in seen:
                seen.add(shard.index)
                shard.writes.refill(now)
            if not shard.writes.take(len(entry.data) + len(entry.partition_key or "")):
                refused[index] = PutOutcome(None, None, THROTTLED, rate_exceeded(stream, shard))
                continue
        placed.append(_Placed(shard, entry))
    return placed, refused


def rate_exceeded(stream: Stream, shard: Shard) -> str:
    """The sentence of a throttled shard, as AWS writes it."""
    return f"Rate exceeded for shard {shard.shard_id} in stream {stream.name} under account {stream.account_id}."
