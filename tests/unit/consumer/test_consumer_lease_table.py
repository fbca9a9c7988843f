"""The fence: takes, renewals and data writes that recognise their own lost replies, and only those."""

from __future__ import annotations

import random

import pytest

from consumer.lease_table import HeldLease, LeaseTable
from consumer.retrier import Retrier
from shared.errors import AccessDeniedError, AmbiguousCallError, LeaseLostError, ServiceUnavailableError
from shared.lease import Checkpoint, Lease, LeaseChange, LeaseExpectation
from shared.ports import ConditionFailedError
from shared.records import Position
from shared.retry import Backoff
from shared.telemetry import SilentTelemetry
from tests.support.fake_leases import FakeLeases
from tests.support.network import Lost, ScriptedNetwork

DONE = Checkpoint.at(Position(7))


def make(seed: int = 1, owner: str = "me", store: FakeLeases | None = None) -> tuple[LeaseTable, FakeLeases]:
    """Return a lease table and its store."""
    found = store or FakeLeases(ScriptedNetwork())
    chance = random.Random(seed)
    retrier = Retrier(Backoff(0.0001, 0.0001), chance, SilentTelemetry())
    return LeaseTable(found, retrier, worker_id=owner, random=chance), found


def script(store: FakeLeases, *steps: Exception | Lost | None) -> None:
    """Queue what happens to the next updates."""
    network = store.network
    assert isinstance(network, ScriptedNetwork)
    network.scripts["leases.update"] = list(steps)


async def taken(table: LeaseTable, shard_id: str = "a") -> HeldLease:
    """Create and take a row."""
    await table.create(Lease(shard_id))
    (row,) = [each for each in (await table.list_rows()).leases if each.shard_id == shard_id]
    held = await table.take(row)
    assert held is not None
    return held


async def test_take_raises_the_epoch_and_a_second_taker_gets_nothing() -> None:
    """Of two workers that saw the same row, one gets it."""
    table, store = make()
    other, _ = make(2, "other", store)
    await table.create(Lease("a"))
    (seen,) = (await table.list_rows()).leases
    held = await table.take(seen)
    assert held is not None
    assert (store.rows["a"].owner, store.rows["a"].epoch, store.rows["a"].heartbeat) == ("me", 1, 1)
    assert await other.take(seen) is None


async def test_a_row_that_was_renewed_meanwhile_is_not_taken() -> None:
    """A take is conditional on the heartbeat: an owner that woke up keeps its lease."""
    table, store = make()
    held = await taken(table)
    (seen,) = (await table.list_rows()).leases
    await held.renew()
    other, _ = make(2, "other", store)
    assert await other.take(seen) is None


@pytest.mark.parametrize("error", [AmbiguousCallError("no answer"), ServiceUnavailableError("no")])
async def test_a_write_whose_reply_was_lost_is_recognised(error: Exception) -> None:
    """Landed without an answer, repeated, refused by its own version, and recognised by its id."""
    table, store = make()
    held = await taken(table)
    script(store, Lost(error), None)
    await held.write(LeaseChange(checkpoint=DONE))
    assert (store.rows["a"].checkpoint, store.rows["a"].version, held.row.version) == (DONE, 1, 1)
    await held.write(LeaseChange(marks={"s.01": 1}))
    assert (store.rows["a"].version, store.rows["a"].checkpoint) == (2, DONE)


async def test_a_take_whose_reply_was_lost_is_recognised() -> None:
    """The epoch rises by one only."""
    table, store = make()
    await table.create(Lease("a"))
    (seen,) = (await table.list_rows()).leases
    script(store, Lost(AmbiguousCallError("no answer")), None)
    held = await table.take(seen)
    assert held is not None
    assert store.rows["a"].epoch == held.epoch == 1


async def test_every_write_of_a_former_owner_is_refused() -> None:
    """After a take-over neither data write nor renewal nor release of the old owner changes the row."""
    table, store = make()
    held = await taken(table)
    (seen,) = (await table.list_rows()).leases
    other, _ = make(2, "other", store)
    assert await other.take(seen) is not None
    before = store.rows["a"]
    for write in (held.write(LeaseChange(checkpoint=DONE)), held.renew(), held.release()):
        with pytest.raises(LeaseLostError):
            await write
    assert store.rows["a"] == before


