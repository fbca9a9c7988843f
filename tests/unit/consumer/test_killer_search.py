"""A record that kills the process is found, wherever it lies, and no other is condemned."""

from __future__ import annotations

from consumer.core.attempt_policy import AttemptPolicy
from consumer.core.chunk import Chunk

_DEATHS_MAX = 12


def _search(killer: int, records: int) -> tuple[int, list[int]]:
    """Return how often the process dies and which records are condemned; `killer` counts from 0."""
    row_attempts = checkpoint = deaths = 0
    condemned: list[int] = []
    while checkpoint < records and deaths <= _DEATHS_MAX:
        policy = AttemptPolicy(row_attempts)
        suspects, has_begun = policy.suspects, False
        while checkpoint < records:
            if policy.is_careful or not has_begun:
                row_attempts, has_begun = row_attempts + 1, True
            end = min(records, checkpoint + policy.records_max)
            if policy.is_condemned:
                condemned.append(checkpoint)
            if checkpoint <= killer < end and killer not in condemned:
                deaths += 1
                break
            suspects -= end - checkpoint
            checkpoint, row_attempts = end, policy.after_commit
            if policy.is_careful and (suspects <= 0 or policy.is_condemned):
                policy = AttemptPolicy(0)
    return deaths, condemned


def test_a_killer_anywhere_is_condemned_alone_within_twelve_deaths() -> None:
    """At each place in 500 records, the killer and nothing else becomes a dead letter."""
    for killer in range(500):
        deaths, condemned = _search(killer, 500)
        assert condemned == [killer], killer
        assert deaths <= _DEATHS_MAX, killer


def test_a_condemned_record_is_not_decoded_again() -> None:
    """What kills may be the decoding: nothing stands in its place for whoever decodes a chunk."""
    chunk = Chunk(datas=[b"kills", b'{"a":1}'], refused={0: ("ProcessKilled", "too often")})
    assert chunk.readable == [b"{}", b'{"a":1}']
    assert chunk.datas[0] == b"kills", "the dead letter keeps its bytes"
