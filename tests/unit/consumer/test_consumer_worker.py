"""The worker against the fakes, in virtual time."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter

import orjson
import pytest

from consumer.core.object_key import STREAM_DELIVERY_FAILED
from consumer.status import ShardState, WorkerState
from shared.errors import (
    AmbiguousCallError,
    ConfigurationError,
    IteratorExpiredError,
    StreamNotFoundError,
    TableNotFoundError,
    ThrottledError,
)
from shared.event import EventId, with_event_id
from shared.lease import AT_LATEST, CheckpointKind, Lease
from shared.ports import Undeliverable
from shared.records import Position, RecordPage
from tests.support.aggregate import Aggregate
from tests.unit.consumer.small_cloud import README_RECORD, SOURCE, SmallCloud

FIRST = "shardId-000000000000"


def is_numbered(row: Lease) -> bool:
    """Whether the row holds a position."""
    return row.checkpoint.kind is CheckpointKind.NUMBER


def numbers(events: list[dict[str, object]]) -> list[object]:
    """Return the numbers of numbered events."""
    return [event["n"] for event in events]


def test_readme_record_reaches_its_stream_and_its_object() -> None:
    """The lab's record arrives with the lab's attributes in the USA stream and in one object."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put(README_RECORD)
        stop, task, _ = cloud.start(cloud.worker())
        await asyncio.sleep(10)
        stop.set()
        await task

    cloud.run(story)
    (event,) = cloud.stored("archive/destination=USA/")
    assert cloud.stored() == [event] == cloud.delivered("usa")
    assert {name: event[name] for name in README_RECORD} == README_RECORD
    assert (
        event["overall_product_quantity"],
        event["overall_in_shopping_cart"],
        event["total_different_products"],
        event["recommendations"],
    ) == (3, 2, 2, [])
    assert event["source"]["stream"] == SOURCE
    assert event["source"]["shard_id"] == FIRST
    assert event["event_id"] == f"{SOURCE}:{FIRST}:{event['source']['sequence_number']}:0"
    assert event["processing_timestamp"].startswith("2026-")
    assert [record.partition_key for _, record in cloud.kinesis.records("usa")] == ["a1"]


def test_restart_goes_on_where_it_stopped() -> None:
    """After a drain the next worker reads only what came later, without waiting for a lease to expire."""
    cloud = SmallCloud.make(2)

    async def story() -> float:
        await cloud.put_numbered(0, 50)
        stop, task, _ = cloud.start(cloud.worker())
        await asyncio.sleep(3)
        stop.set()
        await task
        await cloud.put_numbered(50, 80)
        second = cloud.worker()
        stop, task, _ = cloud.start(second)
        await asyncio.sleep(3)
        stop.set()
        await task
        return second.status().totals.read

    assert cloud.run(story) == 30
    assert sorted(numbers(cloud.stored())) == list(range(80))
    assert sorted(numbers(cloud.delivered("international"))) == list(range(80))
    assert all(row.owner is None for row in cloud.leases.rows.values())


def crash(kill_at: int, *, after_landing: bool) -> SmallCloud:
    """Kill a worker at one of its calls, let a second one take over, and return what is left."""
    cloud = SmallCloud.make()
    cloud.network.kills_after_landing = after_landing

    async def story() -> None:
        await cloud.put_numbered(0, 12)
        await cloud.put({"session_id": "u", "country": "USA", "n": 12}, b"\xff not an event")
        cloud.network.kill_at = kill_at
        _, _, process = cloud.start(cloud.worker(flush_seconds=1, worker_id="victim"))
        await asyncio.sleep(4)
        cloud.loop.kill(process)
        await cloud.put_numbered(13, 20)
        cloud.network.kill_at = None
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(25)
        stop.set()
        await task

    cloud.run(story)
    return cloud


