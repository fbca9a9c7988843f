"""Log lines about the same are said now and then, others at once, and not too many of those."""

from __future__ import annotations

from shared.log_limit import LimitedLog, LogLimit
from shared.telemetry import SilentTelemetry


def test_the_same_is_said_again_after_a_while() -> None:
    """Another line is not held back by it, and what was not said does not begin the time anew."""
    limit = LogLimit(10)
    said = [(at, about) for at in range(25) for about in ("a", "b") if limit.admits(about, at)]
    assert said == [(0, "a"), (0, "b"), (10, "a"), (10, "b"), (20, "a"), (20, "b")]


def test_lines_that_differ_each_time_have_a_bound() -> None:
    """So many within the time, and more once the first of them is over."""
    limit = LogLimit(10, lines_max=3)
    assert [at for at in range(14) if limit.admits(f"error {at}", at)] == [0, 1, 2, 10, 11, 12]


class StillClock:
    """A clock that stands until it is set."""

    now = 0.0

    def monotonic(self) -> float:
        """Return the time that was set."""
        return self.now

    wall = monotonic


def test_a_line_is_said_with_its_fields_and_not_again_for_a_while() -> None:
    """Two lines of one event are the same if they are about the same, whatever else they say."""
    clock, telemetry = StillClock(), SilentTelemetry()
    told: list[tuple[str, dict[str, object]]] = []
    telemetry.warning = lambda event, **fields: told.append((event, fields))  # type: ignore[method-assign]
    telemetry.error = telemetry.warning  # type: ignore[method-assign]
    log = LimitedLog(telemetry, clock, seconds_min=10)
    for clock.now in (0.0, 9.0, 10.0):
        log.warning("put_failed", error=str(clock.now))
        log.error("source_lost", about="/a", path="/a")
        log.error("source_lost", about="/b", path="/b")
    first = [("put_failed", {"error": "0.0"}), ("source_lost", {"path": "/a"}), ("source_lost", {"path": "/b"})]
    assert told == [*first, ("put_failed", {"error": "10.0"}), *first[1:]]
