"""The books of a producer: where every accepted record is."""

from __future__ import annotations

from dataclasses import dataclass

from producer.core.lanes import LaneQueues


@dataclass(frozen=True, slots=True)
class Ledger:
    """Counts of user records at one instant; `balances` holds at every instant."""

    accepted: int = 0
    acknowledged: int = 0
    undeliverable: int = 0
    queued: int = 0
    spilled: int = 0  # on disk only
    in_flight: int = 0  # sent and unanswered, waiting to be sent again, or waiting for a verdict

    @property
    def pending(self) -> int:
        """Accepted records whose outcome is open."""
        return self.queued + self.in_flight + self.spilled

    @property
    def balances(self) -> bool:
        """Whether every accepted record is in exactly one place."""
        return self.accepted == self.acknowledged + self.undeliverable + self.pending


def ledger_of(queues: LaneQueues, *, acknowledged: int, in_flight: int) -> Ledger:
    """Return the books of a producer with these queues."""
    return Ledger(
        accepted=queues.accepted,
        acknowledged=acknowledged,
        undeliverable=queues.undeliverable,
        queued=queues.queued,
        spilled=queues.spilled,
        in_flight=in_flight,
    )