@pytest.mark.parametrize("after_landing", [False, True])
def test_a_crash_at_any_call_leaves_each_event_in_one_object(after_landing: bool) -> None:
    """PREPARE, PUT and COMMIT may each be cut off, before or after they landed: nothing is lost or doubled in S3."""
    killed_at: Counter[str] = Counter()
    for kill_at in range(1, 200):
        cloud = crash(kill_at, after_landing=after_landing)
        assert sorted(numbers(cloud.stored())) == list(range(20)), f"killed at call {kill_at}: {cloud.network.killed}"
        letters = cloud.stored("errors/processing-failed/")
        assert [base64.b64decode(letter["rawData"]) for letter in letters] == [b"\xff not an event"]
        assert set(numbers(cloud.delivered("international"))) >= set(range(12))
        assert all(row.pending is None for row in cloud.leases.rows.values())
        assert cloud.objects.overwritten == []
        if cloud.network.killed is None:
            break
        killed_at[cloud.network.killed] += 1
    assert killed_at["objects.put"] == 3, "two destinations and the dead letters"
    # A take, a PREPARE and a COMMIT at least.
    assert killed_at["leases.update"] >= 3


def test_split_and_merge_keep_the_order_of_each_session() -> None:
    """Children start after all their parents, so that each session's events are delivered in order."""
    cloud = SmallCloud.make()

    async def story() -> None:
        stop, task, _ = cloud.start(cloud.worker())
        await cloud.put_numbered(0, 100)
        low, high = cloud.kinesis.split_shard(SOURCE, FIRST)
        await cloud.put_numbered(100, 200)
        merged = cloud.kinesis.merge_shards(SOURCE, low, high)
        await cloud.put_numbered(200, 300)
        await asyncio.sleep(30)
        assert cloud.leases.rows[merged].parents == (low, high)
        assert cloud.leases.rows[FIRST].checkpoint.is_shard_end
        assert sorted(cloud.leases.rows[FIRST].children) == [low, high]
        stop.set()
        await task

    cloud.run(story)
    delivered = cloud.delivered("international")
    for session in range(10):
        of_session = [event["n"] for event in delivered if event["session_id"] == f"s{session}"]
        assert of_session == list(range(session, 300, 10))
    assert sorted(numbers(cloud.stored())) == list(range(300))


def test_short_and_empty_pages_and_expired_iterators_lose_nothing() -> None:
    """An empty page is not the end of a shard, and an expired iterator is replaced at the last position."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 40)
        cloud.network.pages = [0, 0, 7, 0, 3, 1]
        cloud.network.expiries = 4
        stop, task, _ = cloud.start(cloud.worker())
        await asyncio.sleep(15)
        stop.set()
        await task

    cloud.run(story)
    assert numbers(cloud.stored()) == list(range(40))
    assert cloud.telemetry.counters["iterators_expired",] == 4


def test_lost_replies_of_lease_writes_are_recognised() -> None:
    """A data write that landed without an answer is found by its write id and not taken for somebody else's."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 5)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(0.5)
        # The next update is PREPARE, a renewal, or COMMIT: let each attempt of the next seconds fail once or twice.
        cloud.network.errors["leases.update"] = [AmbiguousCallError("no answer")] * 3
        cloud.network.errors["objects.put"] = [ThrottledError("slow down"), AmbiguousCallError("no answer")]
        await asyncio.sleep(10)
        stop.set()
        await task

    cloud.run(story)
    assert numbers(cloud.stored()) == list(range(5))
    assert ("leases_lost", "reason=fenced") not in cloud.telemetry.counters


def test_duplicates_are_dropped_across_restart_and_split() -> None:
    """A repeated event id is dropped even if the repetition comes in a child shard and to another worker."""
    cloud = SmallCloud.make()

    def event(number: int) -> bytes:
        data = orjson.dumps({"session_id": "a1", "n": number})
        return with_event_id(data, str(EventId("web-1", 7, number * 100)))

    async def story() -> int:
        stop, task, _ = cloud.start(cloud.worker())
        await cloud.put(event(0), event(1), event(0), event(1), event(2))
        await asyncio.sleep(2)
        cloud.kinesis.split_shard(SOURCE, FIRST)
        await asyncio.sleep(5)
        stop.set()
        await task
        await cloud.put(event(1), event(2), event(3))
        second = cloud.worker()
        stop, task, _ = cloud.start(second)
        await asyncio.sleep(5)
        stop.set()
        await task
        return second.status().totals.duplicates

    assert cloud.run(story) == 2
    assert numbers(cloud.stored()) == [0, 1, 2, 3]


