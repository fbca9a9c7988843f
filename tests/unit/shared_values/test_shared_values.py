"""The values that travel: hash keys, lanes, leases and their rows, errors and how they are told."""

from __future__ import annotations

import inspect
import traceback
import zlib
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import errors
from shared.aws.lease_item import item_from_lease, lease_from_item
from shared.errors import HeadraceError, InvalidRequestError, StreamNotFoundError
from shared.hash_key import FULL_RANGE, HashKeyRange, even_ranges, hash_key_of, holes
from shared.lease import (
    AT_LATEST,
    AT_TRIM_HORIZON,
    SHARD_END,
    UNSET,
    Checkpoint,
    CheckpointKind,
    Lease,
    LeaseChange,
    LeaseExpectation,
    PendingFlush,
)
from shared.limits import HASH_KEY_MAX, MIB
from shared.records import Position, Shard

SEQUENCE_MAX = 2**186  # Kinesis's sequence numbers stay below it
sequence_numbers = st.integers(0, SEQUENCE_MAX)
positions = st.builds(Position, sequence_numbers, st.integers(0, 200_000))
shard_ids = st.integers(0, 10**12 - 1).map("shardId-{:012}".format)
words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=40)
shard_sets = st.sets(shard_ids, max_size=2).map(lambda found: tuple(sorted(found)))
hash_keys = st.integers(0, HASH_KEY_MAX)
ranges = st.tuples(hash_keys, hash_keys).map(lambda pair: HashKeyRange(min(pair), max(pair)))
checkpoints = st.one_of(
    st.sampled_from([AT_TRIM_HORIZON, AT_LATEST, SHARD_END, Checkpoint(CheckpointKind.AT_TIMESTAMP)]),
    positions.map(Checkpoint.at),
)
pendings = st.builds(
    PendingFlush, st.lists(words, max_size=4).map(tuple), positions, positions, st.integers(0, 10**6), words
)
leases = st.builds(
    Lease,
    shard_id=shard_ids,
    owner=st.none() | words,
    epoch=st.integers(0, 2**53),
    heartbeat=st.integers(0, 2**53),
    version=st.integers(0, 2**53),
    write_id=st.just("") | words,
    checkpoint=checkpoints,
    parents=shard_sets,
    children=shard_sets,
    hash_key_range=st.none() | ranges,
    pending=st.none() | pendings,
    marks=st.dictionaries(words, st.integers(0, 2**63), max_size=20),
    attempts=st.integers(0, 100),
    finished_at=st.none() | st.floats(0, 4e9, allow_nan=False),
    is_paused=st.booleans(),
    generation=st.integers(0, 10**6),
    start_timestamp=st.none() | st.floats(0, 4e9, allow_nan=False),
    seek_to=st.none() | st.sampled_from([AT_TRIM_HORIZON, Checkpoint(CheckpointKind.AT_TIMESTAMP)]),
    read_through=st.none() | st.floats(0, 4e9, allow_nan=False),
    closed_until=st.none() | st.floats(0, 4e9, allow_nan=False),
)


# Hash keys and lanes.


def test_hash_key_is_the_md5_of_the_key() -> None:
    """The hash key is MD5 as a big-endian number: known values of RFC 1321."""
    assert hash_key_of("") == 0xD41D8CD98F00B204E9800998ECF8427E
    assert hash_key_of("abc") == 0x900150983CD24FB0D6963F7D28E17F72


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=5), ranges)
def test_a_range_holds_all_keys_that_it_holds_one_by_one(keys: list[str], hash_key_range: HashKeyRange) -> None:
    """Whether a range has all of some keys is no matter of how it is asked, at its very ends neither."""
    hashed = sorted(map(hash_key_of, keys))
    if keys:
        assert HashKeyRange(hashed[0], hashed[-1]).holds_all(keys)
        assert not HashKeyRange(hashed[0] + 1, HASH_KEY_MAX).holds_all(keys)
        assert not HashKeyRange(0, hashed[-1] - 1).holds_all(keys)
    assert hash_key_range.holds_all(keys) == all(each in hash_key_range for each in hashed)


