"""Whatever is split, merged, scaled, put and trimmed: the open shards tile the ring and each record is read once."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.core.reading import StartingPosition
from infra.cloud.core.resharding import uniform_scaling
from infra.cloud.core.shard import Shard
from infra.cloud.core.shard_log import ShardLog
from infra.cloud.core.stream import Stream
from infra.cloud.core.writing import PutEntry
from shared.hash_key import even_ranges, hash_key_of, holes
from shared.limits import HASH_KEY_MAX
from tests.support.cloud_clock import HandClock

hash_keys = st.one_of(
    st.integers(0, HASH_KEY_MAX),
    st.sampled_from([0, 1, 2, 2**127 - 1, 2**127, 2**127 + 1, HASH_KEY_MAX - 1, HASH_KEY_MAX]),
)


class Resharding(RuleBasedStateMachine):
    """A stream under random operations, beside a list of what each key was put in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = HandClock()
        self.engine = KinesisEngine(self.clock, limits_enforced=False)
        self.put_by_key: dict[str, list[bytes]] = {}
        self.count = 0

    @initialize(shards=st.integers(1, 5))
    def create(self, shards: int) -> None:
        """A new stream."""
        self.engine.create_stream("s", shards)

    @property
    def stream(self) -> Stream:
        """The stream under test."""
        return self.engine.describe_stream("s")

    @rule(keys=st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=20))
    def put(self, keys: list[str]) -> None:
        """Records by key: each lands where the MD5 of its key lies."""
        entries = []
        for key in keys:
            self.count += 1
            data = self.count.to_bytes(4, "big")
            self.put_by_key.setdefault(key, []).append(data)
            entries.append(PutEntry(data, key))
        for key, outcome in zip(keys, self.engine.put_records("s", entries), strict=True):
            shard = self.stream.shard(outcome.shard_id or "", self.clock())
            assert shard.is_open
            assert hash_key_of(key) in shard.hash_range

    @rule(at=hash_keys)
    def split(self, at: int) -> None:
        """A split at any key; one at an edge is refused and changes nothing."""
        shard = self.stream.shard_for(at)
        try:
            self.engine.split_shard("s", shard.shard_id, str(at))
        except ApiError:
            assert shard.is_open
            assert not shard.hash_range.start + 1 < at < shard.hash_range.end

    @rule(choice=st.randoms(use_true_random=False))
    def merge(self, choice: Any) -> None:
        """A merge of two neighbours, named in either order."""
        shards = self.stream.open_shards
        if len(shards) < 2:
            return
        index = choice.randrange(len(shards) - 1)
        pair = [shards[index].shard_id, shards[index + 1].shard_id]
        choice.shuffle(pair)
        self.engine.merge_shards("s", *pair)

    @rule(factor=st.floats(0.5, 2.0))
    def scale(self, factor: float) -> None:
        """UpdateShardCount to any target that AWS allows."""
        current = len(self.stream.open_shards)
        target = min(30, max(-(-current // 2), int(current * factor)))
        if target * 2 < current:
            return
        assert self.engine.update_shard_count("s", target) == current
        if target != current:
            assert [each.hash_range for each in self.stream.open_shards] == list(even_ranges(target))

    @rule(seconds=st.floats(-5.0, 60.0))
    def wait(self, seconds: float) -> None:
        """Time passes, and sometimes the clock is set back."""
        self.clock.turn(seconds)

    @invariant()
    def open_shards_tile_the_ring(self) -> None:
        """No hash key is without an open shard, and none has two."""
        if "s" not in self.engine.list_stream_names():
            return
        ranges = [each.hash_range for each in self.stream.open_shards]
        assert holes(ranges) == []
        assert sum(each.width for each in ranges) == HASH_KEY_MAX + 1

    @invariant()
    def children_lie_within_and_number_above_their_parents(self) -> None:
        """A child's range comes from its parents, and its first number is above their last."""
        if "s" not in self.engine.list_stream_names():
            return
        for shard in self.stream.shards.values():
            for parent in (self.stream.shards[index] for index in shard.parents):
                assert not parent.is_open
                assert int(parent.ending_sequence_number or 0) < int(shard.starting_sequence_number)
                widest = max(parent, shard, key=lambda each: each.hash_range.width).hash_range
                narrowest = min(parent, shard, key=lambda each: each.hash_range.width).hash_range
                assert narrowest.start in widest
                assert narrowest.end in widest

    def teardown(self) -> None:
        """Reading parents before children gives each key its records once, in the order in which they were put."""
        if "s" not in self.engine.list_stream_names():
            return
        found: dict[str, list[bytes]] = {}
        for shard in self.stream.shards.values():
            for record in _all_records(self.engine, shard):
                found.setdefault(record.partition_key, []).append(record.data)
        assert found == self.put_by_key


def _all_records(engine: KinesisEngine, shard: Shard) -> list[Any]:
    iterator: str | None = engine.get_shard_iterator("s", shard.shard_id, StartingPosition("TRIM_HORIZON"))
    records: list[Any] = []
    while iterator is not None:
        page = engine.get_records(iterator, 7)
        assert page.records == sorted(page.records, key=lambda each: int(each.sequence_number))
        records += page.records
        if not page.records:
            break
        iterator = page.next_iterator
    return records


Resharding.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestResharding = Resharding.TestCase


@given(starts=st.sets(hash_keys, max_size=12), target=st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_uniform_scaling_takes_no_step_twice(starts: set[int], target: int) -> None:
    """From any tiling, the steps are exactly the boundaries that are missing and those that are too many."""
    have = {0, *starts}
    ends = sorted(have)[1:]
    ranges = [
        type(even_ranges(1)[0])(start, end - 1)
        for start, end in zip(sorted(have), [*ends, HASH_KEY_MAX + 1], strict=True)
    ]
    want = {each.start for each in even_ranges(target)}
    assert len(uniform_scaling(ranges, target)) == len(have ^ want)


@given(
    arrivals=st.lists(st.floats(-2.0, 5.0), max_size=60),
    horizon=st.floats(0.0, 200.0),
    start=st.integers(1, 2**40),
)
@settings(max_examples=200, deadline=None)
def test_log_trims_a_prefix_and_keeps_its_counters(arrivals: list[float], horizon: float, start: int) -> None:
    """Trimming forgets exactly the oldest records before the horizon; what is kept has the counters that it had."""
    log = ShardLog(start)
    now = 100.0
    kept = []
    for step in arrivals:
        now += step
        counter = log.append(b"x", "k", now)
        kept.append((counter, log.arrival(counter)))
    freed = log.trim(horizon)
    left = [(counter, arrival) for counter, arrival in kept if arrival >= horizon]
    assert freed == 2 * (len(kept) - len(left))
    assert log.bytes_kept == 2 * len(left)
    assert [(counter, log.arrival(counter)) for counter in range(log.first, log.next)] == left
    assert log.counter_from_time(0.0) == log.first