def test_aggregates_are_taken_apart_and_checkpointed_inside() -> None:
    """A batch may end inside an aggregate; the next worker goes on at the right sub-sequence number."""
    cloud = SmallCloud.make()

    async def story() -> None:
        aggregate = Aggregate()
        for number in range(10):
            aggregate.append(orjson.dumps({"session_id": "a1", "n": number}), "a1")
        entry = aggregate.encode()
        await cloud.kinesis.put_record(SOURCE, entry)
        stop, task, process = cloud.start(cloud.worker(flush_records_max=4, worker_id="victim"))
        await cloud.until(lambda: FIRST in cloud.leases.rows and is_numbered(cloud.leases.rows[FIRST]))
        cloud.loop.kill(process)
        assert cloud.leases.rows[FIRST].checkpoint.position.sub_sequence_number == 3
        stop, task, _ = cloud.start(cloud.worker(flush_records_max=4))
        await asyncio.sleep(25)
        stop.set()
        await task

    cloud.run(story)
    events = cloud.stored()
    assert sorted(numbers(events)) == list(range(10))
    assert {event["n"]: event["source"]["sub_sequence_number"] for event in events} == {n: n for n in range(10)}


def test_records_outside_the_shard_become_one_dead_letter() -> None:
    """An aggregate with a member of another shard is not delivered, and kept whole as a dead letter."""
    cloud = SmallCloud.make(2)

    async def story() -> None:
        aggregate = Aggregate()
        for key in ("a1", "s1", "s2", "s3", "s4"):
            aggregate.append(orjson.dumps({"session_id": key, "n": 1}), key)
        await cloud.kinesis.put_record(SOURCE, aggregate.encode())
        stop, task, _ = cloud.start(cloud.worker())
        await asyncio.sleep(3)
        stop.set()
        await task

    cloud.run(story)
    assert cloud.stored() == []
    (letter,) = cloud.stored("errors/processing-failed/")
    assert letter["errorCode"] == "member-outside-shard"


def test_what_a_destination_refuses_is_archived_and_a_dead_letter() -> None:
    """An undeliverable record is in the archive and, with its source bytes, in the dead letters of streams."""
    cloud = SmallCloud.make()
    cloud.sinks["International"].refuse = lambda data: (
        Undeliverable("record-too-large", "x", data) if b"77" in data else None
    )

    async def story() -> None:
        await cloud.put_numbered(76, 79)
        stop, task, _ = cloud.start(cloud.worker())
        await asyncio.sleep(3)
        stop.set()
        await task

    cloud.run(story)
    assert numbers(cloud.stored()) == [76, 77, 78]
    (letter,) = cloud.stored(f"errors/{STREAM_DELIVERY_FAILED}/")
    assert orjson.loads(base64.b64decode(letter["rawData"]))["n"] == 77
    assert (letter["destination"], letter["errorCode"]) == ("International", "record-too-large")


def test_without_a_bucket_the_checkpoint_follows_the_acknowledged_prefix() -> None:
    """No checkpoint passes a record whose receipt has not come."""
    cloud = SmallCloud.make()

    async def story() -> tuple[Position, int]:
        await cloud.put_numbered(0, 5)
        stop, task, _ = cloud.start(cloud.worker(with_bucket=False, checkpoint_interval_seconds=1))
        await asyncio.sleep(5)
        kept = cloud.leases.rows[FIRST].checkpoint.position
        cloud.sinks["International"].is_open = False
        await cloud.put_numbered(5, 8)
        await asyncio.sleep(5)
        assert cloud.leases.rows[FIRST].checkpoint.position == kept
        started_at = cloud.loop.time()
        stop.set()
        await task
        assert cloud.loop.time() - started_at <= 25
        assert cloud.leases.rows[FIRST].owner is None
        return kept, len(cloud.kinesis.streams[SOURCE].shards[FIRST].records)

    kept, count = cloud.run(story)
    assert kept.sequence_number == cloud.kinesis.streams[SOURCE].shards[FIRST].numbers[4]
    assert count == 8
    assert not cloud.objects.objects


def test_a_crash_of_a_worker_is_taken_over_after_one_lease_duration() -> None:
    """A second worker reads the shard of a killed one within lease duration + 5 s, and not before."""
    cloud = SmallCloud.make(2)

    async def story() -> float:
        _, _, process = cloud.start(cloud.worker())
        await asyncio.sleep(3)
        second = cloud.worker()
        stop, task, _ = cloud.start(second)
        await asyncio.sleep(3)
        assert len(second.status().shards) == 1
        cloud.loop.kill(process)
        killed_at = cloud.loop.time()
        await cloud.until(lambda: len(second.status().shards) == 2)
        taken_after = cloud.loop.time() - killed_at
        stop.set()
        await task
        return taken_after

    assert 10 <= cloud.run(story) <= 20


