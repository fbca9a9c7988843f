"""When the faults reshard, and what the seed chooses."""

from __future__ import annotations

from infra.cloud.core.fault_file import plan_of
from infra.cloud.core.reshard_schedule import (
    CountOrder,
    MergeOrder,
    OpenShard,
    ReshardSchedule,
    SplitOrder,
    Turn,
    chosen_stream,
    order_of,
)
from shared.hash_key import HashKeyRange, even_ranges

FOUR = [OpenShard(f"s{index}", each) for index, each in enumerate(even_ranges(4))]


def schedule_of(**reshard: object) -> ReshardSchedule:
    """One schedule that began at 100 s."""
    return ReshardSchedule(plan_of({"reshard": [reshard]}), 100.0)


def turn_of(number: int = 0, **reshard: object) -> Turn:
    """One occurrence of a schedule."""
    return Turn(plan_of({"reshard": [{"at_seconds": 0, **reshard}]}).reshards[0], 0, number)


def test_every_n_seconds_until_times_max() -> None:
    """An occurrence is due at each multiple of the period, `times_max` times."""
    schedule = schedule_of(every_seconds=2, times_max=2)
    seen = []
    while (deadline := schedule.next_deadline()) is not None:
        assert schedule.due(deadline - 0.1) == []
        seen += [(deadline, each.number) for each in schedule.due(deadline)]
    assert seen == [(102.0, 0), (104.0, 1)]


def test_missed_occurrences_happen_once() -> None:
    """After a pause one reshard is made up for, not all of them, and the rhythm goes on."""
    schedule = schedule_of(every_seconds=1)
    assert len(schedule.due(150.5)) == 1
    assert schedule.next_deadline() == 151.0
    listed = schedule_of(at_seconds=[1, 2, 60])
    assert len(listed.due(105.0)) == 1
    assert listed.next_deadline() == 160.0


def test_orders_by_kind() -> None:
    """Split halves the named shard, merge takes its neighbour, count scales."""
    assert order_of(0, turn_of(kind="split", shard="s1"), FOUR) == SplitOrder("s1", 2**126 + 2**125)
    assert order_of(0, turn_of(kind="merge", shard="s0"), FOUR) == MergeOrder("s0", "s1")
    assert order_of(0, turn_of(kind="count", shard_count=8), FOUR) == CountOrder(8)
    assert order_of(0, turn_of(kind="merge"), FOUR[:1]) is None
    assert order_of(0, turn_of(kind="split"), [OpenShard("s", HashKeyRange(0, 2))]) is None


def test_random_keeps_within_its_bounds() -> None:
    """At the least number of shards it splits, at the most it merges, and the seed decides in between."""
    at_most = {"kind": "random", "shards_min": 4, "shards_max": 4}
    assert order_of(0, turn_of(**at_most), FOUR) is None
    assert isinstance(order_of(0, turn_of(kind="random", shards_min=4), FOUR), SplitOrder)
    assert isinstance(order_of(0, turn_of(kind="random", shards_max=4), FOUR), MergeOrder)
    orders = [order_of(3, turn_of(number), FOUR) for number in range(40)]
    assert orders == [order_of(3, turn_of(number), FOUR) for number in range(40)]
    assert {type(each) for each in orders} == {SplitOrder, MergeOrder}


def test_stream_by_the_seed() -> None:
    """One of the matching streams is chosen, each of them some time; without any there is none."""
    assert chosen_stream(1, turn_of(), []) is None
    assert {chosen_stream(1, turn_of(number), ["a", "b"]) for number in range(20)} == {"a", "b"}
