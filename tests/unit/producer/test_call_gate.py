"""How long calls pause after failures."""

from __future__ import annotations

from producer.core.call_gate import CallGate
from shared.retry import Backoff


class _Longest:
    """Draws the longest delay."""

    def random(self) -> float:
        """Return nearly 1."""
        return 1.0

    def getrandbits(self, count: int, /) -> int:
        """Return the largest number of so many bits."""
        return (1 << count) - 1


def test_failures_of_two_kinds_in_turns_wait_longer_and_longer() -> None:
    """A stream that is refused and unreachable in turns is not called at the rate of a first failure for ever."""
    ordinary, refused = Backoff(0.05, 4), Backoff(0.05, 60)
    gate = CallGate(ordinary)
    now, calls = 0.0, 0
    while now < 600:
        gate.start()
        gate.fail(now, now, _Longest(), refused if calls % 2 else None)
        now = gate.closed_until
        calls += 1
    assert calls < 40
    assert not gate.is_closed(now)
    gate.start()
    assert gate.succeed(now)
    gate.start()
    gate.fail(now, now, _Longest(), refused)
    assert gate.closed_until == now + 0.05
