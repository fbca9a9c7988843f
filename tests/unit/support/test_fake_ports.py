"""The fakes behind the ports behave as the services do, so that what passes against them means something."""

from __future__ import annotations

import errno

import pytest

from shared.errors import AmbiguousCallError, InvalidRequestError, IteratorExpiredError, StreamNotFoundError
from shared.hash_key import hash_key_of
from shared.lease import SHARD_END, Checkpoint, Lease, LeaseChange, LeaseExpectation
from shared.limits import HASH_KEY_MAX, RECORD_BYTES_MAX_DEFAULT
from shared.ports import ConditionFailedError
from shared.records import LATEST, TRIM_HORIZON, Position, PutEntry, Start, StartKind
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_leases import FakeLeases
from tests.support.fake_objects import FakeObjects
from tests.support.network import Lost, PerfectNetwork, ScriptedNetwork

FIRST = "shardId-000000000000"
SECOND = "shardId-000000000001"


async def _read(kinesis: FakeKinesis, shard_id: str, start: Start = TRIM_HORIZON) -> list[bytes]:
    iterator = await kinesis.get_shard_iterator("s", shard_id, start)
    return [record.data for record in (await kinesis.get_records("s", iterator, 100)).records]


async def test_a_record_lands_in_the_shard_of_its_hash_key() -> None:
    """Partition keys go by MD5, explicit hash keys by themselves."""
    kinesis = FakeKinesis()
    kinesis.create_stream("s", 2)
    middle = (HASH_KEY_MAX + 1) // 2
    by_key = await kinesis.put_record("s", PutEntry(b"a", "key"))
    by_hash = await kinesis.put_record("s", PutEntry(b"b", "key", HASH_KEY_MAX))
    assert by_key.shard_id == (FIRST if hash_key_of("key") < middle else SECOND)
    assert by_hash.shard_id == SECOND
    assert by_hash.sequence_number > by_key.sequence_number


async def test_a_split_closes_the_parent_and_names_the_children_at_its_end() -> None:
    """Records after a split go to the children; the parent's last page has no next iterator."""
    kinesis = FakeKinesis()
    kinesis.create_stream("s")
    await kinesis.put_record("s", PutEntry(b"old", "key", 0))
    low, high = kinesis.split_shard("s", FIRST)
    landed = await kinesis.put_record("s", PutEntry(b"new", "key", 0))
    page = await kinesis.get_records("s", await kinesis.get_shard_iterator("s", FIRST, TRIM_HORIZON), 10)
    assert landed.shard_id == low
    assert [record.data for record in page.records] == [b"old"]
    assert page.next_iterator is None
    assert [(child.shard_id, child.parents) for child in page.child_shards] == [(low, (FIRST,)), (high, (FIRST,))]
    shards = {shard.shard_id: shard for shard in await kinesis.list_shards("s")}
    assert not shards[FIRST].is_open
    assert shards[FIRST].hash_key_range.end == HASH_KEY_MAX


async def test_a_merge_has_two_parents() -> None:
    """The child of a merge names both, the first one given as parent."""
    kinesis = FakeKinesis()
    kinesis.create_stream("s", 2)
    child = kinesis.merge_shards("s", SECOND, FIRST)
    shards = {shard.shard_id: shard for shard in await kinesis.list_shards("s")}
    assert shards[child].parents == (SECOND, FIRST)
    assert (await kinesis.describe_stream("s")).open_shard_count == 1


async def test_iterators_start_where_their_type_says() -> None:
    """All five types, by sequence number, time and end."""
    network = PerfectNetwork(wall=1_000.0)
    kinesis = FakeKinesis(network)
    kinesis.create_stream("s")
    numbers = []
    for data in (b"a", b"b", b"c"):
        numbers.append((await kinesis.put_record("s", PutEntry(data, "k"))).sequence_number)
        network.advance(10)
    assert await _read(kinesis, FIRST) == [b"a", b"b", b"c"]
    assert await _read(kinesis, FIRST, LATEST) == []
    assert await _read(kinesis, FIRST, Start(StartKind.AT_SEQUENCE_NUMBER, sequence_number=numbers[1])) == [b"b", b"c"]
    assert await _read(kinesis, FIRST, Start(StartKind.AFTER_SEQUENCE_NUMBER, sequence_number=numbers[1])) == [b"c"]
    assert await _read(kinesis, FIRST, Start(StartKind.AT_TIMESTAMP, timestamp=1_010.0)) == [b"b", b"c"]
    kinesis.trim("s", FIRST, 2)
    assert await _read(kinesis, FIRST) == [b"c"]


