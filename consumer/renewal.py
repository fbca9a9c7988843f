"""Renews the leases of a worker, in a task and with connections of its own, however busy their shards are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from consumer.holding import Holding
from shared.errors import HeadraceError, LeaseLostError
from shared.ports import Clock, Telemetry

# Two renewals may fail before a lease expires, and a shard costs DynamoDB 600 writes an hour for it.
RENEWALS_PER_LEASE: Final = 2.5


class Renewal:
    """Moves the heartbeat of every holding; a shard that makes no progress is not renewed for its own sake."""

    def __init__(
        self,
        holdings: Mapping[str, Holding],
        *,
        lease_duration_seconds: float,
        on_lost: Callable[[Holding, str], None],
        on_stalled: Callable[[Holding], None],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """`on_lost` hears of leases that are gone, `on_stalled` of shards that stand."""
        self._holdings = holdings
        self._duration = lease_duration_seconds
        self._on_lost = on_lost
        self._on_stalled = on_stalled
        self._clock = clock
        self._telemetry = telemetry
        self.renewed_at = clock.monotonic()  # when every lease was renewed last

    async def run(self) -> None:
        """Renew until cancelled."""
        interval = self._duration / RENEWALS_PER_LEASE
        while True:
            await asyncio.sleep(interval)
            holdings = [each for each in self._holdings.values() if not each.is_lost]
            renewed = await asyncio.gather(*(self._renew(each, interval) for each in holdings))
            now = self._clock.monotonic()
            if all(renewed):
                self.renewed_at = now
            for each in holdings:
                if not each.is_lost and each.consumer.is_stalled(now):
                    self._on_stalled(each)

    async def _renew(self, holding: Holding, seconds_max: float) -> bool:
        """Renew one lease once; a lease that could not be renewed for its whole duration counts as lost."""
        started_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(seconds_max):
                await holding.held.renew()
        except LeaseLostError:
            # A shard that has just finished or was released has no owner any more: nothing was lost.
            if not holding.consumer.is_finishing:
                self._on_lost(holding, "taken_by_another")
            return True
        except (HeadraceError, TimeoutError) as error:
            self._telemetry.count("renewals_failed", error=type(error).__name__)
            if self._clock.monotonic() - holding.renewed_at > self._duration:
                self._on_lost(holding, "not_renewed")
            return False
        holding.renewed_at = started_at
        return True