@given(st.integers(1, 400))
def test_even_ranges_cover_the_ring_once(count: int) -> None:
    """Cut into any number of parts, the ring has no hole, no overlap, and parts of nearly the same width."""
    parts = even_ranges(count)
    assert (parts[0].start, parts[-1].end, len(parts)) == (0, HASH_KEY_MAX, count)
    assert all(left.end + 1 == right.start and left.is_adjacent_to(right) for left, right in pairwise(parts))
    assert max(part.width for part in parts) - min(part.width for part in parts) < count
    assert holes(list(parts)) == []


@given(st.lists(ranges, max_size=8), hash_keys)
def test_holes_are_what_no_range_covers(covered: list[HashKeyRange], key: int) -> None:
    """Each hash key is either in a range or in a hole, never in both."""
    assert any(key in each for each in covered) != any(key in each for each in holes(covered))


@pytest.mark.parametrize(("start", "end"), [(-1, 0), (1, 0), (0, HASH_KEY_MAX + 1)])
def test_a_range_outside_the_ring_is_refused(start: int, end: int) -> None:
    """A range that is empty or leaves the ring can't be made."""
    with pytest.raises(ValueError, match=r"is not inside 0\.\.2\^128-1"):
        HashKeyRange(start, end)


def test_no_part_of_the_ring_is_an_error() -> None:
    """Cutting the ring into no parts is refused."""
    with pytest.raises(ValueError, match="shard count is 0"):
        even_ranges(0)


def test_a_shard_knows_its_parents_and_whether_it_is_open() -> None:
    """None, one (split) or two (merge) parents; open as long as it has no last number."""
    assert (Shard("a").parents, Shard("a").is_open) == ((), True)
    merged = Shard("a", FULL_RANGE, "p", "q", 1, 9)
    assert (merged.parents, merged.is_open) == (("p", "q"), False)


# Checkpoints, expectations, changes.


def test_checkpoints_compare_as_kcl_compares() -> None:
    """Sentinels lie around all numbers; numbers compare by sequence number, then by sub-sequence number."""
    at = [Checkpoint.at(Position(*each)) for each in ((9, 0), (9, 1), (10, 0))]
    timestamp = Checkpoint(CheckpointKind.AT_TIMESTAMP)
    assert sorted([SHARD_END, at[2], AT_LATEST, at[0], timestamp, at[1], AT_TRIM_HORIZON]) == [
        timestamp,
        AT_TRIM_HORIZON,
        AT_LATEST,
        *at,
        SHARD_END,
    ]


@given(checkpoints)
def test_checkpoint_text_is_read_back(checkpoint: Checkpoint) -> None:
    """KCL's text form loses nothing but the sub-sequence number, which travels beside it."""
    assert Checkpoint.parse(checkpoint.text, checkpoint.position.sub_sequence_number) == checkpoint


@pytest.mark.parametrize("text", ["", "NUMBER", "shard_end", "-1", "1.5", "٣", "12a", "x" * 1000])
def test_a_damaged_checkpoint_is_refused(text: str) -> None:
    """What is neither a number nor a sentinel is an error, and the message stays short."""
    with pytest.raises(ValueError, match="neither a sequence number nor a sentinel") as failure:
        Checkpoint.parse(text)
    assert len(str(failure.value)) < 120


@given(leases, leases)
def test_an_expectation_holds_only_for_its_row(one: Lease, other: Lease) -> None:
    """A full expectation holds for the row it was made of, and for another only if the four fields agree."""
    expectation = LeaseExpectation(one.owner, one.epoch, one.heartbeat, one.version)
    assert expectation.holds(one)
    fields = ("owner", "epoch", "heartbeat", "version")
    assert expectation.holds(other) == all(getattr(one, name) == getattr(other, name) for name in fields)
    assert LeaseExpectation().holds(other)