async def test_an_iterator_expires_after_five_minutes() -> None:
    """301 seconds are too many, 299 are not."""
    network = PerfectNetwork(wall=0.0)
    kinesis = FakeKinesis(network)
    kinesis.create_stream("s")
    iterator = await kinesis.get_shard_iterator("s", FIRST, TRIM_HORIZON)
    network.advance(299)
    assert (await kinesis.get_records("s", iterator, 1)).records == ()
    network.advance(2)
    with pytest.raises(IteratorExpiredError):
        await kinesis.get_records("s", iterator, 1)


async def test_limits_of_a_put_are_kept() -> None:
    """What AWS refuses is refused, and nothing of a refused call lands."""
    kinesis = FakeKinesis()
    kinesis.create_stream("s")
    good = PutEntry(b"x", "k")
    for entries in (
        [],
        [good] * 501,
        [good, PutEntry(b"", "")],
        [good, PutEntry(b"x" * RECORD_BYTES_MAX_DEFAULT, "k")],
        [good, PutEntry(b"", "k" * 257)],
        [good, PutEntry(b"", "k", HASH_KEY_MAX + 1)],
    ):
        with pytest.raises(InvalidRequestError):
            await kinesis.put_records("s", entries)
    with pytest.raises(StreamNotFoundError):
        await kinesis.put_records("absent", [good])
    assert kinesis.records("s") == []


async def test_a_script_fails_entries_and_loses_replies() -> None:
    """Unit tests say what happens to a call, entry by entry."""
    network = ScriptedNetwork()
    kinesis = FakeKinesis(network)
    kinesis.create_stream("s")
    network.entry_errors["put_records"] = ["", "InternalFailure"]
    results = await kinesis.put_records("s", [PutEntry(b"a", "k"), PutEntry(b"b", "k")])
    assert [each.error_code for each in results] == ["", "InternalFailure"]
    network.scripts["kinesis.put_records"] = [Lost(AmbiguousCallError("no answer"))]
    with pytest.raises(AmbiguousCallError):
        await kinesis.put_records("s", [PutEntry(b"b", "k")])
    assert [record.data for _, record in kinesis.records("s")] == [b"a", b"b"]


async def test_lease_writes_are_conditional() -> None:
    """Every field of the expectation counts, and a refusal shows the stored row."""
    leases = FakeLeases()
    await leases.create_lease(Lease(FIRST))
    with pytest.raises(ConditionFailedError):
        await leases.create_lease(Lease(FIRST))
    row = await leases.update_lease(
        FIRST, LeaseExpectation(owner=None, epoch=0), LeaseChange(owner="me", epoch=1, heartbeat=1)
    )
    assert (row.owner, row.epoch, row.heartbeat, row.version) == ("me", 1, 1, 0)
    for expectation in (
        LeaseExpectation(owner="you"),
        LeaseExpectation(epoch=0),
        LeaseExpectation(heartbeat=0),
        LeaseExpectation(version=1),
    ):
        with pytest.raises(ConditionFailedError) as refusal:
            await leases.update_lease(FIRST, expectation, LeaseChange(checkpoint=SHARD_END))
        assert refusal.value.current == row
    with pytest.raises(ConditionFailedError) as absent:
        await leases.update_lease(SECOND, LeaseExpectation(), LeaseChange(epoch=1))
    assert absent.value.current is None
    await leases.delete_lease(FIRST, LeaseExpectation(owner="me"))
    assert await leases.list_leases() == ()


async def test_a_stored_row_does_not_change_with_its_writers_marks() -> None:
    """A row is a copy: a mapping that its writer goes on using must not reach into the table."""
    leases = FakeLeases()
    marks = {"web.00": 1}
    await leases.create_lease(Lease(FIRST, marks=marks))
    marks["web.00"] = 2
    row = await leases.read_lease(FIRST)
    assert row is not None
    assert dict(row.marks) == {"web.00": 1}
    await leases.update_lease(FIRST, LeaseExpectation(), LeaseChange(checkpoint=Checkpoint.at(Position(5, 1))))
    assert dict(leases.rows[FIRST].marks) == {"web.00": 1}


