"""The AWS adapters against the local cloud: what the ports promise, through real requests."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from infra.provision import Plan, Provisioned, deprovision, provision
from shared.aws.control import open_control
from shared.aws.kinesis import KinesisAdapter
from shared.aws.leases import APPLICATION_KEY
from shared.aws.objects import ObjectAdapter
from shared.aws.session import Aws, open_aws
from shared.errors import (
    AmbiguousCallError,
    BucketNotFoundError,
    ConfigurationError,
    CredentialsError,
    InvalidRequestError,
    ServiceUnavailableError,
    StreamNotFoundError,
    TableNotFoundError,
)
from shared.hash_key import even_ranges
from shared.lease import AT_TRIM_HORIZON, SHARD_END, Checkpoint, Lease, LeaseChange, LeaseExpectation, PendingFlush
from shared.ports import ConditionFailedError
from shared.records import LATEST, TRIM_HORIZON, Distribution, Position, PutEntry, Start, StartKind
from shared.telemetry import SilentTelemetry


@pytest.fixture
async def provisioned(point_to_cloud: None, unique: str) -> Provisioned:
    """Provision one application of the test's own."""
    return await provision(_plan(unique), report=lambda _: None, poll_seconds=0.05)


def _plan(unique: str) -> Plan:
    dests = {"USA": f"{unique}-usa", "International": f"{unique}-world"}
    return Plan(source_stream=f"{unique}-in", dest_streams=dests, bucket=f"{unique}-archive", app=unique)


def _lease(shard_id: str = "shardId-000000000000", **fields: object) -> Lease:
    return Lease(shard_id, **fields)  # type: ignore[arg-type] # the test names the fields


# Provisioning.


async def test_provision_is_idempotent_and_reversible(provisioned: Provisioned, unique: str) -> None:
    """A second run finds everything there, --delete removes exactly that, and a third run makes it anew."""
    said: list[str] = []
    assert await provision(_plan(unique), report=said.append, poll_seconds=0.05) == provisioned
    assert sorted(said) == [
        f"Bucket `{unique}-archive`: exists",
        *sorted(f"Stream `{name}`: exists, 2 shards" for name in _plan(unique).streams),
        f"Table `{unique}`: exists",
    ]
    done = await deprovision(_plan(unique), report=lambda _: None, poll_seconds=0.05)
    assert (sorted(done.gone), done.kept) == (sorted([*_plan(unique).streams, unique, f"{unique}-archive"]), ())
    async with open_control() as control:
        assert await control.describe_stream(f"{unique}-in") is None
        assert await control.describe_table(unique) is None
        assert not await control.has_bucket(f"{unique}-archive")
    assert await provision(_plan(unique), report=lambda _: None, poll_seconds=0.05) == provisioned


async def test_the_bucket_of_the_account_is_the_default(point_to_cloud: None, unique: str) -> None:
    """Without a bucket's name, it is named after the account."""
    plan = Plan(source_stream=unique, dest_streams={"International": unique}, app=unique)
    made = await provision(plan, report=lambda _: None, poll_seconds=0.05)
    assert made.bucket == "headrace-archive-123456789012"


async def test_on_demand_streams(point_to_cloud: None, unique: str) -> None:
    """`--on-demand` makes streams that scale by themselves."""
    plan = Plan(source_stream=unique, dest_streams={"International": unique}, app=unique, bucket=unique, shards=None)
    await provision(plan, report=lambda _: None, poll_seconds=0.05)
    async with open_control() as control:
        state = await control.describe_stream(unique)
    assert state is not None
    assert (state.status, state.on_demand) == ("ACTIVE", True)


async def test_objects_survive_a_deletion_without_force(provisioned: Provisioned, aws: Aws, unique: str) -> None:
    """A bucket with objects is kept, and removed with all versions of its objects only when forced."""
    objects = await aws.objects(provisioned.bucket)
    for body in (b"1", b"2"):
        await objects.put_object("errors/x", body, content_type="text/plain", only_if_absent=False)
    with pytest.raises(ConfigurationError, match="holds objects"):
        await deprovision(_plan(unique), report=lambda _: None, poll_seconds=0.05)
    assert await objects.get_object("errors/x") == b"2"
    await deprovision(_plan(unique), force=True, report=lambda _: None, poll_seconds=0.05)
    with pytest.raises(BucketNotFoundError):
        await objects.get_object("errors/x")


