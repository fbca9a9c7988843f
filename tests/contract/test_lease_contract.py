"""The same lease table scripts at the fake, the local cloud and moto."""

from __future__ import annotations

from random import Random

import pytest

from shared.errors import TableNotFoundError
from shared.lease import Checkpoint, Lease, LeaseChange, LeaseExpectation
from shared.ports import ConditionFailedError
from shared.records import Position
from tests.contract.answer import agree
from tests.contract.lease_script import Create, Delete, LeaseScript, ReadLease, Update, every_expectation, run_leases
from tests.contract.sites import Sites

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_leases(sites: Sites, lease_seed: int) -> None:
    """Rows, conditions and refusals with their current row are the same everywhere."""
    script = LeaseScript(Random(f"lease {lease_seed}"))
    answers = {
        site.name: await run_leases(await site.leases(f"leases-{lease_seed}-{site.name}"), script.steps)
        for site in sites.sharing_moto(lease_seed)
    }
    agree(lease_seed, script.steps, answers)


@pytest.mark.parametrize("owner", [None, "worker-1"])
async def test_every_subset_of_a_condition(sites: Sites, owner: str | None) -> None:
    """Each subset of owner, epoch, heartbeat and version holds or fails alike, for owned and unowned rows."""
    row = Lease(
        "shardId-000000000000", owner=owner, epoch=3, heartbeat=5, version=7, checkpoint=Checkpoint.at(Position(9))
    )
    steps = [Create(row)]
    for index, expectation in enumerate(every_expectation(row)):
        steps.append(Update(row.shard_id, expectation, LeaseChange(attempts=index)))
        steps.append(Delete("shardId-000000000001", expectation))
    answers = {
        site.name: await run_leases(await site.leases(f"subsets-{owner}-{site.name}"), steps)
        for site in (sites.fake(), sites.cloud, sites.moto)
    }
    agree(owner, steps, answers)


@pytest.mark.parametrize("count", [1_999, 2_000, 20_000, 23_000, 26_000, 60_000])
async def test_marks_beyond_a_row_are_refused(sites: Sites, count: int) -> None:
    """Marks that take more than half of a row are our mistake, not one to retry: everywhere from the same count on."""
    random = Random(count)
    marks = {f"web-{random.randrange(9)}.{lane}": random.getrandbits(20) for lane in range(count)}
    steps = [Create(Lease("shardId-000000000000", marks=marks)), ReadLease("shardId-000000000000")]
    answers = {
        site.name: await run_leases(await site.leases(f"marks-{count}-{site.name}"), steps)
        for site in (sites.fake(), sites.cloud, sites.moto)
    }
    agree(count, steps, answers)
    is_stored = answers["fake"][1] is not None
    assert is_stored == (count < 25_000)


async def test_a_missing_table_is_named(sites: Sites) -> None:
    """Every call on a table that does not exist says so, conditional or not."""
    for site in (sites.cloud, sites.moto):
        port = await site.aws.leases("no-such-table")
        for call in (
            port.list_leases(),
            port.read_lease("s"),
            port.create_lease(Lease("s")),
            port.update_lease("s", LeaseExpectation(), LeaseChange(epoch=1)),
            port.delete_lease("s", LeaseExpectation()),
            port.write_application({}),
            port.delete_application(),
            port.hold_schema("{}"),
        ):
            with pytest.raises(TableNotFoundError):
                await call


async def test_a_condition_on_no_row_fails_with_none(sites: Sites) -> None:
    """An update without any expectation still needs the row to be there."""
    for site in (sites.fake(), sites.cloud, sites.moto):
        port = await site.leases(f"no-row-{site.name}")
        with pytest.raises(ConditionFailedError) as refusal:
            await port.update_lease("shardId-000000000000", LeaseExpectation(), LeaseChange(epoch=1))
        assert refusal.value.current is None