async def test_an_object_that_exists_is_not_written_again() -> None:
    """If-None-Match answers False and leaves the first bytes; without it an overwrite is noted."""
    objects = FakeObjects()
    assert await objects.put_object("a/1", b"one", content_type="t")
    assert not await objects.put_object("a/1", b"two", content_type="t")
    assert await objects.get_object("a/1") == b"one"
    assert await objects.put_object("a/1", b"two", content_type="t", only_if_absent=False)
    assert objects.overwritten == ["a/1"]
    await objects.put_object("b/1", b"three", content_type="t")
    assert [each.key async for each in objects.list_objects("a/")] == ["a/1"]
    with pytest.raises(InvalidRequestError):
        await objects.get_object("absent")


async def test_power_loss_takes_what_was_not_synced() -> None:
    """Synced data stay, unsynced appends go in part, atomic writes are all or nothing."""

    class HalfNetwork(PerfectNetwork):
        def part(self, whole: int) -> int:
            return whole // 2

    disk = FakeFiles(HalfNetwork())
    await disk.append("log", b"aaaa", durable=True)
    await disk.append("log", b"bbbb", durable=False)
    await disk.append("new", b"cccc", durable=False)
    await disk.write_atomically("state", b"one")
    await disk.write_atomically("state", b"two")
    assert disk.content("log") == b"aaaabbbb"
    disk.lose_power()
    assert [disk.content(each) for each in ("log", "new", "state")] == [b"aaaabb", None, b"two"]


async def test_an_open_file_survives_rename_and_removal_and_keeps_its_inode() -> None:
    """A reader follows the file, not the name; the inode's number is used again only when nobody holds it."""
    disk = FakeFiles()
    disk.write_log("/var/log/web.log", b"one\n")
    file = await disk.open("/var/log/web.log")
    before = await file.identify()
    disk.rename("/var/log/web.log", "/var/log/web.log.1")
    disk.write_log("/var/log/web.log", b"two\n")
    disk.remove("/var/log/web.log.1")
    assert await file.read_at(0, 100) == b"one\n"
    disk.write_log("/var/log/other.log", b"")
    taken = {(await disk.identify(f"/var/log/{name}")).inode for name in await disk.list_folder("/var/log")}  # type: ignore[union-attr] - the files are there
    assert before.inode not in taken
    await file.close()
    await file.close()
    disk.write_log("/var/log/third.log", b"")
    assert (await disk.identify("/var/log/third.log")).inode == before.inode  # type: ignore[union-attr] - as above
    with pytest.raises(OSError, match="closed"):
        await file.read_at(0, 1)


async def test_a_full_disk_refuses_and_a_torn_append_leaves_a_part() -> None:
    """Errors are OSError with their number; what a torn append leaves is visible."""

    class TornNetwork(PerfectNetwork):
        torn = False

        def happens(self, kind: str) -> bool:
            return self.torn and kind == "torn_write"

        def part(self, whole: int) -> int:
            return 1

    network = TornNetwork()
    disk = FakeFiles(network)
    disk.bytes_max = 10
    await disk.write_atomically("a", b"12345678")
    with pytest.raises(OSError, match="no space") as full:
        await disk.write_atomically("a", b"87654321")
    assert full.value.errno == errno.ENOSPC
    assert disk.content("a") == b"12345678"
    network.torn = True
    with pytest.raises(OSError, match="no space"):
        await disk.append("b", b"xy", durable=True)
    assert disk.content("b") == b"x"


async def test_missing_files_and_folders_are_told_apart() -> None:
    """Absence is None where the port says so, an error where not."""
    disk = FakeFiles()
    disk.write_log("./logs/web.log", b"x")
    assert await disk.identify("absent") is None
    assert await disk.read_all("absent", 10) is None
    assert await disk.list_folder(".") == ("logs",)
    with pytest.raises(OSError, match="can't be opened") as absent:
        await disk.open("absent")
    with pytest.raises(OSError, match="can't be opened") as folder:
        await disk.open("logs")
    assert (absent.value.errno, folder.value.errno) == (errno.ENOENT, errno.EISDIR)
    with pytest.raises(OSError, match="larger") as large:
        await disk.read_all("logs/web.log", 0)
    assert large.value.errno == errno.EFBIG
