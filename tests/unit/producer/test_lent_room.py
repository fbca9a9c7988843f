"""Room that is lent while records wait for what comes next."""

from __future__ import annotations

from producer.core.lanes import LaneQueues
from shared.limits import KIB, MIB
from tests.support.ways import way  # noqa: F401 - each test is run both ways


def test_room_that_is_taken_back_is_not_that_of_reserved_records() -> None:
    """Events that were accepted into lent room are queued, though it is taken back before; nobody else gets it then."""
    queues = LaneQueues(buffer_bytes_max=10 * KIB, record_bytes_max=MIB)
    assert queues.accept(bytes(9 * KIB), "refused")
    queues.lend([9 * KIB])
    assert queues.reserve(4 * KIB)
    queues.lend(())
    assert not queues.accept(b"other", "key")
    queues.unreserve(4 * KIB)
    assert queues.accept_all([bytes(KIB)] * 2, ["key"] * 2, None) == 2
    queues.lend(())
    assert not queues.accept(b"other", "key")
