"""What the demo shows: stages and progress on stderr, the table or one JSON object on stdout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from shared.terminal import say, shows_progress, write_data


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """What a run through the whole pipeline counted; `verdict` is `ok` or what failed."""

    lines: int
    filtered: dict[str, int]
    rejected: int
    events: int
    acknowledged: int
    dead_lettered: int
    in_s3: int
    in_destinations: int
    per_destination: dict[str, int]
    objects: int
    object_bytes: int
    lost: int
    duplicated_in_s3: int
    duplicated_in_streams: int
    out_of_order: int
    seconds: float
    verdict: str
    audit: dict[str, Any] = field(default_factory=dict)

    def as_mapping(self) -> dict[str, Any]:
        """Return the result under the keys that `--output json` promises."""
        return {
            "lines": self.lines,
            "filtered": sum(self.filtered.values()),
            "filtered_by_reason": dict(sorted(self.filtered.items())),
            "rejected": self.rejected,
            "events": self.events,
            "acknowledged": self.acknowledged,
            "dead_lettered": self.dead_lettered,
            "in_s3": self.in_s3,
            "in_destinations": self.in_destinations,
            "per_destination": dict(sorted(self.per_destination.items())),
            "objects": self.objects,
            "object_bytes": self.object_bytes,
            "lost": self.lost,
            "duplicated_in_s3": self.duplicated_in_s3,
            "duplicated_in_streams": self.duplicated_in_streams,
            "out_of_order": self.out_of_order,
            "seconds": round(self.seconds, 1),
            "verdict": self.verdict,
            "audit": self.audit,
        }

    def rows(self) -> Sequence[tuple[str, str]]:
        """Return the table: a name and a figure a line."""
        bots = self.filtered.get("bot", 0)
        others = sum(self.filtered.values()) - bots
        return (
            ("lines", f"{self.lines:,}"),
            ("  rejected", f"{self.rejected:,}"),
            ("  bots", f"{bots:,}"),
            ("  assets and the like", f"{others:,}"),
            ("  events", f"{self.events:,}"),
            ("acknowledged", f"{self.acknowledged:,}"),
            *((f"  to {name}", f"{count:,}") for name, count in sorted(self.per_destination.items())),
            ("in S3", f"{self.in_s3:,}"),
            ("  objects", f"{self.objects:,}"),
            ("  bytes", f"{self.object_bytes:,}"),
            ("dead letters", f"{self.dead_lettered:,}"),
            ("lost", f"{self.lost:,}"),
            ("duplicated in S3", f"{self.duplicated_in_s3:,}"),
            ("duplicated in streams", f"{self.duplicated_in_streams:,}"),
            ("out of order", f"{self.out_of_order:,}"),
            ("verdict", self.verdict),
        )


class Screen:
    """Says stages on stderr; draws bars there on a terminal only."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._bars: dict[str, Any] = {}

    def stage(self, text: str) -> None:
        """Say that a stage begins."""
        if self._progress is not None:
            self._progress.console.print(text, highlight=False, markup=False)
        else:
            say(text)

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Show progress bars while the block runs, if progress may be drawn."""
        if not shows_progress():
            yield
            return
        from rich.console import Console  # noqa: PLC0415 - rich is slow to import and needed here only
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as self._progress:
            yield
        self._progress = None
        self._bars.clear()

    def advance(self, name: str, done: int, total: int | None) -> None:
        """Set the bar `name`."""
        if self._progress is None:
            return
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._bars[name], completed=done, total=total)


def show(result: PipelineResult, *, as_json: bool) -> None:
    """Write the result to stdout: a table, or one JSON object in one line."""
    if as_json:
        write_data(orjson.dumps(result.as_mapping()).decode())
        return
    for name, figure in result.rows():
        write_data(f"{name:<24}{figure:>14}")
