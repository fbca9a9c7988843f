"""Counts attempts at records in the lease row, and reads on carefully where attempts ended with the process."""

from __future__ import annotations

from typing import Final

from consumer.core.attempt_policy import AttemptPolicy, attempts_before, with_attempt
from consumer.core.chunk import Chunk
from consumer.core.flush_format import FlushFormat
from consumer.core.object_key import position_text
from consumer.lease_table import HeldLease
from shared.errors import ConfigurationError, ShardHaltedError
from shared.lease import PendingFlush
from shared.ports import Telemetry

# About as many as it takes to find a record that kills. The search for one may have brought the flush up to eight.
_REPLAY_ATTEMPTS_MAX: Final = 12


class Attempts:
    """The attempts of one tenure of a shard; its writes are made while no other write of the row is under way."""

    def __init__(self, held: HeldLease, telemetry: Telemetry) -> None:
        self._held = held
        self._telemetry = telemetry
        self._has_begun = False
        self._take_policy(AttemptPolicy(self._before))
        if self.policy.is_careful:
            telemetry.warning(
                "shard_read_carefully",
                shard_id=held.shard_id,
                attempts=self.policy.attempts,
                piece_records=self.policy.records_max,
            )

    @property
    def _before(self) -> int:
        return attempts_before(self._held.row, self._held.process)

    async def _count(self) -> None:
        change = with_attempt(self._held.row, self._held.process)
        if change is not None:
            await self._held.write(change)

    def _take_policy(self, policy: AttemptPolicy) -> None:
        self.policy = policy
        self._suspects = policy.suspects

    async def begin(self) -> None:
        """Say in the row that records behind the checkpoint are looked at now: once, or before each careful piece."""
        if not self._has_begun or self.policy.is_careful:
            self._has_begun = True
            await self._count()

    async def begin_replay(self, pending: PendingFlush) -> None:
        """Say in the row that a prepared flush is finished now; ShardHaltedError if that has ended too many processes.

        Its range is pinned, so that no record can be left out. What was condemned is not looked at, and not counted.
        ConfigurationError if this release can't read what was pinned: a later one, on another worker, may.
        """
        try:
            is_condemned = FlushFormat.parse(pending.format_version).condemned_after > 0
        except ValueError as error:
            raise ConfigurationError(
                f"The prepared flush of `{self._held.shard_id}` can't be finished by this release: {error}",
                hint="Run a worker of the release that prepared it",
            ) from error
        if is_condemned:
            return
        attempts = self._before
        if attempts >= _REPLAY_ATTEMPTS_MAX:
            raise ShardHaltedError(
                f"{attempts} attempts at the prepared flush of `{self._held.shard_id}` ended with their process, limit "
                f"{_REPLAY_ATTEMPTS_MAX}: {pending.count:,} lines, {position_text(pending.first)} to "
                f"{position_text(pending.last)}",
                hint="Restart with more memory, or with the release that prepared it",
            )
        await self._count()

    def judge(self, chunk: Chunk) -> int:
        """Refuse the one record of a piece if it has killed too often; return the attempts at it, 0 if it is let in."""
        if not self.policy.is_condemned or not chunk.datas:
            return 0
        attempts = self.policy.attempts
        chunk.condemn(attempts)
        self._telemetry.error(
            "record_condemned",
            shard_id=self._held.shard_id,
            sequence_number=str(chunk.first.sequence_number),
            sub_sequence_number=chunk.first.sub_sequence_number,
            attempts=attempts,
        )
        return attempts

    def survive(self, records: int) -> None:
        """Take note that records were stored; the last suspect ends the care."""
        self._suspects -= records
        if self.policy.is_careful and (self._suspects <= 0 or self.policy.is_condemned):
            self._take_policy(AttemptPolicy(0))
            self._telemetry.info("shard_trusted_again", shard_id=self._held.shard_id)
