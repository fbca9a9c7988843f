"""Who is told of a record's outcome, when records are queued many at a time."""

from __future__ import annotations

import pytest

from producer.core.lanes import LaneQueues
from producer.core.record_columns import RecordColumns
from shared.limits import MIB
from tests.support.ways import way  # noqa: F401 - each test is run both ways

TICKET = (print, "later")


def test_a_record_that_comes_back_keeps_having_nobody_to_tell() -> None:
    """A record without a ticket returns to its lane while others have one: it does not take theirs."""
    queues = LaneQueues(buffer_bytes_max=MIB, record_bytes_max=MIB)
    queues.accept_all([b"first"], ["key"], None)
    lane = queues.lane_of("key")
    sent = RecordColumns()
    lane.move_to(sent, 1)
    lane.is_blocked = True
    assert queues.accept_all([b"other"], ["another key"], TICKET) == 1
    queues.return_to_front(sent)
    assert queues.accept_all([b"second"], ["key"], TICKET) == 1
    again = RecordColumns()
    lane.move_to(again, 2)
    assert (again.datas, again.tickets) == ([b"first", b"second"], [None, TICKET])


def test_each_ticket_is_told_once_of_all_its_records() -> None:
    """Tickets that take turns are told of how many records they stand for; nobody is told of a record without one."""
    records = RecordColumns()
    other = (print, "other")
    for number, ticket in enumerate((TICKET, None, other, TICKET, TICKET)):
        records.append(b"%d" % number, "key", ticket)
    assert list(records.receipts()) == [(TICKET, 3), (other, 1)]


def test_a_put_copies_no_tickets_of_those_that_wait() -> None:
    """Records that are put one by one behind others of their lane add a ticket each: the rest is left where it is."""
    queues = LaneQueues(buffer_bytes_max=MIB, record_bytes_max=MIB)
    queues.accept_all([b"first", b"second"], ["key", "key"], TICKET)
    lane = queues.lane_of("key")
    queues.accept(b"third", "key", TICKET)
    tickets = lane.records.tickets
    queues.accept(b"fourth", "key", None)
    assert lane.records.tickets is tickets == [TICKET, TICKET, TICKET, None]


def test_records_without_a_key_each_are_a_defect() -> None:
    """Columns of different lengths are refused before anything is queued: what is behind would get wrong keys."""
    queues = LaneQueues(buffer_bytes_max=MIB, record_bytes_max=MIB)
    with pytest.raises(AssertionError, match="a key"):
        queues.accept_all([b"first"], ["key", "key"], None)
    assert (queues.accepted, queues.queued) == (0, 0)
