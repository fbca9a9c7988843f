"""The audit over the ports: it reads every stream, object and dead letter, and judges what it read."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from infra.audit.core.report import AuditReport
from infra.audit.reading import AuditReader, AuditScope, audit_application, constant_prefix
from shared.errors import ConfigurationError, ServiceUnavailableError, SourceError
from shared.lease import AT_LATEST, AT_TRIM_HORIZON, SHARD_END, Checkpoint, Lease
from shared.records import Position, PutEntry
from tests.support.aggregate import Aggregate
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_leases import FakeLeases
from tests.support.fake_objects import FakeObjects
from tests.support.network import ScriptedNetwork

SHARD = "shardId-000000000000"
DESTINATIONS = {"USA": "usa", "International": "international"}


def _event(number: int, **fields: Any) -> bytes:
    event = {"session_id": f"s{number % 3}", "country": "USA", "event_id": f"web.00.{number}"} | fields
    return orjson.dumps(event)


class _Cloud:
    """Three streams and a bucket with ten events in all places."""

    def __init__(self, *, compressed: bool = True) -> None:
        self.network = ScriptedNetwork(wall=0.0)
        self.kinesis = FakeKinesis(self.network)
        self.objects = FakeObjects(self.network)
        for name in ("source", *DESTINATIONS.values()):
            self.kinesis.create_stream(name)
        self.compressed = compressed

    async def fill(self) -> None:
        aggregate = Aggregate()
        for number in range(5):
            aggregate.append(_event(number), f"s{number % 3}", 0)
        await self.kinesis.put_record("source", aggregate.encode())
        await self.put("source", range(5, 10))
        await self.put("usa", range(10))
        await self.store(100, range(5))
        await self.store(20, range(5, 5))  # sorts before 100 as a number, after it as a text
        await self.store(300, range(5, 10))

    async def put(self, stream: str, numbers: range) -> None:
        for number in numbers:
            await self.kinesis.put_record(stream, PutEntry(_event(number), "k"))

    async def store(self, first: int, numbers: range, name: str = "") -> None:
        body = b"".join(_event(number) + b"\n" for number in numbers)
        key = f"archive/destination=USA/dt=2026-01-01/hour=00/{SHARD}-{first}-{first + 50}.4.json.gz"
        await self.objects.put_object(
            name or key, gzip.compress(body) if self.compressed else body, content_type="application/x-ndjson"
        )

    async def audit(self, leases: FakeLeases | None = None, **scope: Any) -> AuditReport:
        reader = AuditReader(
            kinesis=self.kinesis,
            objects=self.objects,
            leases=leases,
            random=random.Random(1),
            sleep=lambda _: asyncio.sleep(0),
        )
        return await reader.audit(AuditScope("source", DESTINATIONS, **scope))


@pytest.mark.parametrize("compressed", [True, False])
async def test_a_complete_pipeline_is_ok(*, compressed: bool) -> None:
    """Aggregates, several pages and objects, compressed or not, must all be read."""
    cloud = _Cloud(compressed=compressed)
    await cloud.fill()
    report = await cloud.audit()
    assert (report.verdict, report.acknowledged, report.in_s3, report.in_destinations) == ("ok", 10, 10, 10)


async def test_objects_are_ordered_by_number_not_by_text() -> None:
    """Sequence numbers of different length must not look like disorder."""
    cloud = _Cloud()
    await cloud.put("source", range(10))
    await cloud.put("usa", range(10))
    await cloud.store(99, range(5))
    await cloud.store(100, range(5, 10))
    assert (await cloud.audit()).verdict == "ok"


@pytest.mark.parametrize("has_order", [True, False])
async def test_columns_without_the_country_tell_series_by_their_keys(*, has_order: bool) -> None:
    """Two objects of one flush, with events of one session for two destinations, are two series; each is judged."""
    cloud = _Cloud()
    countries = ("USA", "USA", "Peru", "USA", "Peru")
    for number, country in enumerate(countries):
        event = _event(number, session_id="s", country=country)
        await cloud.kinesis.put_record("source", PutEntry(event, "s"))
        await cloud.kinesis.put_record(
            DESTINATIONS["USA" if country == "USA" else "International"], PutEntry(event, "s")
        )
    for destination, numbers in {"International": (2, 4), "USA": (0, 1, 3) if has_order else (0, 3, 1)}.items():
        body = b"session_id,event_id\n" + b"".join(b"s,web.00.%d\n" % number for number in numbers)
        key = f"archive/destination={destination}/dt=2026-01-01/hour=00/{SHARD}-100-200.csv"
        await cloud.objects.put_object(key, body, content_type="text/csv")
    assert (await cloud.audit()).out_of_order_in_s3 == (0 if has_order else 1)


async def test_damage_is_found_through_the_ports() -> None:
    """A lost, a doubled and a late event must come out of real objects and records."""
    cloud = _Cloud()
    await cloud.put("source", range(10))
    await cloud.put("usa", range(9))
    await cloud.store(100, range(3, 6))
    await cloud.store(200, range(6))
    report = await cloud.audit()
    assert (report.lost_in_s3, report.lost_in_streams, report.duplicated_in_s3) == (4, 1, 3)
    assert report.out_of_order_in_s3 == 3


async def test_dead_letters_account_for_what_is_missing() -> None:
    """By event id where the letter has one, else by the place in the source stream."""
    cloud = _Cloud()
    await cloud.put("source", range(1))
    place = await cloud.kinesis.put_record("source", PutEntry(b"not an event", "k"))
    await cloud.put("usa", range(1))
    letters = [
        {"shardId": SHARD, "sequenceNumber": str(place.sequence_number), "subSequenceNumber": 0, "errorCode": "x"},
        {"shardId": SHARD, "sequenceNumber": "1", "subSequenceNumber": 0, "eventId": "web.00.0"},
    ]
    body = b"\n".join(orjson.dumps(each) for each in letters)
    await cloud.objects.put_object(f"errors/processing-failed/{SHARD}-1-2.json", body, content_type="t")
    report = await cloud.audit()
    assert (report.verdict, report.dead_lettered, report.lost) == ("ok", 2, 0)


async def test_failing_calls_are_repeated_and_expired_iterators_renewed() -> None:
    """An audit must not fail because a call did."""
    cloud = _Cloud()
    await cloud.fill()
    unavailable = ServiceUnavailableError("down")
    for operation in ("kinesis.get_records", "kinesis.list_shards", "objects.get", "objects.list"):
        cloud.network.scripts[operation] = [unavailable, None, unavailable]
    assert (await cloud.audit()).verdict == "ok"


async def test_a_stranger_in_the_archive_is_refused() -> None:
    """What is no archive of ours ends as an error that names the object."""
    cloud = _Cloud(compressed=False)
    await cloud.store(1, range(0), name="archive/destination=readme.txt")
    with pytest.raises(SourceError, match=r"readme\.txt"):
        await cloud.audit()


async def test_a_receipt_that_the_stream_does_not_have_is_a_loss() -> None:
    """Producers' receipts are a second witness."""
    cloud = _Cloud()
    await cloud.fill()
    report = await cloud.audit(receipts=["web.00.1", "web.00.77"])
    assert (report.lost_before_stream, report.lost_examples) == (1, ("web.00.77",))