async def test_foreign_resources_are_left_alone(provisioned: Provisioned, aws: Aws, unique: str) -> None:
    """Another application that shares the streams does not remove them."""
    plan = _plan(unique)
    other = Plan(plan.source_stream, plan.dest_streams, plan.bucket, f"{unique}-other")
    await provision(other, report=lambda _: None, poll_seconds=0.05)
    done = await deprovision(other, force=True, report=lambda _: None, poll_seconds=0.05)
    assert done.gone == (f"{unique}-other",)
    assert (await (await aws.kinesis()).describe_stream(plan.source_stream)).status == "ACTIVE"


# Kinesis.


async def test_records_come_back_as_they_were_put(provisioned: Provisioned, aws: Aws) -> None:
    """Data, key and sequence number survive; the explicit hash key decides on the shard."""
    kinesis = await aws.kinesis()
    stream = provisioned.source_stream
    low, high = even_ranges(2)
    results = await kinesis.put_records(
        stream, [PutEntry(b"\x00\xff", "a", low.start), PutEntry("é".encode(), "ключ", high.end)]
    )
    one = await kinesis.put_record(stream, PutEntry(b"3", "c", high.start))
    shards = {shard.hash_key_range: shard.shard_id for shard in await kinesis.list_shards(stream)}
    assert [result.shard_id for result in results] == [shards[low], shards[high]]
    assert one.shard_id == shards[high]
    iterator = await kinesis.get_shard_iterator(stream, shards[high], TRIM_HORIZON)
    page = await kinesis.get_records(stream, iterator, 10)
    assert [(each.data, each.partition_key, each.sequence_number) for each in page.records] == [
        ("é".encode(), "ключ", results[1].sequence_number),
        (b"3", "c", one.sequence_number),
    ]
    assert all(isinstance(each.arrival_timestamp, float) for each in page.records)
    assert page.next_iterator is not None
    assert page.behind_milliseconds == 0


async def test_every_way_to_start(provisioned: Provisioned, aws: Aws) -> None:
    """At, after, by time, oldest and latest each begin where they say."""
    kinesis = await aws.kinesis()
    stream = provisioned.source_stream
    first, second = [await kinesis.put_record(stream, PutEntry(data, "k")) for data in (b"1", b"2")]

    async def read(start: Start) -> list[bytes]:
        iterator = await kinesis.get_shard_iterator(stream, first.shard_id, start)
        return [each.data for each in (await kinesis.get_records(stream, iterator, 10)).records]

    assert await read(Start(StartKind.AT_SEQUENCE_NUMBER, second.sequence_number)) == [b"2"]
    assert await read(Start(StartKind.AFTER_SEQUENCE_NUMBER, first.sequence_number)) == [b"2"]
    assert await read(Start(StartKind.AT_TIMESTAMP, timestamp=1.0)) == [b"1", b"2"]
    assert await read(TRIM_HORIZON) == [b"1", b"2"]
    assert await read(LATEST) == []


async def test_stream_summary(provisioned: Provisioned, aws: Aws) -> None:
    """The summary has what the producer decides by."""
    summary = await (await aws.kinesis()).describe_stream(provisioned.source_stream)
    assert (summary.status, summary.open_shard_count, summary.retention_hours) == ("ACTIVE", 2, 24)
    assert (summary.record_bytes_max, summary.distribution) == (1024 * 1024, Distribution.USER_PARTITION_KEY)


async def test_a_missing_stream_has_a_name_and_a_remedy(point_to_cloud: None, aws: Aws) -> None:
    """An unknown stream is named in the message, and the hint says what makes it."""
    with pytest.raises(StreamNotFoundError, match="Stream `nowhere` does not exist") as failure:
        await (await aws.kinesis()).describe_stream("nowhere")
    assert "headrace provision" in failure.value.hint
    assert not failure.value.retryable


# Leases.


async def test_a_lease_is_created_once(provisioned: Provisioned, aws: Aws) -> None:
    """The second creation is refused and hands back the stored row."""
    leases = await aws.leases(provisioned.table)
    lease = _lease(hash_key_range=even_ranges(2)[1], parents=("shardId-000000000007", "shardId-000000000008"))
    await leases.create_lease(lease)
    with pytest.raises(ConditionFailedError) as refusal:
        await leases.create_lease(_lease(owner="late"))
    assert refusal.value.current == lease
    assert await leases.read_lease(lease.shard_id) == lease
    assert await leases.read_lease("shardId-000000000099") is None