async def test_the_same_worker_name_does_not_pass_the_fence() -> None:
    """A second process with the same worker id is told apart by the epoch and by its write ids."""
    table, store = make(1)
    held = await taken(table)
    (seen,) = (await table.list_rows()).leases
    twin, _ = make(2, "me", store)
    newer = await twin.take(seen)
    assert newer is not None
    await newer.write(LeaseChange(checkpoint=DONE))
    with pytest.raises(LeaseLostError):
        await held.write(LeaseChange(checkpoint=Checkpoint.at(Position(1))))
    assert store.rows["a"].checkpoint == DONE


async def test_a_release_works_behind_a_write_that_was_given_up() -> None:
    """A lease is given back even if a cancelled data write had landed; and the next owner need not wait."""
    table, store = make()
    held = await taken(table)
    script(store, Lost(AmbiguousCallError("no answer")), AccessDeniedError("no"))
    with pytest.raises(AccessDeniedError):
        await held.write(LeaseChange(checkpoint=DONE))
    assert (store.rows["a"].version, held.row.version) == (1, 0)
    await held.release()
    assert (store.rows["a"].owner, store.rows["a"].checkpoint) == (None, DONE)


async def test_a_renewal_moves_the_heartbeat_and_nothing_else() -> None:
    """Renewals never collide with data writes: they leave version and write id alone."""
    table, store = make()
    held = await taken(table)
    before = store.rows["a"]
    script(store, AmbiguousCallError("lost"), None)
    with pytest.raises(AmbiguousCallError):
        await held.renew()
    await held.renew()
    after = store.rows["a"]
    assert after.heartbeat > before.heartbeat
    assert (after.version, after.write_id, after.owner) == (before.version, before.write_id, before.owner)


async def test_a_delayed_older_write_does_not_roll_the_checkpoint_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that lands after its repetition, and after the next write, is refused by the version."""
    table, store = make()
    held = await taken(table)
    delayed: list[tuple[str, LeaseExpectation, LeaseChange]] = []

    async def lose(shard_id: str, expectation: LeaseExpectation, change: LeaseChange) -> Lease:
        delayed.append((shard_id, expectation, change))
        monkeypatch.undo()
        raise AmbiguousCallError("no answer")

    monkeypatch.setattr(store, "update_lease", lose)
    await held.write(LeaseChange(checkpoint=Checkpoint.at(Position(5))))
    await held.write(LeaseChange(checkpoint=DONE))
    with pytest.raises(ConditionFailedError):
        await store.update_lease(*delayed[0])
    assert store.rows["a"].checkpoint == DONE


async def test_creating_a_row_twice_changes_nothing() -> None:
    """A delayed create does not undo what happened since."""
    table, store = make()
    held = await taken(table)
    await held.write(LeaseChange(checkpoint=DONE))
    assert not await table.create(Lease("a"))
    assert store.rows["a"].checkpoint == DONE


async def test_a_successor_that_asks_no_longer_is_given_nothing() -> None:
    """It would not read: a lease that is handed over after the ask was withdrawn becomes free."""
    table, store = make()
    held = await taken(table)
    other, _ = make(2, "other", store)
    await other.ask(store.rows["a"])
    await other.withdraw(store.rows["a"])
    assert not await held.release("other")
    assert (store.rows["a"].owner, store.rows["a"].epoch) == (None, 1)


async def test_a_hand_over_whose_reply_was_lost_is_recognised() -> None:
    """Landed without an answer, it is not taken for an ask that was withdrawn."""
    table, store = make()
    held = await taken(table)
    other, _ = make(2, "other", store)
    await other.ask(store.rows["a"])
    script(store, Lost(AmbiguousCallError("no answer")), None)
    assert await held.release("other")
    assert (store.rows["a"].owner, store.rows["a"].epoch) == ("other", 2)