def test_a_frozen_worker_changes_nothing_when_it_wakes() -> None:
    """A worker that was frozen longer than its lease writes neither checkpoint nor object afterwards."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 10)
        _, _, process = cloud.start(cloud.worker(flush_seconds=3))
        await asyncio.sleep(2)
        cloud.loop.freeze(process, 40)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=2))
        await asyncio.sleep(38)
        await cloud.put_numbered(10, 20)
        await asyncio.sleep(30)
        stop.set()
        await task
        cloud.loop.kill(process)

    cloud.run(story)
    assert sorted(numbers(cloud.stored())) == list(range(20))
    assert sum(count for key, count in cloud.telemetry.counters.items() if key[0] == "leases_lost") == 1


def test_too_many_failures_halt_the_shard_and_keep_the_rest() -> None:
    """A stream of garbage stops its shard before the dead letters fill, and the worker is no longer ready."""
    cloud = SmallCloud.make()

    async def story() -> tuple[ShardState, bool]:
        await cloud.put_numbered(0, 20)
        await cloud.put(*[b"garbage"] * 300)
        worker = cloud.worker()
        stop, task, _ = cloud.start(worker)
        await asyncio.sleep(30)
        status = worker.status()
        stop.set()
        await task
        return status.shards[0].state, status.is_ready

    assert cloud.run(story) == (ShardState.HALTED, False)
    assert cloud.stored("errors/") == []
    assert cloud.leases.rows[FIRST].owner is None


def test_latest_is_fixed_at_the_first_record_seen() -> None:
    """A crash after a start at LATEST does not skip what was read and not yet checkpointed."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 5)
        _, _, process = cloud.start(cloud.worker(start_from="LATEST", flush_seconds=60))
        await asyncio.sleep(2)
        assert cloud.leases.rows[FIRST].checkpoint == AT_LATEST
        await cloud.put_numbered(5, 10)
        await asyncio.sleep(3)
        cloud.loop.kill(process)
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST"))
        await asyncio.sleep(25)
        stop.set()
        await task

    cloud.run(story)
    assert numbers(cloud.stored()) == list(range(5, 10))


def test_an_iterator_at_latest_that_expires_without_records_skips_none() -> None:
    """A new iterator begins where the first one did, not at a later LATEST."""
    cloud = SmallCloud.make()
    expired = iter([False, True])
    read = cloud.kinesis.get_records

    async def get_records(stream: str, iterator: str, limit: int) -> RecordPage:
        if next(expired, False):
            await cloud.put_numbered(0, 3)
            raise IteratorExpiredError("too old")
        return await read(stream, iterator, limit)

    async def story() -> None:
        cloud.kinesis.get_records = get_records  # type: ignore[method-assign]  # one that expires once
        stop, task, _ = cloud.start(cloud.worker(start_from="LATEST", flush_seconds=2))
        await asyncio.sleep(10)
        stop.set()
        await task

    cloud.run(story)
    assert numbers(cloud.stored()) == [0, 1, 2]


def test_a_trimmed_shard_is_finished_and_its_children_go_on() -> None:
    """A shard that fell out of retention before it was read does not block its children."""
    cloud = SmallCloud.make()

    async def story() -> None:
        _, _, process = cloud.start(cloud.worker())
        await asyncio.sleep(1)
        cloud.loop.kill(process)
        await cloud.put_numbered(0, 5)
        cloud.kinesis.split_shard(SOURCE, FIRST)
        await cloud.put_numbered(5, 20)
        cloud.kinesis.forget_shard(SOURCE, FIRST)
        stop, task, _ = cloud.start(cloud.worker())
        await asyncio.sleep(30)
        stop.set()
        await task

    cloud.run(story)
    assert sorted(numbers(cloud.stored())) == list(range(5, 20))
    assert cloud.leases.rows[FIRST].checkpoint.is_shard_end


