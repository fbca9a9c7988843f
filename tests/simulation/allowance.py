"""How much each producer process sends to each shard, held against the shard's limits with a reckoning of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.hash_key import hash_key_of
from shared.limits import SHARD_WRITE_BYTES_PER_SECOND, SHARD_WRITE_RECORDS_PER_SECOND
from shared.records import PutEntry
from tests.simulation.loop import PROCESS, Process, SimulationLoop
from tests.support.fake_kinesis import FakeStream

_BURST_SECONDS: Final = 0.35
_EPSILON: Final = 1e-6


@dataclass(slots=True)
class _Sent:
    """What is above the long-run rate at present, and the largest record so far."""

    at: float = 0.0
    bytes: float = 0.0
    records: float = 0.0
    largest: int = 0


@dataclass(slots=True)
class Allowance:
    """A leaky bucket per process and shard: what runs over is more than the rate and its burst allow.

    One record may leave a debt, whatever its size, or the second aggregate of a shard in one request. Of a process that
    sent before it knew the shards nothing is said, as it could not tell where its records go and may send them again;
    nor of one that was frozen: what it had taken before goes out when it wakes.
    """

    loop: SimulationLoop
    stream: FakeStream
    share: float  # of a shard's limits
    informed: set[Process] = field(default_factory=set)  # who has seen the list of shards
    _blind: set[Process] = field(default_factory=set)  # who sent before
    _sent: dict[tuple[Process, str], _Sent] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def take(self, entries: Sequence[PutEntry]) -> None:
        """Count what the process of this moment sends."""
        process = PROCESS.get()
        if process is not None and process not in self.informed:
            self._blind.add(process)
        if process is None or process.frozen_until or process in self._blind:
            return
        for each in entries:
            key = each.explicit_hash_key
            shard = self.stream.shard_for(hash_key_of(each.partition_key) if key is None else key)
            self._count(process, shard.shard.shard_id, len(each.data) + len(each.partition_key.encode()))

    def _count(self, process: Process, shard_id: str, size: int) -> None:
        now, sent = self.loop.time(), self._sent.setdefault((process, shard_id), _Sent())
        gone = (now - sent.at) * self.share
        sent.bytes = max(0.0, sent.bytes - gone * SHARD_WRITE_BYTES_PER_SECOND) + size
        sent.records = max(0.0, sent.records - gone * SHARD_WRITE_RECORDS_PER_SECOND) + 1
        sent.at, sent.largest = now, max(size, sent.largest)
        burst = self.share * _BURST_SECONDS
        bytes_max = burst * SHARD_WRITE_BYTES_PER_SECOND + sent.largest
        records_max = max(1.0, burst * SHARD_WRITE_RECORDS_PER_SECOND) + 1
        if sent.bytes > bytes_max + _EPSILON or sent.records > records_max + _EPSILON:
            self.violations.append(
                f"{process.name} sends more to {shard_id} than its rate: {sent.bytes:,.0f} of {bytes_max:,.0f} bytes, "
                f"{sent.records:,.1f} of {records_max:,.1f} records above it"
            )