async def test_requests_to_the_table_are_counted_by_operation(provisioned: Provisioned, aws: Aws) -> None:
    """What a group costs in DynamoDB is a metric: every request counts once, refused ones too."""
    telemetry = SilentTelemetry()
    for _ in range(2):
        leases = await aws.leases(provisioned.table, telemetry)
    await leases.create_lease(_lease())
    with pytest.raises(ConditionFailedError):
        await leases.create_lease(_lease())
    await leases.list_leases()
    assert telemetry.counters == {
        ("dynamodb_requests", "operation=PutItem"): 2,
        ("dynamodb_requests", "operation=Scan"): 1,
    }


async def test_an_update_needs_its_expectation(provisioned: Provisioned, aws: Aws) -> None:
    """Owner, epoch, heartbeat and version each fence a write; a refusal shows the row as it stands."""
    leases = await aws.leases(provisioned.table)
    await leases.create_lease(_lease())
    taken = await leases.update_lease(
        "shardId-000000000000",
        LeaseExpectation(owner=None, epoch=0),
        LeaseChange(owner="w1", epoch=1, heartbeat=4, version=2, write_id="abc"),
    )
    assert taken == _lease(owner="w1", epoch=1, heartbeat=4, version=2, write_id="abc")
    for stale in (
        LeaseExpectation(owner=None),
        LeaseExpectation(owner="w2"),
        LeaseExpectation(epoch=0),
        LeaseExpectation(heartbeat=3),
        LeaseExpectation(owner="w1", epoch=1, version=1),
    ):
        with pytest.raises(ConditionFailedError) as refusal:
            await leases.update_lease(taken.shard_id, stale, LeaseChange(version=9))
        assert refusal.value.current == taken
    released = await leases.update_lease(
        taken.shard_id, LeaseExpectation("w1", 1, 4, 2), LeaseChange(owner=None, version=3)
    )
    assert released == _lease(owner=None, epoch=1, heartbeat=4, version=3, write_id="abc")


async def test_an_update_of_no_row_is_refused(provisioned: Provisioned, aws: Aws) -> None:
    """An update never creates a row: a finished shard can't come back."""
    leases = await aws.leases(provisioned.table)
    with pytest.raises(ConditionFailedError) as refusal:
        await leases.update_lease("shardId-000000000000", LeaseExpectation(), LeaseChange(epoch=1))
    assert refusal.value.current is None
    assert await leases.list_leases() == ()


async def test_data_fields_can_be_set_and_cleared(provisioned: Provisioned, aws: Aws) -> None:
    """Checkpoint, pending flush, marks and children are stored whole and can be taken away again."""
    leases = await aws.leases(provisioned.table)
    await leases.create_lease(_lease())
    at = Position(49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898, 7)
    full = LeaseChange(
        checkpoint=Checkpoint.at(at),
        pending=PendingFlush(("a/1", "b/2"), at, at._replace(sub_sequence_number=9), 3, "1"),
        marks={"src.255": 2**63, "src.0": 0},
        children=("shardId-000000000002", "shardId-000000000003"),
        attempts=2,
        finished_at=1_700_000_000.25,
        is_paused=True,
        generation=1,
        start_timestamp=1_700_000_000.5,
        seek_to=AT_TRIM_HORIZON,
        read_through=1_700_000_001.5,
        closed_until=1_700_000_002.5,
    )
    assert await leases.update_lease(_lease().shard_id, LeaseExpectation(), full) == full.apply(_lease())
    empty = LeaseChange(
        checkpoint=SHARD_END,
        pending=None,
        marks={},
        children=(),
        attempts=0,
        finished_at=None,
        is_paused=False,
        generation=0,
        start_timestamp=None,
        seek_to=None,
        read_through=None,
        closed_until=None,
    )
    assert await leases.update_lease(_lease().shard_id, LeaseExpectation(), empty) == _lease(checkpoint=SHARD_END)


async def test_the_first_schema_is_held(provisioned: Provisioned, aws: Aws) -> None:
    """Whoever comes second gets the columns of the first; they are no lease."""
    leases = await aws.leases(provisioned.table)
    assert [await leases.hold_schema(text) for text in ("first", "second", "first")] == ["first"] * 3
    assert await leases.list_leases() == ()


