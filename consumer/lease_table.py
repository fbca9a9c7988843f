"""The fence on top of the lease store: take, renew, write and give back, each recognising its own lost replies."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from consumer.core.attempt_policy import without_attempt
from consumer.retrier import Retrier
from shared.errors import LeaseLostError
from shared.lease import Lease, LeaseChange, LeaseExpectation, Presence, TableRows
from shared.ports import ConditionFailedError, LeaseStore, Random


class WriteIds:
    """Names writes; the nonce keeps the ids of two processes apart, even if they are given one worker id."""

    def __init__(self, random: Random) -> None:
        self._nonce = f"{random.getrandbits(64):016x}"
        self._count = 0

    @property
    def process(self) -> str:
        """The nonce: it names this process, and no other that has its worker id before or after it."""
        return self._nonce

    def draw(self) -> str:
        """Return an id that nobody drew before."""
        self._count += 1
        return f"{self._nonce}.{self._count}"


class HeldLease:
    """A lease this worker has taken: the only way to write to its row.

    Every data write is conditional on owner, epoch and version. Without the version, a delayed older write of our own
    would roll the checkpoint back. A renewal touches the heartbeat only, so that it never collides with a data write.
    """

    def __init__(
        self,
        store: LeaseStore,
        retrier: Retrier,
        write_ids: WriteIds,
        row: Lease,
        *,
        renewals: LeaseStore | None = None,
    ) -> None:
        self._store = store
        self._renewals = renewals or store
        self._retrier = retrier
        self._write_ids = write_ids
        self._owner = row.owner
        self._heartbeat = row.heartbeat
        self.row = row
        self.load = row.load  # bytes per second; told with the next renewal
        self.read_through = row.read_through  # told with the next renewal, and when the lease is given back
        self.closed_until = row.closed_until  # the same

    @property
    def shard_id(self) -> str:
        """The shard that is leased."""
        return self.row.shard_id

    @property
    def epoch(self) -> int:
        """The epoch at which it was taken."""
        return self.row.epoch

    @property
    def process(self) -> str:
        """The name of this process in the row's attempts."""
        return self._write_ids.process

    @property
    def row_with_news(self) -> Lease:
        """The row as it was written last, and what renewals told since: what is promised can't be taken back."""
        return self._news().apply(self.row)

    async def renew(self) -> None:
        """Move the heartbeat, once, without retries; LeaseLostError if the row is somebody else's."""
        # One more at each attempt: an attempt whose reply was lost must not make the next one invisible.
        self._heartbeat += 1
        expectation = LeaseExpectation(owner=self._owner, epoch=self.epoch)
        try:
            change = replace(self._news(), heartbeat=self._heartbeat)
            await self._renewals.update_lease(self.shard_id, expectation, change)
        except ConditionFailedError as refused:
            raise self._lost(refused.current) from refused

    async def write(self, change: LeaseChange) -> None:
        """Write data (checkpoint, marks, pending flush, owner), retrying until it landed; LeaseLostError if fenced.

        `change` leaves version and write id alone; they are set here. Calls must not overlap.
        """
        write_id = self._write_ids.draw()
        version = self.row.version
        expectation = LeaseExpectation(owner=self._owner, epoch=self.epoch, version=version)
        stamped = replace(change, version=version + 1, write_id=write_id)

        async def attempt() -> Lease:
            try:
                return await self._store.update_lease(self.shard_id, expectation, stamped)
            except ConditionFailedError as refused:
                # Our own write that landed without a reply refuses its repetition: it is there under its id.
                if refused.current is not None and refused.current.write_id == write_id:
                    return refused.current
                raise self._lost(refused.current) from refused

        self.row = await self._retrier.call("lease_write", attempt)

    async def look(self) -> None:
        """Take the row as it is: a write of ours that was cancelled may have landed; LeaseLostError if it is lost.

        No other write of ours may be wanted any more, as one that is still on its way is refused from the next one on.
        """
        row = await self._retrier.call("lease_read", lambda: self._store.read_lease(self.shard_id))
        if row is None or (row.owner, row.epoch) != (self._owner, self.epoch):
            raise self._lost(row)
        self.row = row

    async def read_parents(self) -> tuple[Lease, ...]:
        """Return the rows of the shard's parents that are in the table, in the order of the row."""
        found: list[Lease] = []
        for parent in self.row.parents:
            row = await self._retrier.call("lease_read", lambda name=parent: self._store.read_lease(name))  # type: ignore[misc] # mypy on defaults
            if row is not None:
                found.append(row)
        return tuple(found)

    async def release(self, successor: str | None = None) -> bool:
        """Give the lease back, or to `successor`, retrying until it landed; LeaseLostError if it is somebody else's.

        Not conditional on the version: a data write of ours that was given up may still have landed. One that lands
        later is refused, because the row has another owner or none. An orderly end is no failed attempt at a record.
        A successor that asks no longer would not read: then the lease is free. Returns whether the successor has it.
        """
        write_id = self._write_ids.draw()
        expectation = LeaseExpectation(owner=self._owner, epoch=self.epoch)
        if successor is not None:
            expectation = replace(expectation, successor=successor)
        change = replace(self._news(), owner=None, successor=None, attempts=0, attempted_by=(), write_id=write_id)
        if successor is not None:
            change = replace(change, owner=successor, epoch=self.epoch + 1)

        async def attempt() -> bool:
            try:
                await self._store.update_lease(self.shard_id, expectation, change)
            except ConditionFailedError as refused:
                current = refused.current
                if current is None:
                    raise self._lost(current) from refused
                is_withdrawn = successor is not None and (current.owner, current.epoch) == (self._owner, self.epoch)
                # A release that was cancelled may have landed all the same.
                is_released = current.owner is None and current.epoch == self.epoch
                if current.write_id != write_id and not is_released and not is_withdrawn:
                    raise self._lost(current) from refused
                return not is_withdrawn
            return True

        if await self._retrier.call("lease_release", attempt):
            return successor is not None
        return await self.release()

    def _news(self) -> LeaseChange:
        """Return what a write that touches no data takes along, so that it costs no write of its own."""
        change = LeaseChange(load=self.load)
        if self.read_through is not None:
            change = replace(change, read_through=self.read_through)
        return change if self.closed_until is None else replace(change, closed_until=self.closed_until)

    def close_until(self, instant: float) -> None:
        """Promise that no object of this shard will be named after an earlier time; seconds since the epoch."""
        self.closed_until = instant if self.closed_until is None else max(self.closed_until, instant)

    def _lost(self, current: Lease | None) -> LeaseLostError:
        if current is None:
            return LeaseLostError(f"The lease row of `{self.shard_id}` is gone")
        return LeaseLostError(
            f"The lease of `{self.shard_id}` is at epoch {current.epoch}, version {current.version}; "
            f"this worker held epoch {self.epoch}, version {self.row.version}"
        )