def test_a_shard_trimmed_under_a_pending_flush_leaves_no_upload_open() -> None:
    """What was begun in parts for a flush that nobody can rebuild any more is aborted before the shard is finished."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 10)
        _, _, process = cloud.start(cloud.worker(flush_seconds=1))
        cloud.network.errors["objects.put"] = [ThrottledError("down")] * 1000
        await asyncio.sleep(4)
        cloud.loop.kill(process)
        assert cloud.leases.rows[FIRST].pending is not None
        assert "objects.abort_uploads" not in cloud.network.calls
        cloud.network.errors.clear()
        cloud.kinesis.split_shard(SOURCE, FIRST)
        cloud.kinesis.forget_shard(SOURCE, FIRST)
        stop, task, _ = cloud.start(cloud.worker())
        await asyncio.sleep(40)
        stop.set()
        await task

    cloud.run(story)
    assert "objects.abort_uploads" in cloud.network.calls
    assert cloud.leases.rows[FIRST].checkpoint.is_shard_end


def test_records_trimmed_under_a_pending_flush_do_not_block_the_shard() -> None:
    """Where a prepared range was trimmed before its replay, what is left is stored and reading goes on."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put_numbered(0, 10)
        cloud.network.kill_at = None
        _, _, process = cloud.start(cloud.worker(flush_seconds=1))
        cloud.network.errors["objects.put"] = [ThrottledError("down")] * 1000
        await asyncio.sleep(4)
        cloud.loop.kill(process)
        assert cloud.leases.rows[FIRST].pending is not None
        cloud.network.errors.clear()
        cloud.kinesis.trim(SOURCE, FIRST, 4)
        await cloud.put_numbered(10, 12)
        stop, task, _ = cloud.start(cloud.worker())
        await asyncio.sleep(40)
        stop.set()
        await task

    cloud.run(story)
    assert numbers(cloud.stored()) == list(range(4, 12))


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        ("kinesis.describe_stream", StreamNotFoundError("no stream")),
        ("leases.write_application", TableNotFoundError("no table")),
        ("leases.list", TableNotFoundError("no table")),
    ],
)
def test_what_a_start_needs_and_does_not_find_is_raised(operation: str, error: Exception) -> None:
    """A missing stream or table ends the worker at its start with that error, not with a group."""
    cloud = SmallCloud.make()
    cloud.network.errors[operation] = [error]

    async def story() -> None:
        await cloud.worker().run(asyncio.Event())

    with pytest.raises(type(error)):
        cloud.run(story)


def test_the_application_describes_itself() -> None:
    """The audit finds streams, bucket and prefixes in the lease table."""
    cloud = SmallCloud.make()

    async def story() -> WorkerState:
        worker = cloud.worker()
        stop, task, _ = cloud.start(worker)
        await asyncio.sleep(1)
        stop.set()
        await task
        return worker.status().state

    assert cloud.run(story) is WorkerState.STOPPED
    described = cloud.leases.application
    assert described is not None
    assert (described["source_stream"], described["bucket"]) == (SOURCE, "bucket")
    assert described["dest_streams"] == {"USA": "usa", "International": "international"}
    assert described["archive_prefix"].startswith("archive/")


def test_a_small_budget_closes_batches_early_instead_of_standing_still() -> None:
    """Reads that wait for room press the largest batch to be flushed, so that everything is delivered."""
    cloud = SmallCloud.make(4)

    async def story() -> int:
        filler = "x" * 50_000
        for n in range(400):
            await cloud.put({"session_id": f"s{n}", "n": n, "filler": filler})
        worker = cloud.worker(budget_bytes_max=12 * 1024 * 1024, flush_seconds=600, flush_bytes_max=100 * 1024 * 1024)
        stop, task, _ = cloud.start(worker)
        await asyncio.sleep(60)
        read = worker.status().totals.read
        stop.set()
        await task
        return read

    assert cloud.run(story) == 400
    assert sorted(numbers(cloud.stored())) == list(range(400))


def test_settings_that_do_not_fit_together_are_refused() -> None:
    """A worker does not start with destinations but nothing for the rest, or a start that is no place."""
    cloud = SmallCloud.make()
    with pytest.raises(ConfigurationError, match="nothing takes the rest"):
        cloud.worker(dest_streams={"USA": "usa"})
    with pytest.raises(ConfigurationError, match="start_from"):
        cloud.worker(start_from="yesterday")
    with pytest.raises(ConfigurationError, match="archive_prefix"):
        cloud.worker(archive_prefix="archive/")
