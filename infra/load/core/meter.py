"""Measures a load test: from when each event was due, so that a wait before the put counts as well."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from infra.load.core.histogram import Histogram, Percentiles
from infra.load.core.schedule import Step


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What one step of the ramp gave.

    `events` were due in it; `acknowledged_per_second` counts what was acknowledged during it, whenever it was due.
    """

    step: Step
    events: int
    acknowledged_per_second: float
    acknowledged: Percentiles | None
    delivered: Percentiles | None


class LoadMeter:
    """Latencies to the acknowledgment by the source stream, and to the arrival in a destination stream.

    All times are in seconds since the load began. Events are known by their number in `due`.
    """

    def __init__(self, steps: Sequence[Step], due: array[float]) -> None:
        self._steps = steps
        self._due = due
        self._ends = [step.end for step in steps]
        self._acknowledged = [Histogram() for _ in steps]
        self._delivered = [Histogram() for _ in steps]
        self._acknowledged_during = [0 for _ in steps]
        self._all_acknowledged = Histogram()
        self._all_delivered = Histogram()

    def acknowledge(self, number: int, at: float) -> None:
        """Take the acknowledgment of an event."""
        due = self._due[number]
        self._acknowledged[self._step_at(due)].add(at - due)
        self._all_acknowledged.add(at - due)
        if at < self._ends[-1]:
            self._acknowledged_during[self._step_at(at)] += 1

    def deliver(self, number: int, at: float) -> None:
        """Take an event's arrival in a destination stream."""
        due = self._due[number]
        self._delivered[self._step_at(due)].add(at - due)
        self._all_delivered.add(at - due)

    def _step_at(self, at: float) -> int:
        return min(bisect_right(self._ends, at), len(self._ends) - 1)

    @property
    def acknowledged(self) -> Percentiles | None:
        """Latencies to the acknowledgment, of all events."""
        return self._all_acknowledged.percentiles()

    @property
    def delivered(self) -> Percentiles | None:
        """Latencies to the arrival in a destination stream, of all events."""
        return self._all_delivered.percentiles()

    def figures(self) -> tuple[StepFigures, ...]:
        """Return what each step gave."""
        events = Counter(self._step_at(due) for due in self._due)
        return tuple(
            StepFigures(
                step,
                events=events[index],
                acknowledged_per_second=self._acknowledged_during[index] / (step.end - step.start),
                acknowledged=self._acknowledged[index].percentiles(),
                delivered=self._delivered[index].percentiles(),
            )
            for index, step in enumerate(self._steps)
        )
