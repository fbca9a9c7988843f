"""The auditor: a clean run is ok, and every kind of damage is found, counted and named."""

from __future__ import annotations

import pytest

from infra.audit.core.auditor import Auditor
from infra.audit.core.id_table import IdTable
from infra.audit.core.lineage import lineage_order

EVENTS = [(f"web.{index % 3}.{index}", f"session-{index % 5}") for index in range(40)]


def _audited(
    *,
    stored: list[tuple[str, str]] = EVENTS,
    delivered: list[tuple[str, str]] = EVENTS,
    dead: tuple[str, ...] = (),
    has_bucket: bool = True,
    has_destinations: bool = True,
    source_is_whole: bool = True,
) -> Auditor:
    auditor = Auditor(has_bucket=has_bucket, has_destinations=has_destinations, source_is_whole=source_is_whole)
    for event_id, _ in EVENTS:
        auditor.acknowledge(event_id)
    for event_id, session in stored:
        auditor.store(event_id, session)
    for event_id, session in delivered:
        auditor.deliver("usa", event_id, session)
    for event_id in dead:
        auditor.dead_letter(event_id)
    return auditor


def test_a_clean_run_is_ok() -> None:
    """With everything everywhere once and in order the verdict must be ok and the counts whole."""
    report = _audited().report()
    assert (report.verdict, report.events, report.acknowledged, report.in_s3, report.in_destinations, report.lost) == (
        "ok",
        40,
        40,
        40,
        40,
        0,
    )
    assert report.is_ok


def test_an_event_missing_in_s3_is_lost_and_named() -> None:
    """A hole in S3 must be counted once although the streams have it."""
    report = _audited(stored=EVENTS[:7] + EVENTS[8:]).report()
    assert (report.lost, report.lost_in_s3, report.lost_in_streams) == (1, 1, 0)
    assert report.lost_examples == ("web.1.7",)
    assert report.verdict == "1 lost on the way to S3"


def test_an_event_missing_in_the_streams_is_lost() -> None:
    """A hole in the destination streams must be found, too."""
    report = _audited(delivered=EVENTS[1:]).report()
    assert (report.lost, report.lost_in_s3, report.lost_in_streams) == (1, 0, 1)


def test_a_dead_letter_is_not_lost() -> None:
    """What is kept in the dead letters must not count as lost."""
    report = _audited(stored=EVENTS[1:], delivered=EVENTS[1:], dead=("web.0.0",)).report()
    assert (report.verdict, report.dead_lettered, report.lost) == ("ok", 1, 0)


def test_a_dead_letter_of_the_producer_is_an_event_of_its_own() -> None:
    """A line that never reached the stream must be counted among the events."""
    assert _audited(dead=("web.0.999",)).report().events == 41


@pytest.mark.parametrize(("has_bucket", "has_destinations"), [(False, True), (True, False), (False, False)])
def test_only_places_in_use_are_judged(*, has_bucket: bool, has_destinations: bool) -> None:
    """Without a bucket or without destination streams nothing can be lost there."""
    auditor = _audited(
        stored=EVENTS if has_bucket else [],
        delivered=EVENTS if has_destinations else [],
        has_bucket=has_bucket,
        has_destinations=has_destinations,
    )
    assert auditor.report().verdict == "ok"


def test_a_copy_in_s3_fails_and_a_copy_in_a_stream_is_counted() -> None:
    """S3 promises exactly once, streams at least once."""
    report = _audited(stored=[*EVENTS, EVENTS[3]], delivered=[*EVENTS, *EVENTS[3:6]]).report()
    assert (report.duplicated_in_s3, report.duplicated_in_streams, report.out_of_order) == (1, 3, 0)
    assert report.duplicated_examples == ("web.0.3",)
    assert report.verdict == "1 more than once in S3"


def test_a_copy_in_the_source_is_counted_and_judged_by_its_first_place() -> None:
    """A producer's retry must not disturb the order."""
    auditor = Auditor(has_bucket=True, has_destinations=False)
    for event_id in ("a", "b", "a"):
        auditor.acknowledge(event_id)
    auditor.store("a", "s")
    auditor.store("b", "s")
    report = auditor.report()
    assert (report.verdict, report.duplicated_in_source, report.acknowledged) == ("ok", 1, 2)


def test_two_events_of_a_session_that_changed_places_are_found() -> None:
    """Order inside a session must hold, and the example must name both."""
    swapped = list(EVENTS)
    swapped[0], swapped[5] = swapped[5], swapped[0]
    report = _audited(stored=swapped).report()
    (example,) = report.out_of_order_examples
    assert (report.out_of_order_in_s3, report.out_of_order_in_streams) == (1, 0)
    assert (example.place, example.session_id, example.event_id, example.after_event_id) == (
        "s3",
        "session-0",
        "web.0.0",
        "web.2.5",
    )


