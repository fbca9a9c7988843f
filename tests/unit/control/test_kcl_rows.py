"""Checkpoints go from a KCL lease table into ours and back, and nothing is taken from an application that runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.control.kcl import KclPorts, apply_export, apply_import, plan_export, plan_import, row_lines
from infra.control.kcl_item import is_lease, item_from_row, row_from_item
from shared.errors import ConfigurationError
from shared.hash_key import HashKeyRange
from shared.lease import AT_LATEST, AT_TRIM_HORIZON, SHARD_END, Checkpoint, CheckpointKind, Lease, PendingFlush
from shared.limits import HASH_KEY_MAX
from shared.records import Position
from tests.unit.consumer.small_cloud import SmallCloud, VirtualClock

SEQUENCE = 49_590_338_271_490_256_608_559_692_538_361_571_095_921_575_989_136_588_898
FIRST, SECOND = "shardId-000000000000", "shardId-000000000001"

# As KCL 3.5 writes them (DynamoDBLeaseSerializer.java): a parent that ended, a child in the middle of an aggregate.
PARENT: dict[str, Any] = {
    "leaseKey": {"S": FIRST},
    "leaseCounter": {"N": "812"},
    "ownerSwitchesSinceCheckpoint": {"N": "0"},
    "checkpoint": {"S": "SHARD_END"},
    "checkpointSubSequenceNumber": {"N": "0"},
    "childShardIds": {"SS": [SECOND]},
    "startingHashKey": {"S": "0"},
    "endingHashKey": {"S": str(HASH_KEY_MAX)},
    "throughputKBps": {"N": "3.250000"},
    "entityType": {"S": "LEASE"},
}
CHILD: dict[str, Any] = {
    "leaseKey": {"S": SECOND},
    "leaseOwner": {"S": "f3a1c0de-worker"},
    "checkpointOwner": {"S": "other-worker"},
    "leaseCounter": {"N": "17"},
    "ownerSwitchesSinceCheckpoint": {"N": "2"},
    "checkpoint": {"S": str(SEQUENCE)},
    "checkpointSubSequenceNumber": {"N": "7"},
    "pendingCheckpoint": {"S": str(SEQUENCE + 5)},
    "pendingCheckpointSubSequenceNumber": {"N": "0"},
    "parentShardId": {"SS": [FIRST]},
}
# What KCL 3.5 keeps in the same table, and is no lease.
STRANGERS: tuple[dict[str, Any], ...] = (
    {"leaseKey": {"S": "Leader"}, "entityType": {"S": "LEADER"}, "ownerName": {"S": "w"}},
    {"leaseKey": {"S": "w"}, "entityType": {"S": "WORKER_METRIC_STATS"}, "sts": {"M": {}}},
    {"leaseKey": {"S": "Migration3.0"}, "entityType": {"S": "CLIENT_VERSION_MIGRATION"}},
)


class FakeKcl:
    """A KCL table; `before_scan` may move it on, as a worker that runs does."""

    def __init__(self, *items: Mapping[str, Any]) -> None:
        self.items = {str(item["leaseKey"]["S"]): dict(item) for item in items}
        self.before_scan: Callable[[], None] = lambda: None

    async def scan(self) -> list[dict[str, Any]]:
        """Read all items."""
        self.before_scan()
        return [dict(item) for item in self.items.values()]

    async def put_unowned(self, item: Mapping[str, Any]) -> bool:
        """Write an item unless it has an owner."""
        key = str(item["leaseKey"]["S"])
        if "leaseOwner" in self.items.get(key, {}):
            return False
        self.items[key] = dict(item)
        return True


def ports_of(cloud: SmallCloud, kcl: FakeKcl) -> KclPorts:
    """Return both tables."""
    return KclPorts(kcl, cloud.leases, VirtualClock(cloud.loop), random.Random(1))


def test_rows_of_a_kcl_table_become_ours() -> None:
    """Checkpoint, sub-sequence number, parents, children and hash keys are taken over; what is no lease is not."""
    assert row_from_item(PARENT, 5.0) == Lease(
        FIRST,
        checkpoint=SHARD_END,
        children=(SECOND,),
        hash_key_range=HashKeyRange(0, HASH_KEY_MAX),
        finished_at=5.0,
    )
    assert row_from_item(CHILD, 5.0) == Lease(SECOND, checkpoint=Checkpoint.at(Position(SEQUENCE, 7)), parents=(FIRST,))
    assert [is_lease(item) for item in (PARENT, CHILD, *STRANGERS)] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("text", "checkpoint"),
    [
        ("TRIM_HORIZON", AT_TRIM_HORIZON),
        ("LATEST", AT_LATEST),
        ("AT_TIMESTAMP", Checkpoint(CheckpointKind.AT_TIMESTAMP)),
    ],
)
def test_sentinels_are_taken_over(text: str, checkpoint: Checkpoint) -> None:
    """KCL's sentinels mean the same here."""
    assert row_from_item({"leaseKey": {"S": FIRST}, "checkpoint": {"S": text}}, 0.0).checkpoint == checkpoint


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"leaseKey": {"S": FIRST}},
        {"leaseKey": {"S": FIRST}, "checkpoint": {"S": "SOON"}},
        {"leaseKey": {"S": FIRST}, "checkpoint": {"S": "1"}, "checkpointSubSequenceNumber": {"N": "-1"}},
        {"leaseKey": {"S": FIRST}, "checkpoint": {"N": "1"}},
        {"leaseKey": "x", "checkpoint": {"S": "1"}},
    ],
)
def test_damaged_leases_are_refused(item: dict[str, Any]) -> None:
    """A lease that can't be read stops the import: to leave it out would be to skip its shard."""
    with pytest.raises(ConfigurationError, match="not readable"):
        row_from_item(item, 0.0)


