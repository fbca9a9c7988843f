"""The leases that this worker holds, each with the task that reads its shard, from the take to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from consumer.lease_table import HeldLease
from consumer.shard_consumer import ShardConsumer
from consumer.status import ShardState
from shared.errors import HeadraceError, LeaseLostError, ShardHaltedError
from shared.lease import Lease, LeaseChange
from shared.ports import Clock, Telemetry

_RELEASE_SECONDS_MAX: Final = 2.0
_RETRY_SHARD_SECONDS: Final = 5.0
_STALLED_SHARD_SECONDS: Final = 60.0  # another worker is to have a chance


@dataclass(slots=True)
class Holding:
    """One shard of this worker; there is at most one per shard at a time, also after losing and taking it again."""

    held: HeldLease
    consumer: ShardConsumer
    renewed_at: float  # monotonic seconds
    task: asyncio.Task[None] | None = None
    is_lost: bool = False
    is_halt_noted: bool = False  # its row says that it is halted: once it does not, an operator has resumed it
    is_given_up: bool = False  # it stood still: its task ends, the lease goes back
    is_released: bool = False  # its lease is being given away, or was: that another has it is no loss
    parting: asyncio.Task[None] | None = None  # what is done for a successor while reading goes on
    successor: str | None = None  # where the lease goes once everything that was read is stored

    @property
    def shard_id(self) -> str:
        """The shard that is read."""
        return self.held.shard_id


class Holdings(Mapping[str, Holding]):
    """All holdings by shard id; a shard is in it until its task has ended."""

    def __init__(
        self,
        make_consumer: Callable[[HeldLease], ShardConsumer],
        *,
        on_ended: Callable[[], None],
        ahead_seconds_max: float,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """`on_ended` is called when a shard was read to its end, so that its children can start.

        `ahead_seconds_max`: how long a shard that is handed over may be read on until most of it is stored.
        """
        self._make_consumer = make_consumer
        self._on_ended = on_ended
        self._ahead_seconds_max = ahead_seconds_max
        self._clock = clock
        self._telemetry = telemetry
        self._holdings: dict[str, Holding] = {}
        self._last: dict[str, tuple[HeldLease, float]] = {}  # of shards that ended or were lost: when renewed last
        self._not_before: dict[str, float] = {}  # shard -> when it may be taken again after a failure

    def __getitem__(self, shard_id: str) -> Holding:
        return self._holdings[shard_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._holdings)

    def __len__(self) -> int:
        return len(self._holdings)

    def rows(self, since: float) -> dict[str, Lease]:
        """Return the rows as this worker wrote them last, of leases that were renewed since then and not given away.

        Nobody else can have moved those meanwhile, if it is no longer ago than a lease lasts.
        """
        self._last = {name: each for name, each in self._last.items() if each[1] >= since}
        now = {name: (each.held, each.renewed_at) for name, each in self._holdings.items() if not each.is_released}
        known = self._last | now
        return {name: held.row_with_news for name, (held, renewed_at) in known.items() if renewed_at >= since}

    def avoided(self, now: float) -> tuple[str, ...]:
        """Return the shards that are not to be taken now, because they failed here a moment ago."""
        self._not_before = {name: until for name, until in self._not_before.items() if now < until}
        return tuple(self._not_before)

    def start(self, held: HeldLease, started_at: float, group: asyncio.TaskGroup, *, is_paused: bool = False) -> None:
        """Read a shard whose lease was just got; `started_at` is when the call began that got it.

        Not for a shard that is still in here: one reader per shard.
        """
        holding = Holding(held, self._make_consumer(held), renewed_at=started_at)
        if is_paused:
            holding.consumer.pause(is_paused=True)
        self._holdings[held.shard_id] = holding
        self._last.pop(held.shard_id, None)
        holding.task = group.create_task(self._run(holding))
        holding.task.add_done_callback(lambda _task: self._forget(holding))

    def obey(self, holding: Holding, row: Lease, group: asyncio.TaskGroup, *, is_paused: bool) -> None:
        """Do what an operator has written into the row: rest or read on, or try a shard again that was halted.

        The lease of a halted one is given back, which forgets the attempts, and whoever takes it begins where it was
        halted.
        """
        holding.consumer.pause(is_paused=is_paused)
        if holding.consumer.state is not ShardState.HALTED or holding.is_released:
            return
        if row.is_halted:
            holding.is_halt_noted = True
        elif holding.is_halt_noted and row.version >= holding.held.row.version:  # not a look from before the note
            holding.is_released = True
            holding.consumer.stop()
            self._telemetry.info("halted_shard_resumed", shard_id=holding.shard_id)
            group.create_task(self._end(holding))

    def hand_over(self, holding: Holding, successor: str, group: asyncio.TaskGroup) -> None:
        """Give a shard to another worker: store what was delivered while reading goes on, and the rest after it."""
        if holding.successor is not None or holding.is_lost or holding.is_released or holding.consumer.is_finishing:
            return
        holding.successor = successor
        self._telemetry.info("lease_handing_over", shard_id=holding.shard_id, successor=successor)
        if holding.task is None or holding.task.done():  # halted: nothing runs that would end
            holding.consumer.stop()
            group.create_task(self._end(holding))
        else:
            holding.parting = group.create_task(self._part(holding))

    async def _part(self, holding: Holding) -> None:
        version = holding.held.row.version
        with suppress(TimeoutError):
            async with asyncio.timeout(self._ahead_seconds_max):
                await holding.consumer.store_ahead()
        row = holding.held.row
        if row.version > version and row.successor != holding.successor:
            holding.successor = None  # the ask was withdrawn while this took its time: the shard stays
        else:
            holding.consumer.stop()

    def lose(self, holding: Holding, reason: str) -> None:
        """Stop a shard at once, without any write."""
        if holding.is_lost or holding.is_released:
            return
        holding.is_lost = True
        self._telemetry.warning("lease_lost", shard_id=holding.shard_id, reason=reason)
        self._telemetry.count("leases_lost", reason=reason)
        if holding.task is not None and not holding.task.done():
            holding.task.cancel()
        else:
            self._holdings.pop(holding.shard_id, None)

    def give_up(self, holding: Holding) -> None:
        """Give a shard back that makes no progress: where it hangs here, another worker may get on."""
        if holding.is_given_up or holding.is_lost or holding.task is None or holding.task.done():
            return
        holding.is_given_up = True
        self._telemetry.error("shard_stalled", shard_id=holding.shard_id, consequence="its lease is given back")
        self._telemetry.count("shards_stalled")
        self._not_before[holding.shard_id] = self._clock.monotonic() + _STALLED_SHARD_SECONDS
        holding.task.cancel()

    async def _run(self, holding: Holding) -> None:
        shard_id = holding.shard_id
        try:
            await holding.consumer.run()
        except asyncio.CancelledError:
            if not holding.is_lost and not holding.is_given_up:
                raise
        except LeaseLostError as error:
            if not holding.is_lost:
                holding.is_lost = True
                self._telemetry.warning("lease_lost", shard_id=shard_id, reason=str(error))
                self._telemetry.count("leases_lost", reason="fenced")
        except ShardHaltedError as error:
            # The lease is kept: a worker that took it would halt at the same place.
            holding.consumer.enter(ShardState.HALTED)
            self._telemetry.error("shard_halted", shard_id=shard_id, error=str(error), hint=error.hint)
            await self._note_halt(holding)
            if holding.consumer.state is ShardState.HALTED:  # else it was stopped meanwhile, to be given away
                return
        except HeadraceError as error:
            self._telemetry.error("shard_failed", shard_id=shard_id, error=str(error), hint=error.hint)
            self._not_before[shard_id] = self._clock.monotonic() + _RETRY_SHARD_SECONDS
        await self._end(holding)

    async def _end(self, holding: Holding) -> None:
        if self._holdings.get(holding.shard_id) is holding:
            if not holding.is_lost and not holding.consumer.has_ended:
                await self.release(holding)
            self._holdings.pop(holding.shard_id, None)
        if holding.consumer.has_ended:
            self._on_ended()

    def _forget(self, holding: Holding) -> None:
        """Drop a holding whose task has ended, wherever it was cancelled; a halted one stays until it is lost."""
        if holding.parting is not None:
            holding.parting.cancel()
        if not holding.is_released:
            self._last[holding.shard_id] = (holding.held, holding.renewed_at)
        is_halted = holding.consumer.state is ShardState.HALTED and not holding.is_lost
        if is_halted:
            holding.successor = None  # whoever asked is heard again: a halted shard is given away as it is
        elif self._holdings.get(holding.shard_id) is holding:
            del self._holdings[holding.shard_id]

    async def _note_halt(self, holding: Holding) -> None:
        """Let an operator see in the row that the shard is halted; the next take makes it untrue.

        The flush that the halt cut off may have written meanwhile, or may do so between the look and the note.
        """
        for is_last in (False, True):
            try:
                await holding.held.look()
                await holding.held.write(LeaseChange(halted_epoch=holding.held.epoch))
            except HeadraceError as error:
                if is_last or not isinstance(error, LeaseLostError):
                    self._telemetry.warning("halt_not_noted", shard_id=holding.shard_id, error=type(error).__name__)
                    return
            else:
                holding.is_halt_noted = True
                return

    async def release(self, holding: Holding) -> None:
        """Give a lease back, or to its successor; where that fails it expires by itself."""
        holding.is_released = True
        try:
            async with asyncio.timeout(_RELEASE_SECONDS_MAX):
                is_handed_over = await holding.held.release(holding.successor)
        except (HeadraceError, TimeoutError) as error:
            self._telemetry.warning("lease_not_released", shard_id=holding.shard_id, error=type(error).__name__)
            return
        if is_handed_over:
            self._telemetry.info("lease_handed_over", shard_id=holding.shard_id, successor=holding.successor)
        else:
            self._telemetry.info("lease_released", shard_id=holding.shard_id)

    async def abandon(self) -> None:
        """Cancel the shards that did not finish their drain, and give back every lease that is still held."""
        left = list(self._holdings.values())
        for holding in left:
            if holding.task is not None and not holding.task.done():
                holding.is_lost = True  # so that its task ends without a write of its own
                holding.task.cancel()
        await join([holding.task for holding in left if holding.task is not None])
        await asyncio.gather(*(self.release(holding) for holding in left))
        self._holdings.clear()


async def join(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for tasks without taking part in their failures."""
    for task in tasks:
        if not task.done():
            done = asyncio.Event()
            task.add_done_callback(_setter(done))
            await done.wait()


def _setter(event: asyncio.Event) -> Callable[[asyncio.Task[None]], None]:
    return lambda _task: event.set()