class LeaseTable:
    """The lease rows of one application as this worker sees and takes them."""

    def __init__(
        self,
        store: LeaseStore,
        retrier: Retrier,
        *,
        worker_id: str,
        random: Random,
        renewals: LeaseStore | None = None,
    ) -> None:
        """Work on `store`; renewals may have connections of their own, which no slow data write holds up."""
        self._store = store
        self._renewals = renewals or store
        self._retrier = retrier
        self._worker_id = worker_id
        self._write_ids = WriteIds(random)

    async def list_rows(self) -> TableRows:
        """Read all rows."""
        return await self._retrier.call("lease_list", self._store.list_rows)

    async def read(self, shard_id: str) -> Lease | None:
        """Read one row."""
        return await self._retrier.call("lease_read", lambda: self._store.read_lease(shard_id))

    async def replace_damaged(self, row: Lease) -> bool:
        """Write a row over one that can't be read; False if somebody else was first."""
        return await self._retrier.call("lease_replace", lambda: self._store.replace_damaged(row))

    async def delete(self, row: Lease) -> bool:
        """Delete a row that is exactly as it was seen; False if it has changed since."""
        expectation = LeaseExpectation(owner=row.owner, epoch=row.epoch, version=row.version)

        async def attempt() -> bool:
            try:
                await self._store.delete_lease(row.shard_id, expectation)
            except ConditionFailedError:
                return False
            return True

        return await self._retrier.call("lease_delete", attempt)

    async def announce(self, presence: Presence) -> None:
        """Say, once, that this worker is there: the next time comes soon."""
        await self._store.write_presence(presence)

    async def forget(self, worker_id: str, heartbeat: int | None = None) -> None:
        """Take a presence away, once."""
        await self._store.delete_presence(worker_id, heartbeat)

    async def ask(self, row: Lease) -> bool:
        """Ask the owner of a row for it; False if it changed hands, or somebody else asked first."""
        expectation = LeaseExpectation(owner=row.owner, epoch=row.epoch, successor=None)
        return await self._name_successor(row.shard_id, expectation, self._worker_id)

    async def withdraw(self, row: Lease) -> bool:
        """Take back what `ask` asked for; False if it was answered meanwhile."""
        expectation = LeaseExpectation(owner=row.owner, epoch=row.epoch, successor=self._worker_id)
        return await self._name_successor(row.shard_id, expectation, None)

    async def decline(self, row: Lease) -> bool:
        """Undo what another worker asked for; False if the row changed meanwhile."""
        expectation = LeaseExpectation(owner=row.owner, epoch=row.epoch, successor=row.successor)
        return await self._name_successor(row.shard_id, expectation, None)

    async def take_back_attempt(self, row: Lease) -> None:
        """Take back an attempt of this process, which lives, at a row that it does not hold; no change if that moved.

        Like an ask it leaves version and write id alone, so that the owner does not notice. An owner that counts its
        own attempt meanwhile writes the one taken back once more: whoever looks again takes it back again.
        """
        change = without_attempt(row, self._write_ids.process)
        if change is None:
            return
        expectation = LeaseExpectation(owner=row.owner, epoch=row.epoch, version=row.version)

        async def attempt() -> None:
            with suppress(ConditionFailedError):  # what the row holds now is seen at the next look
                await self._store.update_lease(row.shard_id, expectation, change)

        await self._retrier.call("lease_attempt", attempt)

    async def _name_successor(self, shard_id: str, expectation: LeaseExpectation, successor: str | None) -> bool:
        """Neither version nor write id moves: a data write of the owner, under way or lost, must not notice."""

        async def attempt() -> bool:
            try:
                await self._store.update_lease(shard_id, expectation, LeaseChange(successor=successor))
            except ConditionFailedError as refused:
                # The answer to an attempt that landed may have been lost.
                current = refused.current
                return current is not None and current.epoch == expectation.epoch and current.successor == successor
            return True

        return await self._retrier.call("lease_ask", attempt)

    def adopt(self, row: Lease) -> HeldLease:
        """Hold a row that its owner has handed to this worker."""
        return HeldLease(self._store, self._retrier, self._write_ids, row, renewals=self._renewals)

    async def create(self, row: Lease) -> bool:
        """Write a row if there is none; False if somebody else was first (or our own lost attempt)."""

        async def attempt() -> bool:
            try:
                await self._store.create_lease(row)
            except ConditionFailedError:
                return False
            return True

        return await self._retrier.call("lease_create", attempt)

    async def take(self, seen: Lease) -> HeldLease | None:
        """Take a row that is exactly as it was seen; None if it has changed since, e.g. its owner woke up."""
        write_id = self._write_ids.draw()
        expectation = LeaseExpectation(owner=seen.owner, epoch=seen.epoch, heartbeat=seen.heartbeat)
        change = LeaseChange(
            owner=self._worker_id,
            epoch=seen.epoch + 1,
            heartbeat=seen.heartbeat + 1,
            write_id=write_id,
            successor=None,
        )

        async def attempt() -> Lease | None:
            try:
                return await self._store.update_lease(seen.shard_id, expectation, change)
            except ConditionFailedError as refused:
                current = refused.current
                return current if current is not None and current.write_id == write_id else None

        row = await self._retrier.call("lease_take", attempt)
        return None if row is None else self.adopt(row)