async def test_delete_needs_its_expectation(provisioned: Provisioned, aws: Aws) -> None:
    """A row is deleted only as expected."""
    leases = await aws.leases(provisioned.table)
    await leases.create_lease(_lease(owner="w1"))
    with pytest.raises(ConditionFailedError):
        await leases.delete_lease(_lease().shard_id, LeaseExpectation(owner=None))
    await leases.delete_lease(_lease().shard_id, LeaseExpectation(owner="w1"))
    assert await leases.read_lease(_lease().shard_id) is None


async def test_list_leases_reads_every_page(provisioned: Provisioned, aws: Aws) -> None:
    """More rows than one answer holds (1 MB) are all listed, in order, without the application's own row."""
    leases = await aws.leases(provisioned.table)
    await leases.write_application({"bucket": provisioned.bucket})
    # Names that do not shrink: a long list of them is packed.
    chance = random.Random(1)
    keys = tuple(f"archive/{chance.randbytes(100).hex()}" for _ in range(800))
    bulky = PendingFlush(keys, Position(1), Position(2), 3, "1")
    expected = [_lease(f"shardId-{index:012}", pending=bulky) for index in range(15)]
    for lease in reversed(expected):
        await leases.create_lease(lease)
    assert list(await leases.list_leases()) == expected


async def test_the_application_describes_itself(provisioned: Provisioned, aws: Aws) -> None:
    """The description comes back as it was written, and is no lease."""
    leases = await aws.leases(provisioned.table)
    assert await leases.read_application() is None
    description = {"source_stream": "in", "dest_streams": {"USA": "u"}, "bucket": ""}
    await leases.write_application(description)
    assert await leases.read_application() == description
    assert await leases.list_leases() == ()
    assert not APPLICATION_KEY.startswith("shardId-")


async def test_marks_that_do_not_fit_are_refused(provisioned: Provisioned, aws: Aws) -> None:
    """Marks beyond what a row can hold are an error with both sizes, and nothing is written."""
    leases = await aws.leases(provisioned.table)
    await leases.create_lease(_lease())
    marks = {f"{index * 2654435761 % 2**64:016x}.{index % 256}": index * 40503 for index in range(20_000)}
    with pytest.raises(InvalidRequestError, match=r"Duplicate marks take [\d,]+ bytes; a lease row has room for"):
        await leases.update_lease(_lease().shard_id, LeaseExpectation(), LeaseChange(marks=marks))
    assert await leases.read_lease(_lease().shard_id) == _lease(checkpoint=AT_TRIM_HORIZON)


async def test_a_missing_table_has_a_name(point_to_cloud: None, aws: Aws) -> None:
    """An unknown table is named in the message."""
    with pytest.raises(TableNotFoundError, match="Table `nowhere` does not exist"):
        await (await aws.leases("nowhere")).list_leases()


# Objects.


async def test_an_object_is_written_once(provisioned: Provisioned, aws: Aws) -> None:
    """The second conditional put says False and changes nothing; an unconditional one replaces."""
    objects = await aws.objects(provisioned.bucket)
    put = {"content_type": "application/x-ndjson", "content_encoding": "gzip"}
    assert await objects.put_object("archive/k", b"first", **put)
    assert not await objects.put_object("archive/k", b"second", **put)
    assert await objects.get_object("archive/k") == b"first"
    assert await objects.put_object("archive/k", b"third", only_if_absent=False, **put)
    assert await objects.get_object("archive/k") == b"third"


