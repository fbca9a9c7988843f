"""Cuts lanes along the boundaries of shards: when a producer opens, and after a reshard, once nothing is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from producer.core.batcher import Batcher
from shared.event import EventId, check_order
from shared.lanes import WHOLE, LaneDivision
from shared.ports import Clock, Telemetry

SETTLE_SECONDS_MAX: Final = 5.0  # so long nothing is accepted, for what is under way to settle
_QUIET_SECONDS: Final = 2.0  # so long the shards have to be as they are: a resharding goes in many steps
# After a time in which not everything settled, doubled each time: a shard that is full holds up the others seldom.
_RETRY_SECONDS_MIN: Final = 60.0
_RETRY_SECONDS_MAX: Final = 3_600.0
_NEVER: Final = float("inf")


class LaneCutter:
    """Keeps how a producer's lanes are cut; `wanted` at the start, or along the shards there are.

    A part of a lane is named in event ids, and readers rely on the order of each name. So lanes are cut anew only when
    nothing is under way: what comes then has higher numbers than all before it, whatever the names.
    """

    def __init__(
        self,
        stream: str,
        *,
        batcher: Batcher,
        clock: Clock,
        telemetry: Telemetry,
        wanted: LaneDivision | None,
        may_cut: bool,
    ) -> None:
        self.may_cut = may_cut  # after the start
        self._stream = stream
        self._batcher = batcher
        self._queues = batcher.queues
        self._clock = clock
        self._telemetry = telemetry
        self._wanted = wanted
        self._starts: Sequence[int] = ()  # of the shards that cut lanes when they were looked at last
        self._due_at = _NEVER
        self._not_before = -_NEVER
        self._retry_seconds = _RETRY_SECONDS_MIN
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Cut lanes for the first time."""
        division = self._wanted
        if self._queues.spilled:  # by a former process: they may have ids of whole lanes, whose order readers rely on
            self._batcher.keep_order()
        elif division is None:
            division = LaneDivision.along(self._batcher.shard_map.starts)
        if division is not None and division.cuts:
            self._queues.divide(division)
        self.take_map()

    def take_map(self) -> None:
        """Look whether shards cut lanes."""
        shard_map = self._batcher.shard_map
        division = self._queues.division
        is_cut = self.may_cut and self._batcher.follows_shards and shard_map.of_lanes(division).is_cut
        # Of some that lie in one lane, too many may be there to cut it along all of them.
        is_cut = is_cut and not {*division.cuts}.issuperset(LaneDivision.along(shard_map.starts).cuts)
        starts = shard_map.starts if is_cut else ()
        if starts != self._starts:
            self._starts = starts
            quiet_at = self._clock.monotonic() + _QUIET_SECONDS
            self._set_due(max(quiet_at, self._not_before) if is_cut else _NEVER)

    def _set_due(self, due_at: float) -> None:
        self._due_at = due_at
        self._changed.set()

    async def wait(self) -> None:
        """Wait until lanes are to be cut anew."""
        while (seconds := self._due_at - self._clock.monotonic()) > 0:
            self._changed.clear()
            with suppress(TimeoutError):  # either way it is time to look
                async with asyncio.timeout(None if self._due_at == _NEVER else seconds):
                    await self._changed.wait()

    def due(self) -> LaneDivision | None:
        """Return how lanes are to be cut now; None if they are to stay as they are."""
        if not self.may_cut or self._clock.monotonic() < self._due_at or self._batcher.needs_shard_map:
            return None
        return LaneDivision.along(self._batcher.shard_map.starts)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is under way."""
        return self._queues.is_settled

    def cut(self, division: LaneDivision) -> None:
        """Cut lanes anew; everything has to be settled."""
        if not self.is_settled:
            msg = "lanes are cut while records are under way"
            raise AssertionError(msg)
        self._queues.divide(division)
        self._telemetry.info("lanes_cut", stream=self._stream, parts=len(division))
        self._starts = ()
        self._retry_seconds = _RETRY_SECONDS_MIN
        self._set_due(_NEVER)

    def put_off(self) -> None:
        """Have another time for it, unless there is nothing to cut any more."""
        self._not_before = self._clock.monotonic() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _RETRY_SECONDS_MAX)
        if self._due_at != _NEVER:
            self._set_due(self._not_before)

    def wait_on(self) -> None:
        """Look again soon: it is known that not everything would settle, and nobody was held up."""
        self._set_due(self._clock.monotonic() + _QUIET_SECONDS)

    def looks_at_ids(self, *, keeps_order: bool) -> bool:
        """Whether `check_order` has anything to say of an event that brings an id."""
        return self.may_cut or not keeps_order or self._queues.division != WHOLE

    def check_order(self, event_id: str, *, keeps_order: bool, may_join: bool) -> bool:
        """Take note of an event that brings its id: its lane has to stay in one piece. Raises EventIdError if it isn't.

        If it is the first event of all and lanes `may_join`, they are whole from then on: then this returns True.
        """
        known = EventId.parse(event_id)
        has_joined = False
        if keeps_order and known is not None and known.lane is not None:
            self.may_cut = False
            self._set_due(_NEVER)
            has_joined = may_join and not self._queues.accepted and self._queues.division != WHOLE
            if has_joined:
                self._queues.divide(WHOLE)
        check_order(event_id, self._queues.division if keeps_order else None)
        return has_joined