async def test_an_application_is_audited_by_its_own_description() -> None:
    """Streams, bucket and prefixes come from the application row; one that never ran is an error with a hint."""
    cloud = _Cloud()
    await cloud.fill()
    leases = FakeLeases()

    async def open_bucket(name: str) -> FakeObjects:
        assert name == "bucket"
        return cloud.objects

    async def audit() -> AuditReport:
        return await audit_application(
            app="shop",
            kinesis=cloud.kinesis,
            leases=leases,
            open_bucket=open_bucket,
            random=random.Random(1),
            sleep=lambda _: asyncio.sleep(0),
        )

    with pytest.raises(ConfigurationError, match="`shop`"):
        await audit()
    await leases.write_application(
        {
            "source_stream": "source",
            "dest_streams": DESTINATIONS,
            "bucket": "bucket",
            "archive_prefix": "archive/destination=!{destination}/",
            "error_prefix": "errors/!{firehose:error-output-type}/",
        }
    )
    assert (await audit()).verdict == "ok"


async def _unstored(checkpoint: Callable[[int], Checkpoint] | None) -> AuditReport:
    """Audit an aggregate of five events and five more, none stored; the checkpoint is made from the first's number."""
    cloud, leases = _Cloud(), FakeLeases()
    await cloud.fill()
    for key in [*cloud.objects.objects]:
        del cloud.objects.objects[key]
    first = int(cloud.kinesis.records("source")[0][1].sequence_number)
    if checkpoint is not None:
        leases.rows[SHARD] = Lease(SHARD, checkpoint=checkpoint(first))
    return await cloud.audit(leases)


@pytest.mark.parametrize("checkpoint", [None, lambda _: AT_TRIM_HORIZON, lambda _: AT_LATEST])
async def test_events_behind_the_checkpoint_are_pending(checkpoint: Callable[[int], Checkpoint] | None) -> None:
    """An open batch is no loss, nor is a shard that nobody has begun with."""
    report = await _unstored(checkpoint)
    assert (report.pending, report.lost, report.lost_examples, report.verdict) == (10, 0, (), "pending")
    assert report.is_ok


async def test_what_is_missing_before_the_checkpoint_is_lost() -> None:
    """A checkpoint says that what it covers is stored, also inside an aggregate; beyond it nothing is lost yet."""
    report = await _unstored(lambda first: Checkpoint.at(Position(first, 1)))
    assert (report.pending, report.lost, report.verdict) == (8, 2, "2 lost on the way to S3")
    assert report.lost_examples == ("web.00.0", "web.00.1")
    report = await _unstored(lambda _: SHARD_END)
    assert (report.pending, report.lost, report.is_ok) == (0, 10, False)


async def test_what_is_stored_behind_the_checkpoint_is_not_pending() -> None:
    """Objects are written before the checkpoint moves."""
    cloud = _Cloud()
    await cloud.fill()
    report = await cloud.audit(FakeLeases())
    assert (report.pending, report.in_s3, report.verdict) == (0, 10, "ok")


def test_the_constant_prefix_ends_before_the_first_expression() -> None:
    """All objects lie below it."""
    assert constant_prefix("archive/destination=!{destination}/x") == "archive/destination="
    assert constant_prefix("plain/") == "plain/"
