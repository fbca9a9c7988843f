"""What happened in a simulated world, line by line, and the hash by which two runs are compared."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from typing import Any

from tests.simulation.loop import SimulationLoop


class Story:
    """The trace of a world: every line goes into the hash; the lines themselves are kept up to a bound."""

    def __init__(self, loop: SimulationLoop, *, lines_max: int = 2_000) -> None:
        self.counts: Counter[str] = Counter()
        self.lines: deque[str] = deque(maxlen=lines_max)
        self._loop = loop
        self._digest = hashlib.blake2b(digest_size=8)

    def tell(self, who: str, what: str) -> None:
        """Add a line."""
        line = f"{self._loop.time():10.4f} {who:<14} {what}"
        self._digest.update(line.encode())
        self.lines.append(line)

    def count(self, kind: str) -> None:
        """Count a fault that struck."""
        self.counts[kind] += 1

    @property
    def trace(self) -> str:
        """The hash over everything told so far."""
        return self._digest.copy().hexdigest()


class StoryTelemetry:
    """The port `Telemetry`: what the product says of itself becomes part of the story."""

    def __init__(self, story: Story, who: str) -> None:
        self._story = story
        self._who = who

    def _tell(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self._story.counts[f"product: {event}"] += 1
        details = " ".join(f"{name}={value}" for name, value in fields.items())
        self._story.tell(self._who, f"{level} {event} {details}")

    def info(self, event: str, **fields: Any) -> None:
        """Tell it."""
        self._tell("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Tell it."""
        self._tell("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Tell it."""
        self._tell("error", event, fields)

    def count(self, metric: str, amount: float = 1, **labels: str) -> None:
        """Add to the counters of the world, without the labels that are names of its shards."""
        values = " ".join(value for name, value in labels.items() if name not in {"shard_id", "destination"})
        self._story.counts[f"product: {metric} {values}".rstrip()] += int(amount)

    def gauge(self, metric: str, value: float, **labels: str) -> None:
        """Forget the value."""
