"""Counts attempts at records in the lease row, and reads on carefully where attempts ended with the process."""

from __future__ import annotations

from consumer.core.attempt_policy import AttemptPolicy
from consumer.core.chunk import Chunk
from consumer.lease_table import HeldLease
from shared.lease import LeaseChange
from shared.ports import Telemetry


class Attempts:
    """The attempts of one tenure of a shard; its writes are made while no other write of the row is under way."""

    def __init__(self, held: HeldLease, telemetry: Telemetry) -> None:
        self._held = held
        self._telemetry = telemetry
        self._has_begun = False
        self._take_policy(AttemptPolicy(held.row.attempts))
        if self.policy.is_careful:
            telemetry.warning(
                "shard_read_carefully",
                shard_id=held.shard_id,
                attempts=held.row.attempts,
                piece_records=self.policy.records_max,
            )

    def _take_policy(self, policy: AttemptPolicy) -> None:
        self.policy = policy
        self._suspects = policy.suspects

    async def begin(self) -> None:
        """Say in the row that records behind the checkpoint are looked at now: once, or before each careful piece."""
        if not self._has_begun or self.policy.is_careful:
            self._has_begun = True
            await self._held.write(LeaseChange(attempts=self._held.row.attempts + 1))

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
