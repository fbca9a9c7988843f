"""When each event of a load test is due: a ramp of rates, and arrivals that wait for nobody."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.errors import ConfigurationError
from shared.ports import Random

EVENTS_MAX: Final = 500_000  # the local cloud keeps them all in memory: source, destination and S3, about 1.5 KB each
SECONDS_MAX: Final = 3600
STEPS_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Step:
    """A time of one rate: from `start` to `end`, seconds since the load began; `rate` in events per second."""

    start: float
    end: float
    rate: float


def ramp(rate_min: float, rate_max: float, seconds: float, steps: int) -> tuple[Step, ...]:
    """Return steps of equal length whose rates go evenly from the first rate to the last.

    ConfigurationError if that is more than 500,000 events.
    """
    each = seconds / steps
    rise = (rate_max - rate_min) / max(1, steps - 1)
    rates = [rate_max] if steps == 1 else [rate_min + rise * index for index in range(steps)]
    events = sum(rates) * each
    if events > EVENTS_MAX:
        message = f"the ramp has about {events:,.0f} events, more than {EVENTS_MAX:,}"
        raise ConfigurationError(message, hint="Lower --rate-max or --seconds")
    return tuple(Step(index * each, (index + 1) * each, rate) for index, rate in enumerate(rates))


def arrivals(steps: Sequence[Step], random: Random) -> array[float]:
    """Return when each event is due, in seconds since the load began: a Poisson process at each step's rate.

    Independent users come like that: in bursts, and whether or not those before them were served.
    """
    due = array("d")
    for step in steps:
        at = step.start
        while (at := at - math.log(1 - random.random()) / step.rate) < step.end:
            due.append(at)
    return due