class _TwoPages:
    """An S3 client whose listing takes two answers."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []

    async def list_objects_v2(self, **request: str) -> dict[str, object]:
        self.requests.append(request)
        if "ContinuationToken" in request:
            return {"Contents": [{"Key": "archive/3", "Size": 3}], "IsTruncated": False}
        contents = [{"Key": "archive/1", "Size": 1}, {"Key": "archive/2", "Size": 2}]
        return {"Contents": contents, "IsTruncated": True, "NextContinuationToken": "more"}


async def test_list_objects_walks_every_page() -> None:
    """A listing in two answers is walked to its end, the second asked for with the token of the first."""
    client = _TwoPages()
    found = [(each.key, each.size) async for each in ObjectAdapter(client, "b").list_objects("archive/")]
    assert found == [("archive/1", 1), ("archive/2", 2), ("archive/3", 3)]
    assert client.requests == [
        {"Bucket": "b", "Prefix": "archive/"},
        {"Bucket": "b", "Prefix": "archive/", "ContinuationToken": "more"},
    ]


async def test_list_objects_keeps_to_its_prefix(provisioned: Provisioned, aws: Aws) -> None:
    """Objects below the prefix are listed in key order, and no others."""
    objects = await aws.objects(provisioned.bucket)
    for key in ("archive/b", "errors/x", "archive/a"):
        await objects.put_object(key, b"ab", content_type="text/plain")
    assert [(each.key, each.size) async for each in objects.list_objects("archive/")] == [
        ("archive/a", 2),
        ("archive/b", 2),
    ]
    assert [each async for each in objects.list_objects("nothing/")] == []


class _ShardPages:
    """A Kinesis client whose shard listing takes two answers and refuses a token next to a stream name, as AWS does."""

    async def list_shards(self, **request: object) -> dict[str, object]:
        assert ("NextToken" in request) != ("StreamName" in request)
        number = 1 if "NextToken" in request else 0
        low, high = even_ranges(2)
        covered = high if number else low
        shard = {
            "ShardId": f"shardId-{number:012}",
            "HashKeyRange": {"StartingHashKey": str(covered.start), "EndingHashKey": str(covered.end)},
            "SequenceNumberRange": {"StartingSequenceNumber": "1"} | ({"EndingSequenceNumber": "9"} if number else {}),
            "ParentShardId": "shardId-000000000007",
        }
        return {"Shards": [shard]} | ({} if number else {"NextToken": "more"})


async def test_list_shards_reads_every_page() -> None:
    """A shard listing in two answers is read to its end, with ranges, parents and openness."""
    low, high = even_ranges(2)
    shards = await KinesisAdapter(_ShardPages()).list_shards("s")
    assert [(each.shard_id, each.hash_key_range, each.parents, each.is_open) for each in shards] == [
        ("shardId-000000000000", low, ("shardId-000000000007",), True),
        ("shardId-000000000001", high, ("shardId-000000000007",), False),
    ]


async def test_a_missing_bucket_has_a_name(point_to_cloud: None, aws: Aws, unique: str) -> None:
    """An unknown bucket is named in the message."""
    with pytest.raises(BucketNotFoundError, match=f"Bucket `{unique}` does not exist"):
        await (await aws.objects(unique)).put_object("k", b"", content_type="text/plain")


# Without a cloud.


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the first call says so and how to set them."""
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    async with open_aws() as aws:
        with pytest.raises(CredentialsError, match="No usable AWS credentials") as failure:
            await (await aws.kinesis()).describe_stream("any")
    assert "AWS_PROFILE" in failure.value.hint


async def test_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a region the first client says so."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    async with open_aws() as aws:
        with pytest.raises(CredentialsError, match="No AWS region is set"):
            await aws.kinesis()


async def test_nobody_listens(point_to_cloud: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is retryable and did not land; the hint asks for the endpoint."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    async with open_aws() as aws:
        with pytest.raises(ServiceUnavailableError, match="Could not connect for DescribeStreamSummary") as failure:
            await (await aws.kinesis()).describe_stream("any")
    assert failure.value.retryable
    assert "AWS_ENDPOINT_URL" in failure.value.hint


@contextlib.asynccontextmanager
async def _mute_server() -> AsyncIterator[str]:
    """Serve an endpoint that takes connections and never answers."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def test_no_answer_ends_in_time_and_is_ambiguous(
    point_to_cloud: None, monkeypatch: pytest.MonkeyPatch, unique: str
) -> None:
    """A service that takes the call and says nothing is given up after the time-out: the call may have landed."""
    async with _mute_server() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        async with open_aws(call_timeout_seconds=0.2) as aws:
            with pytest.raises(AmbiguousCallError, match=f"No answer to PutObject on bucket `{unique}`"):
                await (await aws.objects(unique)).put_object("k", b"1", content_type="text/plain")
            with pytest.raises(AmbiguousCallError, match="No answer to PutRecord on stream `s`") as failure:
                await (await aws.kinesis()).put_record("s", PutEntry(b"1", "k"))
    assert failure.value.retryable
