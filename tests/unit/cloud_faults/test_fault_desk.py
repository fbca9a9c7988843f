"""Which call is struck, by count, chance, place and time; the same calls always by the same faults."""

from __future__ import annotations

from infra.cloud.core.fault_desk import FaultDesk
from infra.cloud.core.fault_file import plan_of
from infra.cloud.core.faults import (
    EXPIRED_ITERATORS_MAX,
    Duration,
    ExpireIterator,
    Facts,
    Fail,
    LoseReply,
    LoseRequest,
    RecordFacts,
    draw,
)

PUT = Facts(
    "kinesis", "PutRecords", stream="events", records=(RecordFacts("a", 1, "s0"), RecordFacts("b", 2**127, "s1"))
)
GET = Facts("kinesis", "GetRecords", stream="events", shard_id="s0", iterator="i")


def desk_of(*rules: dict[str, object], seed: int = 0, steps: tuple[dict[str, object], ...] = ()) -> FaultDesk:
    """A desk that began at 100 s."""
    return FaultDesk(plan_of({"seed": seed, "rule": list(rules), "step": list(steps)}), 100.0)


def struck(desk: FaultDesk, facts: Facts, calls: int, now: float = 100.0) -> list[int]:
    """The numbers, from 1, of those of the calls whose outcome is replaced."""
    return [number for number in range(1, calls + 1) if desk.decide(facts, now).outcome is not None]


def test_nth_every_and_hits_max_count_matching_calls() -> None:
    """Only matching calls are counted; `nth` strikes one, `every` each n-th, `hits_max` ends it."""
    assert struck(desk_of({"effect": "lose_reply", "nth": 3}), PUT, 9) == [3]
    assert struck(desk_of({"effect": "lose_reply", "every": 3}), PUT, 9) == [3, 6, 9]
    assert struck(desk_of({"effect": "lose_reply", "every": 3, "hits_max": 2}), PUT, 9) == [3, 6]
    desk = desk_of({"effect": "lose_reply", "operation": "PutRecords", "nth": 2})
    assert [desk.decide(each, 100.0).outcome for each in (PUT, GET, GET, PUT)] == [None, None, None, LoseReply()]