def test_order_between_sessions_is_free() -> None:
    """Only events of one session have an order."""
    by_session = sorted(EVENTS, key=lambda each: each[1])
    assert _audited(stored=by_session, delivered=by_session).report().verdict == "ok"


def test_groups_are_ordered_on_their_own() -> None:
    """Objects of different series may be walked in any order."""
    auditor = Auditor(has_bucket=True, has_destinations=False)
    for event_id in ("a", "b"):
        auditor.acknowledge(event_id)
    auditor.store("b", "s", "International")
    auditor.store("a", "s", "USA")
    assert auditor.report().verdict == "ok"


def test_a_receipt_without_its_record_is_a_loss() -> None:
    """What a producer calls acknowledged must be in the stream."""
    auditor = _audited()
    auditor.confirm("web.0.0")
    auditor.confirm("web.9.9")
    report = auditor.report()
    assert (report.lost_before_stream, report.lost, report.lost_examples) == (1, 1, ("web.9.9",))
    assert report.verdict == "1 acknowledged to the producer and not in the source stream"


def test_an_invented_event_is_found_unless_the_source_was_trimmed() -> None:
    """Something in S3 that was never put is a failure, except after retention."""
    stored = [*EVENTS, ("web.7.7", "s")]
    assert _audited(stored=stored).report().verdict == "1 arrived but never were in the source stream"
    assert _audited(stored=stored, source_is_whole=False).report().verdict == "ok"


def test_an_event_both_stored_and_dead_lettered_is_found() -> None:
    """An event has one fate."""
    assert _audited(dead=("web.0.0",)).report().verdict == "1 both in S3 and in the dead letters"


def test_an_unbalanced_ledger_is_found() -> None:
    """Accepted = acknowledged + dead-lettered + pending, at every producer."""
    auditor = _audited()
    auditor.balance(accepted=10, acknowledged=7, dead_lettered=1, pending=2)
    assert auditor.report().verdict == "ok"
    auditor.balance(accepted=10, acknowledged=7, dead_lettered=1, pending=1)
    assert auditor.report().ledger_imbalance == 1


def test_the_table_of_ids_grows_and_keeps_ranks_and_texts() -> None:
    """Ranks are the order of appearance, texts come back, through every growth."""
    table = IdTable()
    names = [f"host-1.{number % 256}.{number * 137}" for number in range(20_000)]
    assert [table.add(each) for each in names] == [(rank, True) for rank in range(len(names))]
    assert [table.add(each) for each in names[::97]] == [(rank, False) for rank in range(0, len(names), 97)]
    assert [table.text(rank) for rank in (0, 4_095, 4_096, 19_999)] == [
        names[rank] for rank in (0, 4_095, 4_096, 19_999)
    ]
    assert (table.find(names[1234]), table.find("nothing")) == (1234, None)


def test_an_id_costs_less_than_48_bytes() -> None:
    """Ten million events must fit into half a gigabyte."""
    table = IdTable()
    count = 100_000
    for number in range(count):
        table.add(f"web-server-0001.{number % 256}.{number * 137}")
    assert table.bytes_used() / count < 48


def test_parents_come_before_children() -> None:
    """A merge waits for both parents, a split for its one, whatever the ids say."""
    parents = {"c": ["a", "b"], "a": [], "b": ["z"], "z": ["past-retention"], "d": ["c"], "e": ["c"]}
    assert lineage_order(parents) == ["a", "z", "b", "c", "d", "e"]


def test_children_of_a_forgotten_shard_come_behind_what_is_older() -> None:
    """Between `b` and `d` lies a merge that the stream does not list any more."""
    parents: dict[str, list[str]] = {"a": [], "b": ["a"], "c": ["a"], "e": ["d"], "f": ["d"]}
    assert lineage_order(parents) == ["a", "b", "c", "e", "f"]


def test_a_cycle_of_parents_ends() -> None:
    """Hostile parents must not hang the audit."""
    assert lineage_order({"a": ["b"], "b": ["a"], "c": []}) == ["c", "a", "b"]


def test_events_without_a_session_have_no_order() -> None:
    """Events that went by a partition key of their own are not judged as if they were one session."""
    unordered = [(event_id, "") for event_id, _ in EVENTS]
    assert _audited(delivered=unordered[::-1], stored=unordered[::-1]).report().verdict == "ok"