def test_multi_stream_leases_are_refused() -> None:
    """Keys of KCL's multi-stream mode are named with a hint."""
    item = {"leaseKey": {"S": f"123456789012:orders:1700000000:{FIRST}"}, "checkpoint": {"S": "LATEST"}}
    with pytest.raises(ConfigurationError, match="multi-stream") as refused:
        row_from_item(item, 0.0)
    assert "one stream" in refused.value.hint


checkpoints = st.sampled_from([AT_TRIM_HORIZON, AT_LATEST, SHARD_END]) | st.builds(
    lambda number, sub: Checkpoint.at(Position(number, sub)), st.integers(0, 2**186), st.integers(0, 10_000)
)
ids = st.integers(0, 10**12 - 1).map(lambda number: f"shardId-{number:012d}")
rows = st.builds(
    Lease,
    shard_id=ids,
    checkpoint=checkpoints,
    parents=st.lists(ids, max_size=2, unique=True).map(lambda names: tuple(sorted(names))),
    children=st.lists(ids, max_size=2, unique=True).map(lambda names: tuple(sorted(names))),
    hash_key_range=st.none() | st.just(HashKeyRange(3, HASH_KEY_MAX)),
)


@given(rows)
def test_there_and_back_loses_nothing(row: Lease) -> None:
    """What KCL can express comes back from an export as it went."""
    finished_at = 1.0 if row.checkpoint.is_shard_end else None
    assert row_from_item(item_from_row(row), 1.0) == replace(row, finished_at=finished_at)


@pytest.mark.parametrize(
    "row",
    [
        Lease(FIRST, pending=PendingFlush(("k",), Position(1), Position(2), 1, "{}")),
        Lease(FIRST, seek_to=AT_TRIM_HORIZON),
        Lease(FIRST, checkpoint=Checkpoint(CheckpointKind.AT_TIMESTAMP), start_timestamp=1.0),
        Lease(FIRST, checkpoint=Checkpoint.at(Position(7, -1))),
    ],
)
def test_what_kcl_can_not_express_is_refused(row: Lease) -> None:
    """An export never drops a pending flush, a seek, a time or a place before the first record."""
    with pytest.raises(ConfigurationError):
        item_from_row(row)


def test_an_import_into_an_empty_group_and_an_export_agree() -> None:
    """Rows are created from a table that stands still, and an export writes the same checkpoints."""
    cloud = SmallCloud.make()
    kcl, target = FakeKcl(PARENT, CHILD, *STRANGERS), FakeKcl(*STRANGERS)

    async def story() -> None:
        ports = ports_of(cloud, kcl)
        planned = await plan_import(ports)
        assert cloud.leases.rows == {}
        assert len(row_lines(planned)) == 4
        assert await apply_import(ports, planned) == 2
        back = ports_of(cloud, target)
        assert await apply_export(back, await plan_export(back)) == 2

    cloud.run(story)
    assert set(cloud.leases.rows) == {FIRST, SECOND}
    for name, item in ((FIRST, PARENT), (SECOND, CHILD)):
        for attribute in ("checkpoint", "checkpointSubSequenceNumber"):
            assert target.items[name][attribute] == item[attribute]


def test_an_import_moves_a_stopped_group() -> None:
    """Rows that exist are moved as by a seek: marks end, and objects get another generation."""
    cloud = SmallCloud.make()
    cloud.leases.rows[SECOND] = Lease(SECOND, epoch=3, marks={"a.00": 1}, generation=1, checkpoint=AT_LATEST)

    async def story() -> None:
        ports = ports_of(cloud, FakeKcl(CHILD))
        await apply_import(ports, await plan_import(ports))

    cloud.run(story)
    row = cloud.leases.rows[SECOND]
    assert (row.owner, row.epoch, row.generation, row.marks) == (None, 4, 2, {})
    assert row.checkpoint == Checkpoint.at(Position(SEQUENCE, 7))


def test_applications_that_run_are_refused() -> None:
    """A moving counter of KCL, an owner of ours, or an owned lease in the way of an export stops the command."""
    cloud = SmallCloud.make()
    kcl = FakeKcl(CHILD)
    counters = iter(range(100))

    def renew() -> None:
        kcl.items[SECOND]["leaseCounter"] = {"N": str(next(counters))}

    async def story() -> None:
        kcl.before_scan = renew
        with pytest.raises(ConfigurationError, match="runs"):
            await plan_import(ports_of(cloud, kcl))
        kcl.before_scan = lambda: None
        cloud.leases.rows[SECOND] = Lease(SECOND, owner="worker")
        for plan in (plan_import, plan_export):
            with pytest.raises(ConfigurationError, match="owned by"):
                await plan(ports_of(cloud, kcl))  # type: ignore[operator] # one of two functions of one kind
        cloud.leases.rows[SECOND] = Lease(SECOND)
        with pytest.raises(ConfigurationError, match="has an owner"):
            await apply_export(ports_of(cloud, kcl), await plan_export(ports_of(cloud, kcl)))
        with pytest.raises(ConfigurationError, match="no lease"):
            await plan_import(ports_of(cloud, FakeKcl(*STRANGERS)))

    cloud.run(story)