def test_the_same_seed_gives_the_same_faults() -> None:
    """Two runs of one plan strike the same calls, another seed others, about as many as the probability says."""
    rule = {"effect": "lose_reply", "probability": 0.3}
    first, again, other = (struck(desk_of(rule, seed=seed), PUT, 1_000) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert 240 <= len(first) <= 360


def test_rules_draw_apart_from_each_other() -> None:
    """What one rule strikes does not change when calls that it is not about come in between."""
    alone = desk_of({"effect": "lose_reply", "operation": "PutRecords", "probability": 0.5})
    mixed = desk_of({"effect": "lose_reply", "operation": "PutRecords", "probability": 0.5})
    expected = struck(alone, PUT, 100)
    found = []
    for number in range(1, 101):
        mixed.decide(GET, 100.0)
        found += [number] if mixed.decide(PUT, 100.0).outcome else []
    assert found == expected


def test_draws_are_fixed_forever() -> None:
    """A seed written down today means the same faults on every machine and Python."""
    assert [round(draw(1, 0, count), 6) for count in (1, 2, 3)] == [0.094112, 0.581827, 0.007191]


def test_window_in_seconds_since_the_start() -> None:
    """A rule is asleep before `after_seconds` and from `until_seconds` on."""
    desk = desk_of({"effect": "lose_reply", "after_seconds": 2, "until_seconds": 4})
    assert [desk.decide(PUT, now).outcome is not None for now in (101.9, 102.0, 103.9, 104.0)] == [
        False,
        True,
        True,
        False,
    ]


def test_script_goes_step_by_step() -> None:
    """A step counts from when the one before it was done, and strikes `times` calls."""
    desk = desk_of(
        steps=(
            {"effect": "lose_reply", "operation": "PutRecords", "nth": 2, "times": 2},
            {"effect": "lose_request", "operation": "PutRecords", "nth": 3},
        )
    )
    outcomes = [desk.decide(PUT, 100.0).outcome for _ in range(8)]
    assert outcomes == [None, LoseReply(), LoseReply(), None, None, LoseRequest(), None, None]
    assert desk.counts()["steps_done"] == 2


def test_the_first_rule_wins_and_the_other_has_no_hit() -> None:
    """Of two effects that replace the answer the first in the file happens; delays add up."""
    desk = desk_of(
        {"effect": "delay", "seconds": 1},
        {"effect": "error", "code": "Invented"},
        {"effect": "lose_reply"},
        {"effect": "delay", "seconds": 0.5},
        {"effect": "delay", "seconds": 0.25, "where": "after"},
    )
    verdict = desk.decide(PUT, 100.0)
    assert isinstance(verdict.outcome, Fail)
    assert (verdict.delay_seconds, verdict.delay_after_seconds) == (1.5, 0.25)
    assert [(each["matches"], each["hits"]) for each in desk.counts()["rules"]] == [
        (1, 1),
        (1, 1),
        (1, 0),
        (1, 1),
        (1, 1),
    ]


def test_single_records_by_key_shard_and_hash_key() -> None:
    """A record is refused if it is the rule's, and its neighbour is not."""
    for place in ({"partition_key": "b*"}, {"shard": "s1"}, {"hash_keys": [str(2**127), str(2**128 - 1)]}):
        verdict = desk_of({"effect": "fail_records", "code": "Invented", **place}).decide(PUT, 100.0)
        assert {position: each.code for position, each in verdict.record_refusals.items()} == {1: "Invented"}
    desk = desk_of({"effect": "fail_records", "every": 3})
    assert [list(desk.decide(PUT, 100.0).record_refusals) for _ in range(3)] == [[], [0], [1]]


def test_places_of_whole_calls() -> None:
    """A call is matched by its shard or by any of its records; one about no such thing is not."""
    desk = desk_of({"effect": "lose_reply", "shard": "s0"})
    assert desk.decide(GET, 100.0).outcome == LoseReply()
    assert desk.decide(PUT, 100.0).outcome == LoseReply()
    assert desk.decide(Facts("kinesis", "ListStreams"), 100.0).outcome is None
    by_key = desk_of({"effect": "lose_reply", "partition_key": "a"})
    assert by_key.decide(GET, 100.0).outcome is None


def test_tables_objects_and_conditions() -> None:
    """Rules tell tables, buckets, key prefixes and conditional calls apart."""
    desk = desk_of({"effect": "lose_reply", "service": "dynamodb", "table": "lease*", "conditional": True})
    assert desk.decide(Facts("dynamodb", "UpdateItem", table="leases", conditional=True), 100.0).outcome is not None
    assert desk.decide(Facts("dynamodb", "UpdateItem", table="leases"), 100.0).outcome is None
    objects = desk_of({"effect": "lose_reply", "bucket": "b", "key_prefix": "archive/"})
    assert objects.decide(Facts("s3", "PutObject", bucket="b", key="archive/x"), 100.0).outcome is not None
    assert objects.decide(Facts("s3", "PutObject", bucket="b", key="errors/x"), 100.0).outcome is None


def test_an_expired_iterator_stays_expired() -> None:
    """Whoever asks again with the same iterator gets the same refusal; a new iterator is good."""
    desk = desk_of({"effect": "expire_iterator", "nth": 1})
    assert [desk.decide(GET, 100.0).outcome for _ in range(2)] == [ExpireIterator()] * 2
    assert desk.decide(Facts("kinesis", "GetRecords", iterator="j"), 100.0).outcome is None


def test_expired_iterators_are_bounded() -> None:
    """No more than 10,000 of them are kept, the oldest is forgotten first."""
    desk = desk_of({"effect": "expire_iterator"})
    for number in range(EXPIRED_ITERATORS_MAX + 5):
        desk.decide(Facts("kinesis", "GetRecords", iterator=str(number)), 100.0)
    assert len(desk._expired) == EXPIRED_ITERATORS_MAX


def test_durations() -> None:
    """Fixed, uniform and exponential seconds, the last cut at its maximum."""
    assert Duration(0.2, 0.2).pick(0.7) == 0.2
    assert Duration(1.0, 3.0).pick(0.5) == 2.0
    exponential = Duration(0.0, 0.05, 0.01)
    assert 0.0069 < exponential.pick(0.5) < 0.0070
    assert exponential.pick(0.999999) == 0.05