def test_a_change_sets_what_it_names() -> None:
    """Fields left unset stay; None clears the owner, and that is not the same as unset."""
    lease = Lease("s", owner="w", epoch=3, version=8)
    assert LeaseChange().apply(lease) == lease
    assert LeaseChange(owner=None, version=9).apply(lease) == Lease("s", owner=None, epoch=3, version=9)
    assert LeaseChange().owner is UNSET


# Rows.


@given(leases)
def test_a_row_gives_back_its_lease(lease: Lease) -> None:
    """Every lease survives the way into the table and back."""
    assert lease_from_item(item_from_lease(lease)) == lease


@given(leases)
def test_a_row_uses_types_that_dynamodb_takes(lease: Lease) -> None:
    """No attribute is empty, numbers are decimal text, and the key is the shard id."""
    item = item_from_lease(lease)
    assert item["leaseKey"] == {"S": lease.shard_id}
    for attribute in item.values():
        ((kind, value),) = attribute.items()
        assert kind in {"S", "N", "SS", "B", "BOOL"}
        assert value or kind == "N"
        if kind == "N":
            float(value)


damaged = st.dictionaries(
    st.sampled_from(["leaseKey", "checkpoint", "epoch", "marks", "pendingFlush", "startingHashKey", "endingHashKey"]),
    st.fixed_dictionaries(
        {}, optional={"S": st.text(max_size=20), "N": st.text(max_size=5), "B": st.binary(max_size=20)}
    ),
)


@given(damaged)
def test_a_damaged_row_is_an_error_of_ours(item: dict[str, Any]) -> None:
    """Whatever stands in a row, reading it gives a lease or a named error with a remedy, never anything else."""
    failure: InvalidRequestError | None = None
    try:
        lease_from_item(item)
    except InvalidRequestError as error:
        failure = error
    assert failure is None or ("is damaged" in str(failure) and failure.hint)


def test_marks_that_inflate_without_end_are_refused() -> None:
    """A small row that inflates beyond the bound is damaged, not a way to fill the memory."""
    bomb = zlib.compress(b'{"a":' + b" " * (64 * MIB) + b"1}", 9)
    assert len(bomb) < 400 * 1024
    with pytest.raises(InvalidRequestError, match="is damaged"):
        lease_from_item({"leaseKey": {"S": "shardId-000000000000"}, "marks": {"B": bomb}})


# Errors.


def test_the_tree_of_errors_is_drawn_in_full() -> None:
    """The drawing in the module's docstring has every class, each one level below its parent."""
    drawn: dict[str, str] = {}
    path = ["HeadraceError"]
    for line in (errors.__doc__ or "").splitlines():
        mark = line.find("+- ")
        if mark >= 0:
            name = line[mark + 3 :].split()[0]
            path = [*path[: mark // 3 + 1], name]
            drawn[name] = path[-2]
    defined = {
        name: kind.__bases__[0].__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, HeadraceError) and kind is not HeadraceError
    }
    assert drawn == defined


def test_a_traceback_tells_the_hint() -> None:
    """Where a program that uses the library ends with an error of ours, what to do stands below it."""
    error = StreamNotFoundError("Stream `x` does not exist", hint="Make it")
    assert traceback.format_exception_only(error)[-1].strip() == "hint: Make it"
    assert len(traceback.format_exception_only(HeadraceError("No hint"))) == 1


def test_only_service_errors_are_retryable() -> None:
    """Trying again helps only where the service failed, and every exit code is one of the four."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, HeadraceError)]
    assert {kind for kind in kinds if kind.retryable} == {
        errors.ThrottledError,
        errors.ServiceUnavailableError,
        errors.AmbiguousCallError,
        errors.IteratorExpiredError,
    }
    assert {kind.exit_code for kind in kinds} == {1, 2, 3}
